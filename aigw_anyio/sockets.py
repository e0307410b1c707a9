"""Socket options of the data path, for every frontend."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import Final, Protocol

KEEPALIVE_IDLE_S: Final = 60
"""Seconds of silence before TCP asks whether the peer lives: models may think for minutes, dead hosts must be found."""
KEEPALIVE_INTERVAL_S: Final = 15
"""Seconds between probes that nobody answered."""
KEEPALIVE_PROBES: Final = 4
"""Unanswered probes after which the peer counts as gone: two minutes in all, well below the idle timeouts."""
BACKLOG: Final = 1_024
"""Connections that the kernel accepts for us between two turns of the loop."""

_RESET = struct.pack("ii", 1, 0)


class HasOptions(Protocol):
    """A socket, or what an event loop shows of one."""

    @property
    def family(self) -> int: ...

    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...


class HasNumber(Protocol):
    """A socket, or what an event loop shows of one."""

    def fileno(self) -> int: ...


class Unread:
    """Whether an open socket has something that was not read yet, its end included: 0.7 µs for each look."""

    __slots__ = ("_poll",)

    def __init__(self, sock: HasNumber | None) -> None:
        """Without a socket, and where the system has no poll(2), there is never anything to see."""
        self._poll = None
        if sock is not None and hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLIN)

    def is_there(self) -> bool:
        return self._poll is not None and bool(self._poll.poll(0))


def tune(sock: HasOptions | None) -> None:
    """TCP keepalive on, and every write sent at once."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def reset_when_closed(sock: HasOptions | None) -> None:
    """The close that follows sends RST: after an orderly end, what was cut would look complete."""
    if sock is not None:
        # A socket that is gone already needs no reset.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
