from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import anyio
import pytest

from aigw_anyio.workers import link as link_module
from aigw_anyio.workers.link import ALIVE, READY, TAKE_OVER, LinkNotifier

pytestmark = pytest.mark.anyio


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's and the child's."""
    pair = socket.socketpair()
    pair[0].setblocking(False)
    yield pair
    for end in pair:
        end.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "ALIVE_SECS", 0.002)
    monkeypatch.setattr(link_module, "SIGNAL_SECS", 0.01)


async def test_the_supervisor_hears_of_the_start_and_of_life(ends: tuple[socket.socket, socket.socket]) -> None:
    notifier = LinkNotifier(ends[1])
    notifier.ready("serving")
    heard = b""
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notifier.watch)
            while heard.count(ALIVE) < 3:
                await anyio.wait_readable(ends[0])
                heard += ends[0].recv(100)
            tasks.cancel_scope.cancel()
    assert heard[:1] == READY
    assert set(heard[1:]) == set(ALIVE)


@pytest.mark.parametrize("is_gone", [True, False], ids=["the supervisor is gone", "the supervisor says so"])
async def test_one_drain(ends: tuple[socket.socket, socket.socket], is_gone: bool) -> None:
    """SIGTERM to itself: the way on from there is that of every gateway."""
    notifier = LinkNotifier(ends[1])
    with anyio.fail_after(10), anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notifier.watch)
            if is_gone:
                ends[0].close()
            else:
                ends[0].shutdown(socket.SHUT_WR)
            async for received in signals:
                assert received == signal.SIGTERM
                break
            if not is_gone:
                await anyio.wait_readable(ends[0])
                assert ends[0].recv(100), "it goes on to give signs of life"
            tasks.cancel_scope.cancel()


async def test_who_is_asked_to_take_over_does_and_does_not_drain(ends: tuple[socket.socket, socket.socket]) -> None:
    notifier = LinkNotifier(ends[1])
    asked = anyio.Event()
    notifier.take_over = asked.set
    with anyio.fail_after(10), anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notifier.watch)
            ends[0].send(TAKE_OVER)
            await asked.wait()
            ends[0].shutdown(socket.SHUT_WR)
            async for received in signals:
                assert received == signal.SIGTERM
                break
            tasks.cancel_scope.cancel()


async def test_who_drains_already_is_not_told_again(ends: tuple[socket.socket, socket.socket]) -> None:
    """A second signal would cut what is being finished."""
    notifier = LinkNotifier(ends[1])
    notifier.stopping("draining", 600.0)
    ends[0].close()
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        with anyio.move_on_after(0.1):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(notifier.watch)
                async for _ in signals:
                    pytest.fail("it was told to stop at once")


async def test_a_supervisor_that_does_not_read_stops_nobody(ends: tuple[socket.socket, socket.socket]) -> None:
    notifier = LinkNotifier(ends[1])
    for _ in range(10_000):
        notifier.ready("serving")
    ends[0].close()
    notifier.ready("serving")
