"""A cache of resolved addresses: bookkeeping without sockets.

It serves stale answers while a resolver is away, as RFC 8767 describes.
"""

from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar

# getaddrinfo tells no TTL, so this is ours: how late we are to follow a provider that moves.
TTL_SECS: Final = 30.0
# How long past its TTL an answer may stand in for one that is not to be had. RFC 8767 section 5 suggests
# days; a provider that has moved is gone from the old address much sooner.
STALE_SECS_MAX: Final = 300.0
# Hosts are those of the configuration, a few dozen at most.
ENTRIES_MAX: Final = 1024
# A connection is tried on three addresses at most; the rest is choice.
ADDRESSES_MAX: Final = 16

Address = TypeVar("Address")


class _Entry(NamedTuple, Generic[Address]):
    addresses: tuple[Address, ...]
    stored_at: float


class AddressCache(Generic[Address]):
    """Addresses by host and port. `Address` is whatever the driver connects to, and opaque here.

    An answer is fresh for `ttl` seconds, then stale for `stale_max` more. At most `entries_max` are kept,
    the one stored longest ago goes first. Times are monotonic seconds.
    """

    __slots__ = ("_entries", "_entries_max", "_stale_max", "_ttl")

    def __init__(
        self, *, ttl: float = TTL_SECS, stale_max: float = STALE_SECS_MAX, entries_max: int = ENTRIES_MAX
    ) -> None:
        self._ttl = ttl
        self._stale_max = stale_max
        self._entries_max = entries_max
        self._entries: dict[tuple[str, int], _Entry[Address]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def fresh(self, host: str, port: int, now: float) -> tuple[Address, ...] | None:
        """The addresses while they are fresh, in the order they were stored in."""
        return self._younger_than(self._ttl, host, port, now)

    def stale(self, host: str, port: int, now: float) -> tuple[Address, ...] | None:
        """The addresses while they are fresh or stale: what to use when resolving fails."""
        return self._younger_than(self._ttl + self._stale_max, host, port, now)

    def store(self, host: str, port: int, addresses: Sequence[Address], now: float) -> None:
        """Keep an answer, the first ADDRESSES_MAX of it, in the place of the last one.

        Raises ValueError where it is empty: that is a failure to resolve, and must not displace an answer.
        """
        if not addresses:
            raise ValueError("an answer without addresses is a failure to resolve")
        place = (host, port)
        self._entries.pop(place, None)
        self._entries[place] = _Entry(tuple(addresses[:ADDRESSES_MAX]), now)
        if len(self._entries) > self._entries_max:
            del self._entries[next(iter(self._entries))]

    def forget(self, host: str, port: int) -> bool:
        """Drop an answer, as when none of its addresses takes connections; whether there was one."""
        return self._entries.pop((host, port), None) is not None

    def _younger_than(self, age: float, host: str, port: int, now: float) -> tuple[Address, ...] | None:
        entry = self._entries.get((host, port))
        if entry is None or now - entry.stored_at >= age:
            return None
        return entry.addresses


def order(addresses: Sequence[Address], start: int) -> tuple[Address, ...]:
    """The addresses rotated so that number `start` (modulo their count) comes first.

    Attempt n of a connection starts at n; an exchange that starts at a counter spreads the load.
    """
    if not addresses:
        return ()
    first = start % len(addresses)
    return (*addresses[first:], *addresses[:first])
