"""Getting a connection to a provider: addresses off the event loop, connect, TLS with real certificate checks."""

from __future__ import annotations

import asyncio
import ssl
from concurrent.futures import ThreadPoolExecutor

from aigw_anyio.resolving import RESOLVER_THREADS, literal_address, look_up
from aigw_anyio.tlspipe import TlsPipe
from aigw_asyncio.sockets import tune
from aigw_asyncio.upstream import Upstream
from aigw_core.effects import ConnectFailure
from aigw_core.origin import Origin
from aigw_core.resolver import AddressCache


class ConnectError(Exception):
    """No connection, for the reason that the machine is told."""

    def __init__(self, failure: ConnectFailure) -> None:
        super().__init__(failure.name)
        self.failure = failure


class Connector:
    """Opens connections for one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: ssl.SSLContext) -> None:
        self._loop = loop
        self._tls = tls
        self._addresses: AddressCache[str] = AddressCache()
        self._lookups: dict[tuple[str, int], asyncio.Task[tuple[str, ...]]] = {}
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="aigw-resolver")

    async def aclose(self) -> None:
        """Stops look-ups; one that hangs in the system's resolver is left behind."""
        for lookup in self._lookups.values():
            lookup.cancel()
        await asyncio.gather(*self._lookups.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def replace_tls(self, tls: ssl.SSLContext) -> None:
        """For connections opened from now on."""
        self._tls = tls

    async def connect(self, origin: Origin, tries: int) -> Upstream:
        """A fresh connection; try ``n`` takes the n-th address, round and round. Raises ConnectError."""
        addresses = await self._resolve(origin.host, origin.port)
        address = addresses[tries % len(addresses)]
        secure = origin.scheme == "https"
        pipe = TlsPipe(self._tls, server_hostname=origin.host) if secure else None
        try:
            transport, upstream = await self._loop.create_connection(
                lambda: Upstream(origin, pipe, self._loop), address, origin.port
            )
        except OSError as error:
            raise ConnectError(ConnectFailure.CONNECT) from error
        tune(transport)
        try:
            await upstream.established()
        except ssl.SSLError as error:
            upstream.abort()
            raise ConnectError(ConnectFailure.TLS) from error
        except OSError as error:
            upstream.abort()
            raise ConnectError(ConnectFailure.CONNECT) from error
        except BaseException:
            upstream.abort()
            raise
        return upstream

    async def _resolve(self, host: str, port: int) -> tuple[str, ...]:
        literal = literal_address(host)
        if literal is not None:
            return (literal,)
        known = self._addresses.fresh(host, port, self._loop.time())
        if known is not None:
            return known
        key = (host, port)
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = self._loop.create_task(self._look_up(host, port))
            lookup.add_done_callback(lambda _: self._lookups.pop(key, None))
        # Shared between exchanges: one that gives up must not take the answer from the others.
        return await asyncio.shield(lookup)

    async def _look_up(self, host: str, port: int) -> tuple[str, ...]:
        try:
            addresses = await self._loop.run_in_executor(self._threads, look_up, host, port)
        except (OSError, UnicodeError) as error:
            stale = self._addresses.stale(host, port, self._loop.time())
            if stale is not None:
                return stale
            raise ConnectError(ConnectFailure.DNS) from error
        self._addresses.store(host, port, addresses, self._loop.time())
        return addresses
