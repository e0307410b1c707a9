"""Request smuggling: gadgets of the literature as raw bytes, in both directions, against the real process.

Each gadget is two readings of one message. The gateway refuses it, or reads it in the one right way: the provider sees
exactly one well-formed request or none, and never the one that was hidden in it. Classes and names after RFC 9112
§11.2, "HTTP Desync Attacks" (2019), "HTTP/1.1 must die" (2025), and "Funky chunks" (2025).
"""

from __future__ import annotations

from typing import Final

import pytest

from tests.e2e import answers, keys
from tests.e2e.client import Client, bearer, request
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Case, Provider

PATH: Final = "/mistral/v1/chat/completions"
TE: Final = b"Transfer-Encoding: chunked\r\n"


def _line(version: bytes = b"1.1", method: bytes = b"POST", path: bytes = PATH.encode()) -> bytes:
    return b"%b %b HTTP/%b\r\n" % (method, path, version)


class Gadget:
    """Bytes with ``{own}`` where Host, credential and case stand, and ``{hidden}`` for the request hidden in them."""

    def __init__(self, data: bytes, *, line: bytes | None = None) -> None:
        self.data = (_line() if line is None else line) + b"{own}" + data

    def bytes(self, own: bytes, hidden: bytes) -> bytes:
        return (
            self.data.replace(b"{own}", own)
            .replace(b"{hidden-length}", b"%d" % len(hidden))
            .replace(b"{hidden-chunk}", b"%x" % len(hidden))
            .replace(b"{hidden}", hidden)
        )


def _te(line: bytes, body: bytes = b"\r\n0\r\n\r\n{hidden}") -> Gadget:
    return Gadget(line + b"\r\n" + body)


