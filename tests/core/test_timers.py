"""Named timers against a plain dict of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core import timers
from aigw_core.timers import NEVER, Timer, Timers

TIMES = st.integers(0, 20).map(float)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(Timer), TIMES),
        st.tuples(st.just("clear"), st.sampled_from(Timer), TIMES),
        st.tuples(st.sampled_from(["due", "settle", "clear_all"]), st.sampled_from(Timer), TIMES),
    ),
    max_size=30,
)


def test_without_timers() -> None:
    timers = Timers()
    assert timers.deadline is None
    assert timers.wake_at == NEVER
    assert timers.due(1e18) is None
    assert not any(timers.is_set(timer) for timer in Timer)


def test_the_earliest_one_is_the_deadline() -> None:
    timers = Timers()
    timers.set(Timer.READ, 5.0)
    timers.set(Timer.CONNECT, 3.0)
    timers.set(Timer.LINGER, 4.0)
    assert timers.deadline == (3.0, Timer.CONNECT)
    assert timers.deadline == (3.0, Timer.CONNECT), "reading it changes nothing"
    assert timers.wake_at == 3.0


def test_a_timer_fires_at_its_time_and_once() -> None:
    timers = Timers()
    timers.set(Timer.READ, 5.0)
    assert timers.due(4.999) is None
    assert timers.due(5.0) is Timer.READ
    assert timers.due(5.0) is None
    assert not timers.is_set(Timer.READ)


def test_all_that_are_due_fire_the_earliest_first() -> None:
    timers = Timers()
    timers.set(Timer.CLIENT_HEAD, 3.0)
    timers.set(Timer.READ, 1.0)
    timers.set(Timer.STREAM_IDLE, 9.0)
    assert [timers.due(5.0), timers.due(5.0), timers.due(5.0)] == [Timer.READ, Timer.CLIENT_HEAD, None]


def test_a_later_deadline_wakes_once_too_early() -> None:
    """So that no chunk of a stream makes a driver re-arm."""
    timers = Timers()
    timers.set(Timer.STREAM_IDLE, 10.0)
    timers.set(Timer.STREAM_IDLE, 20.0)
    assert (timers.wake_at, timers.deadline) == (10.0, (20.0, Timer.STREAM_IDLE))
    timers.settle()
    assert timers.wake_at == 20.0
    timers.clear(Timer.STREAM_IDLE)
    assert timers.wake_at == 20.0
    timers.settle()
    assert timers.wake_at == NEVER


def test_an_earlier_deadline_is_woken_for() -> None:
    timers = Timers()
    timers.set(Timer.READ, 10.0)
    timers.set(Timer.CLIENT_WRITE, 5.0)
    assert timers.wake_at == 5.0


@settings(deadline=None)
@given(STEPS)
def test_against_a_dict(steps: list[tuple[str, Timer, float]]) -> None:
    timers, model = Timers(), dict[Timer, float]()
    for action, timer, at in steps:
        if action == "set":
            timers.set(timer, at)
            model[timer] = at
        elif action == "clear":
            timers.clear(timer)
            model.pop(timer, None)
        elif action == "clear_all":
            timers.clear_all()
            model.clear()
        elif action == "settle":
            timers.settle()
            assert timers.wake_at == min(model.values(), default=NEVER)
        else:
            fired = timers.due(at)
            ripe = {name for name, when in model.items() if when == min(model.values()) and when <= at}
            assert (fired in ripe) if ripe else (fired is None)
            if fired is not None:
                del model[fired]
        earliest = min(model.values(), default=None)
        deadline = timers.deadline
        assert (deadline and deadline[0]) == earliest
        assert deadline is None or model[deadline[1]] == deadline[0]
        assert timers.wake_at <= (NEVER if earliest is None else earliest), "a driver never sleeps too long"
        assert {name for name in Timer if timers.is_set(name)} == set(model)


def test_every_timer_stands_in_the_module_under_its_name() -> None:
    assert all(getattr(timers, timer.name) is timer for timer in Timer)
