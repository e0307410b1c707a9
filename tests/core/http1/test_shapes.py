"""A head that is recognised says what parsing it says, whatever was learned before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.headers import HOP_BY_HOP, hop_by_hop_of
from aigw_core.http1.heads import HEAD_MAX, parse_response_head
from aigw_core.http1.shapes import LEARNED_SIZE_MAX, SHAPES_MAX, SIGHTED_MAX, SIGHTINGS, ResponseShapes
from aigw_core.messages import CHUNKED, Length, ResponseHead
from aigw_core.providers import UPSTREAM_ID_HEADERS
from tests.core.http1.reading import cuts_in, pieces_of, read_response

BODY = b'{"a":1}'
LINES = [
    b"Date: Mon, 24 Nov 2025 10:00:0%d GMT",
    b"x-request-id: req_%d",
    b"Request-Id: %d",
    b"request-id:%d",
    b"openai-processing-ms: %d",
    b"Set-Cookie: a=%d; path=/; \xff",
    b"X-Blanks:   %d\t ",
    b"X-Empty:",
    b"X-Spaced: ",
    b"Content-Type: application/json",
    b"Content-Type: text/event-stream; v=%d",
    b"content-encoding: gzip",
    b"Connection: keep-alive",
    b"connection: close",
    b"Connection: x-request-id",
    b"Keep-Alive: timeout=1%d",
    b"Trailer: x%d",
    b"Proxy-Status: %d",
    b"x-aigw-request-id: %d",
    b"Bad Name: %d",
    b"X-Control: \x01",
]
STATUS_LINES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 ",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 429 Too Many Requests",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 103 Early Hints",
]
FRAMINGS = [
    b"Content-Length: 7",
    b"content-length:7",
    b"Content-Length: 007",
    b"Content-Length: 0",
    b"Content-Length: 70",
    b"Content-Length: x",
    b"Content-Length: 7, 7",
    b"Content-Length: 7\r\nContent-Length: 7",
    b"Content-Length: " + b"0" * 18 + b"7",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip",
    b"",
]


def shapes_of(*blocks: bytes) -> ResponseShapes:
    """What is learned of these heads, each of them seen often enough."""
    shapes = ResponseShapes(UPSTREAM_ID_HEADERS)
    for block in blocks:
        for _ in range(SIGHTINGS):
            shapes.learn(block, parse_response_head(block, b"POST"))
    return shapes


def read(shapes: ResponseShapes, data: bytes) -> ResponseHead | None:
    look = shapes.find(data)
    if look is None:
        return None
    shape, match = look
    return shape.head(match, shape.framing(match))


def filled(line: bytes, number: int) -> bytes:
    return line % number if b"%d" in line else line


@st.composite
def responses(draw: st.DrawFn) -> list[bytes]:
    """Responses of one provider: a few looks, each many times, with other values or one other line."""
    looks = draw(
        st.lists(
            st.tuples(
                st.sampled_from(STATUS_LINES[:5]),
                st.lists(st.sampled_from(LINES), max_size=5),
                st.sampled_from([FRAMINGS[0], FRAMINGS[9]]) | st.sampled_from(FRAMINGS),
            ),
            min_size=1,
            max_size=3,
        )
    )
    out = []
    for _ in range(draw(st.integers(SIGHTINGS, 3 * SIGHTINGS))):
        status, lines, framing = draw(st.sampled_from(looks))
        if draw(st.integers(0, 5)) == 0:
            lines = [*lines, draw(st.sampled_from(LINES))]
        if draw(st.integers(0, 9)) == 0:
            status = draw(st.sampled_from(STATUS_LINES))
        if draw(st.integers(0, 5)) == 0:
            framing = draw(st.sampled_from(FRAMINGS))
        number = draw(st.integers(0, 12))
        at = len(lines) // 2
        fields = [filled(line, number) for line in (*lines[:at], framing, *lines[at:]) if line]
        body = b"7\r\n%b\r\n0\r\n\r\n" % BODY if b"chunked" in framing else BODY
        out.append(b"\r\n".join([status, *fields, b"", body]))
    return out


@settings(max_examples=300, deadline=None)
@given(responses(), st.data())
def test_whatever_was_learned_the_reading_is_the_same(datas: list[bytes], data: st.DataObject) -> None:
    shapes = ResponseShapes(UPSTREAM_ID_HEADERS)
    for whole in datas:
        pieces = list(pieces_of(whole, data.draw(cuts_in(len(whole))))) if data.draw(st.booleans()) else [whole]
        method = data.draw(st.sampled_from([b"POST", b"POST", b"HEAD"]))
        read, plain = read_response(method, pieces, shapes), read_response(method, pieces)
        assert read == plain
        for head, parsed in zip(read.heads, plain.heads, strict=True):
            assert_says_the_same(head, parsed)


def assert_says_the_same(head: ResponseHead, parsed: ResponseHead) -> None:
    assert parsed.look is None
    if head.look is None:
        return
    shape, match = head.look
    headers = parsed.headers
    assert hop_by_hop_of(headers) is HOP_BY_HOP
    assert shape.relayed_lines(match) == headers.relayed_lines()
    assert shape.has_length == (b"content-length" in headers)
    assert shape.content_type == headers.first.get(b"content-type", b"")
    assert shape.content_encoding == headers.first.get(b"content-encoding", b"")
    ids = [headers.first[name] for name in UPSTREAM_ID_HEADERS if name in headers]
    assert (match[shape.id_at] if shape.id_at else None) == (ids[0] if ids else None)


USUAL = b"\r\n".join(
    [
        b"HTTP/1.1 200 OK",
        b"Date: Mon, 24 Nov 2025 10:00:00 GMT",
        b"Content-Type: application/json",
        b"Content-Length: 7",
        b"Connection: keep-alive",
        b"request-id: r-1",
        b"x-request-id: x-1",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
    ]
)
STREAM = USUAL.replace(b"Content-Length: 7", b"Transfer-Encoding: chunked").replace(b"json", b"x")


def test_a_known_look_is_recognised_with_other_values() -> None:
    other = USUAL.replace(b"10:00:00", b"23:59:59").replace(b"Length: 7", b"Length: 1234").replace(b"x-1", b"x\t \xff2")
    head = read(shapes_of(STREAM, USUAL), other + b"\r\n\r\n" + BODY)
    assert head is not None
    assert head == parse_response_head(other, b"POST")
    assert head.look is not None
    assert (head.framing, head.look[1][head.look[0].id_at]) == (Length(1234), b"x\t \xff2")
    assert head.look[1].end() == len(other) + 4
    stream = read(shapes_of(USUAL, STREAM), STREAM + b"\r\n\r\n")
    assert stream is not None
    assert (stream.framing, stream.headers.fields) == (CHUNKED, parse_response_head(STREAM, b"POST").headers.fields)


@pytest.mark.parametrize(
    "other",
    [
        USUAL.replace(b"200", b"201"),
        USUAL.replace(b"OK", b"ok"),
        USUAL.replace(b"json", b"xml"),
        USUAL.replace(b"keep-alive", b"close"),
        USUAL.replace(b"Date", b"date"),
        USUAL.replace(b"Date: ", b"Date:"),
        USUAL.replace(b"Date: ", b"Date:  "),
        USUAL.replace(b"GMT", b"GMT "),
        USUAL.replace(b"GMT", b"G\x00T"),
        USUAL.replace(b"GMT", b"G\nT"),
        USUAL.replace(b"r-1", b""),
        USUAL.replace(b"Length: 7", b"Length: -7"),
        USUAL.replace(b"Length: 7", b"Length: " + b"7" * 19),
        USUAL + b"\r\nX: y",
        USUAL.replace(b"\r\nSet-Cookie: b=2", b""),
        USUAL + b"\r",
    ],
)
def test_any_other_look_is_left_to_parsing(other: bytes) -> None:
    assert shapes_of(USUAL).find(other + b"\r\n\r\n") is None


@pytest.mark.parametrize("size", range(len(USUAL) + 4))
def test_an_incomplete_head_is_not_read(size: int) -> None:
    assert shapes_of(USUAL).find((USUAL + b"\r\n\r\n")[:size]) is None


def test_an_expression_is_made_of_what_comes_often() -> None:
    shapes = ResponseShapes(())
    head = parse_response_head(USUAL, b"POST")
    for _ in range(SIGHTINGS - 1):
        shapes.learn(USUAL, head)
        assert shapes.find(USUAL + b"\r\n\r\n") is None
    shapes.learn(USUAL, head)
    found = shapes.find(USUAL + b"\r\n\r\n")
    assert found is not None
    assert found[0].id_at == 0, "nobody asked for one"


@pytest.mark.parametrize(
    "block",
    [
        USUAL.replace(b"1.1", b"1.0"),
        USUAL.replace(b"200", b"204"),
        USUAL.replace(b"200", b"103"),
        USUAL.replace(b"keep-alive", b"date"),
        USUAL.replace(b"Content-Length: 7", b"X: y"),
        USUAL.replace(b": r-1", b":r-1"),
        USUAL + b"\r\nX: " + b"y" * LEARNED_SIZE_MAX,
    ],
    ids=["HTTP/1.0", "no body", "informational", "nominates", "until close", "unusual blanks", "long"],
)
def test_what_does_not_follow_from_the_look_is_not_learned(block: bytes) -> None:
    assert shapes_of(block, block).find(block + b"\r\n\r\n") is None


def test_a_head_that_is_too_large_is_left_to_parsing() -> None:
    shapes = shapes_of(USUAL)
    longest = USUAL + b"y" * (HEAD_MAX - len(USUAL))
    assert shapes.find(longest + b"\r\n\r\n") is not None
    assert shapes.find(longest + b"y\r\n\r\n") is None
    assert read_response(b"POST", [longest + b"y\r\n\r\n"], shapes).failed


def test_what_is_kept_is_bounded() -> None:
    """A provider that never looks the same costs no expression, and old looks make room for new ones."""
    shapes = ResponseShapes(())
    for number in range(2 * SIGHTED_MAX):
        block = USUAL + b"\r\nX-%d: y" % number
        shapes.learn(block, parse_response_head(block, b"POST"))
        assert shapes.find(block + b"\r\n\r\n") is None
    blocks = [USUAL + b"\r\nY-%d: y" % number for number in range(SHAPES_MAX + 1)]
    shapes = shapes_of(*blocks)
    known = [shapes.find(block + b"\r\n\r\n") is not None for block in blocks]
    assert known == [False] * SHAPES_MAX + [True]
