from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from aigw_anyio.notify import Notifier

DEADLINE = 20.0


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What stands in NOTIFY_SOCKET, and the socket behind it."""
    name = (
        f"@aigw-test-{os.getpid()}-{time.monotonic_ns()}" if request.param == "abstract" else str(tmp_path / "notify")
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        receiver.settimeout(DEADLINE)
        yield name, receiver


def received(receiver: socket.socket) -> list[str]:
    """The assignments of the next datagram."""
    return receiver.recv(4096).decode().split("\n")


def test_each_change_of_state_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    notifier.ready("serving")
    assert received(receiver) == ["READY=1", "STATUS=serving"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    word, stamp = received(receiver)
    assert word == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= after
    notifier.stopping("draining", 1.5)
    assert received(receiver) == ["STOPPING=1", "STATUS=draining", "EXTEND_TIMEOUT_USEC=1500000"]


@pytest.mark.anyio
async def test_signs_of_life_come_for_as_long_as_the_loop_turns(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    notifier = Notifier.from_environ(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())}
    )
    assert notifier.watchdog_secs == 0.002
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notifier.watch)
        for _ in range(3):
            assert await anyio.to_thread.run_sync(received, receiver) == ["WATCHDOG=1"]
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "2000000"},
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "0"},
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"},
    ],
)
async def test_nobody_watches(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environ(environ)
    assert notifier.watchdog_secs is None
    with anyio.fail_after(DEADLINE):
        await notifier.watch()


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nonexistent/notify", "@nobody-listens-here"])
def test_a_manager_that_is_not_there_is_no_failure(address: str) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address})
    notifier.ready("serving")
    notifier.reloading()
    notifier.stopping("draining", 1)


def test_a_manager_that_does_not_read_stops_nothing(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    notifier = Notifier(address)
    for _ in range(5_000):
        notifier.ready("serving")
    assert received(receiver) == ["READY=1", "STATUS=serving"]
