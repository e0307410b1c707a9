"""Socket options on asyncio's transports."""

from __future__ import annotations

import asyncio

from aigw_anyio import sockets


def tune(transport: asyncio.BaseTransport) -> None:
    """TCP keepalive on, and every write sent at once."""
    sockets.tune(transport.get_extra_info("socket"))


def peer_address(transport: asyncio.BaseTransport) -> str | None:
    """The caller's IP address; None for other kinds of sockets, and where the caller is gone already."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else None


def reset(transport: asyncio.Transport) -> None:
    """Ends with RST: asyncio's ``abort`` alone sends FIN, and a cut answer would look complete."""
    if not transport.is_closing():
        sockets.reset_when_closed(transport.get_extra_info("socket"))
    transport.abort()
