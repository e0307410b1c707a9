"""Socket options that asyncio does not set."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

KEEPALIVE_IDLE_S: Final = 60
"""Seconds of silence before TCP asks whether the peer lives: models may think for minutes, dead hosts must be found."""
KEEPALIVE_INTERVAL_S: Final = 15
"""Seconds between probes that nobody answered."""
KEEPALIVE_PROBES: Final = 4
"""Unanswered probes after which the peer counts as gone: two minutes in all, well below the idle timeouts."""

_RESET = struct.pack("ii", 1, 0)


def tune(transport: asyncio.BaseTransport) -> None:
    """TCP keepalive on; TCP_NODELAY is asyncio's default."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def reset(transport: asyncio.Transport) -> None:
    """Ends with RST: asyncio's ``abort`` alone sends FIN, and a cut answer would look complete."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        # A socket that is gone already needs no reset.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
