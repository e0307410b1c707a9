"""The deny-set in a NATS key-value bucket: the machine of :mod:`aigw_core.denyfeed`, and its NATS side.

Imported only where it is configured. The machine runs here, in the machine's thread; the NATS client runs in the
event loop of a host, which may be another thread's. Between them go only plain calls, in order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

import anyio

from aigw_anyio.deny.bucket import BUCKET
from aigw_anyio.deny.control import DenyControl
from aigw_anyio.nats.connection import NatsSupervisor, Pace
from aigw_anyio.nats.denylink import Command, Delivery, DenyLink
from aigw_anyio.nats.hosting import Host
from aigw_anyio.nats.options import NatsOptions
from aigw_core.denyfeed import DenyFeed
from aigw_core.denystates import Changed, FeedEffect, FeedState, FeedTiming, StateChanged
from aigw_core.denyview import DenyView, StreamState
from aigw_core.snapshot import Snapshot

IDLE_SECS: Final = 1.0
"""Between two looks at the machine's timers while it has none."""


class NatsDenySource:
    """A :class:`~aigw_anyio.deny.control.DenySource`."""

    def __init__(
        self,
        options: NatsOptions,
        bucket: str,
        host: Host,
        *,
        timing: FeedTiming | None = None,
        pace: Pace | None = None,
        heartbeat_secs: float = 1.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """``timing``, ``pace`` and ``heartbeat_secs`` speed everything up for tests.

        Raises ValueError for a bucket that cannot be named so.
        """
        if BUCKET.fullmatch(bucket) is None:
            raise ValueError("a bucket is named with up to 200 letters, digits, - and _")
        self._bucket = bucket
        self._timing = timing or FeedTiming()
        self._host = host
        self._supervisor = NatsSupervisor(options, name="aigw deny feed", pace=pace, chance=chance)
        self._link = DenyLink(
            self._supervisor, bucket, self, host, answer_secs=self._timing.answer, heartbeat_secs=heartbeat_secs
        )
        self._chance = chance
        self._snapshot: Snapshot | None = None
        self._feed: DenyFeed | None = None
        self._control: DenyControl | None = None
        self._wake = anyio.Event()
        self._armed = float("inf")
        self._offset = 0.0
        self._confirmed: float | None = None

    def _now(self) -> float:
        """The time of the event loop, which may count from anywhere."""
        return time.monotonic() + self._offset

    @property
    def name(self) -> str:
        return f"nats:{self._bucket}"

    def restored(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    @property
    def feed(self) -> DenyFeed:
        """For tests and for a look at its state; there once ``run`` has begun."""
        assert self._feed is not None
        return self._feed

    async def run(self, control: DenyControl) -> None:
        self._control = control
        # Deliveries come in callbacks of an event loop, where anyio does not know which one that is.
        self._offset = anyio.current_time() - time.monotonic()
        feed = self._feed = DenyFeed(control.deny, timing=self._timing, seed=self._chance())
        control.position = lambda: (feed.others, feed.cursor)
        control.collect = lambda: self._collect(feed, control)
        control.on_look = lambda: self._run(feed.look(self._now()))
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            # In force already; what is new is from where to go on.
            feed.restore(DenyView(control.deny, snapshot.view.others), snapshot.cursor)
        elif control.gateway.deny_seeded:
            # Run again after a failure: the set stays in force, and is read anew.
            feed.restore(DenyView(control.deny), None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_time, feed)
            try:
                await self._host.run(self._link.main)
            finally:
                tasks.cancel_scope.cancel()

    async def _keep_time(self, feed: DenyFeed) -> None:
        while True:
            now = self._now()
            deadline = feed.deadline
            if deadline is not None and deadline <= now:
                self._run(feed.tick(now))
                continue
            self._wake = anyio.Event()
            self._armed = deadline if deadline is not None else now + IDLE_SECS
            with anyio.move_on_after(self._armed - now):
                await self._wake.wait()

    def _run(self, effects: list[FeedEffect]) -> None:
        """Carries out what the machine wants; everything else follows from what comes back."""
        feed, control = self.feed, self._control
        assert control is not None
        for effect in effects:
            if isinstance(effect, Changed):
                control.changed(effect.changes)
            elif isinstance(effect, StateChanged):
                control.say(effect.after.value, effect.reason)
                if effect.after is FeedState.LIVE:
                    self._host.submit(self._link.settled)
            else:
                self._submit(effect)
        if feed.is_seeded:
            control.seeded()
        self._note(feed, control)
        deadline = feed.deadline
        if deadline is not None and deadline < self._armed:
            self._armed = deadline
            self._wake.set()

    def _submit(self, command: Command) -> None:
        self._host.submit(lambda: self._link.execute(command))

    def _note(self, feed: DenyFeed, control: DenyControl) -> None:
        confirmed, before = feed.confirmed_at, control.gateway.deny_confirmed_at
        if confirmed is not None and confirmed != self._confirmed:
            self._confirmed = confirmed
            if before is None or confirmed > before:
                control.confirm(confirmed)

    def _collect(self, feed: DenyFeed, control: DenyControl) -> None:
        stats, found = control.stats, feed.stats
        stats.resumes, stats.rescans, stats.gaps = found.resumes, found.rescans, found.gaps
        stats.vanished, stats.unknown = found.vanished, found.unknown
        stats.reconciles, stats.differences = found.reconciles, found.differences
        status = self._supervisor.status
        stats.connected, stats.connects, stats.failures = status.connected, status.connects, status.failures

    # What the NATS side calls, in the machine's thread

    def connected(self) -> None:
        self._run(self.feed.connected(self._now()))

    def disconnected(self, reason: str) -> None:
        self._run(self.feed.disconnected(reason, self._now()))

    def failed(self, reason: str) -> None:
        self._run(self.feed.failed(reason, self._now()))

    def doubt(self, reason: str) -> None:
        self._run(self.feed.doubt(reason, self._now()))

    def stream_state(self, ticket: int, stream: StreamState | None) -> None:
        self._run(self.feed.stream_state(ticket, stream, self._now()))

    def consumer_opened(self, epoch: int, pending: int | None) -> None:
        self._run(self.feed.consumer_opened(epoch, pending, self._now()))

    def consumer_state(self, epoch: int, consumer_seq: int | None, pending: int) -> None:
        self._run(self.feed.consumer_state(epoch, consumer_seq, pending, self._now()))

    def delivered(self, batch: list[Delivery]) -> None:
        """Entries, heartbeats and requests to go on, as they came."""
        feed = self.feed
        now = self._now()
        effects: list[FeedEffect] = []
        for delivery in batch:
            if delivery.entry is not None:
                effects += feed.entry(delivery.epoch, delivery.entry, now)
            elif delivery.heartbeat is not None:
                effects += feed.heartbeat(delivery.epoch, delivery.heartbeat, now)
            elif delivery.go_on is not None:
                self._go_on(delivery.go_on)
        self._run(effects)

    def _go_on(self, subject: str) -> None:
        self._host.submit(lambda: self._link.go_on(subject))
