"""The address that a connection comes from, and its share of the limits that strangers have in common.

The shares are dynamic thresholds (Choudhury and Hahne 1998): whoever takes may hold no more than a fixed multiple of
what is still free. Nobody can take the last of it, and nothing but counters is remembered.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Final

from aigw_core.keys import fingerprint
from aigw_core.limiter import COUNT_MAX, Aggregate, Limiter

CONNECTION_SHARE_MAX: Final = 4
"""A connection takes less than this fraction (1/4) of what its address may still take: a connection carries one request
at a time, so a hundred a second, which is what is left of the default limits, is more than a model answers."""
UNSHARED: Final = 16
"""Of so many parts of a limit the first is not shared out: ordinary traffic stays within it, and costs no more than it
would without shares."""
PREFIX_SIZE: Final = 8
"""Bytes of an IPv6 address that count: a /64 is the least that one customer gets (RFC 6177)."""

_PURPOSES: Final = {Aggregate.BYO: b"peer, byo: ", Aggregate.UNVERIFIED: b"peer, unverified: "}


class Peer:
    """One connection and its address; what it has taken counts for both.

    With k addresses that take whatever they can, limit / (k + 1) requests of each window are left for the others;
    with k such connections of one address, 4 / (k + 4) of what that address may take is left for its other
    connections. Counters of addresses are those of the limiter, so they hold for all who share its buffer; those of
    a connection are exact.
    """

    __slots__ = ("_hash_key", "_marks", "_taken", "_window", "address")

    def __init__(self, address: str | bytes, hash_key: bytes) -> None:
        """``address`` as text; what is no IP address, such as the path of a socket, is taken as it is."""
        self.address = address
        self._hash_key = hash_key
        self._marks: dict[Aggregate, bytes] = {}
        self._taken = [0] * len(Aggregate)
        self._window = -1

    def mark(self, aggregate: Aggregate) -> bytes:
        """What the address is counted by: a keyed hash, apart for each aggregate."""
        mark = self._marks.get(aggregate)
        if mark is None:
            mark = self._marks[aggregate] = fingerprint(_PURPOSES[aggregate] + _network(self.address), self._hash_key)
        return mark

    def may_take(self, limiter: Limiter, aggregate: Aggregate, limit: int, window: int) -> bool:
        """Whether one more request of this connection is within the shares; counts nothing."""
        free = limiter.room(aggregate, limit, window)
        taken = limiter.estimate(self.mark(aggregate), window)
        if taken >= free:
            return False
        # Each request makes one more taken and one less free, so the two meet half-way.
        left = (free - taken + 1) // 2
        return self._window != window or self._taken[aggregate] * CONNECTION_SHARE_MAX < left

    def allow(self, limiter: Limiter, aggregate: Aggregate, limit: int, window: int) -> bool:
        """Whether one more request passes; counts it if it does. ``limit`` 0 is off, and counts nothing.

        The first sixteenth of the limit belongs to nobody: while no more is used, no share can be exceeded. So with k
        addresses 15/16 of limit / (k + 1) are left.
        """
        if limiter.allow_aggregate(aggregate, (limit + UNSHARED - 1) // UNSHARED, window):
            return True
        if not self.may_take(limiter, aggregate, limit, window):
            return False
        self.take(limiter, aggregate, window)
        return True

    def take(self, limiter: Limiter, aggregate: Aggregate, window: int) -> None:
        """Counts one request."""
        if self._window != window:
            self._window = window
            self._taken = [0] * len(Aggregate)
        self._taken[aggregate] += 1
        limiter.allow(self.mark(aggregate), COUNT_MAX, window)
        limiter.allow_aggregate(aggregate, COUNT_MAX, window)


def has_room(peer: Peer | None, limiter: Limiter, aggregate: Aggregate, limit: int, window: int) -> bool:
    """Whether one more request passes; counts nothing. ``limit`` 0 is off; of an unknown peer only the sum counts."""
    if limit <= 0:
        return True
    if peer is None:
        return limiter.room(aggregate, limit, window) > 0
    return peer.may_take(limiter, aggregate, limit, window)


def take(peer: Peer | None, limiter: Limiter, aggregate: Aggregate, limit: int, window: int) -> None:
    """Counts one request, unless the limit is off."""
    if limit <= 0:
        return
    if peer is None:
        limiter.allow_aggregate(aggregate, COUNT_MAX, window)
    else:
        peer.take(limiter, aggregate, window)


def _network(address: str | bytes) -> bytes:
    """What of an address one customer cannot change at will."""
    text = address if isinstance(address, str) else address.decode("latin-1")
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return text.encode("utf-8", "surrogateescape")
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            return parsed.packed[:PREFIX_SIZE]
        parsed = parsed.ipv4_mapped
    return parsed.packed
