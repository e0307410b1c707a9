"""How long to wait before trying again. Time and chance are arguments."""

from __future__ import annotations

from typing import Final

FIRST_SECS: Final = 1.0
"""The longest wait after the first failure."""
LONGEST_SECS: Final = 30.0
"""The longest wait of all: a server that is back is found within it."""
SETTLED_SECS: Final = 30.0
"""What was tried must have run for so long before the waits begin anew. A success that is soon over is a failure
in disguise: were it to count, a flapping peer would be tried once a second for days."""


WHOLE: Final = 1.0
"""The chance of who is alone with what it tries: nobody else comes at the same time."""


class Backoff:
    """Doubling waits with jitter: after failure ``n`` between half and the whole of ``first * 2**n``, up to a limit.

    Half of each wait is left to chance, so that the clients of a server that comes back do not come all at once.
    """

    __slots__ = ("_failures", "_first", "_longest", "_settled", "_started_at")

    def __init__(
        self, *, first: float = FIRST_SECS, longest: float = LONGEST_SECS, settled: float = SETTLED_SECS
    ) -> None:
        """All in seconds. Raises ValueError unless 0 < first <= longest and settled >= 0."""
        if not 0 < first <= longest or settled < 0:
            raise ValueError("0 < first <= longest and settled >= 0 are needed")
        self._first = first
        self._longest = longest
        self._settled = settled
        self._failures = 0
        self._started_at: float | None = None

    @property
    def failures(self) -> int:
        """Failures since what was tried last ran for long enough."""
        return self._failures

    def started(self, now: float) -> None:
        """What is tried runs from now on. A second call without a failure in between changes nothing."""
        if self._started_at is None:
            self._started_at = now

    def stopped(self, now: float) -> None:
        """It has stopped for a reason that is none of its own."""
        if self._started_at is not None and now - self._started_at >= self._settled:
            self._failures = 0
        self._started_at = None

    def failed(self, now: float, chance: float) -> float:
        """It has failed: the seconds to wait. ``chance`` is in [0, 1), or WHOLE."""
        self.stopped(now)
        # An exponent beyond what the limit can show would only overflow, after years of failures.
        longest = min(self._longest, self._first * 2.0 ** min(self._failures, 64))
        self._failures += 1
        return longest * (0.5 + 0.5 * chance)
