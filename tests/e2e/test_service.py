"""As a service: what the manager is told, on the datagram socket that it listens on."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import DEADLINE
from tests.e2e.client import Client
from tests.e2e.conftest import Starter
from tests.e2e.provider import Provider
from tests.e2e.test_lifecycle import Held, ready

pytestmark = pytest.mark.fresh


class Manager:
    """Reads datagrams as systemd does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self._socket.settimeout(DEADLINE)
        self.signs_of_life = 0

    def next(self) -> dict[str, str]:
        """The next change of state; signs of life are counted on the way."""
        while True:
            message = self._socket.recv(4096).decode()
            if message != "WATCHDOG=1":
                return dict(line.split("=", 1) for line in message.split("\n"))
            self.signs_of_life += 1

    def wait_sign_of_life(self) -> None:
        assert self._socket.recv(4096) == b"WATCHDOG=1"

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    is_abstract = request.param == "abstract"
    manager = Manager(f"@aigw-{os.getpid()}-{time.monotonic_ns()}" if is_abstract else str(tmp_path / "notify"))
    yield manager
    manager.close()


def test_a_service_from_start_to_end(start: Starter, provider: Provider, manager: Manager, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text("shutdown_delay_secs = 0\nshutdown_grace_secs = 1000\n")
    gateway = start({"NOTIFY_SOCKET": manager.name, "AI_CONFIG": str(config)})
    serving = {"READY": "1", "STATUS": f"serving on 127.0.0.1:{gateway.address[1]}, admin on "}
    told = manager.next()
    assert told["READY"] == "1"
    assert told["STATUS"].startswith(serving["STATUS"])
    refused = "; the configuration was not reloaded, the log says why"
    for text, more in (("rate_limit_rps = 5\n", ""), ("rate_limit_rps = \n", refused), ("rate_limit_rps = 6\n", "")):
        # A manager that waits for the end of a reload must hear of it, well or not.
        config.write_text(text + "shutdown_grace_secs = 1000\n")
        before = time.monotonic_ns() // 1000
        gateway.send_signal(signal.SIGHUP)
        reloading = manager.next()
        assert set(reloading) == {"RELOADING", "MONOTONIC_USEC"}
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert manager.next() == {**told, "STATUS": told["STATUS"] + more}
    held = Held(provider)
    with Client(gateway) as client:
        held.begin(client)
        gateway.send_signal(signal.SIGTERM)
        stopping = manager.next()
        assert stopping["STOPPING"] == "1"
        assert 1000e6 < int(stopping["EXTEND_TIMEOUT_USEC"]) < 1030e6, "grace, and what the end takes besides"
        held.may_finish = True
        client.read_stream_until(b"[DONE]")
    gateway.stderr[:] = [line for line in gateway.stderr if "not reloaded" not in line]
    assert gateway.wait() == 0


def test_signs_of_life_come_also_while_it_drains(start: Starter, provider: Provider, manager: Manager) -> None:
    gateway, held = start({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "20000"}), Held(provider)
    assert manager.next()["READY"] == "1"
    for _ in range(3):
        manager.wait_sign_of_life()
    with Client(gateway) as client:
        held.begin(client)
        gateway.send_signal(signal.SIGTERM)
        assert manager.next()["STOPPING"] == "1"
        for _ in range(3):
            manager.wait_sign_of_life()
        assert ready(gateway) == (503, "draining")
        held.may_finish = True
        client.read_stream_until(b"[DONE]")
    assert gateway.wait() == 0


def test_a_loop_that_stands_still_gives_no_sign_of_life(start: Starter, manager: Manager) -> None:
    gateway = start({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "20000"})
    assert manager.next()["READY"] == "1"
    manager.wait_sign_of_life()
    gateway.send_signal(signal.SIGSTOP)
    manager._socket.setblocking(False)
    try:
        # What it had sent before it stood still.
        while True:
            try:
                manager.wait_sign_of_life()
            except BlockingIOError:
                break
        manager._socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            manager.wait_sign_of_life()
    finally:
        gateway.send_signal(signal.SIGCONT)
    manager._socket.settimeout(DEADLINE)
    manager.wait_sign_of_life()
    assert gateway.stop() == 0


def test_a_start_that_fails_is_never_ready(start: Starter, manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        gateway = start({"NOTIFY_SOCKET": manager.name, "AI_LISTEN_ADDR": address}, listens=False)
        assert gateway.wait() == 1
    manager._socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.next()
