from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from aigw_anyio.settings import ListenAddr
from aigw_anyio.socketstream import bind_listeners
from aigw_anyio.workers.shared import Shared, make_shared

LOOPBACK = "127.0.0.1"


@pytest.fixture
def owned() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def made(owned: contextlib.ExitStack, port: int = 0, host: str = LOOPBACK) -> Shared:
    admin = [owned.enter_context(sock) for sock in bind_listeners(LOOPBACK, 0)]
    return make_shared(2, ListenAddr(host, port), admin, owned)


def listens(port: int, *, reuse_port: bool) -> None:
    """Raises OSError where nobody else may."""
    for sock in bind_listeners(LOOPBACK, port, reuse_port=reuse_port):
        sock.close()


def test_a_held_port_is_for_workers_alone(owned: contextlib.ExitStack) -> None:
    shared = made(owned)
    addresses = (shared.data_address, *shared.worker_admins)
    assert len({address.port for address in addresses}) == 3
    for address in addresses:
        for _ in range(2):
            listens(address.port, reuse_port=True)
        with pytest.raises(OSError, match="in use"):
            listens(address.port, reuse_port=False)


def test_each_worker_has_a_number_of_its_own_that_others_see(owned: contextlib.ExitStack) -> None:
    shared = made(owned)
    cells = [shared.progress_cell(worker) for worker in range(2)]
    for worker, at in ((1, 4711.25), (0, 12.5)):
        pid = os.fork()
        if pid == 0:
            cells[worker][0] = at
            os._exit(0)
        assert os.waitpid(pid, 0) == (pid, 0)
    assert [shared.progress_of(worker) for worker in range(2)] == [12.5, 4711.25]
    for cell in cells:
        cell.release()


def test_a_port_that_is_let_go_is_for_who_comes_next(owned: contextlib.ExitStack) -> None:
    shared = made(owned)
    shared.release_ports()
    for address in (shared.data_address, *shared.worker_admins):
        listens(address.port, reuse_port=False)
    with pytest.raises(OSError, match="in use"):
        listens(shared.admin_sockets[0].getsockname()[1], reuse_port=False)
    port = shared.admin_sockets[0].getsockname()[1]
    shared.release_sockets()
    listens(port, reuse_port=False)


@pytest.mark.parametrize("reuse_port", [False, True], ids=["a server", "another gateway with workers"])
def test_a_port_that_somebody_has_is_refused(owned: contextlib.ExitStack, reuse_port: bool) -> None:
    (taken,) = bind_listeners(LOOPBACK, 0, reuse_port=reuse_port)
    with taken, pytest.raises(OSError, match="in use"):
        made(owned, taken.getsockname()[1])


def test_a_port_that_another_gateway_holds_is_refused_though_none_of_its_workers_listens(
    owned: contextlib.ExitStack,
) -> None:
    shared = made(owned)
    with pytest.raises(OSError, match="in use"):
        made(owned, shared.data_address.port)


def test_connections_in_their_last_state_are_no_hindrance(owned: contextlib.ExitStack) -> None:
    """As after a restart: TIME_WAIT of those that the gateway before has closed."""
    (listener,) = bind_listeners(LOOPBACK, 0)
    port = listener.getsockname()[1]
    with socket.create_connection((LOOPBACK, port)) as client:
        listener.setblocking(True)
        served, _ = listener.accept()
        served.close()
        assert client.recv(1) == b""
    listener.close()
    assert made(owned, port).data_address.port == port


def test_every_address_of_a_name_is_held(owned: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, **options: Any) -> list[Any]:
        if host != "two.test":
            return found(host, port, **options)
        return [*found("127.0.0.1", port, **options), *found("127.0.0.2", port, **options)]

    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    shared = made(owned, host="two.test")
    (taken,) = bind_listeners("127.0.0.3", shared.data_address.port)
    taken.close()
    for host in ("127.0.0.1", "127.0.0.2"):
        with pytest.raises(OSError, match="in use"):
            bind_listeners(host, shared.data_address.port)


def test_what_is_noted_is_noted_for_all(owned: contextlib.ExitStack) -> None:
    shared = made(owned)
    assert not shared.have_all_listened()
    assert shared.restarts() == 0
    shared.note_all_listen()
    assert shared.have_all_listened()
    for _ in range(300):
        shared.note_restart()
    # What one process notes, all see that were forked from the same.
    pid = os.fork()
    if pid == 0:
        shared.note_restart()
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert (shared.restarts(), shared.have_all_listened()) == (301, True)
    assert len(shared.hash_key) == 32
