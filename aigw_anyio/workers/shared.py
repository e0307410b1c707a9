"""What all workers have in common. It is made once, before the first of them, and passed on by fork."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import tempfile
from dataclasses import dataclass

from aigw_anyio.settings import ListenAddr
from aigw_core.limiter import Limiter


@dataclass(frozen=True, slots=True)
class Shared:
    """Sockets, memory and a lock that each worker inherits."""

    data_address: ListenAddr
    """With the port that was chosen where any would do."""
    admin_socket: socket.socket
    """The listener of ``metrics_listen``."""
    worker_admins: tuple[socket.socket, ...]
    """Listeners on loopback, one for each worker: what it tells of itself alone."""
    held_port: socket.socket
    """Bound and never listening: nobody else can take the port while no worker listens."""
    limiter_buffer: mmap.mmap
    hash_key: bytes
    """Under which credentials are counted; one key, or each worker would count in other places."""
    output_lock: int
    """A file that whoever writes to standard output locks."""

    @property
    def worker_ports(self) -> tuple[int, ...]:
        return tuple(admin.getsockname()[1] for admin in self.worker_admins)


def make_shared(workers: int, data: ListenAddr, admin_socket: socket.socket, owned: contextlib.ExitStack) -> Shared:
    """``owned`` closes all of it. Raises OSError where the data port is taken.

    By whomever: without a check a second gateway would share it.
    """
    held = owned.enter_context(_hold_port(data))
    buffer = owned.enter_context(mmap.mmap(-1, Limiter.buffer_size()))
    output_lock = _lock_file()
    owned.callback(os.close, output_lock)
    return Shared(
        data_address=ListenAddr(data.host, held.getsockname()[1]),
        admin_socket=admin_socket,
        worker_admins=tuple(owned.enter_context(_loopback_listener()) for _ in range(workers)),
        held_port=held,
        limiter_buffer=buffer,
        hash_key=os.urandom(32),
        output_lock=output_lock,
    )


def bind_one(address: ListenAddr, *, reuse_port: bool = False) -> socket.socket:
    """A socket bound to the first address of the host. Raises OSError."""
    infos = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, target = infos[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(target)
    except BaseException:
        bound.close()
        raise
    return bound


def _hold_port(address: ListenAddr) -> socket.socket:
    # Who asks for SO_REUSEPORT is never told that others listen already.
    with bind_one(address) as probe:
        probe.listen(1)
        port = probe.getsockname()[1]
    return bind_one(ListenAddr(address.host, port), reuse_port=True)


def _loopback_listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _lock_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("aigw-output")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
