"""Serialising heads and chunks, and reading them back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.headers import Headers
from aigw_core.http1 import heads
from aigw_core.http1.heads import parse_request_head, parse_response_head
from aigw_core.http1.writing import LAST_CHUNK, chunk, request_head_bytes, response_head_bytes
from aigw_core.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, Length, RequestHead, ResponseHead

END = b"\r\n\r\n"


def test_a_request_head() -> None:
    headers = Headers.of([(b"Host", b"a"), (b"x-B", b""), (b"X-b", b"1 2"), (b"x-B", b"\xff")])
    head = RequestHead(b"POST", b"/v1?x", headers, NO_BODY)
    assert request_head_bytes(head) == b"POST /v1?x HTTP/1.1\r\nHost: a\r\nx-B: \r\nX-b: 1 2\r\nx-B: \xff\r\n\r\n"


def test_a_response_head() -> None:
    head = ResponseHead(204, b"No \xe4", Headers.of([(b"A", b"b"), (b"a", b"c")]), NO_BODY)
    assert response_head_bytes(head) == b"HTTP/1.1 204 No \xe4\r\nA: b\r\na: c\r\n\r\n"
    assert response_head_bytes(ResponseHead(200, b"", Headers([]), NO_BODY)) == b"HTTP/1.1 200 \r\n\r\n"


def test_heads_are_written_as_http_1_1() -> None:
    """The version belongs to the hop (RFC 9110 §2.5), whatever came in on the other side."""
    request = RequestHead(b"GET", b"/", Headers([]), NO_BODY, http_1_0=True)
    response = ResponseHead(200, b"OK", Headers([]), NO_BODY, http_1_0=True)
    assert request_head_bytes(request) == b"GET / HTTP/1.1\r\n\r\n"
    assert response_head_bytes(response) == b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"a", b"1\r\na\r\n"),
        (b"\r\n", b"2\r\n\r\n\r\n"),
        (b"x" * 255, b"ff\r\n" + b"x" * 255 + b"\r\n"),
        (b"x" * 4096, b"1000\r\n" + b"x" * 4096 + b"\r\n"),
    ],
)
def test_chunks(data: bytes, written: bytes) -> None:
    assert chunk(data) == written
    assert LAST_CHUNK == b"0\r\n\r\n"


TOKEN = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=20).map(lambda raw: bytes(b for b in raw if b in heads._HEAD_BYTES).strip(b" \t"))
RESERVED = (b"host", b"content-length", b"transfer-encoding")
FIELDS = st.lists(st.tuples(TOKEN, VALUE).filter(lambda pair: pair[0].lower() not in RESERVED), max_size=8)
FRAMING_FIELDS: list[tuple[Framing | None, list[tuple[bytes, bytes]]]] = [
    (None, []),
    (Length(0), [(b"Content-Length", b"0")]),
    (Length(12), [(b"content-length", b"12")]),
    (CHUNKED, [(b"Transfer-encoding", b"Chunked")]),
]


@settings(deadline=None)
@given(
    TOKEN.filter(lambda method: method != b"CONNECT"),
    st.binary(max_size=20).map(lambda raw: b"/" + bytes(b for b in raw if b in heads._TARGET_BYTES)),
    FIELDS,
    st.sampled_from(FRAMING_FIELDS),
)
def test_a_written_request_head_reads_equal(
    method: bytes,
    target: bytes,
    fields: list[tuple[bytes, bytes]],
    framing: tuple[Framing | None, list[tuple[bytes, bytes]]],
) -> None:
    headers = Headers.of([*fields, (b"HOST", b"gateway:1"), *framing[1]])
    head = RequestHead(method, target, headers, framing[0] or NO_BODY)
    written = request_head_bytes(head)
    assert written.endswith(END)
    assert parse_request_head(written[:-4]) == head


@settings(deadline=None)
@given(
    st.integers(200, 999).filter(lambda status: status not in (204, 304)),
    st.binary(max_size=20).map(lambda raw: bytes(b for b in raw if b in heads._HEAD_BYTES)),
    FIELDS,
    st.sampled_from(FRAMING_FIELDS),
)
def test_a_written_response_head_reads_equal(
    status: int,
    reason: bytes,
    fields: list[tuple[bytes, bytes]],
    framing: tuple[Framing | None, list[tuple[bytes, bytes]]],
) -> None:
    headers = Headers.of([*framing[1], *fields])
    head = ResponseHead(status, reason, headers, framing[0] or UNTIL_CLOSE)
    written = response_head_bytes(head)
    assert written.endswith(END)
    assert parse_response_head(written[:-4], b"GET") == head
