"""The words of the deny feed: its states and phases, every transition that is allowed, timers and effects.

This file knows no bytes and no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from aigw_core.denyset import DenyChange

POLL_SECS: Final = 2.5
"""Between two descriptions of the stream: what leaves no event is noticed within it."""
ANSWER_SECS: Final = 2.0
"""For the server to answer a request; with POLL_SECS under the ten seconds within which doubt must become a rescan."""
SILENCE_SECS: Final = 3.0
"""Without entry or heartbeat, which comes every second, the consumer counts as lost."""
AGREE_SECS: Final = 7.0
"""How long polls may stay without a verdict, because entries were in flight, before all is read again."""
AGAIN_SECS: Final = 0.1
"""Until a poll without a verdict, or with a bad one, is made again."""
ABSENT_SECS: Final = 2.5
"""Between looks for a bucket that does not exist: its first entries are found within the same bound as others."""
RETRY_FIRST_SECS: Final = 1.0
"""From the second rescan in a row on; the first is at once."""
RETRY_LONGEST_SECS: Final = 4.0
"""Between rescans on a connection that works: a short bound, since each may be the one that restores a caller."""
SETTLED_SECS: Final = 30.0
"""Of a live watch before the retries begin anew: less would let one that flaps be tried without pause."""
VERIFY_SECS: Final = 2.0
"""From a resume to the reading aside that proves it, and between attempts: a server that crashed may have brought
back entries that were removed or overwritten, in the place of those that we hold."""
RECONCILE_SECS: Final = 600.0
"""Between two further readings aside: they cost as much as a seed, and find nothing unless a rule has a hole."""


class FeedState(Enum):
    """What operators see."""

    COLD = "cold"
    """Never seeded, not connected."""
    SEEDING = "seeding"
    """Never seeded, reading."""
    LIVE = "live"
    RECONNECTING = "reconnecting"
    """The last good set is in force; it is not known to be current."""


class FeedPhase(IntEnum):
    """How far the watch has come on this connection."""

    OFF = 0
    """No connection, or one that was given up."""
    WAITING = 1
    """For the next try on this connection."""
    ASKING = 2
    """The stream is being described, before a consumer is made."""
    OPENING = 3
    """The consumer is being made; entries may come already."""
    READING = 4
    """Entries come; some are pending."""
    CHECKING = 5
    """Nothing is pending; the stream is being described again."""
    WATCHING = 6


_P = FeedPhase
PHASES: Final[dict[FeedPhase, frozenset[FeedPhase]]] = {
    _P.OFF: frozenset({_P.ASKING}),
    _P.WAITING: frozenset({_P.ASKING, _P.OFF}),
    _P.ASKING: frozenset({_P.OPENING, _P.WAITING, _P.ASKING, _P.OFF}),
    _P.OPENING: frozenset({_P.READING, _P.CHECKING, _P.WAITING, _P.ASKING, _P.OFF}),
    _P.READING: frozenset({_P.CHECKING, _P.WAITING, _P.ASKING, _P.OFF}),
    _P.CHECKING: frozenset({_P.WATCHING, _P.WAITING, _P.ASKING, _P.OFF}),
    _P.WATCHING: frozenset({_P.WAITING, _P.ASKING, _P.OFF}),
}
"""What may follow; anything else is an error of ours."""


@dataclass(frozen=True, slots=True)
class AskStream:
    """Describe the stream; answer with ``stream_state`` of the same ticket."""

    ticket: int


@dataclass(frozen=True, slots=True)
class OpenConsumer:
    """Make a consumer over all subjects that needs no acknowledgement; answer with ``consumer_opened``.

    It starts at the sequence ``start``, or, where that is None, with the last message of each subject; it sends
    heartbeats every second while idle, and ends by itself soon after nobody listens.
    """

    epoch: int
    start: int | None
    is_aside: bool = False
    """Beside one that is watched, which it must not delay: in no hurry."""


@dataclass(frozen=True, slots=True)
class AskConsumer:
    """Describe the consumer; answer with ``consumer_state``."""

    epoch: int


@dataclass(frozen=True, slots=True)
class CloseConsumer:
    """Listen no more and delete it; nothing is expected of it."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Close the connection and make another one after a back-off; then ``connected``."""

    reason: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The deny-set has changed: these entries, or, for None, all of it at once."""

    changes: tuple[DenyChange, ...] | None


@dataclass(frozen=True, slots=True)
class StateChanged:
    """Worth one line in the log."""

    before: FeedState
    after: FeedState
    reason: str


FeedEffect = AskStream | OpenConsumer | AskConsumer | CloseConsumer | Reconnect | Changed | StateChanged


@dataclass(frozen=True, slots=True)
class FeedTiming:
    """All in seconds."""

    poll: float = POLL_SECS
    answer: float = ANSWER_SECS
    silence: float = SILENCE_SECS
    agree: float = AGREE_SECS
    again: float = AGAIN_SECS
    absent: float = ABSENT_SECS
    retry_first: float = RETRY_FIRST_SECS
    retry_longest: float = RETRY_LONGEST_SECS
    settled: float = SETTLED_SECS
    verify: float = VERIFY_SECS
    reconcile: float | None = RECONCILE_SECS
    """None: never but after a resume."""


class FeedTimer(IntEnum):
    """What time can bring about; each has one deadline at most."""

    UNANSWERED = 0
    """The server owes a description of the stream, or a consumer."""
    UNDESCRIBED = 1
    """It owes a description of the consumer."""
    SILENT = 2
    """Nothing was heard of the consumer."""
    ASK = 3
    """The stream is to be described again."""
    RETRY = 4
    """The watch is to be begun again."""
    RECONCILE = 5


@dataclass(slots=True)
class FeedStats:
    """Counters since construction."""

    resumes: int = 0
    """Times that the watch went on from where it was."""
    rescans: int = 0
    """Times that all entries were read again, and taken over."""
    gaps: int = 0
    """Entries known to have been lost on the way, and doubts."""
    vanished: int = 0
    """Times that the bucket held another number of subjects than we did."""
    reconciles: int = 0
    differences: int = 0
    """Times that two in a row found another set: something vanished since the last poll, the server has lost or
    brought back entries in a crash, or there is a hole in the rules."""
    unknown: int = 0
    """Entries with an operation or marker that is not known; they deny."""
