"""What a source of deny entries is, and what it holds in its hands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import anyio

from aigw_core.denyset import DenyChange, DenySet
from aigw_core.denyview import Cursor, DenyView
from aigw_core.gateway import Gateway
from aigw_core.snapshot import Snapshot

_log = logging.getLogger("aigw.deny")

Cut = Callable[[list[DenyChange] | None], None]
"""Ends the running exchanges that the deny-set now forbids; None after a whole new set."""


@dataclass(slots=True)
class DenyStats:
    """For metrics; what a source does not know stays at zero."""

    connected: bool = False
    connects: int = 0
    resumes: int = 0
    rescans: int = 0
    gaps: int = 0
    vanished: int = 0
    reconciles: int = 0
    differences: int = 0
    unknown: int = 0
    failures: int = 0
    """Times that the source could not be reached or read."""
    snapshots: int = 0
    """Snapshots written."""
    snapshot_failures: int = 0


class DenyControl:
    """The deny-set in a source's hands. Every method runs in the machine's thread and returns at once.

    A source tells of entries by :meth:`put`, :meth:`remove` and :meth:`replace`, and of itself by :meth:`live`,
    :meth:`confirm` and :meth:`lost`. Keys and values are those of the key-value bucket. What was said last stays in
    force until the source says otherwise, however long that takes.
    """

    def __init__(self, gateway: Gateway, source: str) -> None:
        """``source``: a name that tells one set from another, such as ``nats:ai-gateway``."""
        self.gateway = gateway
        self.source = source
        self.stats = DenyStats()
        self.cut: Cut | None = None
        """Set by the data plane's owner."""
        self.version = 0
        """Counts changes of the set."""
        self.on_change: Callable[[], None] | None = None
        """Called after a change; for whoever writes snapshots."""
        self.on_look: Callable[[], None] | None = None
        """Called when time may have passed unseen; set by a source that can ask whether it is current."""
        self.position: Callable[[], tuple[set[str], Cursor | None]] = lambda: (set(), None)
        """What a snapshot has to hold beside the entries; set by a source that can resume."""
        self.collect: Callable[[], None] | None = None
        """Called before the stats are read; set by a source that keeps its own counters."""
        self.answered = anyio.Event()
        """Set once the source has brought a current set, or has said that it cannot."""
        self._told: set[str] = set()
        gateway.deny_state = "cold"

    def read_stats(self) -> DenyStats:
        """As of now."""
        if self.collect is not None:
            self.collect()
        return self.stats

    @property
    def deny(self) -> DenySet:
        return self.gateway.deny

    def put(self, key: str, value: bytes, revision: int) -> None:
        """An entry. ``revision`` is above those before it; one that is not is ignored for its key."""
        change = self.deny.put(key, value, revision)
        self.changed((change,) if change is not None else ())

    def remove(self, key: str, revision: int) -> None:
        """An entry was taken back."""
        change = self.deny.remove(key, revision)
        self.changed((change,) if change is not None else ())

    def replace(self, entries: Mapping[str, tuple[bytes, int]], revision: int) -> None:
        """All entries, key to (value, revision), in the place of those that are held."""
        self.deny.replace(entries, revision)
        self.seeded()
        self.changed(None)

    def adopt(self, fresh: DenySet, revision: int) -> None:
        """The same with a set that was made elsewhere, whatever its size, at once; do not use it afterwards."""
        self.deny.adopt(fresh, revision)
        self.seeded()
        self.changed(None)

    def changed(self, changes: Iterable[DenyChange] | None) -> None:
        """The set was changed in place: these entries, or None for all of it."""
        self.version += 1
        if self.cut is not None:
            self.cut(list(changes) if changes is not None else None)
        if self.on_change is not None:
            self.on_change()

    def seeded(self) -> None:
        """A whole set is in force."""
        self.gateway.deny_seeded = True

    def live(self) -> None:
        """The set is whole and current, and will be told of changes as they happen."""
        self.seeded()
        self.say("live", "current")
        self.confirm()

    def confirm(self, at: float | None = None) -> None:
        """The set was current at ``at``, a time of the event loop's clock; now by default."""
        self.gateway.deny_confirmed_at = anyio.current_time() if at is None else at

    def lost(self, reason: str) -> None:
        """The set is no longer known to be current. ``reason`` is logged and must be free of secrets."""
        self.stats.failures += 1
        self.answered.set()
        self.say("reconnecting" if self.gateway.deny_seeded else "cold", reason)

    def say(self, state: str, reason: str) -> None:
        """One line for each change of state: ``cold``, ``seeding``, ``live`` or ``reconnecting``."""
        before, self.gateway.deny_state = self.gateway.deny_state, state
        if state == "live":
            self.answered.set()
            self._told.clear()
        if before != state and state not in self._told:
            # Once until it is live again: attempts that fail one after the other are no news.
            self._told.add(state)
            level = logging.INFO if state in ("live", "seeding") else logging.WARNING
            fields = {"before": before, "reason": reason, "entries": self.deny.size, "revision": self.deny.revision}
            _log.log(level, "deny feed is %s", state, extra={"fields": fields})

    def restore(self, snapshot: Snapshot, confirmed_at: float | None) -> None:
        """A snapshot is in force until the source is there."""
        self.deny.adopt(snapshot.view.deny, snapshot.view.deny.revision or 0)
        self.seeded()
        self.gateway.deny_confirmed_at = confirmed_at
        self.say("reconnecting", "a snapshot is in force")
        self.changed(None)

    def capture(self, wall: float, now: float) -> Snapshot:
        """What a snapshot of this moment holds; the set itself, not a copy."""
        others, cursor = self.position()
        at = self.gateway.deny_confirmed_at
        confirmed_wall = max(0.0, wall - (now - at)) if at is not None else 0.0
        return Snapshot(self.source, DenyView(self.deny, others), cursor, confirmed_wall)


class DenySource(Protocol):
    """Where deny entries come from: one of ours, or an embedder's own.

    ``run`` works in the machine's event loop until it is cancelled. It handles its own failures, by
    ``control.lost`` and trying again; what it raises all the same is logged, and it is run again after a back-off.
    """

    @property
    def name(self) -> str:
        """Tells one set of entries from another; a snapshot of another name is not used."""
        ...

    def restored(self, snapshot: Snapshot) -> None:
        """Called before ``run`` where a snapshot of this source is in force."""
        ...

    async def run(self, control: DenyControl) -> None: ...
