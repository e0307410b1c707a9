"""Request and response heads: what is read, what is refused, and how early."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aigw_core.errors import RemoteProtocolError
from aigw_core.headers import Headers
from aigw_core.http1 import heads
from aigw_core.http1.heads import FIELDS_MAX, HEAD_MAX, find_head_end, parse_request_head, parse_response_head
from aigw_core.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, Length, RequestHead
from tests.core.http1.reading import Fault, cuts_in, pieces_of, read_head, response_to, single_bytes

END = b"\r\n\r\n"
HOST = b"Host: gateway"
BEHIND = b"GET /next HTTP/1.1\r\n\x00"


def request(*lines: bytes, start: bytes = b"POST /v1/x HTTP/1.1", host: bytes = HOST) -> bytes:
    """A request head without its blank line."""
    return b"\r\n".join([start, *([host] if host else []), *lines])


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([start, *lines])


def assert_refused(block: bytes, status: int) -> None:
    """The same refusal however the bytes arrive, and whatever comes behind them."""
    parse = parse_request_head
    outcomes = [
        read_head([block + END], parse),
        read_head(single_bytes(block + END), parse),
        read_head([block + END + BEHIND], parse),
        read_head(single_bytes(block + END + BEHIND), parse),
    ]
    assert isinstance(outcomes[0], Fault), "the head was accepted"
    assert outcomes[0].status == status
    assert outcomes.count(outcomes[0]) == len(outcomes)


def framing_of(*lines: bytes, start: bytes = b"POST /v1/x HTTP/1.1") -> Framing:
    return parse_request_head(request(*lines, start=start)).framing


# Header lines that neither role accepts, and the status a caller gets for them.
BAD_FIELDS: dict[str, tuple[bytes, int]] = {
    # RFC 9112 §5.2
    "obs-fold by a space": (b"X-A: a\r\n b", 400),
    "obs-fold by a space, with a colon": (b"X-A: a\r\n b: c", 400),
    "obs-fold by a tab": (b"X-A: a\r\n\tb", 400),
    "obs-fold by a tab, with a colon": (b"X-A: a\r\n\tb: c", 400),
    "obs-fold of nothing": (b"X-A: a\r\n ", 400),
    # RFC 9112 §2.2: white space between the start line and the first field
    "a first line that starts with a space": (b" X-A: a", 400),
    # RFC 9112 §5.1
    "space before the colon": (b"X-A : a", 400),
    "tab before the colon": (b"X-A\t: a", 400),
    "empty name": (b": a", 400),
    "nothing but a colon": (b":", 400),
    "no colon": (b"X-A", 400),
    "no colon after a name that was seen before": (b"Host", 400),
    **{f"name with {c!r}": (b"X%cA: a" % c, 400) for c in b'"(),/;<=>?@[\\]{} \x7f\x00\x1f\x80\xff'},
    # RFC 9110 §5.5
    **{f"control byte {c:#04x} in a value": (b"X-A: a%cb" % c, 400) for c in [*range(9), 0x0B, 0x0C, 0x7F]},
    **{f"control byte {c:#04x} in a value": (b"X-A: a%cb" % c, 400) for c in range(0x0E, 0x20)},
    # RFC 9112 §2.2
    "bare LF in a value": (b"X-A: a\nb", 400),
    "bare LF as a line end": (b"X-A: a\nX-B: b", 400),
    "bare CR in a value": (b"X-A: a\rb", 400),
    "bare CR before CRLF": (b"X-A: a\r", 400),
    "bare CR and bare LF apart": (b"X-A: a\rb\nc", 400),
    "LF before CR": (b"X-A: a\n\rb", 400),
    # RFC 9112 §6.3
    "Content-Length beside Transfer-Encoding": (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
    "Transfer-Encoding beside Content-Length": (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
    "Content-Length: 0 beside Transfer-Encoding": (b"content-length: 0\r\ntransfer-encoding: chunked", 400),
    "Content-Length beside an unknown coding": (b"Transfer-Encoding: gzip\r\nContent-Length: 5", 400),
    "Content-Length repeated, equal": (b"Content-Length: 5\r\nContent-Length: 5", 400),
    "Content-Length repeated, different": (b"Content-Length: 5\r\nX-A: a\r\ncontent-length: 6", 400),
    **{
        f"Content-Length: {text.decode('latin-1')!r}": (b"Content-Length: " + text, 400)
        for text in [
            b"",
            b"5, 5",
            b"5,6",
            b"5,",
            b"+5",
            b"-1",
            b"1_0",
            b"0x10",
            b"1e3",
            b"5.0",
            b"5 5",
            b"5;",
            b'"5"',
            "٣".encode(),
            b"\xb2",
            b"\xa05",
            b"5\x85",
            b"1" * 19,
            b"0" * 19,
        ]
    },
    # RFC 9112 §6.1, §7
    "Transfer-Encoding twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
    "Transfer-Encoding on two lines": (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 400),
    "Transfer-Encoding twice, the other one first": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", 400),
    **{
        f"Transfer-Encoding: {text.decode('latin-1')!r}": (b"Transfer-Encoding: " + text, 400)
        for text in [
            b"",
            b"chunked, chunked",
            b"chunked, gzip",
            b",chunked",
            b"chunked,",
            b"\xa0chunked",
            b"chunked\xa0",
            b"\x85chunked",
            b"chunked;q=1",
            b'"chunked"',
            b"chun ked",
            b"chunked identity",
        ]
    },
    **{
        f"Transfer-Encoding: {text.decode()!r} is not implemented": (b"Transfer-Encoding: " + text, 501)
        for text in [b"gzip", b"gzip, chunked", b"GZIP , Chunked", b"xchunked", b"identity", b"chunked-x"]
    },
    "too many fields": (b"\r\n".join([b"X-A: a"] * (FIELDS_MAX + 1)), 431),
}


@pytest.mark.parametrize(("lines", "status"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_bad_fields_of_a_request_are_refused(lines: bytes, status: int) -> None:
    # Host stands last, so that the bad line can be the first one behind the request line.
    assert_refused(request(lines, HOST, host=b""), status)


@pytest.mark.parametrize("lines", [lines for lines, _ in BAD_FIELDS.values()], ids=BAD_FIELDS)
def test_bad_fields_of_a_response_are_502(lines: bytes) -> None:
    block = response(lines)
    with pytest.raises(RemoteProtocolError) as caught:
        parse_response_head(block, b"POST")
    assert caught.value.status == 502
    for pieces in ([block + END], single_bytes(block + END), [block + END + BEHIND]):
        assert isinstance(read_head(pieces, response_to(b"POST")), Fault)


BAD_REQUESTS: dict[str, tuple[bytes, int]] = {
    "no version (HTTP/0.9)": (request(start=b"GET /"), 400),
    "only a method": (request(start=b"GET"), 400),
    "an empty request line": (request(start=b""), 400),
    "two spaces before the target": (request(start=b"GET  / HTTP/1.1"), 400),
    "two spaces before the version": (request(start=b"GET /  HTTP/1.1"), 400),
    "a space in the target": (request(start=b"GET /a b HTTP/1.1"), 400),
    "a space behind the version": (request(start=b"GET / HTTP/1.1 "), 400),
    "a space before the method": (request(start=b" GET / HTTP/1.1"), 400),
    "tabs between the parts": (request(start=b"GET\t/\tHTTP/1.1"), 400),
    "a tab in the target": (request(start=b"GET /\t HTTP/1.1"), 400),
    "bare LF behind the request line": (b"GET / HTTP/1.1\nHost: gateway", 400),
    "bare CR in the request line": (request(start=b"GET /\r HTTP/1.1"), 400),
    "a versionless line ended by LF": (b"GET /\nHost: gateway", 400),
    "lower-case protocol": (request(start=b"GET / http/1.1"), 400),
    "another protocol": (request(start=b"GET / XTTP/1.1"), 400),
    "a version without minor": (request(start=b"GET / HTTP/1"), 400),
    "a version of two digits": (request(start=b"GET / HTTP/1.10"), 400),
    "a version that is text": (request(start=b"GET / HTTP/x.y"), 400),
    "HTTP/0.9 by name": (request(start=b"GET / HTTP/0.9"), 505),
    "HTTP/1.2": (request(start=b"GET / HTTP/1.2"), 505),
    "HTTP/2.0": (request(start=b"GET / HTTP/2.0"), 505),
    "HTTP/3.0": (request(start=b"GET / HTTP/3.0"), 505),
    "the HTTP/2 preface (RFC 9113 §3.4)": (b"PRI * HTTP/2.0", 505),
    "no method": (request(start=b" / HTTP/1.1"), 400),
    **{f"method with {c!r}": (request(start=b"G%cT / HTTP/1.1" % c), 400) for c in b'"(),/:;<=>?@[\\]{}\x80'},
    "CONNECT": (request(start=b"CONNECT gateway:443 HTTP/1.1"), 400),
    "CONNECT with a path": (request(start=b"CONNECT / HTTP/1.1"), 400),
    "no target": (request(start=b"GET  HTTP/1.1"), 400),
    **{f"target with {c:#04x}": (request(start=b"GET /a%cb HTTP/1.1" % c), 400) for c in b"#\x7f\x80\xa0\xff\x00\x0b"},
    "asterisk-form": (request(start=b"OPTIONS * HTTP/1.1"), 400),
    "authority-form": (request(start=b"GET gateway:80 HTTP/1.1"), 400),
    "a target that is a name": (request(start=b"GET v1 HTTP/1.1"), 400),
    "a target that is a query": (request(start=b"GET ?a=/ HTTP/1.1"), 400),
    "absolute-form of another scheme": (request(start=b"GET ftp://gateway/ HTTP/1.1"), 400),
    "absolute-form without scheme": (request(start=b"GET ://gateway/ HTTP/1.1"), 400),
    "absolute-form of another host": (request(start=b"GET http://other/ HTTP/1.1"), 400),
    "absolute-form with a port that Host has not": (request(start=b"GET http://gateway:80/ HTTP/1.1"), 400),
    "absolute-form with userinfo": (request(start=b"GET http://u@gateway/ HTTP/1.1"), 400),
    "absolute-form without authority": (request(start=b"GET http:///a HTTP/1.1"), 400),
    "absolute-form without Host": (request(start=b"GET http://gateway/ HTTP/1.0", host=b""), 400),
    "no Host": (request(host=b""), 400),
    "two Hosts": (request(HOST), 400),
    "two Hosts that differ": (request(b"host: other"), 400),
    "two Hosts in HTTP/1.0": (request(HOST, start=b"GET / HTTP/1.0"), 400),
    **{
        f"Host: {text.decode('latin-1')!r}": (request(host=b"Host: " + text), 400)
        for text in [
            b"",
            b"a b",
            b"a,b",
            b"a/b",
            b"u@a",
            b"a?b",
            b"a\\b",
            b"a:http",
            b"a:123456",
            b"a:1:2",
            b":80",
            b"[::1",
            b"[::g]",
            b"[]",
            b"\xe4",
        ]
    },
    "Transfer-Encoding in HTTP/1.0": (request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"), 400),
}


@pytest.mark.parametrize(("block", "status"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_requests_are_refused(block: bytes, status: int) -> None:
    assert_refused(block, status)


BAD_STATUS_LINES = {
    "two digits": b"HTTP/1.1 20 OK",
    "four digits": b"HTTP/1.1 2000 OK",
    "a leading zero": b"HTTP/1.1 020 OK",
    "a sign": b"HTTP/1.1 +20 OK",
    "digits of another script": "HTTP/1.1 ٢٠٠ OK".encode(),
    "two spaces": b"HTTP/1.1  200 OK",
    "a tab": b"HTTP/1.1\t200 OK",
    "a space first": b" HTTP/1.1 200 OK",
    "no code": b"HTTP/1.1",
    "no code but a blank": b"HTTP/1.1 ",
    "lower-case protocol": b"http/1.1 200 OK",
    "HTTP/1.2": b"HTTP/1.2 200 OK",
    "HTTP/2": b"HTTP/2 200 OK",
    "HTTP/2.0": b"HTTP/2.0 200 OK",
    "ICY": b"ICY 200 OK",
    "no version": b"200 OK",
    "an empty line": b"",
    "a control byte in the reason": b"HTTP/1.1 200 O\x01K",
    "bare CR in the reason": b"HTTP/1.1 200 O\rK",
    "bare LF behind it": b"HTTP/1.1 200 OK\nX-A: a",
}


@pytest.mark.parametrize("line", BAD_STATUS_LINES.values(), ids=BAD_STATUS_LINES)
def test_bad_status_lines_are_502(line: bytes) -> None:
    block = response(b"Content-Length: 0", start=line)
    with pytest.raises(RemoteProtocolError) as caught:
        parse_response_head(block, b"GET")
    assert caught.value.status == 502
    assert isinstance(read_head(single_bytes(block + END), response_to(b"GET")), Fault)


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 299  Two  blanks\t", 299, b" Two  blanks\t"),
        (b"HTTP/1.1 500 \xe4\xff", 500, b"\xe4\xff"),
        (b"HTTP/1.1 100 Continue", 100, b"Continue"),
        (b"HTTP/1.1 999 ?", 999, b"?"),
    ],
)
def test_status_lines(line: bytes, status: int, reason: bytes) -> None:
    head = parse_response_head(response(start=line), b"GET")
    assert (head.status, head.reason, head.http_1_0) == (status, reason, False)


def test_a_response_of_http_1_0_is_marked() -> None:
    assert parse_response_head(b"HTTP/1.0 200 OK", b"GET").http_1_0
    assert not parse_response_head(b"HTTP/1.1 200 OK", b"GET").http_1_0


@pytest.mark.parametrize("as_bytes", [lambda data: [data], single_bytes], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("behind", [b"", BEHIND], ids=["alone", "with bytes behind"])
def test_a_request_keeps_order_case_duplicates_and_values(
    as_bytes: Callable[[bytes], Iterable[bytes]], behind: bytes
) -> None:
    lines = [b"X-b:1", b"x-A:  2 3\t", b"X-B: \xe4\xa0\x85\xff", b"x-b:", b"Content-Length: 3", b"X_c: '"]
    read = read_head(as_bytes(request(*lines) + END + behind), parse_request_head)
    assert isinstance(read, tuple)
    head, rest = read
    assert rest == behind
    assert (head.method, head.target, head.http_1_0) == (b"POST", b"/v1/x", False)
    assert head.framing == Length(3)
    assert [field[:3] for field in head.headers.fields] == [
        (b"host", b"Host", b"gateway"),
        (b"x-b", b"X-b", b"1"),
        (b"x-a", b"x-A", b"2 3"),
        (b"x-b", b"X-B", b"\xe4\xa0\x85\xff"),
        (b"x-b", b"x-b", b""),
        (b"content-length", b"Content-Length", b"3"),
        (b"x_c", b"X_c", b"'"),
    ]


def test_a_response_keeps_order_case_duplicates_and_values() -> None:
    lines = [b"Set-Cookie: a", b"set-cookie:b", b"X: ", b"SET-COOKIE: \xff", b"Content-Length: 3"]
    read = read_head(single_bytes(response(*lines) + END + b"abc"), response_to(b"GET"))
    assert isinstance(read, tuple)
    assert [field[:3] for field in read[0].headers.fields] == [
        (b"set-cookie", b"Set-Cookie", b"a"),
        (b"set-cookie", b"set-cookie", b"b"),
        (b"x", b"X", b""),
        (b"set-cookie", b"SET-COOKIE", b"\xff"),
        (b"content-length", b"Content-Length", b"3"),
    ]
    assert read[1] == b"abc"


@pytest.mark.parametrize(
    ("line", "framing"),
    [
        (b"Content-Length: 0", Length(0)),
        (b"Content-Length: 5", Length(5)),
        (b"Content-Length:5", Length(5)),
        (b"content-length: \t5\t ", Length(5)),
        (b"Content-Length: 010", Length(10)),
        (b"Content-Length: " + b"9" * 18, Length(10**18 - 1)),
        (b"Transfer-Encoding: chunked", CHUNKED),
        (b"TRANSFER-ENCODING:\tcHuNkEd ", CHUNKED),
        (b"X-Content-Length: 5", NO_BODY),
    ],
)
def test_framing_of_a_request(line: bytes, framing: Framing) -> None:
    assert framing_of(line) == framing


@pytest.mark.parametrize("others", [[], [b"X: 1", b"x: 2"]])
@pytest.mark.parametrize(("digits", "is_read"), [(b"9" * 18, True), (b"9" * 19, False), (b"0" * 18, True)])
def test_a_length_has_up_to_18_digits(others: list[bytes], digits: bytes, is_read: bool) -> None:
    """Whether or not another field is repeated."""
    if is_read:
        assert framing_of(*others, b"Content-Length: " + digits) == Length(int(digits))
    else:
        assert_refused(request(*others, b"Content-Length: " + digits), 400)


def test_an_end_may_come_first() -> None:
    assert [find_head_end(END, searched) for searched in range(4)] == [0] * 4
    assert_refused(b"", 400)


def test_a_request_without_framing_fields_has_no_body() -> None:
    assert framing_of() == NO_BODY
    assert framing_of(start=b"POST / HTTP/1.0") == NO_BODY
    assert framing_of(b"Content-Length: 2", start=b"POST / HTTP/1.0") == Length(2)


CL, TE = b"Content-Length: 5", b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("method", "status", "lines", "framing"),
    [
        (b"GET", 200, [CL], Length(5)),
        (b"GET", 200, [TE], CHUNKED),
        (b"GET", 200, [], UNTIL_CLOSE),
        (b"POST", 200, [b"Content-Length: 0"], Length(0)),
        (b"POST", 429, [CL], Length(5)),
        (b"GET", 205, [CL], Length(5)),
        (b"HEAD", 200, [CL], NO_BODY),
        (b"HEAD", 200, [TE], NO_BODY),
        (b"HEAD", 200, [], NO_BODY),
        (b"HEAD", 500, [CL], NO_BODY),
        *((b"GET", status, lines, NO_BODY) for status in (100, 101, 103, 199, 204, 304) for lines in ([CL], [TE], [])),
        (b"GET", 203, [], UNTIL_CLOSE),
        (b"GET", 303, [], UNTIL_CLOSE),
        (b"GET", 305, [], UNTIL_CLOSE),
    ],
)
def test_framing_of_a_response(method: bytes, status: int, lines: list[bytes], framing: Framing) -> None:
    """RFC 9112 §6.3, by the method of the request."""
    head = parse_response_head(response(*lines, start=b"HTTP/1.1 %d x" % status), method)
    assert head.framing == framing
    assert len(head.headers) == len(lines)


@pytest.mark.parametrize("status", [100, 204, 304])
def test_broken_framing_is_refused_even_where_there_is_no_body(status: int) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_response_head(response(b"Content-Length: x", start=b"HTTP/1.1 %d x" % status), b"GET")
    with pytest.raises(RemoteProtocolError):
        parse_response_head(response(b"Content-Length: x"), b"HEAD")


def test_transfer_encoding_of_http_1_0_is_refused_in_responses() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_response_head(response(TE, start=b"HTTP/1.0 200 OK"), b"GET")
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("target", "host", "forwarded"),
    [
        (b"/", b"gateway", b"/"),
        (b"/v1?a=b&c", b"gateway", b"/v1?a=b&c"),
        (b"//v1/./..", b"gateway", b"//v1/./.."),
        (b"/a:b@c://d", b"gateway", b"/a:b@c://d"),
        (b'/%2e%2F\\"<>^`{|}', b"gateway", b'/%2e%2F\\"<>^`{|}'),
        (b"http://gateway/v1/x?y", b"gateway", b"/v1/x?y"),
        (b"HTTPS://Gateway:8080/v1", b"gateway:8080", b"/v1"),
        (b"http://gateway", b"GATEWAY", b"/"),
        (b"http://gateway?a=/b", b"gateway", b"/?a=/b"),
        (b"http://[::1]:80/a", b"[::1]:80", b"/a"),
    ],
)
def test_targets_become_origin_form(target: bytes, host: bytes, forwarded: bytes) -> None:
    """RFC 9112 §3.2.1 and §3.2.2: an absolute-form that names the Host is served."""
    block = request(start=b"GET %b HTTP/1.1" % target, host=b"Host: " + host)
    assert parse_request_head(block).target == forwarded


@pytest.mark.parametrize("host", [b"a", b"a.b:8080", b"a_b-c~", b"127.0.0.1", b"[::1]", b"[::ffff:1.2.3.4]:1", b"a:"])
def test_hosts(host: bytes) -> None:
    assert parse_request_head(request(host=b"Host: " + host)).headers.get(b"host") == host


@pytest.mark.parametrize("method", [b"GET", b"PATCH", b"get", b"X-Y!#$%&'*+.^_`|~9", b"connect"])
def test_methods_are_tokens(method: bytes) -> None:
    assert parse_request_head(request(start=method + b" / HTTP/1.1")).method == method


def test_http_1_0_needs_no_host() -> None:
    head = parse_request_head(b"GET / HTTP/1.0")
    assert head == RequestHead(b"GET", b"/", Headers([]), NO_BODY, http_1_0=True)


# Limits


def head_of(size: int) -> bytes:
    start = request(b"X-Pad: ")
    return start + b"p" * (size - len(start))


@pytest.mark.parametrize("behind", [b"", b"body"])
def test_a_head_of_the_largest_size_is_read(behind: bytes) -> None:
    assert HEAD_MAX == 65_536
    data = head_of(HEAD_MAX) + END + behind
    for pieces in ([data], single_bytes(data), pieces_of(data, [HEAD_MAX, HEAD_MAX + 3])):
        read = read_head(pieces, parse_request_head)
        assert isinstance(read, tuple)
        assert read[1] == behind


@pytest.mark.parametrize("data", [head_of(HEAD_MAX + 1) + END, head_of(HEAD_MAX + 4), head_of(2 * HEAD_MAX)])
def test_a_larger_head_is_431(data: bytes) -> None:
    for pieces in ([data], single_bytes(data), pieces_of(data, [HEAD_MAX, HEAD_MAX + 3])):
        assert read_head(pieces, parse_request_head) == Fault(431, "The head is too large.")


def test_the_number_of_fields() -> None:
    """``Host`` is one of them."""
    assert FIELDS_MAX == 128
    assert len(parse_request_head(request(*[b"a:"] * (FIELDS_MAX - 1))).headers) == FIELDS_MAX
    assert_refused(request(*[b"a:"] * FIELDS_MAX), 431)
    assert len(parse_response_head(response(*[b"a:"] * FIELDS_MAX), b"GET").headers) == FIELDS_MAX
    with pytest.raises(RemoteProtocolError):
        parse_response_head(response(*[b"a:"] * (FIELDS_MAX + 1)), b"GET")


def test_invented_names_do_not_fill_the_memory() -> None:
    """Strangers choose names: few are remembered, long ones never."""
    with patch.object(heads, "_names", {}), patch.object(heads, "_NAME_CACHE_MAX", 8):
        for number in range(40):
            parse_request_head(request(b"X-%d: a" % number))
            assert len(heads._names) <= 8
        long, longer = b"n" * heads._NAME_CACHED_SIZE_MAX, b"n" * (heads._NAME_CACHED_SIZE_MAX + 1)
        head = parse_request_head(request(long + b": a", longer + b": b"))
        assert (head.headers.get(long), head.headers.get(longer)) == (b"a", b"b")
        assert long in heads._names
        assert longer not in heads._names


def _accepted(block: Callable[[bytes], bytes]) -> set[int]:
    """Which bytes may stand alone in this place."""
    found = set()
    for number in range(256):
        with suppress(RemoteProtocolError):
            parse_request_head(block(bytes([number])))
            found.add(number)
    return found


def test_each_byte_is_accepted_where_it_belongs_and_nowhere_else() -> None:
    visible = set(range(0x21, 0x7F))
    # RFC 9110 §5.5: VCHAR, obs-text, SP and HTAB.
    assert _accepted(lambda byte: request(b"X: a" + byte + b"a")) == visible | set(range(0x80, 0x100)) | {0x20, 0x09}
    # RFC 9110 §5.6.2: a token, and the colon, which ends the name.
    marks = set(b"!#$%&'*+-.^_`|~")
    alphanumeric = set(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    assert _accepted(lambda byte: request(b"X" + byte + b"X: a")) == marks | alphanumeric | set(b":")
    assert _accepted(lambda byte: request(start=b"X" + byte + b" /v1/x HTTP/1.1")) == marks | alphanumeric
    # RFC 3986, percent-encoded or plain; a fragment never reaches a server.
    assert _accepted(lambda byte: request(start=b"POST /v1/" + byte + b" HTTP/1.1")) == visible - set(b"#")
    # RFC 3986 §3.2.2: unreserved, sub-delims and the percent sign; a colon begins the port.
    host = set(b"-._~%!$&'()*+;=:") | alphanumeric
    assert _accepted(lambda byte: request(host=b"Host: a" + byte)) == host | set(b" \t")


def test_names_are_remembered_up_to_4096_of_64_bytes() -> None:
    with patch.object(heads, "_names", {}), patch.object(heads, "_seen_lines", {}):
        for number in range(4_096):
            parse_request_head(request(b"X-%d: a" % number))
        assert list(heads._names) == [b"X-4095"], "dropped whole when full: Host was one of them"
        parse_request_head(request(b"n" * 64 + b": a"))
        assert b"n" * 64 in heads._names
        parse_request_head(request(b"n" * 65 + b": a"))
        assert b"n" * 65 not in heads._names
    with patch.object(heads, "_names", {}), patch.object(heads, "_seen_lines", {}):
        for number in range(4_095):
            parse_request_head(request(b"X-%d: a" % number))
        assert len(heads._names) == 4_096, "Host is one of them"


def test_lines_are_remembered_up_to_2048_of_192_bytes() -> None:
    with patch.object(heads, "_seen_lines", {}):
        for number in range(2_047):
            parse_request_head(request(b"Date: %d" % number))
        assert len(heads._seen_lines) == 2_048, "Host is one of them"
        parse_request_head(request(b"Date: one more"))
        assert list(heads._seen_lines) == [b"Date: one more"], "dropped whole when full"
        for size, is_kept in ((192, True), (193, False)):
            line = b"Date: ".ljust(size, b"x")
            parse_request_head(request(line))
            assert (line in heads._seen_lines) is is_kept


@pytest.mark.parametrize(
    ("line", "is_kept"),
    [
        (b"Date: x", True),
        (b"access-control-allow-origin: *", True),
        (b"Authorization: Bearer x", False),
        (b"x-api-key: x", False),
        (b"Content-Length: 1", False),
        (b"X-Invented: x", False),
    ],
)
def test_only_lines_that_recur_and_hold_no_credential_are_remembered(line: bytes, is_kept: bool) -> None:
    with patch.object(heads, "_seen_lines", {}):
        first, again = (parse_request_head(request(line)) for _ in range(2))
        assert (line in heads._seen_lines) is is_kept
        assert first == again
        assert (first.headers.fields[-1] is again.headers.fields[-1]) is is_kept


# Early refusal


@pytest.mark.parametrize(
    ("data", "at"),
    [
        (b"GET / HTTP/1.1\n", 15),
        (b"GET / HTTP/1.1\r\r\n", 16),
        (b"GET / HTTP/1.1\rHost: x", 16),
        (b"GET / HTTP/1.1\r\nHost: x\n\n", 24),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\rX", 27),
        (b"\x16\x03\x01\x02\x00\x01", 1),
        (b"\n", 1),
        (b"GET /\x00", 6),
        (b"GET / HTTP/1.1\r\nX: a\x7f", 21),
    ],
    ids=["LF", "CR CR LF", "bare CR", "LF LF", "CR LF CR", "TLS hello", "LF first", "NUL", "DEL"],
)
def test_what_cannot_become_a_head_is_refused_at_that_byte(data: bytes, at: int) -> None:
    assert find_head_end(data[: at - 1], 0) == -1
    for searched in range(at):
        with pytest.raises(RemoteProtocolError) as caught:
            find_head_end(data[:at], searched)
        assert caught.value.status == 400


def test_a_cut_between_cr_and_lf_is_nothing_special() -> None:
    data = request(b"X-A: a") + END
    for size in range(len(data)):
        assert find_head_end(data[:size], 0) == -1
        for searched in range(size):
            assert find_head_end(data[:size], searched) == -1
    for searched in range(len(data)):
        assert find_head_end(data, searched) == len(data) - 4


TOKEN = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(str.encode)
VALUE = st.binary(max_size=20).map(lambda raw: bytes(b for b in raw if b in heads._HEAD_BYTES).strip(b" \t"))
FIELDS = st.lists(
    st.tuples(TOKEN, VALUE).filter(
        lambda pair: pair[0].lower() not in (b"host", b"content-length", b"transfer-encoding")
    ),
    max_size=6,
)
TARGET = st.binary(max_size=20).map(lambda raw: b"/" + bytes(b for b in raw if b in heads._TARGET_BYTES))


@settings(deadline=None)
@given(TOKEN.filter(lambda method: method != b"CONNECT"), TARGET, FIELDS)
def test_no_prefix_of_a_good_head_is_refused(method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    block = request(*[b"%b: %b" % pair for pair in fields], start=b"%b %b HTTP/1.1" % (method, target))
    data = block + END
    for size in range(len(data)):
        assert find_head_end(data[:size], 0) == -1
    read = read_head(single_bytes(data), parse_request_head)
    assert isinstance(read, tuple)
    assert list(read[0].headers) == [(b"Host", b"gateway"), *fields]


NOISE = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\x00", b":", b" ", b"a", b"a: b\r\n", b"GET / HTTP/1.1\r\nHost: h\r\n"]
    ),
    max_size=12,
).map(b"".join)


@settings(deadline=None)
@given(NOISE, st.data())
@example(b"a\r\n\r\n", None)
def test_the_outcome_does_not_depend_on_the_split(noise: bytes, data: st.DataObject | None) -> None:
    cuts = [] if data is None else data.draw(cuts_in(len(noise)))
    outcomes = [
        read_head(pieces, parse_request_head) for pieces in ([noise], pieces_of(noise, cuts), single_bytes(noise))
    ]
    assert outcomes[1:] == outcomes[:-1]


@given(NOISE, st.integers(0, 40), st.data())
@settings(deadline=None, max_examples=200)
def test_at_the_limit_the_first_fault_decides(noise: bytes, limit: int, data: st.DataObject) -> None:
    """Too large or malformed: what is said must not depend on how much came in one read."""
    cuts = data.draw(cuts_in(len(noise)))
    with patch.object(heads, "HEAD_MAX", limit), patch.object(heads, "_HEAD_WITH_END_MAX", limit + 4):
        outcomes = [
            read_head(pieces, parse_request_head) for pieces in ([noise], pieces_of(noise, cuts), single_bytes(noise))
        ]
        end = noise.find(END)
        if end > limit or (end < 0 and len(noise) >= limit + 4):
            assert isinstance(outcomes[0], Fault)
    assert outcomes[1:] == outcomes[:-1]


def test_refusals_quote_nothing() -> None:
    """The text of a refusal goes to the caller and into logs."""
    for block, _ in BAD_REQUESTS.values():
        outcome = read_head([block.replace(b"gateway", b"MARKER") + END], parse_request_head)
        assert isinstance(outcome, Fault)
        assert "MARKER" not in outcome.text
