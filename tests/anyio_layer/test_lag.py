from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aigw_anyio.sinks.lag import MARKS_MAX, STEP_SECS, Lag


def test_nothing_waits() -> None:
    lag = Lag()
    assert lag.since is None
    lag.note(5, 5, 1.0)
    assert lag.since is None


def test_an_outage_is_measured_from_its_start_and_through_its_backlog() -> None:
    lag = Lag()
    for second in range(1, 31):
        lag.note(10 * second, 0, float(second))
    assert lag.since == 1.0
    lag.note(300, 100, 31.0)
    assert lag.since == 11.0
    lag.note(300, 101, 32.0)
    assert lag.since == 11.0
    lag.note(300, 299, 33.0)
    assert lag.since == 30.0
    lag.note(300, 300, 34.0)
    assert lag.since is None


def test_who_keeps_up_is_never_far_behind() -> None:
    lag = Lag()
    for second in range(1, 1_000):
        lag.note(10 * second, 10 * second - 1, float(second))
        assert lag.since == float(second)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.floats(0.1, 60.0)), max_size=300))
def test_it_never_says_more_than_the_truth(steps: list[tuple[int, int, float]]) -> None:
    """The oldest waiting record is at least as old as is said, and the memory is bounded."""
    lag, written, acked, now = Lag(), 0, 0, 0.0
    seen_at: dict[int, float] = {}
    for more, answered, passed in steps:
        now += passed
        for sequence in range(written + 1, written + more + 1):
            seen_at[sequence] = now
        written += more
        acked = min(written, acked + answered)
        lag.note(written, acked, now)
        assert (lag.since is None) == (written == acked)
        if lag.since is not None:
            assert lag.since >= seen_at[acked + 1]


def test_a_long_outage_takes_little_memory_and_stays_exact_at_its_start() -> None:
    lag = Lag()
    for second in range(1, 100_000):
        lag.note(second, 0, float(second))
    assert lag.since == 1.0
    lag.note(100_000, 50_000, 100_000.0)
    assert lag.since is not None
    assert abs(lag.since - 50_000.0) <= 100_000 * 4 / MARKS_MAX + STEP_SECS
