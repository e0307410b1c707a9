"""Waits double from half to all of first, stop at the longest, and begin anew only after a run that lasted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.backoff import Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff()
    assert [backoff.failed(0.0, 0.0) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]


@given(chance=st.floats(0.0, 1.0, exclude_max=True), failures=st.integers(0, 200))
def test_half_of_each_wait_is_left_to_chance(chance: float, failures: int) -> None:
    backoff = Backoff(first=1.0, longest=30.0)
    for _ in range(failures):
        backoff.failed(0.0, 0.5)
    whole = min(30.0, 2.0 ** min(failures, 10))
    assert whole / 2 <= backoff.failed(0.0, chance) <= whole


@pytest.mark.parametrize(("ran", "expected"), [(29.9, 2.0), (30.0, 0.5)], ids=["too short", "long enough"])
def test_only_a_run_that_lasted_begins_anew(ran: float, expected: float) -> None:
    backoff = Backoff()
    for _ in range(2):
        backoff.failed(0.0, 0.0)
    backoff.started(100.0)
    backoff.started(120.0)
    assert backoff.failed(100.0 + ran, 0.0) == expected


def test_a_flapping_run_never_begins_anew() -> None:
    backoff = Backoff()
    now, waits = 0.0, []
    for _ in range(8):
        backoff.started(now)
        now += 1.0
        waits.append(backoff.failed(now, 0.0))
        now += waits[-1]
    assert waits[-3:] == [15.0, 15.0, 15.0]
    assert backoff.failures == 8


@pytest.mark.parametrize("bad", [{"first": 0.0}, {"first": 31.0}, {"settled": -1.0}])
def test_senseless_numbers_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="needed"):
        Backoff(**bad)
