"""Which idle upstream connection to reuse, and which to close: bookkeeping without sockets."""

from collections.abc import Collection, Hashable, Iterator
from typing import Final, Generic, TypeVar

from aigw_core.origin import Origin

# Idle connections of one origin. Each holds a descriptor here and at the provider, and more than were ever
# busy at once are never idle.
IDLE_MAX: Final = 100

H = TypeVar("H", bound=Hashable)


class UpstreamPool(Generic[H]):
    """Idle connections by origin, the last one checked in first: it is the least likely to have died.

    `H` is the driver's handle of a connection, hashable and unique. The driver owns the sockets: it closes
    what a method returns as a list, in that order, and calls `remove` for a handle on which a byte or the
    end arrived. Times are monotonic seconds. A handle is reusable before its deadline and expired at it.

    Bounded by `max_idle` for each origin; origins are bounded by the configuration.
    """

    __slots__ = ("_idle", "_max_idle", "_next_expiry", "_origin_of")

    def __init__(self, *, max_idle: int = IDLE_MAX) -> None:
        self._max_idle = max_idle
        # Handle to deadline for each origin, oldest first. No origin is left with an empty dict.
        self._idle: dict[Origin, dict[H, float]] = {}
        self._origin_of: dict[H, Origin] = {}
        self._next_expiry = 0.0

    @property
    def idle_count(self) -> int:
        """The number of idle connections of all origins, expired ones included until `expire` is called."""
        return len(self._origin_of)

    def __iter__(self) -> Iterator[H]:
        """What is idle now, expired ones included, for drivers that must look whether a connection has ended."""
        return iter(list(self._origin_of))

    def idle_by_origin(self) -> dict[Origin, int]:
        """The same for each origin that has any."""
        return {origin: len(idle) for origin, idle in self._idle.items()}

    @property
    def next_expiry(self) -> float | None:
        """When to call `expire` next, None where nothing is idle.

        Never later than the earliest deadline. It may be earlier, where that connection has left meanwhile:
        `expire` then returns nothing and corrects it, which is cheaper than a search on each checkout.
        """
        return self._next_expiry if self._origin_of else None

    def checkout(self, origin: Origin, now: float) -> H | None:
        """Take the newest idle connection to this origin that has not expired."""
        idle = self._idle.get(origin)
        if idle is None:
            return None
        handle, deadline = idle.popitem()
        if deadline <= now:
            idle[handle] = deadline
            alive = self._newest_alive(idle, now)
            if alive is None:
                return None
            handle = alive
            del idle[handle]
        if not idle:
            del self._idle[origin]
        del self._origin_of[handle]
        return handle

    def checkin(self, origin: Origin, handle: H, now: float, *, idle_timeout: float) -> list[H]:
        """Keep a connection for `idle_timeout` seconds; returns what to close instead.

        That is the oldest connection of the origin where it has more than `max_idle` now, and the handle
        itself where nothing may be idle or the timeout is not positive. Raises ValueError for a handle that
        is idle already.
        """
        if handle in self._origin_of:
            raise ValueError("the connection is idle already")
        if idle_timeout <= 0 or self._max_idle <= 0:
            return [handle]
        deadline = now + idle_timeout
        if not self._origin_of or deadline < self._next_expiry:
            self._next_expiry = deadline
        idle = self._idle.get(origin)
        if idle is None:
            idle = self._idle[origin] = {}
        idle[handle] = deadline
        self._origin_of[handle] = origin
        if len(idle) <= self._max_idle:
            return []
        oldest = next(iter(idle))
        del idle[oldest]
        del self._origin_of[oldest]
        return [oldest]

    def remove(self, handle: H) -> bool:
        """Forget a connection that the driver has closed or lost; whether it was idle here."""
        origin = self._origin_of.pop(handle, None)
        if origin is None:
            return False
        idle = self._idle[origin]
        del idle[handle]
        if not idle:
            del self._idle[origin]
        return True

    def expire(self, now: float) -> list[H]:
        """Take out the connections whose time is over."""
        expired: list[H] = []
        earliest = float("inf")
        for idle in self._idle.values():
            for handle, deadline in idle.items():
                if deadline <= now:
                    expired.append(handle)
                elif deadline < earliest:
                    earliest = deadline
        for handle in expired:
            self.remove(handle)
        self._next_expiry = earliest
        return expired

    def retire(self, keep: Collection[Origin]) -> list[H]:
        """Take out the connections to all origins but these: those of older generations after a reload.

        One that is in use now may still be checked in under its old origin; nobody asks for it, and it
        expires.
        """
        retired: list[H] = []
        for origin in [origin for origin in self._idle if origin not in keep]:
            handles = self._idle.pop(origin)
            for handle in handles:
                del self._origin_of[handle]
            retired += handles
        return retired

    def drain(self) -> list[H]:
        """Take out all connections. The pool goes on working, and may be drained again."""
        drained = list(self._origin_of)
        self._idle.clear()
        self._origin_of.clear()
        return drained

    @staticmethod
    def _newest_alive(idle: dict[H, float], now: float) -> H | None:
        for handle, deadline in reversed(idle.items()):
            if deadline > now:
                return handle
        return None
