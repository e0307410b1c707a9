"""Malformed requests over a raw socket: the right status, a close, not a byte upstream, no hang, no traceback."""

from __future__ import annotations

import contextlib
import json
from typing import Final

import pytest

from tests.e2e import DEADLINE, answers, keys
from tests.e2e.client import Client, bearer, request
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider

KEY: Final = keys.virtual_key(key_id=2**41)
AUTH: Final = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
LINE: Final = b"POST /mistral/v1/chat/completions HTTP/1.1\r\n"
HOST: Final = b"Host: gateway.test\r\n"
START: Final = LINE + HOST + AUTH


def head(*lines: bytes) -> bytes:
    return START + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


HEADS: Final[dict[str, tuple[bytes, int]]] = {
    # Request line
    "empty-lines": (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "tls-hello": (bytes.fromhex("16030100f8010000f40303") + bytes(32) + b"\r\n\r\n", 400),
    "http2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "http-0.9": (b"GET /openai/v1/models\r\n\r\n", 400),
    "http-1.2": (b"GET /openai/v1/models HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    "http-lower": (b"GET /openai/v1/models http/1.1\r\nHost: x\r\n\r\n", 400),
    "version-junk": (b"GET /openai/v1/models HTTP/1.1x\r\nHost: x\r\n\r\n", 400),
    "two-blanks": (b"GET  /openai/v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "blank-in-target": (b"GET /openai/v1/mo dels HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "tab-in-line": (b"GET\t/openai/v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "fragment": (b"GET /openai/v1/models#x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "high-bytes-in-target": (b"GET /openai/v1/\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "control-in-target": (b"GET /openai/\x7f HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "connect": (b"CONNECT api.openai.com:443 HTTP/1.1\r\nHost: api.openai.com:443\r\n\r\n", 400),
    "connect-path": (b"CONNECT /openai/v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "no-slash": (b"GET openai/v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "method-no-token": (b"G(T /openai/v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "foreign-authority": (b"GET http://evil.test/openai/v1/models HTTP/1.1\r\nHost: gateway.test\r\n\r\n", 400),
    "foreign-scheme": (b"GET ftp://gateway.test/openai/v1/models HTTP/1.1\r\nHost: gateway.test\r\n\r\n", 400),
    "line-lf": (b"GET /openai/v1/models HTTP/1.1\nHost: x\n\n", 400),
    # Fields
    "no-host": (LINE + AUTH + b"\r\n", 400),
    "two-hosts": (head(b"Host: gateway.test"), 400),
    "bad-host": (LINE + b"Host: a b\r\n\r\n", 400),
    "userinfo-in-host": (LINE + b"Host: user@gateway.test\r\n\r\n", 400),
    "no-colon": (head(b"nothing here"), 400),
    "empty-name": (head(b": value"), 400),
    "space-before-colon": (head(b"Content-Length : 3"), 400),
    "name-no-token": (head(b"X[1]: value"), 400),
    "name-with-blank": (head(b"X Y: value"), 400),
    "obs-fold": (head(b"X-A: 1", b" 2"), 400),
    "folded-first-line": (LINE + b" Host: x\r\n\r\n", 400),
    "nul-in-value": (head(b"X-A: a\x00b"), 400),
    "bell-in-value": (head(b"X-A: a\x07b"), 400),
    "del-in-value": (head(b"X-A: a\x7fb"), 400),
    "bare-cr-in-value": (head(b"X-A: a\rb"), 400),
    "bare-lf-in-value": (head(b"X-A: a\nX-B: b"), 400),
    "bare-lf-line": (START + b"X-A: 1\nX-B: 2\r\n\r\n", 400),
    "cr-cr-lf": (START + b"X-A: 1\r\r\n\r\n", 400),
    "129-fields": (head(*[b"X-%d: 1" % n for n in range(127)]), 431),
    "64-kib": (head(b"X-A: " + b"a" * 65_536), 431),
    "long-target": (b"GET /openai/v1/" + b"a" * 65_536 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    # Framing
    "length-beside-chunked": (head(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "two-lengths": (head(b"Content-Length: 3", b"Content-Length: 3") + b"abc", 400),
    "different-lengths": (head(b"Content-Length: 3", b"Content-Length: 4") + b"abc", 400),
    "list-of-lengths": (head(b"Content-Length: 3, 3") + b"abc", 400),
    "length-plus": (head(b"Content-Length: +3") + b"abc", 400),
    "length-minus": (head(b"Content-Length: -1"), 400),
    "length-underscore": (head(b"Content-Length: 1_0") + b"0123456789", 400),
    "length-hex": (head(b"Content-Length: 0x3") + b"abc", 400),
    "length-float": (head(b"Content-Length: 3.0") + b"abc", 400),
    "length-empty": (head(b"Content-Length: "), 400),
    "length-huge": (head(b"Content-Length: 9999999999999999999"), 400),
    "length-arabic": (head("Content-Length: ٣".encode()) + b"abc", 400),
    "coding-twice": (head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "chunked-chunked": (head(b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n", 400),
    "chunked-identity": (head(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n", 400),
    "gzip-chunked": (head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
    "coding-unknown": (head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n", 501),
    "coding-nbsp": (head(b"Transfer-Encoding: \xa0chunked") + b"0\r\n\r\n", 400),
    "coding-parameter": (head(b"Transfer-Encoding: chunked;q=1") + b"0\r\n\r\n", 400),
    "coding-empty": (head(b"Transfer-Encoding: ") + b"0\r\n\r\n", 400),
    "coding-quoted": (head(b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n", 400),
    "coding-in-1.0": (head(b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0") + b"0\r\n\r\n", 400),
    # Where a virtual key has no business
    "key-in-query": (LINE.replace(b" HTTP", b"?key=" + KEY.encode() + b" HTTP") + HOST + b"\r\n", 400),
    "key-in-query-encoded": (
        LINE.replace(b" HTTP", b"?key=%62%61%69%5f" + KEY.encode()[4:] + b" HTTP") + HOST + b"\r\n",
        400,
    ),
    "key-in-another-header": (head(b"X-Api-Token: " + KEY.encode()), 400),
    "key-in-cookie": (head(b"Cookie: k=" + KEY.encode()), 400),
    "two-keys": (head(b"x-api-key: " + keys.virtual_key(key_id=2**42).encode()), 400),
}

KEPT: Final = {"key-in-query", "key-in-query-encoded", "key-in-another-header", "key-in-cookie", "two-keys"}
"""Well-formed requests, refused for what they say: the connection may go on."""


@pytest.mark.parametrize("name", HEADS)
def test_a_malformed_head(gateway: Gateway, provider: Provider, name: str) -> None:
    data, status = HEADS[name]
    before = provider.bytes_received, len(provider.connections)
    with Client(gateway) as client:
        client.send(data)
        answer = client.read_answer()
        assert answer.status == status
        if name not in KEPT:
            assert answer.values(b"connection") == [b"close"]
            assert client.read_end() == (b"", "orderly")
    assert answer.complete
    error = answer.json()["error"]
    assert error["message"]
    assert (provider.bytes_received, len(provider.connections)) == before, "something went upstream"
    assert answer.request_id not in gateway.facts()


@pytest.mark.parametrize("name", ["128-fields", "64-kib-less-1"])
def test_just_within_the_limits(gateway: Gateway, provider: Provider, name: str) -> None:
    case = provider.case(answers.by_path)
    marker = b"%b: %b" % case.header
    if name == "128-fields":
        data = head(marker, *[b"X-%d: 1" % n for n in range(125)])
        assert data.count(b"\r\n") == 128 + 2
    else:
        data = head(marker, b"X-A: ")
        data = head(marker, b"X-A: " + b"a" * (65_536 - (len(data) - 4)))
        assert len(data) == 65_536 + 4
    with Client(gateway) as client:
        client.send(data)
        assert client.read_answer().status == 200
    assert len(case.received) == 1


CHUNKS: Final[dict[str, bytes]] = {
    "no-size": b"\r\nabc\r\n",
    "not-hex": b"xyz\r\nabc\r\n",
    "hex-prefix": b"0x3\r\nabc\r\n",
    "plus": b"+3\r\nabc\r\n",
    "minus": b"-3\r\nabc\r\n",
    "underscore": b"0_3\r\nabc\r\n",
    "blank-before": b" 3\r\nabc\r\n",
    "blank-behind": b"3 \r\nabc\r\n",
    "17-digits": b"00000000000000003\r\nabc\r\n",
    "overflow": b"ffffffffffffffff\r\nabc\r\n",
    "bare-lf": b"3\nabc\r\n",
    "bare-cr": b"3\rabc\r\n",
    "bare-lf-in-extension": b"3;a\nb\r\nabc\r\n",
    "nul-in-extension": b"3;a\x00b\r\nabc\r\n",
    "longer-than-said": b"3\r\nabcd\r\n",
    "no-crlf-behind": b"3\r\nabc3\r\nabc\r\n",
    "lf-behind": b"3\r\nabc\n0\r\n\r\n",
    "trailer-fold": b"0\r\nX-A: 1\r\n 2\r\n\r\n",
    "trailer-no-colon": b"0\r\nnothing\r\n\r\n",
    "trailer-bare-lf": b"0\r\nX-A: 1\n\r\n\r\n",
    "many-trailers": b"0\r\n" + b"X-A: 1\r\n" * 129 + b"\r\n",
    "endless-extension": b"3;" + b"a" * 5000 + b"\r\nabc\r\n",
    "many-extensions": (b"1;" + b"a" * 4000 + b"\r\nb\r\n") * 5,
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("own_key", [True, False], ids=["byo", "managed"])
def test_broken_chunks(gateway: Gateway, provider: Provider, name: str, own_key: bool) -> None:
    """The head may be upstream already; what must not happen is that the body looks whole there."""
    case = provider.case(answers.by_path)
    key = keys.BYO_KEY if own_key else keys.virtual_key()
    own = (bearer(key), (b"Transfer-Encoding", b"chunked"), case.header)
    with Client(gateway) as client:
        client.send(request("/mistral/v1/chat/completions", b"", *own) + b"2\r\n{}\r\n" + CHUNKS[name])
        answer = client.read_answer()
        assert answer.status in (400, 431)
        assert (answer.status == 431) is (name == "many-trailers")
        assert answer.values(b"connection") == [b"close"]
        assert client.read_end() == (b"", "orderly")
    assert not any(received.complete for received in case.received)
    if not own_key:
        fact = gateway.fact(answer.request_id)
        assert (fact["outcome"], fact["usage_status"], fact["status"]) == ("refused", "none", answer.status)


@pytest.mark.parametrize("name", CHUNKS)
def test_broken_chunks_of_a_request_that_is_judged_first(gateway: Gateway, provider: Provider, name: str) -> None:
    case = provider.case(answers.by_path)
    own = (bearer(keys.virtual_key()), (b"Transfer-Encoding", b"chunked"), (b"Content-Type", b"application/json"))
    with Client(gateway) as client:
        client.send(request("/openai/v1/chat/completions", b"", *own, case.header) + CHUNKS[name])
        answer = client.read_answer()
        assert answer.status in (400, 431)
        assert client.read_end() == (b"", "orderly")
    assert not any(received.complete for received in case.received)


BODIES: Final[dict[str, tuple[bytes, int]]] = {
    "no-json": (b"hello", 400),
    "array": (b"[]", 400),
    "cut": (b'{"model": "m", "messages": [', 400),
    "two-roots": (b"{} {}", 400),
    "utf-16": ('{"model": "m"}'.encode("utf-16"), 400),
    "background": (b'{"model": "m", "background": true}', 400),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_cannot_be_judged_goes_nowhere(gateway: Gateway, provider: Provider, name: str) -> None:
    body, status = BODIES[name]
    case = provider.case(answers.by_path)
    own = (bearer(keys.virtual_key()), (b"Content-Type", b"application/json"), case.header)
    with Client(gateway) as client:
        client.send(request("/openai/v1/responses", body, *own))
        answer = client.read_answer()
        assert answer.status == status
        assert answer.json()["error"]["message"]
        client.send(request("/openai/v1/responses", b"{}", *own))
        assert client.read_answer().status == 200, "only the body was wrong, so the connection goes on"
    assert len(case.received) == 1
    assert gateway.fact(answer.request_id)["outcome"] == "refused"


def test_deeply_nested_bodies_harm_nobody(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.json_answer({}))
    own = (bearer(keys.virtual_key()), (b"Content-Type", b"application/json"), case.header)
    body = b'{"model": "m", "input": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    deep_answer = provider.case(answers.plain("200 OK", body))
    with Client(gateway) as client:
        client.send(request("/openai/v1/responses", body, *own))
        assert client.read_answer().status == 400
    with Client(gateway) as client:
        client.send(request("/openai/v1/responses", b"{}", *own[:2], deep_answer.header))
        answer = client.read_answer()
    assert answer.body == body
    assert gateway.fact(answer.request_id)["usage"] is None


def test_a_slow_head_is_given_up(hurried: Gateway, provider: Provider) -> None:
    """One byte now and then never adds up to a request."""
    before = provider.bytes_received
    data = head(b"X-A: 1")
    with Client(hurried) as client:
        client.sock.settimeout(0.02)
        sent = 0
        received = b""
        while not received and sent < len(data) - 5:
            client.send(data[sent : sent + 1])
            sent += 1
            with contextlib.suppress(TimeoutError):
                received = client.sock.recv(65_536)
        assert received.startswith(b"HTTP/1.1 408 ")
        client.sock.settimeout(DEADLINE)
        assert client.read_end() == (b"", "orderly")
    assert sent < len(data) - 5
    assert provider.bytes_received == before


def test_a_slow_body_is_given_up(hurried: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    own = (bearer(keys.BYO_KEY), (b"Content-Length", b"1000"), case.header)
    with Client(hurried) as client:
        client.send(request("/mistral/v1/chat/completions", b"", *own) + b"{")
        answer = client.read_answer()
        assert answer.status == 408
        assert client.read_end() == (b"", "orderly")
    assert not any(received.complete for received in case.received)


def test_garbage_in_bulk_leaves_the_gateway_serving(gateway: Gateway) -> None:
    for byte in range(256):
        with Client(gateway) as client:
            client.send(bytes([byte]) * 3 + b"\r\n\r\n")
            answer = client.read_answer()
            assert 400 <= answer.status < 500
    with Client(gateway) as client:
        client.send(request("/openai/v1/models", b"", bearer(keys.virtual_key()), method="GET"))
        assert json.loads(client.read_answer("GET").body)["object"] == "list"
    assert gateway.faults() == []
