"""A GET whose body is a request: ``POST /v1/files …``, open at its end.

A provider that does not read bodies of GETs takes that body for the next request of the connection, completed by the
next caller's head, pool key included. With a virtual key such a request is 400 and leaves no fact; with a caller's own
key it is relayed, on a connection that carries nothing after it.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.e2e import keys
from tests.e2e.calls import call
from tests.e2e.client import Client, bearer, request
from tests.e2e.conftest import Starter
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import PeerClosed, Provider, Received

MODELS = "/openai/v1/models"
SMUGGLED = b"POST /v1/files HTTP/1.1\r\nX-Rest: "
FRAMINGS = {
    "length": ([(b"Content-Length", b"%d" % len(SMUGGLED))], SMUGGLED),
    "chunked": ([(b"Transfer-Encoding", b"chunked")], b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
}


def careless(received: Received) -> None:
    """Reads bodies of POSTs. Whatever follows another head it would take for the next request."""
    head = received.head
    if head.startswith(b"POST"):
        received.read()
    body = b"" if head.startswith(b"HEAD") else b"{}"
    received.connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
    if received.complete:
        return
    behind = b""
    with contextlib.suppress(PeerClosed):
        while b"Authorization" not in behind:
            behind += received.connection.take(65_536)
    assert SMUGGLED in behind
    assert b"Authorization" not in behind, "another caller's request completes the smuggled one"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_with_a_virtual_key_it_is_refused_at_the_head(
    start: Starter, provider: Provider, method: str, framing: str
) -> None:
    gateway = start()
    case = provider.case(careless)
    fields, body = FRAMINGS[framing]
    with Client(gateway) as client:
        attack = request(MODELS, b"", bearer(keys.virtual_key()), case.header, *fields, method=method)
        client.send(attack + body)
        answer = client.read_answer(method)
        assert answer.status == 400
        if method == "GET":
            assert answer.json()["error"]["code"] == "body_refused"
    with Client(gateway) as other:
        other.send(call(case))
        served = other.read_answer()
    assert served.status == 200
    assert [received.target for received in case.received] == ["/v1/chat/completions"]
    assert [gateway.fact(served.request_id)["id"]] == list(gateway.facts()), "one fact, of the other caller"


def test_a_repeated_head_is_looked_at_again(start: Starter, provider: Provider) -> None:
    """What differs from a head that was served is the number in Content-Length alone."""
    gateway = start()
    case = provider.case(careless)
    key = keys.virtual_key()

    def get(client: Client, body: bytes) -> int:
        length = (b"Content-Length", b"%d" % len(body))
        client.send(request(MODELS, b"", bearer(key), case.header, length, method="GET") + body)
        return client.read_answer().status

    with Client(gateway) as client:
        assert [get(client, body) for body in (b"", b"", SMUGGLED, b"")] == [200, 200, 400, 200]
    assert len(case.received) == 3


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_with_an_own_key_nothing_follows_on_that_connection(
    start: Starter, provider: Provider, method: str, framing: str
) -> None:
    gateway: Gateway = start()
    case = provider.case(careless)
    fields, body = FRAMINGS[framing]
    with Client(gateway) as attacker, Client(gateway) as other:
        attack = request(MODELS, b"", bearer(keys.BYO_KEY), case.header, *fields, method=method)
        attacker.send(attack + body)
        assert attacker.read_answer(method).status == 200
        other.send(call(case))
        assert other.read_answer().status == 200
    first = case.received[0]
    assert first.head.startswith(method.encode())
    assert case.wait(2).connection is not first.connection
    wait_until(lambda: first.connection.closed, "the gateway ends the connection that carried the body")
    assert case.failures == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_connections_that_carried_ordinary_bodies_are_used_again(
    start: Starter, provider: Provider, method: str
) -> None:
    gateway = start()
    case = provider.case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    with Client(gateway) as client:
        for _ in range(3):
            client.send(request(MODELS, b"{}", bearer(keys.BYO_KEY), case.header, method=method))
            assert client.read_answer().status == 200
    assert len({id(received.connection) for received in case.received}) == 1
