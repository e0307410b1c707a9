"""DenyFeed: keeps a deny-set equal to a key-value bucket, whatever happens to the connection, server or stream.

A pure machine. Inputs are what a client of the server sees, with the time; each returns effects to carry out, in
order, before the next input. The rules, in the order in which they matter:

1. The last good set stays in force until a complete newer one takes its place at once, or entries change it in place.
2. Seed and watch are one consumer from a known sequence, so nothing falls between them.
3. A consumer starts behind what we hold only where the stream is the same: created at the same time, its last
   sequence not behind ours, and the message at our revision (the anchor) the one that we know. Otherwise all entries
   are read into a new set. No revision, or an anchor that is gone, is no resume point.
4. A gap in the consumer's numbering, a heartbeat that disagrees, or any doubt of the client taints what we hold:
   all entries are read again. Gaps in the stream's numbering are normal.
5. Caught up means that the consumer has nothing pending: by the last entry, the create answer, or its description.
6. Live means caught up, and the stream was then described again: the same one, and with exactly as many subjects as
   we hold. This is asked again every POLL_SECS while live: purges, expiry without markers and messages deleted by
   hand leave no event.
7. Silence is no news: heartbeats come every second, and answers within ANSWER_SECS, or the watch is begun again.
8. Soon after a resume, and every RECONCILE_SECS, a second consumer reads all entries aside while the watch goes on;
   both must agree. The anchor proves the history, not that a server that crashed holds what it held.
9. "Nothing pending" may be said a moment too early: a server takes the message that is written over away first, and
   counts the new one for its consumers later. So what a reader holds then may lack a key that was written again: it
   is not taken over before it holds as many subjects as a description, and one difference is no proof, two are.

The outermost retry (a new connection) belongs to whoever owns the connection; the machine spaces what it begins again
on one that works.
"""

from __future__ import annotations

from typing import Final

from aigw_core.backoff import Backoff
from aigw_core.denyreader import Fault, Reader, Tally, Verdict
from aigw_core.denyset import DenySet
from aigw_core.denystates import (
    PHASES,
    AskConsumer,
    AskStream,
    Changed,
    CloseConsumer,
    FeedEffect,
    FeedPhase,
    FeedState,
    FeedStats,
    FeedTimer,
    FeedTiming,
    OpenConsumer,
    Reconnect,
    StateChanged,
)
from aigw_core.denyview import Cursor, DenyView, Entry, StreamState
from aigw_core.errors import LocalProtocolError

DISAGREEMENTS_MAX: Final = 2
"""One is no proof: a server may say a moment too early that nothing is pending."""

_GOLDEN: Final = 0.618034
"""Spreads the retries of one gateway evenly, from a seed that spreads those of many."""


