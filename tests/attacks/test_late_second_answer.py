"""A provider that sends a second answer to a request, late, on a connection that is idle by then.

Whoever gets that connection next would take it for the answer to their own request. A connection that has become
readable between two exchanges is not used again: neither when it is taken from the pool, nor when it waited for the
rest of a request. The gateway is stopped meanwhile, so that it finds the next request and the late answer at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import keys
from tests.e2e.calls import BODY, call
from tests.e2e.client import Client, request
from tests.e2e.conftest import Starter
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider, Received

ROUNDS = 12
"""One of them shows it on asyncio; on trio, which wakes tasks in any order, one in two does."""
LATE = b'{"whose": "nobody"}'


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def numbered(received: Received) -> None:
    """Says which request it answers."""
    received.read()
    (number,) = received.values(b"x-number")
    received.connection.send(answer(b'{"whose": "%b"}' % number))


def while_stopped(gateway: Gateway, act: Callable[[], None]) -> None:
    """What is done meanwhile the gateway finds all at once."""
    gateway.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{gateway.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "the gateway stands still")
    act()
    gateway.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("waits", [False, True], ids=["out of the pool", "waiting for a body"])
def test_it_reaches_nobody(start: Starter, provider: Provider, waits: bool) -> None:
    gateway = start({"AI_RATE_LIMIT_RPS": "0"})
    case = provider.case(numbered)
    key = keys.virtual_key()
    with Client(gateway) as caller, Client(gateway) as other:
        caller.send(call(case, (b"X-Number", b"first"), key=key))
        assert caller.read_answer().json() == {"whose": "first"}
        for number in range(ROUNDS):
            last = case.wait(number + 1).connection
            whole = call(case, (b"X-Number", b"%d" % number), key=key)
            first = whole[: -len(BODY)] if waits else b""
            if waits:
                caller.send(first)
                other.send(request("/nowhere", method="GET"))
                assert other.read_answer().status == 404

            def meanwhile(rest: bytes = whole[len(first) :], late: Callable[[bytes], None] = last.send) -> None:
                caller.send(rest)
                late(answer(LATE))

            while_stopped(gateway, meanwhile)
            assert caller.read_answer().json() == {"whose": str(number)}
            assert case.wait(number + 2).connection is not last


def test_an_idle_connection_that_stays_silent_is_used_again(start: Starter, provider: Provider) -> None:
    gateway = start()
    case = provider.case(numbered)
    with Client(gateway) as caller:
        for number in range(5):
            while_stopped(gateway, lambda n=number: caller.send(call(case, (b"X-Number", b"%d" % n))))  # type: ignore[misc]
            assert caller.read_answer().json() == {"whose": str(number)}
    assert len({id(received.connection) for received in case.received}) == 1
