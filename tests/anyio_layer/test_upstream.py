"""Connections to providers: look-ups that are shared and remembered, failures that are told apart."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest

from aigw_anyio import connecting as module
from aigw_anyio.connecting import ConnectFailed
from aigw_anyio.upstream import StreamConnector
from aigw_core.effects import ConnectFailure
from aigw_core.origin import Origin

pytestmark = pytest.mark.anyio
DEADLINE = 20.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@asynccontextmanager
async def connector() -> AsyncIterator[StreamConnector]:
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            yield StreamConnector(ssl.create_default_context(), tasks)
            tasks.cancel_scope.cancel()


def resolving(monkeypatch: pytest.MonkeyPatch, look_up: Callable[[str, int], tuple[str, ...]]) -> list[str]:
    """Replaces the system's resolver; the names that it was asked for."""
    asked: list[str] = []

    def noting(host: str, port: int) -> tuple[str, ...]:
        asked.append(host)
        return look_up(host, port)

    monkeypatch.setattr(module, "look_up", noting)
    return asked


def origin(listener: socket.socket, host: str = "provider.test", scheme: str = "http") -> Origin:
    return Origin(scheme, host, listener.getsockname()[1])


async def test_a_look_up_is_shared_and_remembered(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    gate = threading.Event()

    def slow(_host: str, _port: int) -> tuple[str, ...]:
        gate.wait(DEADLINE)
        return ("127.0.0.1",)

    asked = resolving(monkeypatch, slow)
    async with connector() as connects:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(connects.connect, origin(listener), 0)
            while not asked:
                await anyio.sleep(0.001)
            gate.set()
        await connects.connect(origin(listener), 0)
    assert asked == ["provider.test"]


async def test_who_gives_up_leaves_the_answer_to_others(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    gate = threading.Event()

    def slow(_host: str, _port: int) -> tuple[str, ...]:
        gate.wait(DEADLINE)
        return ("127.0.0.1",)

    asked = resolving(monkeypatch, slow)
    async with connector() as connects, anyio.create_task_group() as tasks:
        with anyio.CancelScope() as impatient:

            async def give_up() -> None:
                while not asked:
                    await anyio.sleep(0.001)
                impatient.cancel()

            tasks.start_soon(give_up)
            await connects.connect(origin(listener), 0)
        assert impatient.cancelled_caught
        tasks.start_soon(connects.connect, origin(listener), 0)
        await anyio.sleep(0)
        gate.set()
    assert asked == ["provider.test"]


async def test_tries_take_the_addresses_in_turn(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    resolving(monkeypatch, lambda _host, _port: ("127.0.0.2", "127.0.0.1"))
    async with connector() as connects:
        for tries, failure in ((0, ConnectFailure.CONNECT), (1, None), (2, ConnectFailure.CONNECT)):
            if failure is None:
                upstream = await connects.connect(origin(listener), tries)
                assert upstream.usable
                upstream.close()
                continue
            with pytest.raises(ConnectFailed) as error:
                await connects.connect(origin(listener), tries)
            assert error.value.failure is failure


async def test_names_that_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    def none(_host: str, _port: int) -> tuple[str, ...]:
        raise socket.gaierror(socket.EAI_NONAME, "nothing is known")

    asked = resolving(monkeypatch, none)
    async with connector() as connects:
        for _ in range(2):
            with pytest.raises(ConnectFailed) as error:
                await connects.connect(origin(listener), 0)
            assert error.value.failure is ConnectFailure.DNS
    assert asked == ["provider.test"] * 2, "a failure is not remembered"


async def test_addresses_are_not_looked_up(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    asked = resolving(monkeypatch, lambda _host, _port: ())
    async with connector() as connects:
        await connects.connect(origin(listener, "127.0.0.1"), 0)
    assert asked == []


async def test_a_peer_without_tls(listener: socket.socket) -> None:
    def answer() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65_536)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with connector() as connects, anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, answer)
        with pytest.raises(ConnectFailed) as error:
            await connects.connect(origin(listener, "127.0.0.1", "https"), 0)
    assert error.value.failure is ConnectFailure.TLS


async def test_bytes_that_nobody_asked_for_end_an_idle_connection(listener: socket.socket) -> None:
    lost: list[object] = []
    gone = anyio.Event()

    def note(upstream: object) -> None:
        lost.append(upstream)
        gone.set()

    async with connector() as connects:
        upstream = await connects.connect(origin(listener, "127.0.0.1"), 0)
        peer, _ = listener.accept()
        with peer:
            upstream.idle_lost = note
            peer.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            await gone.wait()
    assert lost == [upstream]
    assert not upstream.is_open
