"""What is compared: servers that take the same request, by their URL."""

from __future__ import annotations

import ipaddress
import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from bench import work
from bench.answers import Answer

CONNECT_SECS: Final = 10.0
"""For a local connection, also into a full backlog."""
ANSWER_SECS: Final = 60.0
"""For one answer of any size."""
START_SECS: Final = 30.0
"""For a restarted server to answer."""
RESTART_SECS: Final = 120.0
CHAT_PATH: Final = "/v1/chat/completions"


class FactFile(Protocol):
    """The usage facts of one server."""

    def forget_facts(self) -> None: ...
    def count_facts(self) -> int: ...


@dataclass(slots=True)
class Target:
    """One server. ``url`` is an SDK's base URL less ``/v1``."""

    name: str
    url: str
    headers: tuple[tuple[str, str], ...] = (("Authorization", "Bearer sk-test"),)
    pid: str = ""
    """The root process: a number, or ``@FILE`` that holds one, read anew each time. Empty: nothing is measured."""
    restart: str | Callable[[], None] = ""
    """A command, or a function, that restarts it, so that memory is that of a fresh process."""
    facts: FactFile | None = None
    """What says how many usage facts it has written."""

    @classmethod
    def parse(cls, text: str) -> Target:
        """``NAME=URL[,pid=PID|@FILE][,header=NAME:VALUE]...[,restart=COMMAND]``. Raises ValueError."""
        name, equals, rest = text.partition("=")
        url, *options = rest.split(",")
        if not name or not equals or not url:
            raise ValueError("a target is NAME=URL[,option=value]...")
        target = cls(name, url.rstrip("/"))
        headers: list[tuple[str, str]] = []
        for option in options:
            key, _, value = option.partition("=")
            if key == "pid" and value:
                target.pid = value
            elif key == "header" and ":" in value:
                field, _, content = value.partition(":")
                headers.append((field.strip(), content.strip()))
            elif key == "restart" and value:
                target.restart = value
            else:
                raise ValueError("a target's options are pid=PID, header=NAME:VALUE and restart=COMMAND")
        if headers:
            target.headers = tuple(headers)
        _ = target.address
        return target

    @property
    def address(self) -> tuple[str, int]:
        """Raises ValueError unless it is a loopback address."""
        parts = urlsplit(self.url)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        if parts.scheme != "http" or not ipaddress.ip_address(host).is_loopback:
            raise ValueError("a target is an http URL on a loopback address")
        return host, parts.port or 80

    def process(self) -> int | None:
        """The root process, None where none is known."""
        if self.pid.startswith("@"):
            return int(Path(self.pid[1:]).read_text())
        return int(self.pid) if self.pid else None

    def request(self, body: bytes, *, stream: bool = False) -> bytes:
        """The whole request."""
        parts = urlsplit(self.url)
        accept = "text/event-stream" if stream else "application/json"
        return work.sdk_request(
            body, path=parts.path + CHAT_PATH, host=parts.netloc, headers=self.headers, accept=accept
        )

    def connect(self) -> socket.socket:
        """A connection, blocking with ANSWER_SECS. Raises OSError."""
        sock = socket.create_connection(self.address, CONNECT_SECS)
        sock.settimeout(ANSWER_SECS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def exchange(self, body: bytes, *, stream: bool = False) -> Answer:
        """One request on a connection of its own; the answer keeps its body. Raises OSError."""
        with self.connect() as sock:
            sock.sendall(self.request(body, stream=stream))
            answer = Answer(keep=True)
            while not answer.complete:
                data = sock.recv(65_536)
                if not data:
                    raise ConnectionResetError("closed before the answer was complete")
                answer.feed(data)
            return answer

    def restart_if_possible(self) -> None:
        """Restarts it where that is known, and waits until it answers. Raises CalledProcessError or OSError."""
        if callable(self.restart):
            self.restart()
        elif self.restart:
            subprocess.run(shlex.split(self.restart), check=True, stdout=subprocess.DEVNULL, timeout=RESTART_SECS)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Raises ConnectionError when it has not answered within START_SECS."""
        end = time.monotonic() + START_SECS
        while time.monotonic() < end:
            try:
                if self.exchange(work.chat_request()).status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise ConnectionError(f"{self.name} does not answer with 200")
