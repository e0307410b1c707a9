"""A byte stream over a plain socket, on any event loop of anyio: what can be sent now is sent without waiting."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute

from aigw_anyio import sockets


class SocketStream(ByteStream):
    """A connected, non-blocking TCP socket as an anyio stream.

    Beyond the interface it has :meth:`send_nowait`, so that a driver needs no turn of the event loop for a
    write that the kernel takes at once, and a close that needs none either. A cancelled ``receive`` loses
    nothing; after a cancelled ``send`` an unknown part has been sent, and the stream must be closed.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Takes the socket over."""
        sock.setblocking(False)
        sockets.tune(sock)
        self._socket = sock

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Raises EndOfStream, BrokenResourceError or ClosedResourceError."""
        while True:
            self._check_open()
            # Asked first, although bytes may be there: a peer that never pauses must not keep the loop to itself.
            await anyio.wait_readable(self._socket)
            try:
                data = self._socket.recv(max_bytes)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                self._check_open()
                raise anyio.BrokenResourceError from error
            if not data:
                raise anyio.EndOfStream
            return data

    def send_nowait(self, data: bytes | memoryview) -> int:
        """How many bytes the kernel took, 0 if it is full. Raises BrokenResourceError or ClosedResourceError."""
        self._check_open()
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise anyio.BrokenResourceError from error

    async def send(self, item: bytes) -> None:
        """Raises BrokenResourceError or ClosedResourceError."""
        view = memoryview(item)
        while view:
            sent = self.send_nowait(view)
            if not sent:
                await anyio.wait_writable(self._socket)
            view = view[sent:]

    async def send_eof(self) -> None:
        """Half-closes. Raises BrokenResourceError or ClosedResourceError."""
        self._check_open()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise anyio.BrokenResourceError from error

    def close(self) -> None:
        """Closes now. Whoever waits for the stream finds it closed."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    async def aclose(self) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            raise anyio.ClosedResourceError

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            SocketAttribute.raw_socket: lambda: self._socket,
            SocketAttribute.family: lambda: self._socket.family,
            SocketAttribute.local_address: lambda: self._socket.getsockname(),
            SocketAttribute.remote_address: lambda: self._socket.getpeername(),
        }


async def connect_socket(address: str, port: int) -> SocketStream:
    """Connects to a numeric address. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.connect((address, port))
        except (BlockingIOError, InterruptedError):
            await anyio.wait_writable(sock)
            failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                raise OSError(failure, os.strerror(failure)) from None
        return SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def bind_listeners(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listening sockets, one for each address of the host, all on one port. Raises OSError.

    ``reuse_port``: other processes listen there too, and the kernel spreads connections over all of them.
    """
    bound = bind_sockets(host, port, reuse_port=reuse_port)
    try:
        for sock in bound:
            sock.listen(sockets.BACKLOG)
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def bind_sockets(host: str, port: int, *, reuse_port: bool) -> list[socket.socket]:
    """The same, before they listen. Raises OSError."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            sock = socket.socket(family, kind, protocol)
            listeners.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound = listeners[0].getsockname()[1] if len(listeners) > 1 else port
            sock.bind((address[0], bound, *address[2:]))
            sock.setblocking(False)
    except BaseException:
        for sock in listeners:
            sock.close()
        raise
    return listeners
