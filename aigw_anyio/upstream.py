"""Connections of the stream driver to providers: opened, used, kept idle, closed."""

from __future__ import annotations

import logging
import ssl
from typing import Protocol

from anyio.abc import TaskGroup

from aigw_anyio.channel import Channel
from aigw_anyio.connecting import ConnectFailed, FailureLog, Resolver, established
from aigw_anyio.plane import IdleLost
from aigw_anyio.socketstream import connect_socket
from aigw_anyio.tlspipe import TlsPipe
from aigw_core.effects import ConnectFailure
from aigw_core.origin import Origin

_log = logging.getLogger("aigw.exchange")


class UpstreamUser(Protocol):
    """Whoever holds a provider connection at the moment."""

    def upstream_data(self, attempt: int, data: bytes) -> None:
        """Plaintext; ``b""`` is EOF."""

    def upstream_gone(self, attempt: int, error: bool) -> None: ...
    def upstream_edge(self, attempt: int, blocked: bool) -> None: ...
    def abandon(self) -> None: ...


class StreamUpstream:
    """One connection to a provider. While nobody uses it, any byte or EOF ends it."""

    def __init__(self, origin: Origin, channel: Channel) -> None:
        self.origin = origin
        self.attempt = 0
        self.user: UpstreamUser | None = None
        self.idle_lost: IdleLost | None = None
        self._channel = channel
        channel.on_data, channel.on_gone, channel.on_edge = self._arrived, self._gone, self._edge
        self.send = channel.send
        self.pause, self.resume = channel.pause, channel.resume
        self.established = channel.established

    async def run(self) -> None:
        """Until the connection is over; a fault of ours ends this connection and its exchange, no other."""
        try:
            await self._channel.run()
        except Exception:  # noqa: BLE001  # our own bug: it is told, and ends no other connection
            _log.exception("a provider connection has failed")
            user, self.user = self.user, None
            if user is not None:
                user.abandon()

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    @property
    def has_input(self) -> bool:
        return self._channel.has_input

    @property
    def usable(self) -> bool:
        """Open, with nothing left to send: fit for another request."""
        return self._channel.is_open and self._channel.is_empty

    def attach(self, user: UpstreamUser, attempt: int) -> None:
        self.user, self.attempt = user, attempt

    def _arrived(self, data: bytes) -> None:
        if self.user is not None:
            self.user.upstream_data(self.attempt, data)
            return
        # Nobody asked: a connection with such bytes in it must never carry a request.
        self._idle_gone()
        if data:
            self.abort()
        else:
            self.close()

    def _gone(self, error: bool) -> None:
        user, self.user = self.user, None
        if user is not None:
            user.upstream_gone(self.attempt, error)
        else:
            self._idle_gone()

    def _idle_gone(self) -> None:
        if self.idle_lost is not None:
            self.idle_lost(self)

    def _edge(self, blocked: bool) -> None:
        if self.user is not None:
            self.user.upstream_edge(self.attempt, blocked)

    def close(self) -> None:
        """Orderly: what is queued is still sent."""
        self.user = None
        self._channel.close()

    def abort(self) -> None:
        """At once, so that the provider stops working for nobody."""
        self.user = None
        self._channel.abort()


class StreamConnector:
    """Opens connections; they, and the look-ups, live in the task group that it is given."""

    def __init__(self, tls: ssl.SSLContext, tasks: TaskGroup) -> None:
        self._tls = tls
        self._tasks = tasks
        self._resolver = Resolver(tasks)
        self._failures = FailureLog()

    def replace_tls(self, tls: ssl.SSLContext) -> None:
        """For connections opened from now on."""
        self._tls = tls

    async def connect(self, origin: Origin, tries: int) -> StreamUpstream:
        """A fresh connection; try ``n`` takes the n-th address, round and round. Raises ConnectFailed."""
        try:
            return await self._connect(origin, tries)
        except ConnectFailed as error:
            self._failures.tell(origin, error)
            raise

    async def _connect(self, origin: Origin, tries: int) -> StreamUpstream:
        addresses = await self._resolver.resolve(origin.host, origin.port)
        try:
            stream = await connect_socket(addresses[tries % len(addresses)], origin.port)
        except OSError as error:
            raise ConnectFailed(ConnectFailure.CONNECT) from error
        pipe = TlsPipe(self._tls, server_hostname=origin.host) if origin.scheme == "https" else None
        upstream = StreamUpstream(origin, Channel(stream, pipe))
        self._tasks.start_soon(upstream.run)
        return await established(upstream)
