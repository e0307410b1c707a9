"""Getting a connection to a provider: addresses off the event loop, connect, TLS with real certificate checks."""

from __future__ import annotations

import asyncio
import ssl

from aigw_anyio.connecting import ConnectFailed, FailureLog, Resolver, established
from aigw_anyio.tlspipe import TlsPipe
from aigw_asyncio.reading import ReadBuffer
from aigw_asyncio.sockets import tune
from aigw_asyncio.turn import Turn
from aigw_asyncio.upstream import Upstream
from aigw_core.effects import ConnectFailure
from aigw_core.origin import Origin


class Connector:
    """Opens connections for one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: ssl.SSLContext,
        resolver: Resolver,
        buffer: ReadBuffer,
        turn: Turn,
    ) -> None:
        self._loop = loop
        self._buffer = buffer
        self._turn = turn
        self._tls = tls
        self._resolver = resolver
        self._failures = FailureLog()

    def replace_tls(self, tls: ssl.SSLContext) -> None:
        """For connections opened from now on."""
        self._tls = tls

    async def connect(self, origin: Origin, tries: int) -> Upstream:
        """A fresh connection; try ``n`` takes the n-th address, round and round. Raises ConnectFailed."""
        try:
            return await self._connect(origin, tries)
        except ConnectFailed as error:
            self._failures.tell(origin, error)
            raise

    async def _connect(self, origin: Origin, tries: int) -> Upstream:
        addresses = await self._resolver.resolve(origin.host, origin.port)
        pipe = TlsPipe(self._tls, server_hostname=origin.host) if origin.scheme == "https" else None
        try:
            transport, upstream = await self._loop.create_connection(
                lambda: Upstream(origin, pipe, self._loop, self._buffer, self._turn),
                addresses[tries % len(addresses)],
                origin.port,
            )
        except OSError as error:
            raise ConnectFailed(ConnectFailure.CONNECT) from error
        tune(transport)
        return await established(upstream)