REFUSED: Final[dict[str, Gadget]] = {
    # CL.TE and TE.CL
    "cl-te": Gadget(b"Content-Length: 5\r\n" + TE + b"\r\n0\r\n\r\n{hidden}"),
    "te-cl": Gadget(TE + b"Content-Length: 4\r\n\r\n{hidden-chunk}\r\n{hidden}\r\n0\r\n\r\n"),
    "cl-te-case": Gadget(b"content-length: 5\r\ntRANSFER-eNCODING: chunked\r\n\r\n0\r\n\r\n{hidden}"),
    # CL.CL
    "cl-cl": Gadget(b"Content-Length: 0\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"),
    "cl-cl-equal": Gadget(b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}{hidden}"),
    "cl-list": Gadget(b"Content-Length: 2, 2\r\n\r\n{}{hidden}"),
    "cl-octal-or-not": Gadget(b"Content-Length: 0x2\r\n\r\n{}{hidden}"),
    "cl-plus": Gadget(b"Content-Length: +2\r\n\r\n{}{hidden}"),
    "cl-blank-inside": Gadget(b"Content-Length: 1 0\r\n\r\n{}{hidden}"),
    "cl-vertical-tab": Gadget(b"Content-Length: \x0b2\r\n\r\n{}{hidden}"),
    "cl-nbsp": Gadget(b"Content-Length: \xa02\r\n\r\n{}{hidden}"),
    "cl-wraps-at-2-64": Gadget(b"Content-Length: 18446744073709551618\r\n\r\n{}{hidden}"),
    "cl-space-before-colon": Gadget(b"Content-Length : 2\r\n\r\n{}{hidden}"),
    "cl-nul-in-name": Gadget(b"Content\x00-Length: 2\r\n\r\n{}{hidden}"),
    "cl-folded": Gadget(b"Content-Length:\r\n 2\r\n\r\n{}{hidden}"),
    "cl-behind-bare-lf": Gadget(b"X: a\nContent-Length: {hidden-length}\r\n\r\n{hidden}"),
    "cl-behind-bare-cr": Gadget(b"X: a\rContent-Length: {hidden-length}\r\n\r\n{hidden}"),
    # TE.TE: a coding that one reader sees and the other does not
    "te-x": _te(b"Transfer-Encoding: xchunked"),
    "te-blank-before-colon": _te(b"Transfer-Encoding : chunked"),
    "te-tab-before-colon": _te(b"Transfer-Encoding\t: chunked"),
    "te-twice": _te(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x"),
    "te-twice-same": _te(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "te-identity-first": _te(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
    "te-list-empty": _te(b"Transfer-Encoding: ,chunked"),
    "te-list-trailing": _te(b"Transfer-Encoding: chunked,"),
    "te-cow": _te(b"Transfer-Encoding: chunked, cow"),
    "te-quoted": _te(b'Transfer-Encoding: "chunked"'),
    "te-semicolon": _te(b"Transfer-Encoding: chunked;foo"),
    "te-vertical-tab": _te(b"Transfer-Encoding: \x0bchunked"),
    "te-form-feed": _te(b"Transfer-Encoding: \x0cchunked"),
    "te-nul": _te(b"Transfer-Encoding: chunked\x00"),
    "te-high-byte": _te(b"Transfer-Encoding: \xffchunked"),
    "te-next-line": _te(b"Transfer-Encoding: \x85chunked"),
    "te-kelvin": _te("Transfer-Encoding: chun\u212aed".encode()),
    "te-folded": _te(b"Transfer-Encoding:\r\n chunked"),
    "te-folded-behind": _te(b"Transfer-Encoding: x\r\n ,chunked"),
    "te-behind-bare-lf": _te(b"X: a\nTransfer-Encoding: chunked"),
    "te-behind-bare-cr": _te(b"X: a\rTransfer-Encoding: chunked"),
    "te-name-blank-first": _te(b" Transfer-Encoding: chunked"),
    "te-empty": _te(b"Transfer-Encoding:"),
    "te-in-1.0": Gadget(TE + b"\r\n0\r\n\r\n{hidden}", line=_line(b"1.0")),
    "te-gzip-chunked": _te(b"Transfer-Encoding: gzip, chunked"),
    # Head ends and line ends
    "lf-lf-ends-head": Gadget(b"X: a\n\n{hidden}\r\n\r\n"),
    "cr-cr-ends-head": Gadget(b"X: a\r\r{hidden}\r\n\r\n"),
    "crlf-cr-x": Gadget(b"X: a\r\n\rX: b\r\n\r\n{hidden}"),
    "empty-name-cuts-list": Gadget(b": x\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"),
    "no-colon": Gadget(b"Content-Length {hidden-length}\r\n\r\n{hidden}"),
    # Request lines
    "line-lf": Gadget(b"\r\n{hidden}", line=b"POST " + PATH.encode() + b" HTTP/1.1\n"),
    "line-without-version": Gadget(b"\r\n{hidden}", line=b"GET /mistral/v1/models\r\n"),
    "line-with-request-inside": Gadget(b"\r\n{hidden}", line=b"GET /mistral/v1/models HTTP/1.1 /evil HTTP/1.1\r\n"),
    "first-line-folded": Gadget(b"\r\n{hidden}", line=_line() + b" X: a\r\n"),
    "connect": Gadget(b"\r\n{hidden}", line=b"CONNECT api.mistral.ai:443 HTTP/1.1\r\n"),
    "absolute-with-another-host": Gadget(b"\r\n{hidden}", line=b"GET http://evil.test/mistral/v1/models HTTP/1.1\r\n"),
    "absolute-with-userinfo": Gadget(b"\r\n{hidden}", line=b"GET http://gateway.test@evil.test/v1/models HTTP/1.1\r\n"),
    "two-hosts": Gadget(b"Host: evil.test\r\n\r\n{hidden}"),
    "preface-of-http2": Gadget(b"\r\nSM\r\n\r\n{hidden}", line=b"PRI * HTTP/2.0\r\n"),
}
"""Refused for the head alone: nothing goes upstream."""

BROKEN: Final[dict[str, bytes]] = {
    "size-0x": b"0x2\r\n{}\r\n0\r\n\r\n{hidden}",
    "size-underscore": b"0_2\r\n{}\r\n0\r\n\r\n{hidden}",
    "size-plus": b"+2\r\n{}\r\n0\r\n\r\n{hidden}",
    "size-minus": b"-2\r\n{}\r\n0\r\n\r\n{hidden}",
    "size-wraps": b"10000000000000002\r\n{}\r\n0\r\n\r\n{hidden}",
    "size-empty": b"\r\n{}\r\n0\r\n\r\n{hidden}",
    "size-blank-first": b" 2\r\n{}\r\n0\r\n\r\n{hidden}",
    "size-blank-behind": b"2 \r\n{}\r\n0\r\n\r\n{hidden}",
    "size-form-feed": b"\x0c2\r\n{}\r\n0\r\n\r\n{hidden}",
    "size-full-width": "\uff12\r\n{}\r\n0\r\n\r\n{hidden}".encode(),
    "size-ends-in-lf": b"2\n{}\r\n0\r\n\r\n{hidden}",
    "size-ends-in-cr": b"2\r{}\r\n0\r\n\r\n{hidden}",
    # TERM.EXT and EXT.TERM
    "extension-ends-in-lf": b"2;a\n{}\r\n0\r\n\r\n{hidden}",
    "extension-ends-in-cr": b"2;a\rxx\r\n0\r\n\r\n{hidden}",
    "extension-hides-a-chunk": b"2;\n00\r\n\r\n{hidden}0\r\n\r\n",
    "last-chunk-extension-lf": b"2\r\n{}\r\n0;\n\r\n\r\n{hidden}",
    "extension-nul": b"2;\x00\r\n{}\r\n0\r\n\r\n{hidden}",
    # SPILL and the two-byte terminator
    "spill": b"2\r\n{}XX0\r\n\r\n{hidden}",
    "spill-lf": b"2\r\n{}\n0\r\n\r\n{hidden}",
    "spill-cr": b"2\r\n{}\r0\r\n\r\n{hidden}",
    "longer-than-said": b"2\r\n{}{}\r\n0\r\n\r\n{hidden}",
    "shorter-than-said": b"5\r\n{}\r\n0\r\n\r\n{hidden}",
    # Trailers
    "trailer-lf": b"2\r\n{}\r\n0\r\n\n{hidden}",
    "trailer-folded": b"2\r\n{}\r\n0\r\nX: a\r\n b\r\n\r\n{hidden}",
    "trailer-blank-before-colon": b"2\r\n{}\r\n0\r\nX : a\r\n\r\n{hidden}",
    "trailer-no-colon": b"2\r\n{}\r\n0\r\nnothing\r\n\r\n{hidden}",
    "trailer-bare-cr": b"2\r\n{}\r\n0\r\nX: a\rb\r\n\r\n{hidden}",
}
"""Chunked bodies that have two readings. The head may be upstream already; the body never looks whole there."""

ONE_WAY: Final[dict[str, tuple[Gadget, bytes]]] = {
    # A body where few expect one: its bytes are a body, and nothing else
    "get-with-a-body": (
        Gadget(b"Content-Length: {hidden-length}\r\n\r\n{hidden}", line=_line(method=b"GET")), b"{hidden}"
    ),
    "get-chunked": (
        Gadget(TE + b"\r\n{hidden-chunk}\r\n{hidden}\r\n0\r\n\r\n", line=_line(method=b"GET")), b"{hidden}"
    ),
    "options-with-a-body": (
        Gadget(b"Content-Length: {hidden-length}\r\n\r\n{hidden}", line=_line(method=b"OPTIONS")), b"{hidden}"
    ),
    "delete-with-a-body": (
        Gadget(b"Content-Length: {hidden-length}\r\n\r\n{hidden}", line=_line(method=b"DELETE")), b"{hidden}"
    ),
    # Look-alikes of framing headers are headers like any other
    "underscore-length": (Gadget(b"Content_Length: 0\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"), b"{hidden}"),
    "x-length": (Gadget(b"X-Content-Length: 0\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"), b"{hidden}"),
    "underscore-coding": (
        Gadget(b"Transfer_Encoding: chunked\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"), b"{hidden}"
    ),
    "coding-tab": (Gadget(b"Transfer-Encoding:\tchunked\t\r\n\r\n2\r\n{}\r\n0\r\n\r\n"), b"{}"),
    "coding-upper": (Gadget(b"TRANSFER-ENCODING: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n"), b"{}"),
    "length-leading-zeros": (Gadget(b"Content-Length: 0002\r\n\r\n{}"), b"{}"),
    # Nominations never take framing or identity away
    "nominated-length": (
        Gadget(b"Connection: Content-Length\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"), b"{hidden}"
    ),
    "nominated-coding": (
        Gadget(b"Connection: Transfer-Encoding\r\n" + TE + b"\r\n{hidden-chunk}\r\n{hidden}\r\n0\r\n\r\n"), b"{hidden}"
    ),
    "nominated-host": (Gadget(b"Connection: Host, Authorization\r\nContent-Length: 2\r\n\r\n{}"), b"{}"),
    # Chunked bodies with what is allowed and never forwarded
    "extension": (Gadget(TE + b'\r\n2;a="b;c";d\r\n{}\r\n0;e\r\n\r\n'), b"{}"),
    "many-zeros": (Gadget(TE + b"\r\n0000000000000002\r\n{}\r\n0000\r\n\r\n"), b"{}"),
    "trailer-names-a-length": (Gadget(TE + b"\r\n2\r\n{}\r\n0\r\nContent-Length: 99\r\nHost: evil\r\n\r\n"), b"{}"),
    "trailer-names-a-key": (Gadget(TE + b"\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer evil\r\n\r\n"), b"{}"),
    "chunk-with-a-request": (Gadget(TE + b"\r\n{hidden-chunk}\r\n{hidden}\r\n0\r\n\r\n"), b"{hidden}"),
    # Upgrades are not taken
    "h2c": (
        Gadget(
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
            b"Content-Length: {hidden-length}\r\n\r\n{hidden}"
        ),
        b"{hidden}",
    ),
    "absolute-form": (
        Gadget(
            b"Content-Length: {hidden-length}\r\n\r\n{hidden}",
            line=b"POST http://gateway.test" + PATH.encode() + b" HTTP/1.1\r\n",
        ),
        b"{hidden}",
    ),
    "length-behind-a-line-that-looks-like-an-end": (
        Gadget(b"X: \\r\\n\\r\\n\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"), b"{hidden}"
    ),
    "expect-100": (
        Gadget(b"Expect: 100-continue\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"), b"{hidden}"
    ),
    "expect-obfuscated": (
        Gadget(b"Expect: y 100-continue\r\nContent-Length: {hidden-length}\r\n\r\n{hidden}"), b"{hidden}"
    ),
}  # fmt: skip
"""Read in the one right way: one request upstream, with this body."""


@pytest.fixture(params=["byo", "managed"])
def key(request: pytest.FixtureRequest) -> str:
    return keys.BYO_KEY if request.param == "byo" else keys.virtual_key()


def _own(case: Case, key: str) -> bytes:
    return b"Host: gateway.test\r\n%b: %b\r\n%b: %b\r\n" % (*bearer(key), *case.header)


def _hidden(victim: Case, key: str) -> bytes:
    return request(f"{PATH}?hidden", b"{}", bearer(key), victim.header)


def _nothing_hidden(victim: Case) -> None:
    assert victim.received == [], "the hidden request reached the provider"


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_with_two_readings_goes_nowhere(gateway: Gateway, provider: Provider, name: str, key: str) -> None:
    case, victim = provider.case(answers.by_path), provider.case(answers.by_path)
    before = provider.bytes_received
    with Client(gateway) as client:
        client.send(REFUSED[name].bytes(_own(case, key), _hidden(victim, key)))
        answer = client.read_answer()
        assert answer.status in (400, 501, 505)
        assert answer.values(b"connection") == [b"close"]
        assert client.read_end() == (b"", "orderly"), "the rest was read as a request"
    assert case.received == []
    _nothing_hidden(victim)
    assert provider.bytes_received == before


@pytest.mark.parametrize("name", BROKEN)
def test_chunks_with_two_readings_never_look_whole(gateway: Gateway, provider: Provider, name: str, key: str) -> None:
    case, victim = provider.case(answers.by_path), provider.case(answers.by_path)
    data = Gadget(TE + b"\r\n" + BROKEN[name]).bytes(_own(case, key), _hidden(victim, key))
    with Client(gateway) as client:
        client.send(data)
        answer = client.read_answer()
        assert answer.status == 400
        assert answer.values(b"connection") == [b"close"]
        assert client.read_end() == (b"", "orderly")
    assert len(case.received) <= 1
    assert not any(received.complete for received in case.received)
    _nothing_hidden(victim)


@pytest.mark.parametrize("name", ONE_WAY)
def test_one_right_reading(gateway: Gateway, provider: Provider, name: str) -> None:
    case, victim = provider.case(answers.json_answer({"n": 1})), provider.case(answers.by_path)
    gadget, body = ONE_WAY[name]
    hidden = _hidden(victim, keys.BYO_KEY)
    with Client(gateway) as client:
        client.send(gadget.bytes(_own(case, keys.BYO_KEY), hidden))
        while (answer := client.read_answer()).status == 100:
            pass
        assert answer.status == 200
        client.send(request(PATH, b"{}", bearer(keys.BYO_KEY), case.header))
        second = client.read_answer()
        assert (second.status, second.json()) == (200, {"n": 1}), "answers and requests are out of step"
    first, last = case.received
    assert bytes(first.body) == body.replace(b"{hidden}", hidden)
    assert len(first.values(b"content-length")) + len(first.values(b"transfer-encoding")) == 1
    assert first.values(b"host") == [b"127.0.0.1:%d" % provider.port]
    assert first.values(b"authorization") == [b"Bearer " + keys.BYO_KEY.encode()]
    dropped = (b"expect", b"upgrade", b"http2-settings", b"connection", b"te", b"trailer")
    assert not any(first.values(name) for name in dropped)
    assert bytes(last.body) == b"{}"
    _nothing_hidden(victim)


def test_a_request_behind_close_is_dropped(gateway: Gateway, provider: Provider, key: str) -> None:
    case, victim = provider.case(answers.json_answer({"n": 1})), provider.case(answers.by_path)
    first = request(PATH, b"{}", bearer(key), case.header, (b"Connection", b"close"))
    with Client(gateway) as client:
        client.send(first + _hidden(victim, key))
        assert client.read_answer().status == 200
        assert client.read_end() == (b"", "orderly")
    assert len(case.received) == 1
    _nothing_hidden(victim)


def test_a_refused_request_keeps_its_body(gateway: Gateway, provider: Provider) -> None:
    """0.CL and CL.0: an answer that needs no body still takes it off the connection."""
    victim, case = provider.case(answers.by_path), provider.case(answers.json_answer({"n": 1}))
    hidden = _hidden(victim, keys.BYO_KEY)
    with Client(gateway) as client:
        for target, own in ((f"{PATH}", ()), ("/nowhere/x", (bearer(keys.BYO_KEY),))):
            client.send(request(target, hidden, *own))
            assert client.read_answer().status in (401, 404)
        client.send(request(PATH, b"{}", bearer(keys.BYO_KEY), case.header))
        assert client.read_answer().json() == {"n": 1}
    _nothing_hidden(victim)


# The other direction: a provider whose answer has two readings must not answer the next caller.

EVIL: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
BAD_ANSWERS: Final[dict[str, bytes]] = {
    "cl-te": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + TE + b"\r\n0\r\n\r\n" + EVIL,
    "cl-cl": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n" + EVIL,
    "cl-list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}" + EVIL,
    "cl-plus": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}" + EVIL,
    "te-x": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + EVIL,
    "te-twice": b"HTTP/1.1 200 OK\r\n" + TE + TE + b"\r\n0\r\n\r\n" + EVIL,
    "te-1.0": b"HTTP/1.0 200 OK\r\n" + TE + b"\r\n0\r\n\r\n" + EVIL,
    "bare-lf": b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 0\r\n\r\n" + EVIL,
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n" + EVIL,
    "blank-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n" + EVIL,
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + EVIL,
    "status-line": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n" + EVIL,
}
SPILLED_ANSWERS: Final[dict[str, tuple[str, bytes]]] = {
    "behind-length": ("POST", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" + EVIL),
    "behind-last-chunk": ("POST", b"HTTP/1.1 200 OK\r\n" + TE + b"\r\n2\r\n{}\r\n0\r\n\r\n" + EVIL),
    "body-of-204": ("POST", b"HTTP/1.1 204 No Content\r\nContent-Length: 44\r\n\r\n" + EVIL),
    "body-of-304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n" + EVIL),
    "body-of-head": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n" + EVIL),
    "interim-with-length": (
        "POST", b"HTTP/1.1 103 Early Hints\r\nContent-Length: 44\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    ),
}  # fmt: skip


def _next_caller_is_safe(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.json_answer({"n": 2}))
    for _ in range(3):
        with Client(gateway) as client:
            client.send(request(PATH, b"{}", bearer(keys.virtual_key()), case.header))
            answer = client.read_answer()
            assert (answer.status, answer.json()) == (200, {"n": 2}), "an answer of somebody else"


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_an_answer_with_two_readings_is_502(gateway: Gateway, provider: Provider, name: str, key: str) -> None:
    case = provider.case(BAD_ANSWERS[name])
    with Client(gateway) as client:
        client.send(request(PATH, b"{}", bearer(key), case.header))
        answer = client.read_answer()
        assert answer.status == 502
        assert b"evil" not in answer.body
    connection = case.wait().connection
    used = connection.requests
    _next_caller_is_safe(gateway, provider)
    assert connection.requests == used, "the connection is used again"


@pytest.mark.parametrize("name", SPILLED_ANSWERS)
def test_what_lies_behind_an_answer_is_nobodys(gateway: Gateway, provider: Provider, name: str) -> None:
    method, data = SPILLED_ANSWERS[name]
    case = provider.case(data)
    with Client(gateway) as client:
        body = b"{}" if method == "POST" else b""
        client.send(request(PATH, body, bearer(keys.BYO_KEY), case.header, method=method))
        while (answer := client.read_answer(method)).status == 103:
            assert answer.values(b"content-length") == []
        assert answer.status in (200, 204, 304)
        assert answer.body in (b"", b"{}")
    connection = case.wait().connection
    used = connection.requests
    _next_caller_is_safe(gateway, provider)
    assert name == "interim-with-length" or connection.requests == used, "the connection is used again"
