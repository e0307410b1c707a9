from __future__ import annotations

from aigw_anyio.workers.slot import Slot, SlotTiming

TIMING = SlotTiming(retry_first=0.5, retry_longest=8.0, settled=60.0, silence=30.0)


def deaths(slot: Slot, lives: list[float]) -> list[float]:
    """The waits after processes that lived so long, one after the other."""
    waits, now = [], 100.0
    for life in lives:
        slot.started(1, now)
        now += life
        waits.append(slot.died(now))
        assert slot.start_at == now + waits[-1]
        assert slot.pid is None
        now += waits[-1]
    return waits


def test_who_dies_again_and_again_waits_longer() -> None:
    assert deaths(Slot(TIMING), [1.0] * 7) == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_the_wait_is_bounded_for_ever() -> None:
    assert deaths(Slot(TIMING), [0.0] * 3000)[-1] == 8.0


def test_a_long_life_begins_anew() -> None:
    assert deaths(Slot(TIMING), [1.0, 1.0, 59.9, 60.0, 1.0]) == [0.5, 1.0, 2.0, 0.5, 1.0]


def test_only_who_was_ready_falls_silent() -> None:
    slot = Slot(TIMING)
    slot.started(1, 100.0)
    assert not slot.is_silent(1000.0)
    slot.is_ready = True
    slot.heard(200.0)
    assert not slot.is_silent(229.9)
    assert slot.is_silent(230.0)
    slot.heard(230.0)
    assert not slot.is_silent(231.0)


def test_progress_is_life_without_a_sign_of_it() -> None:
    slot = Slot(TIMING)
    slot.started(1, 100.0)
    slot.is_ready = True
    for now in (110.0, 139.0, 168.0):
        slot.saw_progress(now - 1.0, now)
        assert not slot.is_silent(now + 29.9)
    # The same number again is none.
    slot.saw_progress(167.0, 197.0)
    assert not slot.is_silent(197.9)
    assert slot.is_silent(198.0)


def test_the_next_process_is_heard_from_its_start_on() -> None:
    slot = Slot(TIMING)
    slot.started(1, 100.0)
    slot.is_ready = True
    slot.died(110.0)
    slot.started(2, 500.0)
    assert (slot.is_ready, slot.start_at, slot.pid) == (False, None, 2)
    slot.is_ready = True
    assert not slot.is_silent(529.0)


def test_nobody_follows_who_has_ended() -> None:
    slot = Slot(TIMING)
    slot.started(1, 100.0)
    slot.is_ready = True
    slot.ended()
    assert (slot.pid, slot.is_ready, slot.start_at) == (None, False, None)
