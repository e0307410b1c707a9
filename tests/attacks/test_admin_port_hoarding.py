"""Idle connections take up the admin port, so that probes and scrapes are reset and the gateway is taken for dead.

The attacker opens as many connections as the port holds, and more, and sends nothing, half a request, or one request
and then nothing. `/livez`, `/readyz` and `/metrics` must be answered all the same: the oldest idle connection gives way
to a new one, and what stays idle is closed after some seconds.
"""

from __future__ import annotations

import contextlib
import socket

import pytest

from aigw_anyio.admin import IDLE_SECS, LIMITS
from tests.e2e import DEADLINE
from tests.e2e.conftest import Starter
from tests.e2e.fleet import Fleet
from tests.e2e.gateway import wait_until
from tests.e2e.processes import workers

CROWD = 2 * LIMITS.connections
PAGES = ("/livez", "/readyz", "/metrics")
WHOLE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
SENT = {
    "nothing": b"",
    "half": b"GET /livez HTTP/1.1\r\nHo",
    "body": WHOLE[:-2] + b"Content-Length: 9\r\n\r\n",
    "one": WHOLE,
}


def crowd(stack: contextlib.ExitStack, address: tuple[str, int], sent: bytes) -> list[socket.socket]:
    opened = []
    for _ in range(CROWD):
        opened.append(stack.enter_context(socket.create_connection(address, timeout=DEADLINE)))
        # Whoever had to make room already may have been reset.
        with contextlib.suppress(OSError):
            opened[-1].sendall(sent)
    return opened


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
@pytest.mark.parametrize("configuration", ["plain", "many"])
def test_probes_and_scrapes_are_answered(backend: str, fleet: Fleet, configuration: str, sent: bytes) -> None:
    server = fleet.get(backend, configuration)
    # With workers there is one port for all, and one of each worker on loopback, where that one asks.
    own = [("127.0.0.1", worker.admin_port) for worker in workers(server)] if configuration == "many" else []
    with contextlib.ExitStack() as stack:
        for address in (server.admin_address, *own):
            crowd(stack, address, sent)
        for _ in range(3):
            assert [server.admin(path)[0] for path in PAGES] == [200, 200, 200]
            assert '"status": "ok"' in server.admin("/readyz")[1]


@pytest.mark.parametrize("workers_count", [1, 2])
def test_idle_connections_are_closed_after_some_seconds(start: Starter, workers_count: int) -> None:
    server = start({"AI_WORKERS": str(workers_count)})
    assert IDLE_SECS < DEADLINE
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(socket.create_connection(server.admin_address, timeout=DEADLINE)) for _ in range(2)]
        kept[1].sendall(b"GET /liv")
        for sock in kept:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b"", "closed, and nothing was said"
    wait_until(lambda: server.admin("/livez")[0] == 200, "it serves on")
