"""Checks that need no network: open files, addresses to listen on."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from aigw_anyio.doctor.report import Finding, ok, warning, wrong
from aigw_anyio.limits import FILES_RESERVED, open_files_limit
from aigw_anyio.settings import ListenAddr, Settings
from aigw_anyio.settings.checks import max_connections

CONNECTIONS_FEW: Final = 500
"""Fewer than one busy application holds open; a default limit of 1,024 files gives about this."""


def check_limits(settings: Settings) -> list[Finding]:
    """Open files against what the settings need. Call it when the limit is raised as far as it may be."""
    files = open_files_limit()
    connections = max_connections(settings)
    needed = 2 * connections + FILES_RESERVED
    fix = "raise the limit of open files of the service (LimitNOFILE=, `ulimit -Hn`, --ulimit nofile=)"
    if settings.max_connections is not None and needed > files:
        fits = max(1, (files - FILES_RESERVED) // 2)
        return [
            wrong(
                "limits",
                "max_connections",
                f"{connections} connections need {needed} open files, and {files} are allowed",
                why="each connection of a caller may need one to a provider",
                fix=f"{fix}, or set max_connections to at most {fits}",
            )
        ]
    if connections < CONNECTIONS_FEW:
        return [
            warning(
                "limits",
                "open files",
                f"{files} are allowed, which is good for {connections} connections",
                why="callers beyond that are closed at once",
                fix=fix,
            )
        ]
    return [ok("limits", "open files", f"{files} are allowed, {connections} connections may be open")]


def check_listeners(settings: Settings) -> list[Finding]:
    """Whether the two addresses can be bound. A gateway that runs already takes them, which is no fault."""
    return [_listener(name, getattr(settings, name)) for name in ("listen_addr", "metrics_listen")]


def _listener(name: str, address: ListenAddr) -> Finding:
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
        family, kind, number, _, place = found[0]
        with socket.socket(family, kind, number) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        return _cannot_listen(name, address, error)
    return ok("listener", name, f"{address} is free")


def _cannot_listen(name: str, address: ListenAddr, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        return warning(
            "listener",
            name,
            f"somebody listens on {address}",
            fix="nothing, if that is the gateway; otherwise choose another port",
        )
    why = error.strerror or os.strerror(error.errno or 0)
    fix = "choose an address of this machine"
    if error.errno == errno.EACCES:
        fix = "choose a port from 1024 on, or give the process the capability CAP_NET_BIND_SERVICE"
    return wrong("listener", name, f"{address} cannot be listened on", why=why, fix=fix)
