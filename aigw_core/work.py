"""Shares of reading: how much of the bodies of one key is read in one turn of a driver, and who goes on next.

Reading a body for its rules or its usage takes time in proportion to its decoded bytes. What exceeds the share of a
key or of its tenant waits for a later turn, so that neither makes the others wait. Nothing here reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final, TypeAlias, TypeVar

TURN_BYTES: Final = 65_536
"""Bytes that the inputs of one key may read in one turn."""
TENANT_TURN_BYTES: Final = 4 * TURN_BYTES
"""The same of all keys of one tenant."""
REQUESTS_RESUMED_MAX: Final = 1
"""Requests that go on in one turn, each with one step: 0.6 ms of narrow JSON, 2 ms of the deepest."""
REQUESTS_REST_SECS: Final = 0.002
"""What a driver waits between two turns of requests. A turn of the event loop is not enough: an exchange of somebody
else takes ten of them, and would wait for a step in each."""
ANSWERS_RESUMED_MAX: Final = 4
"""Answers that go on in one turn. They have no rest: what providers write is not made to be awkward, and the caller
waits for it."""
KEYS_MAX: Final = 4_096
"""Keys charged in one turn: a driver that never begins another one does not make this grow."""
CHARGED_MIN: Final = 4_096
"""Smaller pieces are not charged: the turns that they come in cost more than reading them."""


Share: TypeAlias = tuple[Hashable, Hashable]
"""Whose work it is: (tenant, key)."""


class WorkShares:
    """The work of one process. Owners are what a driver resumes: connections; each waits at most once."""

    __slots__ = ("_resumed_max", "_used", "_waiting", "_where", "is_due", "rest_secs", "resumed")

    def __init__(self, resumed_max: int = REQUESTS_RESUMED_MAX, rest_secs: float = REQUESTS_REST_SECS) -> None:
        self._resumed_max = resumed_max
        self.rest_secs = rest_secs
        """What a driver of many connections waits before it begins a turn; 0: one turn of the event loop."""
        self.is_due = False
        """Somebody waits, or has used of this turn: the driver calls :meth:`turn` at the beginning of the next one."""
        self.resumed = 0
        """Owners that :meth:`turn` has given back since the process started."""
        self._used: dict[Hashable, int] = {}
        # Tenants and their keys in the order in which they get their turn; each key has at least one owner.
        self._waiting: dict[Hashable, dict[Hashable, deque[object]]] = {}
        self._where: dict[object, Share] = {}

    @property
    def waiting(self) -> int:
        """Connections that wait for a later turn."""
        return len(self._where)

    def take(self, share: Share, size: int) -> bool:
        """Whether ``size`` bytes may be read for it now; a share that is not used up may be exceeded once."""
        if size < CHARGED_MIN:
            return True
        tenant = share[0]
        used, of_tenant = self._used.get(share, 0), self._used.get(tenant, 0)
        if used >= TURN_BYTES or of_tenant >= TENANT_TURN_BYTES:
            return False
        if len(self._used) >= KEYS_MAX:
            self._used.clear()
        self._used[share] = used + size
        self._used[tenant] = of_tenant + size
        self.is_due = True
        return True

    def wait(self, share: Share, owner: object) -> None:
        """The owner has more to read; :meth:`turn` gives it back once it may."""
        if owner in self._where:
            return
        self._where[owner] = share
        tenant, key = share
        self._waiting.setdefault(tenant, {}).setdefault(key, deque()).append(owner)
        self.is_due = True

    def forget(self, owner: object) -> None:
        """The owner no longer waits."""
        share = self._where.pop(owner, None)
        if share is None:
            return
        tenant, key = share
        keys = self._waiting[tenant]
        keys[key].remove(owner)
        if not keys[key]:
            del keys[key]
        if not keys:
            del self._waiting[tenant]

    def turn(self) -> list[object]:
        """Begins a turn: the owners whose ``resume`` is called now, one tenant after the other, and of each one key.

        Call it while :attr:`is_due`, with :attr:`rest_secs` in between.
        """
        self._used.clear()
        chosen: list[object] = []
        while self._waiting and len(chosen) < self._resumed_max:
            tenant, keys = _first(self._waiting)
            key, owners = _first(keys)
            owner = owners.popleft()
            del self._where[owner]
            # Behind the others, where there is more.
            if owners:
                keys[key] = owners
            if keys:
                self._waiting[tenant] = keys
            chosen.append(owner)
        self.is_due = bool(self._waiting)
        self.resumed += len(chosen)
        return chosen


_Value = TypeVar("_Value")


def _first(waiting: dict[Hashable, _Value]) -> tuple[Hashable, _Value]:
    """Takes out the entry whose turn it is."""
    name = next(iter(waiting))
    return name, waiting.pop(name)
