"""How long the oldest record that waits for the stream has been waiting."""

from __future__ import annotations

from collections import deque
from typing import Final

MARKS_MAX: Final = 64
"""Marks kept. When there are more every second one goes, so an outage of any length is told to within some percent."""
STEP_SECS: Final = 1.0
"""Between two marks while nothing is far behind."""


class Lag:
    """Remembers when records were there, by their sequence: a mark now and then, not one for each."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()
        self._step = STEP_SECS

    def note(self, written: int, acked: int, now: float) -> None:
        """The sequences of the last written and of the last acknowledged record at this time, monotonic seconds."""
        marks = self._marks
        while marks and marks[0][0] <= acked:
            marks.popleft()
        if not marks:
            self._step = STEP_SECS
            if written > acked:
                marks.append((written, now))
        elif written > marks[-1][0] and now - marks[-1][1] >= self._step:
            marks.append((written, now))
            if len(marks) > MARKS_MAX:
                self._marks = deque(list(marks)[::2])
                self._step *= 2

    @property
    def since(self) -> float | None:
        """When the oldest record that waits was there at the latest; None where none waits."""
        return self._marks[0][1] if self._marks else None
