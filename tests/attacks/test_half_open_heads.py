"""Hundreds of connections that send the beginning of a large head and no more.

What all of them hold together is bounded: the next one that wants more gets 503 and is closed. Exchanges that run go
on, callers whose heads are small are served, even where they come in two pieces, and what is given up is free again.
"""

from __future__ import annotations

import contextlib
import select
import threading

from aigw_core.gateway import HEADS_HELD_MAX
from tests.e2e import DEADLINE, keys
from tests.e2e.calls import call
from tests.e2e.client import Client, bearer, request
from tests.e2e.conftest import Starter
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider, Received

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SIZE = 60_000
CONNECTIONS = HEADS_HELD_MAX // SIZE + 40
BEGINNING = b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\nX: ".ljust(SIZE, b"y")


def answered(clients: list[Client]) -> list[Client]:
    poll = select.poll()
    by_number = {client.sock.fileno(): client for client in clients}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(0)]


def in_two_pieces(gateway: Gateway, message: bytes, first: int) -> int:
    """The status; between the pieces another request is answered, so that the first one has been read."""
    with Client(gateway) as client, Client(gateway) as other:
        client.send(message[:first])
        other.send(request("/nowhere", method="GET"))
        assert other.read_answer().status == 404
        client.send(message[first:])
        return client.read_answer().status


def test_what_is_held_of_heads_is_bounded(start: Starter, provider: Provider) -> None:
    gateway = start()
    released = threading.Event()

    def held(received: Received) -> None:
        received.read()
        assert released.wait(DEADLINE)
        received.connection.send(OK)

    slow, quick = provider.case(held), provider.case(OK)
    large = request("/openai/v1/models", b"", bearer(keys.virtual_key()), (b"X-Large", b"y" * SIZE), method="GET")
    with Client(gateway) as running, contextlib.ExitStack() as stack:
        running.send(call(slow))
        slow.wait()
        attackers = [stack.enter_context(Client(gateway)) for _ in range(CONNECTIONS)]
        for attacker in attackers:
            attacker.send(BEGINNING)
        refusals = CONNECTIONS - HEADS_HELD_MAX // SIZE
        wait_until(lambda: len(answered(attackers)) >= refusals, "what is over the bound is refused")
        refused = answered(attackers)
        for attacker in refused:
            answer = attacker.read_answer()
            assert (answer.status, answer.values(b"connection")) == (503, [b"close"])
            assert attacker.read_end() == (b"", "orderly")
        assert in_two_pieces(gateway, call(quick), 200) == 200, "a small head is served"
        with Client(gateway) as client:
            client.send(large[:SIZE])
            assert client.read_answer().status == 503, "a large one has no room"
        released.set()
        assert running.read_answer().status == 200
    wait_until(lambda: in_two_pieces(gateway, large, SIZE) == 200, "what the attackers held is free again")
