"""On the way to a provider: from its name to addresses, and why there is no connection. For every frontend."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl
from typing import Final, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from aigw_core.effects import ConnectFailure
from aigw_core.origin import Origin
from aigw_core.resolver import AddressCache

RESOLVER_THREADS: Final = 4
"""Look-ups at a time; they are cached and shared, so only a dead resolver ever fills them."""
REPEAT_SECS: Final = 10.0
"""Between two lines about the same failure: origins are few and configured, so is what is remembered."""

_log = logging.getLogger("aigw.upstream")


class ConnectFailed(Exception):
    """No connection, for a reason that the machine is told."""

    def __init__(self, failure: ConnectFailure) -> None:
        super().__init__(failure.name)
        self.failure = failure


def describe(error: BaseException | None) -> str:
    """Why a look-up, a connection or a handshake failed, in the words of the system or of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return (error.reason or "the handshake failed").lower().replace("_", " ")
    if isinstance(error, socket.gaierror):
        return error.strerror or "no answer"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return "" if error is None else type(error).__name__


class FailureLog:
    """Says why connections fail: the first of each kind to each provider, then one in REPEAT_SECS, with a count.

    The line of the exchange, which knows its request, says no more than which step failed.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, int, ConnectFailure], tuple[float, int]] = {}
        """When the last line was written, and how many there would have been since."""

    def tell(self, origin: Origin, error: ConnectFailed) -> None:
        now = anyio.current_time()
        kind = (origin.host, origin.port, error.failure)
        last, unsaid = self._told.get(kind, (-REPEAT_SECS, 0))
        if now - last < REPEAT_SECS:
            self._told[kind] = last, unsaid + 1
            return
        self._told[kind] = now, 0
        fields: dict[str, object] = {
            "host": origin.host,
            "port": origin.port,
            "failed": error.failure.name.lower(),
            "cause": describe(error.__cause__),
            "unsaid": unsaid or None,
        }
        _log.warning("cannot connect to a provider", extra={"fields": fields})


class _Connecting(Protocol):
    async def established(self) -> None: ...
    def abort(self) -> None: ...


C = TypeVar("C", bound=_Connecting)


async def established(upstream: C) -> C:
    """The connection once it is ready for a request; otherwise it is aborted. Raises ConnectFailed."""
    try:
        await upstream.established()
    except BaseException as error:
        upstream.abort()
        if isinstance(error, ssl.SSLError):
            raise ConnectFailed(ConnectFailure.TLS) from error
        if isinstance(error, OSError):
            raise ConnectFailed(ConnectFailure.CONNECT) from error
        raise
    return upstream


class Resolver:
    """Addresses of names: remembered, looked up in threads, and once for all who wait for the same name."""

    def __init__(self, tasks: TaskGroup) -> None:
        """``tasks``: where look-ups run, so that an exchange that gives up does not take the answer from others."""
        self._tasks = tasks
        self._addresses: AddressCache[str] = AddressCache()
        self._lookups: dict[tuple[str, int], _Lookup] = {}
        self._threads = anyio.CapacityLimiter(RESOLVER_THREADS)

    async def resolve(self, host: str, port: int) -> tuple[str, ...]:
        """At least one address. Raises ConnectFailed."""
        try:
            return (str(ipaddress.ip_address(host)),)
        except ValueError:
            pass
        known = self._addresses.fresh(host, port, anyio.current_time())
        if known is not None:
            return known
        lookup = self._lookups.get((host, port))
        if lookup is None:
            lookup = self._lookups[host, port] = _Lookup()
            self._tasks.start_soon(self._look_up, host, port, lookup)
        await lookup.done.wait()
        if not lookup.addresses:
            raise ConnectFailed(ConnectFailure.DNS) from lookup.error
        return lookup.addresses

    async def _look_up(self, host: str, port: int, lookup: _Lookup) -> None:
        try:
            # Left behind when cancelled: the system's resolver may hang for longer than anybody waits.
            lookup.addresses = await anyio.to_thread.run_sync(
                look_up, host, port, abandon_on_cancel=True, limiter=self._threads
            )
            self._addresses.store(host, port, lookup.addresses, anyio.current_time())
        except (OSError, UnicodeError) as error:
            lookup.error = error
            lookup.addresses = self._addresses.stale(host, port, anyio.current_time()) or ()
        finally:
            del self._lookups[host, port]
            lookup.done.set()


class _Lookup:
    """One look-up under way; no addresses mean that it failed."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.addresses: tuple[str, ...] = ()
        self.error: OSError | UnicodeError | None = None


def look_up(host: str, port: int) -> tuple[str, ...]:
    """The addresses of a name, each once, in the system's order; blocks. Raises OSError or UnicodeError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
