"""One place among the workers, and when the next process takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aigw_core.backoff import WHOLE, Backoff

RETRY_FIRST_SECS: Final = 0.5
"""Until the place of one that has died is taken: most have died of something that does not come again at once."""
RETRY_LONGEST_SECS: Final = 30.0
"""Between starts that fail again and again: seldom enough to cost nothing, often enough not to wait for an operator."""
SETTLED_SECS: Final = 60.0
"""Of running, after which a death is not counted together with those before it."""
SILENCE_SECS: Final = 30.0
"""With neither a sign of life nor progress from a worker that was ready: it hangs. One whose loop is late with its
signs of life, since a turn of it serves very many connections, makes progress with each of them."""


@dataclass(frozen=True, slots=True)
class SlotTiming:
    retry_first: float = RETRY_FIRST_SECS
    retry_longest: float = RETRY_LONGEST_SECS
    settled: float = SETTLED_SECS
    silence: float = SILENCE_SECS


class Slot:
    """Who runs in this place, since when, and from when on it may be filled again. Times are monotonic seconds."""

    __slots__ = ("_backoff", "_heard_at", "_progress", "_silence", "is_ready", "pid", "start_at")

    def __init__(self, timing: SlotTiming | None = None) -> None:
        self.pid: int | None = None
        self.is_ready = False
        self.start_at: float | None = None
        """When the next process is due; None where none is."""
        timing = timing or SlotTiming()
        self._silence = timing.silence
        self._backoff = Backoff(first=timing.retry_first, longest=timing.retry_longest, settled=timing.settled)
        self._heard_at = 0.0
        self._progress = 0.0

    def started(self, pid: int, now: float) -> None:
        self.pid, self.start_at, self.is_ready = pid, None, False
        self._backoff.started(now)
        self._heard_at = now

    def heard(self, now: float) -> None:
        """A sign of life."""
        self._heard_at = now

    def saw_progress(self, progress: float, now: float) -> None:
        """``progress``: a number that has changed where something was served since the last look."""
        if progress != self._progress:
            self._progress = progress
            self._heard_at = now

    def is_silent(self, now: float) -> bool:
        """Whether it was ready and has, for too long, neither given a sign of life nor made progress."""
        return self.is_ready and now - self._heard_at >= self._silence

    def died(self, now: float) -> float:
        """Returns the seconds until the next process takes the place."""
        wait = self._backoff.failed(now, WHOLE)
        self.pid, self.is_ready, self.start_at = None, False, now + wait
        return wait

    def ended(self) -> None:
        """It has ended as it was asked to; nobody follows."""
        self.pid, self.is_ready, self.start_at = None, False, None
