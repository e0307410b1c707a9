"""Wall time as text, the clock, and ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aigw_core.clock import Clock, Ids, rfc3339

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def expected(wall_ms: int) -> str:
    return (EPOCH + timedelta(milliseconds=wall_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ms_of(*when: int) -> int:
    return int((datetime(*when, tzinfo=UTC) - EPOCH).total_seconds()) * 1000  # type: ignore[arg-type,misc]  # year to second


@settings(deadline=None)
@given(st.integers(0, LAST_MS))
@example(0)
@example(999)
@example(1000)
@example(LAST_MS)
def test_text_is_what_datetime_says(wall_ms: int) -> None:
    assert rfc3339(wall_ms) == expected(wall_ms)


@pytest.mark.parametrize("year", [1970, 1972, 1999, 2000, 2024, 2025, 2026, 2028, 2096, 2100, 2104, 2400])
def test_every_day_of_leap_and_common_years(year: int) -> None:
    first, last = ms_of(year, 1, 1), ms_of(year + 1, 1, 1)
    for day in range(first, last, 86_400_000):
        assert rfc3339(day) == expected(day)
        assert rfc3339(day - 1) == expected(day - 1)


def test_the_form() -> None:
    assert rfc3339(ms_of(2026, 1, 31, 9, 5, 0) + 42) == "2026-01-31T09:05:00.042Z"
    assert rfc3339(ms_of(2024, 2, 29, 23, 59, 59) + 999) == "2024-02-29T23:59:59.999Z"


@settings(deadline=None)
@given(st.lists(st.integers(0, 3_000), max_size=12), st.integers(0, 10**12))
def test_the_kept_second_is_the_right_one(offsets: list[int], start: int) -> None:
    """Instants close together, in any order."""
    clock = Clock(0.0, 0.0)
    for offset in offsets:
        assert clock.text(start + offset) == expected(start + offset)


def test_wall_time_follows_the_monotonic_clock() -> None:
    clock = Clock(100.0, 1_700_000_000.5)
    assert clock.wall_ms(100.0) == 1_700_000_000_500
    assert clock.wall_ms(101.25) == 1_700_000_001_750
    assert clock.text(clock.wall_ms(100.0)) == "2023-11-14T22:13:20.500Z"


@pytest.mark.parametrize(("wall", "jump"), [(60.0, 0.0), (63.5, 3.5), (0.0, -60.0)])
def test_a_jump_is_told_and_adopted(wall: float, jump: float) -> None:
    clock = Clock(0.0, 50.0)
    assert clock.set(10.0, wall) == pytest.approx(jump)
    assert clock.wall_ms(10.0) == round(wall * 1000)
    assert clock.set(20.0, wall + 10.0) == pytest.approx(0.0)


def test_wall_time_is_never_negative() -> None:
    assert Clock(1000.0, 0.0).wall_ms(0.0) == 0


def test_ids_have_three_parts() -> None:
    ids = Ids(bytes(range(16, 32)))
    assert ids.make(0x123456789ABC) == "123456789abc" + "1011121314" + "0000000001"
    assert ids.make(0x123456789ABC) == "123456789abc" + "1011121314" + "0000000002"


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=50), st.integers(0, 2**48 - 300))
def test_ids_sort_by_time_and_are_unique(steps: list[int], start: int) -> None:
    ids = Ids(b"\xff" * 5)
    made, at = [], start
    for step in steps:
        at += step
        made.append(ids.make(at))
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert {len(one) for one in made} <= {32}


def test_two_processes_make_different_ids() -> None:
    first, second = Ids(b"aaaaa"), Ids(b"aaaab")
    assert {first.make(7) for _ in range(100)}.isdisjoint(second.make(7) for _ in range(100))


def test_parts_stay_in_their_place() -> None:
    """Beyond its width a part wraps; it never pushes another one."""
    ids = Ids(b"\x00" * 5)
    assert ids.make(2**48) == "0" * 22 + "0000000001"
    ids._count = 2**40 - 2
    assert [ids.make(0)[22:] for _ in range(3)] == ["ffffffffff", "0000000000", "0000000001"]


@pytest.mark.parametrize(("entropy", "enough"), [(b"1234", False), (b"12345", True)])
def test_ids_need_entropy(entropy: bytes, enough: bool) -> None:
    if enough:
        assert len(Ids(entropy).make(0)) == 32
    else:
        with pytest.raises(ValueError, match="entropy"):
            Ids(entropy)
