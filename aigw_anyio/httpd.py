"""A small HTTP/1.1 server on h11, for what is not the data path: the admin listener and the mock provider."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import anyio
import h11
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskStatus
from anyio.streams.stapled import MultiListener

HEAD_MAX: Final = 64 * 1024
"""Bytes of a request head: what the gateway itself accepts."""
REQUEST_SECS: Final = 75.0
"""From the end of one answer to the end of the next request, a slow sender included."""
WRITE_SECS: Final = 30.0
"""For one piece of an answer to be taken."""
READ_SIZE: Final = 65_536
"""Bytes taken from a connection at a time: a whole request of the admin listener or the mock, as a rule."""

Headers = Sequence[tuple[str, str]]

_log = logging.getLogger("aigw.httpd")


@dataclass(frozen=True, slots=True)
class Limits:
    """Where there are ``connections`` already, the oldest idle one is closed for the next; see :class:`_Connections`.

    A body beyond ``body`` bytes gets 413.
    """

    connections: int
    body: int
    request_secs: float = REQUEST_SECS


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read to its end. Header names are lower case; of a repeated one the last counts."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class _Connections:
    """How many connections there are, and which of them can be closed to make room for another one.

    The oldest goes first among those that wait for a request, however much of it has come; then the oldest among
    those whose peer does not take its answer. A request that is being answered is never given up.
    """

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._reading: dict[anyio.CancelScope, None] = {}
        self._writing: dict[anyio.CancelScope, None] = {}

    def make_room(self) -> bool:
        """Before ``count`` grows; False where nobody can be closed."""
        if self.count < self._limit:
            return True
        for scopes in (self._reading, self._writing):
            for scope in scopes:
                # It counts on until its task has ended, and the newcomer counts from now on: one for one.
                del scopes[scope]
                scope.cancel()
                return True
        return False

    def reading(self, within_secs: float) -> contextlib.AbstractContextManager[None]:
        """Around the wait for a request. Raises TimeoutError when it is over, by time or for somebody else."""
        return self._closable(self._reading, within_secs)

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Around one piece of an answer. Raises TimeoutError as ``reading``."""
        return self._closable(self._writing, WRITE_SECS)

    @contextlib.contextmanager
    def _closable(self, scopes: dict[anyio.CancelScope, None], within_secs: float) -> Iterator[None]:
        with anyio.CancelScope(deadline=anyio.current_time() + within_secs) as scope:
            scopes[scope] = None
            try:
                yield
            finally:
                scopes.pop(scope, None)
        if scope.cancelled_caught:
            raise TimeoutError


class Responder:
    """One answer. Without a ``content-length`` header it is sent in chunks, each flushed at once."""

    def __init__(
        self, stream: SocketStream, connection: h11.Connection, connections: _Connections, *, is_head: bool
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._connections = connections
        self._is_head = is_head

    async def start(self, status: int, headers: Headers) -> None:
        await self._send(_head(status, headers))

    async def send(self, data: bytes) -> None:
        if not self._is_head:
            await self._send(h11.Data(data=data))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer with its length, sent in one piece."""
        head = _head(status, [*headers, ("content-length", str(len(body)))])
        content = [] if self._is_head or not body else [h11.Data(data=body)]
        await self._send(head, *content, h11.EndOfMessage())

    async def _send(self, *events: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        data = b"".join(self._connection.send(event) or b"" for event in events)
        if data:
            with self._connections.writing():
                await self._stream.send(data)


Handler = Callable[[Request, Responder], Awaitable[None]]


async def listen(host: str, port: int) -> MultiListener[SocketStream]:
    """Binds, and listens. Raises OSError."""
    return await anyio.create_tcp_listener(local_host=host, local_port=port)


async def adopt(listening: Sequence[socket.socket]) -> MultiListener[SocketStream]:
    """A listener of sockets that somebody else has made."""
    return MultiListener([await SocketListener.from_socket(sock) for sock in listening])


def bound_address(listener: MultiListener[SocketStream]) -> tuple[str, int]:
    """Host and port that the listener really has."""
    address = listener.extra(SocketAttribute.local_address)  # not Django
    return str(address[0]), int(address[1])


async def serve(
    listener: MultiListener[SocketStream],
    handler: Handler,
    limits: Limits,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled; one connection's failure never reaches another."""
    connections = _Connections(limits.connections)

    async def serve_one(stream: SocketStream) -> None:
        is_admitted = connections.make_room()
        connections.count += 1
        try:
            if is_admitted:
                await _serve_connection(stream, handler, limits, connections)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, TimeoutError, OSError):
            # The peer has left, is too slow, or had to make room; there is nobody to tell.
            pass
        except Exception:  # noqa: BLE001  # one that leaves this task would end every connection
            _log.exception("a connection ended by an error")
        finally:
            connections.count -= 1
            await anyio.aclose_forcefully(stream)

    async with listener:
        task_status.started()
        await listener.serve(serve_one)


async def _serve_connection(stream: SocketStream, handler: Handler, limits: Limits, connections: _Connections) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
    while True:
        try:
            with connections.reading(limits.request_secs):
                request = await _read_request(stream, connection, limits.body)
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                responder = Responder(stream, connection, connections, is_head=False)
                await responder.reply(error.error_status_hint, [("connection", "close")], b"")
                await stream.send_eof()
            return
        if request is None:
            return
        responder = Responder(stream, connection, connections, is_head=request.method == "HEAD")
        await handler(request, responder)
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            await stream.send_eof()
            return
        connection.start_next_cycle()


async def _read_request(stream: SocketStream, connection: h11.Connection, body_max: int) -> Request | None:
    """The next request; None where the peer has closed."""
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                await stream.send(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            try:
                connection.receive_data(await stream.receive(READ_SIZE))
            except anyio.EndOfStream:
                connection.receive_data(b"")
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > body_max:
                raise h11.RemoteProtocolError("body too large", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            return None


def _request(head: h11.Request, body: bytes) -> Request:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return Request(head.method.decode("ascii"), head.target.decode("latin-1"), headers, body)


def _head(status: int, headers: Headers) -> h11.Response:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return h11.Response(status_code=status, headers=raw, reason=_phrase(status))


def _phrase(status: int) -> bytes:
    return {
        200: b"OK",
        400: b"Bad Request",
        401: b"Unauthorized",
        404: b"Not Found",
        405: b"Method Not Allowed",
        413: b"Content Too Large",
        429: b"Too Many Requests",
        503: b"Service Unavailable",
    }.get(status, b"")
