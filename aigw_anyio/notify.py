"""What the service manager is told: the protocol of sd_notify(3), one datagram for each change of state.

Without ``NOTIFY_SOCKET`` in the environment nothing is sent. A manager that does not listen never stops or slows
the gateway: a datagram that cannot be sent is dropped.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

import anyio

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE: Final = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE: Final = "WATCHDOG_PID"
WATCHDOG_SHARE: Final = 0.5
"""Of the watchdog's time, between two signs of life: half, as sd_watchdog_enabled(3) recommends."""


class Notifier:
    """One service manager. Every method is harmless where there is none."""

    def __init__(self, address: str | None = None, watchdog_secs: float | None = None) -> None:
        """``address``: a path, or ``@`` and the name of an abstract socket. ``watchdog_secs``: within which the
        manager wants a sign of life."""
        self._address = _unix_address(address) if address else None
        self.watchdog_secs = watchdog_secs if self._address is not None else None
        self.take_over: Callable[[], None] | None = None
        """Called where whoever started this process says that a sibling has died and has no successor yet."""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Notifier:
        """By the variables that the manager sets for the main process of a service."""
        return cls(environ.get(SOCKET_VARIABLE), _watchdog_secs(environ))

    def ready(self, status: str) -> None:
        """The start, or a reload, is over."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins. The time is what systemd 253 and later wait for (``Type=notify-reload``)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str, within_secs: float) -> None:
        """The end begins, and comes within so many seconds, even where the unit's ``TimeoutStopSec`` is less."""
        self._send("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within_secs * 1e6)}")

    def alive(self) -> None:
        """A sign of life, for who has no event loop to give them."""
        self._send("WATCHDOG=1")

    async def watch(self) -> None:
        """Gives signs of life for as long as the event loop turns; returns at once where nobody asks for them."""
        if self.watchdog_secs is None:
            return
        while True:
            self.alive()
            await anyio.sleep(self.watchdog_secs * WATCHDOG_SHARE)

    def _send(self, *assignments: str) -> None:
        if self._address is None:
            return
        # Whoever has set the variable may be gone, or not read: no reason for a gateway to fail or to wait.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(assignments).encode(), self._address)


def _unix_address(text: str) -> str | None:
    """None for what is neither a path nor abstract, such as the vsock of a virtual machine's own manager."""
    if text.startswith("@"):
        return f"\0{text[1:]}"
    return text if text.startswith("/") else None


def _watchdog_secs(environ: Mapping[str, str]) -> float | None:
    """None where no watchdog runs, or where it watches another process."""
    usec = environ.get(WATCHDOG_VARIABLE, "")
    if not (usec.isascii() and usec.isdecimal() and int(usec) > 0):
        return None
    pid = environ.get(WATCHDOG_PID_VARIABLE)
    return int(usec) / 1e6 if not pid or pid == str(os.getpid()) else None
