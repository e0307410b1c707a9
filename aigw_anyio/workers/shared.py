"""What all workers have in common. It is made once, before the first of them, and passed on by fork."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
import tempfile
from dataclasses import dataclass
from typing import Final

from aigw_anyio.settings import ListenAddr
from aigw_anyio.socketstream import bind_listeners, bind_sockets
from aigw_core.limiter import Limiter

_LOOPBACK: Final = ListenAddr("127.0.0.1", 0)
_NUMBER: Final = struct.Struct("=Q")
_TIME: Final = struct.Struct("=d")
_LISTENED_AT: Final = 0
_RESTARTS_AT: Final = _NUMBER.size


@dataclass(frozen=True, slots=True)
class Shared:
    """Sockets, memory and a lock that each worker inherits."""

    data_address: ListenAddr
    """With the port that was chosen where any would do."""
    worker_admins: tuple[ListenAddr, ...]
    """On loopback, one for each worker: where it tells of itself alone."""
    admin_sockets: tuple[socket.socket, ...]
    """The listener of ``metrics_listen``, for who tells of all."""
    held_ports: tuple[socket.socket, ...]
    """Bound and never listening: nobody else can take a port while no worker listens there."""
    noted: mmap.mmap
    """Two numbers that the supervisor writes: whether every worker has listened, and how many were started again."""
    progress: mmap.mmap
    """A number for each worker, which that one writes and the supervisor reads: the time of its last input."""
    limiter_buffer: mmap.mmap
    hash_key: bytes
    """Under which credentials are counted; one key, or each worker would count in other places."""
    output_lock: int
    """A file that whoever writes to standard output locks."""

    def note_all_listen(self) -> None:
        _NUMBER.pack_into(self.noted, _LISTENED_AT, 1)

    def have_all_listened(self) -> bool:
        return _NUMBER.unpack_from(self.noted, _LISTENED_AT) == (1,)

    def note_restart(self) -> None:
        _NUMBER.pack_into(self.noted, _RESTARTS_AT, self.restarts() + 1)

    def restarts(self) -> int:
        (number,) = _NUMBER.unpack_from(self.noted, _RESTARTS_AT)
        return int(number)

    def progress_cell(self, worker: int) -> memoryview[float]:
        """For the worker: the memory cannot be closed in this process any more."""
        return memoryview(self.progress).cast("d")[worker : worker + 1]

    def progress_of(self, worker: int) -> float:
        """For the supervisor: differs from the last look's where the worker has made progress since."""
        (at,) = _TIME.unpack_from(self.progress, worker * _TIME.size)
        return float(at)

    def release_ports(self) -> None:
        """In this process: what others hold, or listen on, is not kept from who comes after them."""
        for sock in self.held_ports:
            sock.close()

    def release_sockets(self) -> None:
        """The same, and the listener of ``metrics_listen`` too."""
        self.release_ports()
        for sock in self.admin_sockets:
            sock.close()


def make_shared(
    workers: int, data: ListenAddr, admin_sockets: list[socket.socket], owned: contextlib.ExitStack
) -> Shared:
    """``owned`` closes all of it. Raises OSError where the data port is taken.

    By whomever: without a check a second gateway would share it.
    """
    data_held = _hold_port(data, owned)
    admins = [_hold_port(_LOOPBACK, owned) for _ in range(workers)]
    sizes = 2 * _NUMBER.size, workers * _TIME.size, Limiter.buffer_size()
    noted, progress, buffer = (owned.enter_context(mmap.mmap(-1, size)) for size in sizes)
    output_lock = _lock_file()
    owned.callback(os.close, output_lock)
    return Shared(
        data_address=ListenAddr(data.host, _port(data_held)),
        worker_admins=tuple(ListenAddr(_LOOPBACK.host, _port(held)) for held in admins),
        admin_sockets=tuple(admin_sockets),
        held_ports=tuple(sock for held in (data_held, *admins) for sock in held),
        noted=noted,
        progress=progress,
        limiter_buffer=buffer,
        hash_key=os.urandom(32),
        output_lock=output_lock,
    )


def _hold_port(address: ListenAddr, owned: contextlib.ExitStack) -> list[socket.socket]:
    # Who asks for SO_REUSEPORT is never told that others listen already.
    with contextlib.ExitStack() as probes:
        listening = [probes.enter_context(sock) for sock in bind_listeners(*address)]
        port = _port(listening)
    held = [owned.enter_context(sock) for sock in bind_sockets(address.host, port, reuse_port=True)]
    for sock in held:
        # With it others could listen there all the same, since this socket does not.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return held


def _port(bound: list[socket.socket]) -> int:
    return int(bound[0].getsockname()[1])


def _lock_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("aigw-output")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
