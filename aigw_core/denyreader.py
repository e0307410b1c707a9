"""One consumer of the deny feed: what it has delivered, and what must hold of its next entry."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from aigw_core.denyset import DenyChange
from aigw_core.denyview import Cursor, DenyView, Entry, StreamState

HISTORY_MAX: Final = 1_024
"""Past (revision, subjects) pairs: a description may be that many entries old when it arrives."""


class Fault(Enum):
    """Why an entry does not follow; the text is for the log."""

    GAP = "entries were lost on the way"
    ANCHOR = "the entry to resume from is gone"


@dataclass(slots=True)
class Reader:
    """A consumer and what is made of its entries.

    A resumed one starts with the entry that we know, the anchor, which must be the first to come.
    """

    epoch: int
    view: DenyView
    stream: StreamState
    """As described before the consumer was made."""
    resume_from: Cursor | None = None
    consumer_seq: int = 0
    revision: int = 0
    """Of the last entry; 0 before the first of a scan."""
    anchor_ns: int = 0
    is_open: bool = False
    is_caught_up: bool = False
    heard_at: float = 0.0

    @property
    def is_anchored(self) -> bool:
        """Nothing is left to be proven about where it started."""
        return self.resume_from is None or self.consumer_seq > 0

    @property
    def accounted(self) -> int:
        """The sequence up to which everything is taken in, once caught up: maybe no message is left of it."""
        return self.revision if self.resume_from is not None else max(self.revision, self.stream.last_seq)

    @property
    def cursor(self) -> Cursor | None:
        """From where another one may go on, once caught up."""
        return Cursor(self.stream.created, self.revision, self.anchor_ns) if self.revision else None

    def take(self, entry: Entry) -> Fault | DenyChange | None:
        """Takes the next entry in; what it changed for callers, or why it cannot be the next one."""
        if entry.consumer_seq != self.consumer_seq + 1:
            return Fault.GAP
        anchor = self.resume_from
        if anchor is not None and not self.is_anchored:
            if (entry.revision, entry.time_ns) != (anchor.revision, anchor.anchor_ns):
                return Fault.ANCHOR
            self.consumer_seq = 1
            self.revision, self.anchor_ns = entry.revision, entry.time_ns
            return None
        if entry.revision <= self.revision:
            return Fault.GAP
        self.consumer_seq = entry.consumer_seq
        self.revision, self.anchor_ns = entry.revision, entry.time_ns
        return self.view.apply(entry)


class Verdict(Enum):
    """Whether the stream has as many subjects as we hold."""

    SAME = "same"
    OTHER = "other"
    OPEN = "open"
    """The description is of another moment than any that we know the number for."""


@dataclass(slots=True)
class Tally:
    """How many subjects we held at which revision, to be compared with descriptions of the stream.

    Only revisions that were reached after having caught up count: before that, what came later is known already.
    """

    history: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=HISTORY_MAX))
    ahead: StreamState | None = None
    """A description of entries that have not arrived."""
    holds_more: bool = False
    """At the last verdict we held more subjects than the stream had: some have vanished from it."""

    def note(self, revision: int, subjects: int) -> None:
        self.history.append((revision, subjects))

    def compare(self, stream: StreamState) -> Verdict:
        """Keeps a description that is ahead of us, until ``arrived`` or ``nothing_more``."""
        waiting, self.ahead = self.ahead, None
        for revision, subjects in reversed(self.history):
            if revision == stream.last_seq:
                self.holds_more = subjects > stream.subjects
                return Verdict.SAME if subjects == stream.subjects else Verdict.OTHER
            if revision < stream.last_seq:
                break
        newest = self.history[-1][0] if self.history else -1
        if stream.last_seq > newest:
            # The older one comes first: where entries are late, none would ever be overtaken.
            self.ahead = waiting if waiting is not None and waiting.last_seq > newest else stream
        return Verdict.OPEN

    @property
    def is_overtaken(self) -> bool:
        """A description was ahead, and no longer is."""
        return self.ahead is not None and self.history[-1][0] >= self.ahead.last_seq

    def arrived(self) -> Verdict:
        """The verdict about a description that was overtaken."""
        assert self.ahead is not None
        return self.compare(self.ahead)

    def nothing_more(self, subjects: int) -> Verdict:
        """The same where all that there is has arrived: what was counted further is gone."""
        assert self.ahead is not None
        self.note(self.ahead.last_seq, subjects)
        return self.compare(self.ahead)
