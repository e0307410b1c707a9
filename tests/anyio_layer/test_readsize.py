"""Reads become smaller where bytes cost much, and large again where they do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aigw_anyio.readsize import LONG_SECS, READ_MAX, READ_MIN, SHORT_SECS, next_read_size


def test_quick_full_reads_double_up_to_the_most() -> None:
    size, sizes = READ_MIN, []
    for _ in range(4):
        size = next_read_size(size, size, 0.0)
        sizes.append(size)
    assert sizes == [2 * READ_MIN, READ_MAX, READ_MAX, READ_MAX]


def test_a_read_that_was_not_full_says_nothing_about_more() -> None:
    assert next_read_size(READ_MIN, READ_MIN - 1, 0.0) == READ_MIN


def test_neither_quick_nor_long_is_well() -> None:
    assert next_read_size(READ_MIN, READ_MIN, SHORT_SECS) == READ_MIN
    assert next_read_size(READ_MIN, READ_MIN, LONG_SECS) == READ_MIN


def test_a_long_read_shrinks_the_next_in_proportion() -> None:
    assert next_read_size(READ_MAX, READ_MAX, 2 * LONG_SECS) == READ_MAX // 2
    assert next_read_size(READ_MAX, READ_MIN, 2 * LONG_SECS) == READ_MIN
    assert next_read_size(READ_MAX, READ_MAX, 1e9) == READ_MIN


@given(st.floats(1_000_000, 1_000_000_000))
def test_a_steady_cost_settles_below_the_long_read(bytes_per_sec: float) -> None:
    size = READ_MAX
    for _ in range(20):
        size = next_read_size(size, size, size / bytes_per_sec)
    assert READ_MIN <= size <= READ_MAX
    assert size / bytes_per_sec <= max(LONG_SECS, READ_MIN / bytes_per_sec) * 1.001
    # Half of it, at least, unless it is the most.
    assert size == READ_MAX or size * 2 / bytes_per_sec >= SHORT_SECS