class DenyFeed:
    """See the module. Used from the thread that reads the deny-set."""

    def __init__(self, deny: DenySet, *, timing: FeedTiming | None = None, seed: float = 0.5) -> None:
        """``deny``: kept current in place. ``seed``: a random number in [0, 1), to spread retries of many gateways."""
        self._t = timing or FeedTiming()
        self._view = DenyView(deny)
        self._cursor: Cursor | None = None
        self._retry = Backoff(first=self._t.retry_first, longest=self._t.retry_longest, settled=self._t.settled)
        self._seed = seed
        self._timers: dict[FeedTimer, float] = {}
        self._on_timer = {
            FeedTimer.UNANSWERED: self._unanswered,
            FeedTimer.UNDESCRIBED: self._unanswered,
            FeedTimer.SILENT: self._silent,
            FeedTimer.ASK: self._ask,
            FeedTimer.RETRY: self._start,
            FeedTimer.RECONCILE: self._reconcile,
        }
        self._epoch = 0
        self._reader: Reader | None = None
        self._audit: Reader | None = None
        self._audited_to = 0
        self._is_verified = True
        self._is_differing = False
        self._tally = Tally()
        self._ticket = 0
        self._is_asked = False
        self._asked_at = 0
        self._agreed_at = 0.0
        self._disagreements = 0
        self._phase = FeedPhase.OFF
        self.state = FeedState.COLD
        self.is_seeded = False
        """A whole set has been in force once, from the bucket or a snapshot."""
        self.confirmed_at: float | None = None
        """When the set was last known to be current."""
        self.stats = FeedStats()

    def restore(self, view: DenyView, cursor: Cursor | None) -> list[FeedEffect]:
        """Puts a snapshot in force, before the first connection."""
        if self._phase is not FeedPhase.OFF or self.is_seeded:
            raise LocalProtocolError("a snapshot is restored before anything else")
        if view.deny is not self._view.deny:
            self._view.deny.adopt(view.deny, view.deny.revision or 0)
        self._view.others = view.others
        self._cursor = cursor
        self.is_seeded = True
        return [Changed(None), *self._say(FeedState.RECONNECTING, "a snapshot is in force")]

    @property
    def cursor(self) -> Cursor | None:
        """From where to resume; None where all would be read again. It belongs to the set as it is now."""
        return self._cursor

    @property
    def others(self) -> set[str]:
        """See :class:`DenyView`."""
        return self._view.others

    @property
    def phase(self) -> FeedPhase:
        return self._phase

    @property
    def deadline(self) -> float | None:
        """When ``tick`` is due."""
        return min(self._timers.values(), default=None)

    def tick(self, now: float) -> list[FeedEffect]:
        """Carries out every timer that is due."""
        out: list[FeedEffect] = []
        for timer in sorted(self._timers, key=lambda timer: (self._timers[timer], timer)):
            # One before it may have stopped or moved it.
            if self._timers.get(timer, now + 1.0) <= now:
                del self._timers[timer]
                out += self._on_timer[timer](now)
        return out

    # The connection

    def connected(self, now: float) -> list[FeedEffect]:
        """A new connection is ready for requests."""
        if self._phase is not FeedPhase.OFF:
            raise LocalProtocolError("there is a connection already")
        return [*self._withdraw("connected"), *self._start(now)]

    def disconnected(self, reason: str, now: float) -> list[FeedEffect]:
        """The connection is gone, or was never made. Its consumers are not heard of again."""
        self._retry.stopped(now)
        self._drop_all()
        if self._phase is not FeedPhase.OFF:
            self._enter(FeedPhase.OFF)
        return self._say(FeedState.RECONNECTING if self.is_seeded else FeedState.COLD, reason)

    def failed(self, reason: str, now: float) -> list[FeedEffect]:
        """A request was refused, or its answer was not understood."""
        if self._phase is FeedPhase.OFF:
            return []
        return [*self.disconnected(reason, now), Reconnect(reason)]

    def doubt(self, reason: str, now: float) -> list[FeedEffect]:
        """Entries may have been lost: the client dropped some, or did not understand one."""
        if self._reader is None:
            return []
        self.stats.gaps += 1
        return self._begin_again(reason, now, is_tainted=True)

    def look(self, now: float) -> list[FeedEffect]:
        """Time may have passed unseen, as when a machine sleeps: ask the server at once."""
        return self._ask(now) if self._phase is FeedPhase.WATCHING else []

    # The stream and its consumers

    def stream_state(self, ticket: int, stream: StreamState | None, now: float) -> list[FeedEffect]:
        """The answer to ``AskStream``; None where there is no such stream."""
        if not self._is_asked or ticket != self._ticket:
            return []
        self._is_asked = False
        self._timers.pop(FeedTimer.UNANSWERED, None)
        if stream is None:
            return self._absent(now)
        if self._phase is FeedPhase.ASKING:
            return self._open(stream, now)
        reader = self._reader
        assert reader is not None
        if stream.created != reader.stream.created:
            return self._begin_again("the stream was made anew", now, is_tainted=True)
        if stream.last_seq < self._asked_at:
            return self._begin_again("the stream has lost its newest entries", now, is_tainted=True)
        return self._judge(self._tally.compare(stream), now)

    def consumer_opened(self, epoch: int, pending: int | None, now: float) -> list[FeedEffect]:
        """The answer to ``OpenConsumer``; ``pending`` is None where the stream was gone by then."""
        if self._audit is not None and epoch == self._audit.epoch:
            return self._audit_opened(self._audit, pending, now)
        reader = self._reader
        if reader is None or epoch != reader.epoch or reader.is_open:
            return []
        self._timers.pop(FeedTimer.UNANSWERED, None)
        if pending is None:
            return self._absent(now)
        reader.is_open = True
        reader.heard_at = now
        self._timers[FeedTimer.SILENT] = now + self._t.silence
        if pending == 0 or reader.is_caught_up:
            return self._caught_up(reader, now)
        self._enter(FeedPhase.READING)
        return []

    def consumer_state(self, epoch: int, consumer_seq: int | None, pending: int, now: float) -> list[FeedEffect]:
        """The answer to ``AskConsumer``: how many entries were delivered, and how many are to come.

        ``consumer_seq`` is None where there is no such consumer.
        """
        reader = self._reader
        if reader is None or epoch != reader.epoch:
            return []
        self._timers.pop(FeedTimer.UNDESCRIBED, None)
        if consumer_seq is None:
            return self._begin_again("the consumer was lost", now, is_tainted=False)
        if consumer_seq != reader.consumer_seq or pending:
            return []
        if self._phase is FeedPhase.READING:
            return self._caught_up(reader, now)
        if self._tally.ahead is None:
            return []
        return self._judge(self._tally.nothing_more(reader.view.subjects), now)

    # Entries

    def entry(self, epoch: int, entry: Entry, now: float) -> list[FeedEffect]:
        """An entry of a consumer, in the order of delivery."""
        reader = self._reader
        if reader is None or epoch != reader.epoch:
            audit = self._audit
            return self._audit_entry(audit, entry, now) if audit is not None and epoch == audit.epoch else []
        before = reader.view.unknown
        change = reader.take(entry)
        if isinstance(change, Fault):
            self.stats.gaps += change is Fault.GAP
            return self._begin_again(change.value, now, is_tainted=True)
        reader.heard_at = now
        self.stats.unknown += reader.view.unknown - before
        is_in_force = reader.view is self._view
        if is_in_force and self.is_seeded:
            self._cursor = reader.cursor
        out: list[FeedEffect] = [Changed((change,))] if change is not None and is_in_force else []
        if self._phase < FeedPhase.CHECKING:
            if not reader.is_open:
                # The answer is somewhere behind what it has set off.
                self._timers[FeedTimer.UNANSWERED] = now + self._t.answer
            reader.is_caught_up = entry.pending == 0
            return out + self._caught_up(reader, now) if reader.is_caught_up and reader.is_open else out
        if entry.pending == 0 and self._phase is FeedPhase.WATCHING:
            self.confirmed_at = now
        self._tally.note(reader.revision, reader.view.subjects)
        if self._tally.is_overtaken:
            out += self._judge(self._tally.arrived(), now)
        return out + self._agree(now) if self._audit is not None else out

    def heartbeat(self, epoch: int, consumer_seq: int, now: float) -> list[FeedEffect]:
        """The consumer is idle and has delivered so many entries."""
        reader, audit = self._reader, self._audit
        if audit is not None and epoch == audit.epoch and consumer_seq != audit.consumer_seq:
            return self._drop_audit()
        if reader is None or epoch != reader.epoch:
            return []
        if consumer_seq != reader.consumer_seq:
            self.stats.gaps += 1
            return self._begin_again(Fault.GAP.value, now, is_tainted=True)
        reader.heard_at = now
        if self._phase is FeedPhase.WATCHING:
            self.confirmed_at = now
        # Idle, though the last entry promised more: what was promised has been purged since.
        return self._ask_consumer(reader, now) if self._phase is FeedPhase.READING else []

    # How a watch begins

    def _say(self, after: FeedState, reason: str) -> list[FeedEffect]:
        before, self.state = self.state, after
        return [StateChanged(before, after, reason)] if before is not after else []

    def _withdraw(self, reason: str) -> list[FeedEffect]:
        return self._say(FeedState.RECONNECTING if self.is_seeded else FeedState.SEEDING, reason)

    def _enter(self, phase: FeedPhase) -> None:
        if phase not in PHASES[self._phase]:
            raise LocalProtocolError(f"{phase.name} does not follow {self._phase.name}")
        self._phase = phase

    def _drop_all(self) -> list[FeedEffect]:
        out: list[FeedEffect] = [CloseConsumer(r.epoch) for r in (self._reader, self._audit) if r is not None]
        self._timers.clear()
        self._reader = self._audit = None
        self._is_asked = False
        return out

    def _begin_again(self, reason: str, now: float, *, is_tainted: bool) -> list[FeedEffect]:
        """Another consumer, soon; from the same place, or, tainted, from nothing."""
        if is_tainted:
            self._cursor = None
        out = [*self._drop_all(), *self._withdraw(reason)]
        wait = self._retry.failed(now, (self._seed + _GOLDEN * self._epoch) % 1.0)
        if self._retry.failures == 1:
            return out + self._start(now)
        self._enter(FeedPhase.WAITING)
        self._timers[FeedTimer.RETRY] = now + wait
        return out

    def _absent(self, now: float) -> list[FeedEffect]:
        """There is no such bucket: keep what we hold, and look again."""
        out = [*self._drop_all(), *self._withdraw("there is no such bucket")]
        self._enter(FeedPhase.WAITING)
        self._timers[FeedTimer.RETRY] = now + self._t.absent
        return out

    def _start(self, now: float) -> list[FeedEffect]:
        self._enter(FeedPhase.ASKING)
        return self._ask(now)

    def _open(self, stream: StreamState, now: float) -> list[FeedEffect]:
        self._epoch += 1
        cursor = self._cursor
        if cursor is not None and cursor.created == stream.created and cursor.revision <= stream.last_seq:
            self._reader = Reader(self._epoch, self._view, stream, cursor, revision=cursor.revision)
        else:
            self._cursor = cursor = None
            # While nothing is in force, what is read is at once: better than to let all pass until the end of it.
            is_first = not self.is_seeded and self._view.subjects == 0
            self._reader = Reader(self._epoch, self._view if is_first else DenyView(), stream)
        self._tally = Tally()
        self._disagreements = 0
        self._enter(FeedPhase.OPENING)
        self._timers[FeedTimer.UNANSWERED] = now + self._t.answer
        return [OpenConsumer(self._epoch, cursor.revision if cursor is not None else None)]

    def _caught_up(self, reader: Reader, now: float) -> list[FeedEffect]:
        """Nothing is pending; ask once more whether this is the stream that we think it is."""
        if not reader.is_anchored:
            return self._begin_again(Fault.ANCHOR.value, now, is_tainted=True)
        reader.is_caught_up = True
        self._tally.note(reader.accounted, reader.view.subjects)
        self._agreed_at = now
        self._enter(FeedPhase.CHECKING)
        return self._ask(now)

    def _take_over(self, reader: Reader) -> list[FeedEffect]:
        """The reader's set takes the place of what was in force, if it has not."""
        view, fresh = self._view, reader.view
        if self.is_seeded and fresh is view:
            return []
        self._cursor = reader.cursor
        self.stats.rescans += self.is_seeded
        self.is_seeded = True
        if fresh is view:
            return []
        # Not what is accounted for: a server that lost its newest entries gives their sequences again.
        view.deny.adopt(fresh.deny, reader.revision)
        view.others = fresh.others
        reader.view = view
        return [Changed(None)]

    def _go_live(self, reader: Reader, now: float) -> list[FeedEffect]:
        self._enter(FeedPhase.WATCHING)
        self._retry.started(now)
        self._is_verified = reader.resume_from is None
        self._is_differing = False
        self.stats.resumes += not self._is_verified
        self._set_reconcile(now)
        return self._say(FeedState.LIVE, "caught up")

    # What is asked of the server

    def _ask(self, now: float) -> list[FeedEffect]:
        if self._is_asked:
            return []
        self._ticket += 1
        self._is_asked = True
        # What arrives before the answer may be newer than it.
        self._asked_at = self._reader.accounted if self._reader is not None else 0
        self._timers.pop(FeedTimer.ASK, None)
        self._timers[FeedTimer.UNANSWERED] = now + self._t.answer
        return [AskStream(self._ticket)]

    def _ask_consumer(self, reader: Reader, now: float) -> list[FeedEffect]:
        self._timers.setdefault(FeedTimer.UNDESCRIBED, now + self._t.answer)
        return [AskConsumer(reader.epoch)]

    def _unanswered(self, now: float) -> list[FeedEffect]:
        return self.failed("no answer from JetStream", now)

    def _silent(self, now: float) -> list[FeedEffect]:
        """Looks whether the consumer was heard of; runs once in a while, not once for each entry."""
        reader = self._reader
        assert reader is not None
        due = reader.heard_at + self._t.silence
        if now >= due:
            return self._begin_again("the consumer was lost", now, is_tainted=False)
        self._timers[FeedTimer.SILENT] = due
        return []

    def _judge(self, verdict: Verdict, now: float) -> list[FeedEffect]:
        reader = self._reader
        assert reader is not None
        out: list[FeedEffect] = []
        is_waiting = self._tally.ahead is not None
        is_enough = now - self._agreed_at >= self._t.agree
        if verdict is Verdict.SAME or (verdict is Verdict.OPEN and is_enough):
            # Read without a gap, from the stream that we think it is: better than what is in force, even where the
            # number cannot be told.
            out = self._take_over(reader)
        if verdict is Verdict.SAME:
            self._disagreements = 0
            self._agreed_at = self.confirmed_at = now
            self._timers[FeedTimer.ASK] = now + self._t.poll
            return out + self._go_live(reader, now) if self._phase is FeedPhase.CHECKING else out
        if verdict is Verdict.OTHER:
            self._disagreements += 1
            if self._disagreements >= DISAGREEMENTS_MAX:
                self.stats.vanished += 1
                if self._tally.holds_more:
                    # Nothing is lacking; where entries vanish all the time, no other reading would fare better.
                    out = self._take_over(reader)
                return out + self._begin_again("entries have vanished from the bucket", now, is_tainted=True)
        elif is_enough:
            return out + self._begin_again("the bucket changes too fast to compare", now, is_tainted=True)
        self._timers[FeedTimer.ASK] = now + self._t.again
        return out + self._ask_consumer(reader, now) if is_waiting else out

    # The reconcile

    def _set_reconcile(self, now: float) -> None:
        wait = self._t.reconcile if self._is_verified else self._t.verify
        if wait is None:
            self._timers.pop(FeedTimer.RECONCILE, None)
        else:
            self._timers[FeedTimer.RECONCILE] = now + wait

    def _reconcile(self, now: float) -> list[FeedEffect]:
        """Reads all entries aside. Whatever goes wrong with that, the next one does it."""
        assert self._reader is not None
        self._set_reconcile(now)
        if self._audit is not None and self._audit.consumer_seq > self._audited_to:
            # A large bucket takes longer than the time between two.
            self._audited_to = self._audit.consumer_seq
            return []
        self._audited_to = 0
        out = self._drop_audit()
        self._epoch += 1
        self._audit = Reader(self._epoch, DenyView(), self._reader.stream)
        return [*out, OpenConsumer(self._epoch, None, is_aside=True)]

    def _drop_audit(self) -> list[FeedEffect]:
        audit, self._audit = self._audit, None
        return [CloseConsumer(audit.epoch)] if audit is not None else []

    def _audit_opened(self, audit: Reader, pending: int | None, now: float) -> list[FeedEffect]:
        if pending is None:
            return self._drop_audit()
        audit.is_open = True
        audit.is_caught_up = audit.is_caught_up or pending == 0
        return self._agree(now)

    def _audit_entry(self, audit: Reader, entry: Entry, now: float) -> list[FeedEffect]:
        if isinstance(audit.take(entry), Fault):
            return self._drop_audit()
        audit.is_caught_up = audit.is_caught_up or entry.pending == 0
        return self._agree(now)

    def _agree(self, now: float) -> list[FeedEffect]:
        """Where both readers stand at the same entry, they must hold the same."""
        audit, reader = self._audit, self._reader
        if audit is None or reader is None or not (audit.is_open and audit.is_caught_up):
            return []
        is_empty = audit.revision == 0 and reader.view.subjects == 0
        if audit.revision != reader.revision and not is_empty:
            return []
        self.stats.reconciles += 1
        out = self._drop_audit()
        if audit.view.others == reader.view.others and audit.view.deny.holds_same(reader.view.deny):
            self._is_verified = True
            self._is_differing = False
            self._set_reconcile(now)
            return out
        if not self._is_differing:
            self._is_differing = True
            self._is_verified = False
            return out + self._reconcile(now)
        self.stats.differences += 1
        return [*out, *self._begin_again("reading all entries again gave another set", now, is_tainted=True)]
