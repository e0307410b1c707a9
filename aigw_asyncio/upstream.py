"""One connection to a provider, plain or TLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Protocol, cast

from aigw_anyio import sockets
from aigw_anyio.plane import IdleLost
from aigw_anyio.tlspipe import TlsPipe
from aigw_asyncio.reading import ReadBuffer, Reading
from aigw_asyncio.sockets import reset
from aigw_asyncio.turn import Turn

if TYPE_CHECKING:
    from aigw_core.origin import Origin


class UpstreamUser(Protocol):
    """Whoever holds a provider connection at the moment."""

    def upstream_data(self, upstream: Upstream, data: bytes) -> None:
        """Plaintext bytes; ``b""`` is EOF."""

    def upstream_gone(self, upstream: Upstream, error: bool) -> None: ...
    def upstream_write_edge(self, upstream: Upstream, blocked: bool) -> None: ...


class Upstream(Reading):
    """Feeds its current user; while idle, any byte or EOF ends it."""

    __slots__ = (
        "_blocked",
        "_established",
        "_paused",
        "_sent_at",
        "_tls",
        "_transport",
        "_turn",
        "_unread",
        "attempt",
        "idle_lost",
        "origin",
        "user",
    )

    def __init__(
        self, origin: Origin, tls: TlsPipe | None, loop: asyncio.AbstractEventLoop, buffer: ReadBuffer, turn: Turn
    ) -> None:
        super().__init__(buffer)
        self._turn = turn
        self._sent_at = -1
        self.origin = origin
        self.attempt = 0
        self.user: UpstreamUser | None = None
        self.idle_lost: IdleLost | None = None
        """Told when the connection dies in the pool."""
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._unread = sockets.Unread(None)
        self._blocked = False
        self._paused = False
        self._established: asyncio.Future[None] | None = loop.create_future()

    async def established(self) -> None:
        """Waits for the TLS handshake. Raises ssl.SSLError or ConnectionError."""
        if self._established is not None:
            await self._established
            self._established = None

    @property
    def is_open(self) -> bool:
        """Not closing; of a connection in the pool that is all that can have changed."""
        transport = self._transport
        return transport is not None and not transport.is_closing()

    @property
    def has_input(self) -> bool:
        return self._unread.is_there()

    @property
    def usable(self) -> bool:
        """Open, with nothing left to send: fit for another request."""
        if self._sent_at == self._turn.flushes:
            self._turn.flush()
        transport = self._transport
        return transport is not None and not transport.is_closing() and transport.get_write_buffer_size() == 0

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: the transports of uvloop do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._unread = sockets.Unread(transport.get_extra_info("socket"))
        if self._tls is None:
            self._settle(None)
            return
        try:
            self._tls.handshake()
        except ssl.SSLError as error:
            self._settle(error)
            return
        self._flush_tls(self._tls)

    def _settle(self, error: Exception | None) -> None:
        waiter = self._established
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def _flush_tls(self, tls: TlsPipe) -> None:
        due = tls.outgoing()
        if due and self._transport is not None:
            self._turn.write(self._transport, due)

    def received(self, data: bytes) -> None:
        tls = self._tls
        if tls is None:
            self._deliver(data)
            return
        was_established = tls.established
        try:
            plain = tls.receive(data)
        except ssl.SSLError as error:
            self._flush_tls(tls)
            if was_established:
                self._lost(error=True)
                self.abort()
            else:
                self._settle(error)
            return
        self._flush_tls(tls)
        if tls.established and not was_established:
            self._settle(None)
        if plain:
            self._deliver(plain)
        if tls.closed:
            self._end_of_input()

    def _deliver(self, data: bytes) -> None:
        user = self.user
        if user is not None:
            user.upstream_data(self, data)
        else:
            # Nobody asked: a connection with such bytes in it must never carry a request.
            self._lost(error=True)
            self.abort()

    def _end_of_input(self) -> None:
        user = self.user
        if user is not None:
            user.upstream_data(self, b"")
        else:
            self._lost(error=False)
            self.close()

    def eof_received(self) -> bool:
        self._settle(ConnectionResetError("closed during the handshake"))
        self._end_of_input()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(exc or ConnectionResetError("closed during the handshake"))
        self._lost(error=exc is not None)
        self._transport = None

    def _lost(self, *, error: bool) -> None:
        user, self.user = self.user, None
        if user is not None:
            user.upstream_gone(self, error)
        elif self.idle_lost is not None:
            self.idle_lost(self)

    def pause_writing(self) -> None:
        self._blocked = True
        if self.user is not None:
            self.user.upstream_write_edge(self, True)

    def resume_writing(self) -> None:
        self._blocked = False
        if self.user is not None:
            self.user.upstream_write_edge(self, False)

    # What its user calls

    def send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        turn = self._turn
        self._sent_at = turn.flushes
        turn.write(transport, data if self._tls is None else self._tls.send(data))

    def pause(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def close(self) -> None:
        """Orderly: what is queued is still sent."""
        self.user = None
        transport = self._transport
        if transport is not None and not transport.is_closing():
            if self._tls is not None and self._tls.established:
                self._turn.write(transport, self._tls.close_notify())
            self._turn.flush()
            transport.close()

    def abort(self) -> None:
        """At once, so that the provider stops working for nobody."""
        self.user = None
        if self._transport is not None:
            self._turn.flush()
            reset(self._transport)
