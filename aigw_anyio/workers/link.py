"""What a child process and its supervisor say to each other: one byte a message, over a pair of sockets.

The child's end reports; the supervisor's end says nothing, but its end is the end of the supervisor.
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
ALIVE_SECS: Final = 1.0
"""Between two signs of life."""


class LinkNotifier(Notifier):
    """Tells the supervisor what a process of its own would tell the service manager."""

    def __init__(self, link: socket.socket) -> None:
        super().__init__()
        self._link = link
        link.setblocking(False)

    def ready(self, status: str) -> None:  # noqa: ARG002  # the supervisor has a status of its own
        self._report(READY)

    async def watch(self) -> None:
        """Gives signs of life, and drains this process as SIGTERM does once the supervisor is gone."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._leave_with_supervisor)
            while True:
                self._report(ALIVE)
                await anyio.sleep(ALIVE_SECS)

    async def _leave_with_supervisor(self) -> None:
        await anyio.wait_readable(self._link)
        os.kill(os.getpid(), signal.SIGTERM)

    def _report(self, message: bytes) -> None:
        # A supervisor that is gone or slow is no reason to stop serving.
        with contextlib.suppress(OSError):
            self._link.send(message)
