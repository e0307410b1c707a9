"""A clock that all processes of a machine have in common."""

from __future__ import annotations

import time

import trio.abc


class MonotonicClock(trio.abc.Clock):
    """``time.monotonic``, as asyncio has it. Trio's own clock starts at a random value in each process."""

    def start_clock(self) -> None:
        return

    def current_time(self) -> float:
        return time.monotonic()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - time.monotonic()
