"""h11 as oracle: what we accept, h11 accepts and frames the same; where we are stricter, a list says why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.errors import RemoteProtocolError
from aigw_core.http1.bodies import UntilCloseReader, reader_for
from aigw_core.http1.heads import find_head_end, parse_request_head, parse_response_head
from fuzz.mutation import mutants

INCOMPLETE_MAX = 1 << 20


@dataclass
class Message:
    """One message as a parser saw it; ``start`` holds the parts of its start line, 1xx statuses before them."""

    start: list[bytes | int]
    fields: list[tuple[bytes, bytes]]
    body: bytes
    rest: bytes = b""


Outcome = Message | str | None
"""A complete message, the text of a refusal, or None for what is incomplete."""


def our_request(data: bytes) -> Outcome:
    try:
        end = find_head_end(data, 0)
        if end < 0:
            return None
        head = parse_request_head(data[:end])
        reader = reader_for(head.framing)
        body, rest = (b"", data[end + 4 :]) if reader is None else reader.feed(data[end + 4 :])
    except RemoteProtocolError as error:
        return str(error)
    return None if rest is None else Message([head.method, head.target], list(head.headers), body, rest)


def our_response(data: bytes, method: bytes) -> Outcome:
    start: list[bytes | int] = []
    try:
        while True:
            end = find_head_end(data, 0)
            if end < 0:
                return None
            head = parse_response_head(data[:end], method)
            data = data[end + 4 :]
            start.append(head.status)
            if head.status >= 200:
                break
        reader = reader_for(head.framing)
        body, rest = (b"", b"") if reader is None else reader.feed(data)
    except RemoteProtocolError as error:
        return str(error)
    if rest is None and not isinstance(reader, UntilCloseReader):
        return None
    return Message([*start, head.reason], list(head.headers), body)


def h11_body(connection: h11.Connection, *, then_eof: bool) -> bytes | None:
    """The body of the message that has begun; None where it is incomplete."""
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
        elif then_eof:
            connection.receive_data(b"")
            then_eof = False
        else:
            return None
    return body


def h11_fields(event: h11.Request | h11.Response) -> list[tuple[bytes, bytes]]:
    return list(event.headers.raw_items())


def h11_request(data: bytes) -> Outcome:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=INCOMPLETE_MAX)
    try:
        connection.receive_data(data)
        head = connection.next_event()
        body = h11_body(connection, then_eof=False) if isinstance(head, h11.Request) else None
    except h11.RemoteProtocolError as error:
        return str(error)
    if body is None or not isinstance(head, h11.Request):
        return None
    # An absolute-form is served as the origin-form that it stands for (RFC 9112 §3.2.2).
    target = re.sub(rb"^(?i:https?)://[^/?]*/?", b"/", head.target)
    return Message([head.method, target], h11_fields(head), body, connection.trailing_data[0])


def h11_response(data: bytes, method: bytes) -> Outcome:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=INCOMPLETE_MAX)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "provider")]))
    connection.send(h11.EndOfMessage())
    start: list[bytes | int] = []
    try:
        connection.receive_data(data)
        while isinstance(head := connection.next_event(), h11.InformationalResponse):
            start.append(head.status_code)
        if not isinstance(head, h11.Response):
            return None
        body = h11_body(connection, then_eof=True)
    except h11.RemoteProtocolError as error:
        return None if "closed connection" in str(error) else str(error)
    return None if body is None else Message([*start, head.status_code, head.reason], h11_fields(head), body)


# What we refuse and h11 accepts: our text, what then stands in the bytes (in any case, over lines), and why.
STRICTER: dict[str, tuple[bytes, str]] = {
    "Content-Length stands beside Transfer-Encoding.": (
        rb"content-length.*transfer-encoding|transfer-encoding.*content-length",
        "RFC 9112 §6.3 lets the coding win and calls it an attack; we do not guess which one the provider reads",
    ),
    "Transfer-Encoding in an HTTP/1.0 message.": (
        rb"HTTP/1\.0.*transfer-encoding",
        "RFC 9112 §6.1: such framing is faulty",
    ),
    "Content-Length is not one plain number.": (
        rb"content-length:\s*\d+\s*,|content-length.*content-length|content-length: *\d{19,20}\s",
        "equal repetitions and lists may be read as one number, or not; nineteen digits are nobody's body",
    ),
    "Only HTTP/1.0 and HTTP/1.1 are served.": (
        rb"\A[^\n]*HTTP/(?!1\.[01])\d\.\d",
        "another version is another protocol",
    ),
    "The status line is malformed.": (rb"HTTP/(?!1\.[01])\d\.\d", "the same, from a provider"),
    "The head contains control bytes or bare line breaks.": (
        rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n",
        "LF alone as a line end, and control bytes but NUL in values, are repaired by some and refused by others",
    ),
    "A header field name is not a token.": (rb"\r\n[ \t]", "obs-fold (RFC 9112 §5.2: refuse or replace)"),
    "A header line has no colon.": (rb"\r\n[ \t]", "obs-fold"),
    "There are too many header fields.": (rb"(?:[^\n]*\n){129}", "a bound"),
    "Host is malformed.": (rb"\nhost:", "a name that no URL could have"),
    "The request target has no form that is served here.": (
        rb"\A[^ ]+ [^/ ][^ ]* ",
        "asterisk-form and authority-form are for other servers, and a path begins with a slash",
    ),
    "The authority of the target is not the Host.": (rb"\A[^ ]+ https?://", "one of them is a lie"),
    "The request target contains bytes that do not belong there.": (
        rb"\A[^ ]+ [^ ]*#",
        "a fragment never reaches a server",
    ),
    "The method is not served here.": (rb"\ACONNECT ", "we are no forward proxy"),
    "A chunk size line is malformed or too long.": (
        rb"\n[0-9a-f]+(?:;[^\r\n]*)?[ \t]+\r\n|\n[0-9a-f]{16,20}[\r;]|;[^\r]*[\x00-\x1f\x7f]|;[^\r\n]{4000}",
        "blanks before the CRLF, sizes that overflow 63 bits, control bytes and kilobytes in extensions",
    ),
    "The trailer section contains control bytes or bare line breaks.": (
        rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n",
        "as in heads",
    ),
}


LAXER: dict[str, tuple[bytes, str]] = {
    "bad Content-Length": (
        rb"\r\n0[^\r]*\r\n(?:[^\r]*\r\n)*?content-length\s*:",
        "a trailer section is checked, dropped and never read (RFC 9110 §6.5.1), whatever framing it speaks of",
    ),
    "conflicting Content-Length headers": (rb"\r\n0[^\r]*\r\n(?:[^\r]*\r\n)*?content-length\s*:", "the same"),
    "Only Transfer-Encoding: chunked is supported": (
        rb"\r\n0[^\r]*\r\n(?:[^\r]*\r\n)*?transfer-encoding\s*:",
        "the same",
    ),
    "multiple Transfer-Encoding headers": (
        rb"\r\n0[^\r]*\r\n(?:[^\r]*\r\n)*?transfer-encoding\s*:",
        "the same",
    ),
    "Received server _SWITCH_UPGRADE event without a pending proposal": (
        rb"HTTP/1\.[01] 101",
        "h11 knows that nobody asked for it; here the exchange does, and answers 502",
    ),
}
"""What we accept and h11 refuses: its text, what then stands in the bytes, and why."""


def is_laxer(refusal: str, data: bytes) -> bool:
    return refusal in LAXER and re.search(LAXER[refusal][0], data, re.IGNORECASE | re.DOTALL) is not None


def is_listed(refusal: str, data: bytes) -> bool:
    return refusal in STRICTER and re.search(STRICTER[refusal][0], data, re.IGNORECASE | re.DOTALL) is not None


def assert_agreement(data: bytes, ours: Outcome, theirs: Outcome) -> None:
    if isinstance(ours, Message):
        # h11 gives codings in lower case.
        ours.fields = [
            (name, value.lower() if name.lower() == b"transfer-encoding" else value) for name, value in ours.fields
        ]
        assert theirs == ours or (isinstance(theirs, str) and is_laxer(theirs, data))
    elif isinstance(ours, str) and isinstance(theirs, Message):
        assert is_listed(ours, data)
    elif ours is None:
        assert not isinstance(theirs, Message), "we wait where h11 has a message"


CRLF = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r\r\n"])
FIELD_LINES = [
    *[b"X-A: b", b"x-b:", b"X-C: d e\t", b"Connection: close", b"Expect: 100-continue", b"X-A: \xff\xa0"],
    *[b"Content-Length: 5", b"content-length:\t05 ", b"Content-Length: 0", b"Content-Length: 7"],
    *[b"Content-Length: 5, 5", b"Content-Length: +5", b"Content-Length: 5_0", b"Content-Length: " + b"0" * 18 + b"5"],
    *[b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED", b"Transfer-Encoding: gzip, chunked"],
    *[b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: \xa0chunked"],
    *[b"X-A : b", b" folded", b"\tfolded: b", b": b", b"X-A: \x01", b"X-A: \x00", b"X\x80: a", b"none", b"X-A: a\rb"],
]
BODIES = [
    *[b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"05\r\nhello\r\n00\r\n\r\n", b"5;e=f\r\nhello\r\n0\r\nT: u\r\n\r\n"],
    *[b"5 \r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"5\r\nhelloX\r\n0\r\n\r\n"],
    *[
        b"00000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5;e\x01\r\nhello\r\n0\r\n\r\n",
        b"5;e\nhello\r\n0\r\n\r\n",
        b"\r\n",
    ],
    *[b"0\r\n\r\n", b"0\r\nA : b\r\n\r\n", b"0\r\nA: b\n\n", b"0\r\nA: b\r\n c\r\n\r\n", b"8000000000000000\r\nhello"],
]
BEHIND = st.sampled_from([b"", b"", b"GET /", b"\x00", b"\r\n"])
GOOD, BAD = FIELD_LINES[:4] + FIELD_LINES[6:8] + FIELD_LINES[14:15], FIELD_LINES


@st.composite
def messages(draw: st.DrawFn, start_lines: list[bytes], first_fields: list[bytes]) -> bytes:
    lines = [draw(st.sampled_from(start_lines)), draw(st.sampled_from(first_fields))]
    lines += draw(st.lists(st.sampled_from(draw(st.sampled_from([GOOD, BAD]))), max_size=3))
    head = b"".join(line + draw(CRLF) for line in lines if line) + draw(CRLF)
    return head + draw(st.sampled_from(BODIES)) + draw(BEHIND)


REQUEST_LINES = [
    *[b"POST /v1/x?y=z HTTP/1.1"] * 8,
    *[b"GET / HTTP/1.1", b"HEAD / HTTP/1.0", b"POST / HTTP/1.0", b"x-y /%2f HTTP/1.1"],
    *[b"POST http://gateway/a?b HTTP/1.1", b"POST http://gateway?b HTTP/1.1", b"POST http://other/ HTTP/1.1"],
    *[b"POST / HTTP/2.0", b"CONNECT gateway:1 HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET gateway HTTP/1.1"],
    *[b"GET /a#b HTTP/1.1", b"G(T / HTTP/1.1", b"GET  / HTTP/1.1", b"GET /\x80 HTTP/1.1", b"GET /", b"GET / http/1.1"],
]
HOSTS = [*[b"Host: gateway"] * 8, b"hOST:gateway", b"", b"Host: ", b"Host: a,b", b"Host: a\r\nHost: a"]
STATUS_LINES = [
    *[b"HTTP/1.1 200 OK"] * 8,
    *[
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 429 \xe4 b\t",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 204 x",
        b"HTTP/1.1 304 x",
    ],
    *[b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 200 OK", b"HTTP/1.1 103 x\r\nA: b\r\n\r\nHTTP/1.1 500 x", b"HTTP/1.1 100 x"],
    *[b"HTTP/2.0 200 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 099 OK", b"http/1.1 200 OK", b"HTTP/1.1"],
]


@settings(deadline=None, max_examples=400)
@given(messages(REQUEST_LINES, HOSTS))
def test_requests(data: bytes) -> None:
    assert_agreement(data, our_request(data), h11_request(data))


@settings(deadline=None, max_examples=400)
@given(messages(STATUS_LINES, [b"", b"X-First: a"]), st.sampled_from([b"POST", b"GET", b"HEAD"]))
def test_responses(data: bytes, method: bytes) -> None:
    assert_agreement(data, our_response(data, method), h11_response(data, method))


POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
STRICTER_REQUESTS = [
    POST + b"Content-Length: 9\r\n" + TE + b"\r\n0\r\n\r\n",
    b"POST / HTTP/1.0\r\n" + TE + b"\r\n0\r\n\r\n",
    POST + b"Content-Length: 2, 2\r\n\r\nab",
    POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    POST + b"Content-Length: 0000000000000000002\r\n\r\nab",
    b"POST / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\nHost: a\n\n",
    POST + b"X: a\x01\r\n\r\n",
    POST + b"X: a\r\n b\r\n\r\n",
    POST + b"X: a\r\n b: c\r\n\r\n",
    POST + b"a: b\r\n" * 128 + b"\r\n",
    b"POST / HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost:\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /#b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
    POST + TE + b"\r\n1 \r\na\r\n0\r\n\r\n",
    POST + TE + b"\r\n00000000000000001\r\na\r\n0\r\n\r\n",
    POST + TE + b"\r\n1;\x01\r\na\r\n0\r\n\r\n",
    POST + TE + b"\r\n1;" + b"e" * 5000 + b"\r\na\r\n0\r\n\r\n",
    POST + TE + b"\r\n0\r\nA: b\nC: d\r\n\r\n",
]


def test_the_list_is_true_of_requests() -> None:
    """Every entry but the one about status lines: h11 accepts it, and we refuse it for the stated reason."""
    seen = set()
    for data in STRICTER_REQUESTS:
        ours, theirs = our_request(data), h11_request(data)
        assert isinstance(theirs, Message), data
        assert isinstance(ours, str), data
        assert is_listed(ours, data), data
        seen.add(ours)
    assert seen == set(STRICTER) - {"The status line is malformed."}


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        OK + b"Content-Length: 1\r\n" + TE + b"\r\n0\r\n\r\n",
        OK + b"Content-Length: 1, 1\r\n\r\na",
        b"HTTP/1.0 200 OK\r\n" + TE + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        OK + b"X: a\r\n\tb\r\n\r\n",
        OK + b"X: a\x7f\r\n\r\n",
        OK + TE + b"\r\n1\t\r\na\r\n0\r\n\r\n",
    ],
)
def test_the_list_is_true_of_responses(data: bytes) -> None:
    ours = our_response(data, b"GET")
    assert isinstance(h11_response(data, b"GET"), Message)
    assert isinstance(ours, str)
    assert is_listed(ours, data)


@pytest.mark.parametrize(
    "line", [b"Content-Length: +5", b"Content-Length: 3\r\nContent-Length: 4", b"Transfer-Encoding: x"]
)
def test_framing_in_trailers_is_dropped_unread(line: bytes) -> None:
    for start, ours_of, theirs_of in (
        (POST, our_request, h11_request),
        (OK, lambda data: our_response(data, b"GET"), lambda data: h11_response(data, b"GET")),
    ):
        data = start + TE + b"\r\n1\r\na\r\n0\r\n" + line + b"\r\n\r\n"
        ours, theirs = ours_of(data), theirs_of(data)
        assert isinstance(ours, Message)
        assert (ours.body, ours.rest) == (b"a", b"")
        assert isinstance(theirs, str)
        assert is_laxer(theirs, data)


def test_101_is_the_one_thing_that_only_we_read() -> None:
    """h11 knows that nobody asked for it; here the exchange does, and answers 502."""
    data = b"HTTP/1.1 101 x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert our_response(data, b"GET") == Message([101, 200, b"OK"], [(b"Content-Length", b"0")], b"")
    assert isinstance(h11_response(data, b"GET"), str)


# Mutated bytes: what no grammar of ours would think of

MUTANTS = 6_000
MUTATED_REQUESTS = [
    POST + b"Content-Length: 5\r\nX-A: b\r\n\r\nhello",
    POST + TE + b"\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nT: u\r\n\r\n",
    b"GET /v1/models?a=b HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\nExpect: 100-continue\r\n\r\nGET /",
    b"HEAD http://gateway/a HTTP/1.0\r\nhost:gateway\r\n\r\n",
]
MUTATED_ANSWERS = [
    OK + b"Content-Length: 5\r\nX-A: b\r\n\r\nhello",
    OK + TE + b"\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nT: u\r\n\r\n",
    b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 429 Slow down\r\nContent-Length: 0\r\nRetry-After: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nto the end",
    b"HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\n",
]
MUTATION_TOKENS = [
    *FIELD_LINES, b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b";", b",", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Host: b\r\n", b"\x0b", b"\x85", b"\xa0", b"ffffffff",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_mutated_requests(seed: int) -> None:
    framed = 0
    for data in islice(mutants(MUTATED_REQUESTS, MUTATION_TOKENS, seed), MUTANTS // 4):
        ours = our_request(data)
        assert_agreement(data, ours, h11_request(data))
        framed += isinstance(ours, Message)
    assert framed > MUTANTS // 100, "nearly everything is refused, so nothing is compared"


@pytest.mark.parametrize("seed", range(4))
def test_mutated_answers(seed: int) -> None:
    framed = 0
    for data in islice(mutants(MUTATED_ANSWERS, MUTATION_TOKENS, seed), MUTANTS // 4):
        method = (b"POST", b"GET", b"HEAD")[len(data) % 3]
        ours = our_response(data, method)
        assert_agreement(data, ours, h11_response(data, method))
        framed += isinstance(ours, Message)
    assert framed > MUTANTS // 100
