"""What a child process and its supervisor say to each other: one byte a message, over a pair of sockets.

The child's end reports. The supervisor says that another worker has died and nobody takes its place soon, and, by the
end of what it sends: drain. That it says on purpose, and when it is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Final

import anyio

from aigw_anyio.notify import Notifier

READY: Final = b"r"
ALIVE: Final = b"a"
TAKE_OVER: Final = b"t"
ALIVE_SECS: Final = 1.0
"""Between two signs of life."""
SIGNAL_SECS: Final = 0.1
"""Who is told to drain may be told by a signal as well, at the same time; it has seen that by then."""


class LinkNotifier(Notifier):
    """Tells the supervisor what a process of its own would tell the service manager."""

    def __init__(self, link: socket.socket) -> None:
        super().__init__()
        self._link = link
        self._is_stopping = False
        link.setblocking(False)

    def ready(self, status: str) -> None:  # noqa: ARG002  # the supervisor has a status of its own
        self._report(READY)

    def stopping(self, status: str, within_secs: float) -> None:  # noqa: ARG002  # that one, too, has its own
        self._is_stopping = True

    async def watch(self) -> None:
        """Gives signs of life, and drains this process as SIGTERM does once the supervisor says so, or is gone."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            while True:
                self._report(ALIVE)
                await anyio.sleep(ALIVE_SECS)

    async def _listen(self) -> None:
        while await self._heard():
            if self.take_over is not None:
                self.take_over()
        await anyio.sleep(SIGNAL_SECS)
        # To a process that drains already a signal more says: at once.
        if not self._is_stopping:
            os.kill(os.getpid(), signal.SIGTERM)

    async def _heard(self) -> bytes:
        """Empty at the end."""
        while True:
            await anyio.wait_readable(self._link)
            try:
                return self._link.recv(64)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def _report(self, message: bytes) -> None:
        # A supervisor that is gone or slow is no reason to stop serving.
        with contextlib.suppress(OSError):
            self._link.send(message)
