"""From a provider's name to addresses: system calls that block, and the few rules around them."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

RESOLVER_THREADS: Final = 4
"""Look-ups at a time; they are cached and shared, so only a dead resolver ever fills them."""


def literal_address(host: str) -> str | None:
    """The host itself where it is an address already, in its usual spelling."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def look_up(host: str, port: int) -> tuple[str, ...]:
    """The addresses of a name, each once, in the system's order; blocks. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
