"""Shares of reading: how much of the bodies of one key is read in one turn of a driver, and who goes on next.

Reading a body for its rules or its usage takes time in proportion to its decoded bytes. What exceeds the share of a
key waits for a later turn, so that no key makes the others wait. Nothing here reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

TURN_BYTES: Final = 65_536
"""Bytes that the inputs of one key may read in one turn."""
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
        # In the order in which keys get their turn; each key has at least one owner.
        self._waiting: dict[Hashable, deque[object]] = {}
        self._where: dict[object, Hashable] = {}

    @property
    def waiting(self) -> int:
        """Connections that wait for a later turn."""
        return len(self._where)

    def take(self, key: Hashable, size: int) -> bool:
        """Whether ``size`` bytes may be read for this key now; a share that is not used up may be exceeded once."""
        if size < CHARGED_MIN:
            return True
        used = self._used.get(key, 0)
        if used >= TURN_BYTES:
            return False
        if len(self._used) >= KEYS_MAX:
            self._used.clear()
        self._used[key] = used + size
        self.is_due = True
        return True

    def wait(self, key: Hashable, owner: object) -> None:
        """The owner has more to read; :meth:`turn` gives it back once it may."""
        if owner in self._where:
            return
        self._where[owner] = key
        self._waiting.setdefault(key, deque()).append(owner)
        self.is_due = True

    def forget(self, owner: object) -> None:
        """The owner no longer waits."""
        key = self._where.pop(owner, None)
        if key is None:
            return
        owners = self._waiting[key]
        owners.remove(owner)
        if not owners:
            del self._waiting[key]

    def turn(self) -> list[object]:
        """Begins a turn: the owners whose ``resume`` is called now, one key after the other.

        Call it while :attr:`is_due`, with :attr:`rest_secs` in between.
        """
        self._used.clear()
        chosen: list[object] = []
        while self._waiting and len(chosen) < self._resumed_max:
            key, owners = next(iter(self._waiting.items()))
            owner = owners.popleft()
            del self._where[owner]
            # Behind the others, where it has more owners.
            del self._waiting[key]
            if owners:
                self._waiting[key] = owners
            chosen.append(owner)
        self.is_due = bool(self._waiting)
        self.resumed += len(chosen)
        return chosen
