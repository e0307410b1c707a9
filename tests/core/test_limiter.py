"""The limiter against exact counts: never under them within a window, over them only as stated."""

import hashlib
import mmap
import struct
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.limiter import (
    COUNT_MAX,
    INDEX_OFFSET,
    ROW_COUNTERS,
    ROWS,
    WINDOWS,
    Aggregate,
    Limiter,
)

UNLIMITED = 2**40


def limiter() -> Limiter:
    return Limiter(bytearray(Limiter.buffer_size()))


def placed(*indices: int) -> bytes:
    """A fingerprint with these counters, one in each row."""
    return b"\xaa" * INDEX_OFFSET + struct.pack("<5H", *indices) + b"\xbb" * 6


ALICE = placed(1, 2, 3, 4, 5)
BOB = placed(60_001, 60_002, 60_003, 60_004, 65_535)


def passed(guard: Limiter, fingerprint: bytes, limit: int, window: int, tries: int) -> int:
    return sum(guard.allow(fingerprint, limit, window) for _ in range(tries))


# --- one credential ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_exactly_the_limit_passes_in_each_window(limit: int) -> None:
    guard = limiter()
    for window in (7, 8, 9, 10):
        assert [guard.allow(ALICE, limit, window) for _ in range(limit + 3)] == [True] * limit + [False] * 3


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_zero_is_off_and_counts_nothing(limit: int) -> None:
    guard = limiter()
    assert passed(guard, ALICE, limit, 7, 50) == 50
    assert [guard.allow_aggregate(Aggregate.BYO, limit, 7) for _ in range(3)] == [True] * 3
    assert guard.estimate(ALICE, 7) == 0
    assert guard.allow(ALICE, 1, 7) is True
    assert guard.allow_aggregate(Aggregate.BYO, 1, 7) is True


def test_refused_requests_are_not_counted() -> None:
    guard = limiter()
    assert passed(guard, ALICE, 3, 7, 100) == 3
    assert guard.estimate(ALICE, 7) == 3
    # A limit that was raised on reload finds what has passed, not what was tried.
    assert passed(guard, ALICE, 5, 7, 100) == 2


def test_credentials_without_a_common_counter_do_not_meet() -> None:
    guard = limiter()
    assert passed(guard, ALICE, 3, 7, 9) == 3
    assert passed(guard, BOB, 3, 7, 9) == 3


@pytest.mark.parametrize("row", range(ROWS))
def test_one_row_of_its_own_is_enough(row: int) -> None:
    indices = [1, 2, 3, 4, 5]
    indices[row] = 99
    guard = limiter()
    assert passed(guard, ALICE, 10, 7, 10) == 10
    assert guard.estimate(placed(*indices), 7) == 0
    assert passed(guard, placed(*indices), 10, 7, 20) == 10


def test_a_full_collision_shares_the_count() -> None:
    twin = b"\x00" * INDEX_OFFSET + ALICE[INDEX_OFFSET : INDEX_OFFSET + 10] + b"\x00" * 6
    guard = limiter()
    assert passed(guard, ALICE, 10, 7, 6) == 6
    assert passed(guard, twin, 10, 7, 10) == 4


@pytest.mark.parametrize("byte", range(32))
def test_only_bytes_16_to_26_choose_counters(byte: int) -> None:
    other = bytearray(ALICE)
    other[byte] ^= 0x80
    guard = limiter()
    guard.allow(ALICE, 9, 7)
    # One changed row is one row of its own, so the estimate falls to 0.
    assert guard.estimate(bytes(other), 7) == (0 if 16 <= byte < 26 else 1)


# --- windows -----------------------------------------------------------------------------------------------


def test_windows_count_apart_and_are_cleared_when_they_come_again() -> None:
    guard = limiter()
    for window, tries in ((10, 3), (11, 5)):
        passed(guard, ALICE, UNLIMITED, window, tries)
    assert [guard.estimate(ALICE, window) for window in (9, 10, 11, 12)] == [0, 3, 5, 0]
    guard.allow(ALICE, UNLIMITED, 12)
    assert [guard.estimate(ALICE, window) for window in (10, 11, 12, 13)] == [0, 5, 1, 0]


@pytest.mark.parametrize("pause", [1, 2, 3, 1000, 1001])
def test_nothing_survives_a_pause(pause: int) -> None:
    guard = limiter()
    passed(guard, ALICE, 3, 10, 5)
    guard.allow_aggregate(Aggregate.BYO, 1, 10)
    assert passed(guard, ALICE, 3, 10 + pause, 5) == 3
    assert guard.allow_aggregate(Aggregate.BYO, 1, 10 + pause) is True


def test_window_zero_counts() -> None:
    guard = limiter()
    assert passed(guard, ALICE, 3, 0, 5) == 3
    assert guard.estimate(ALICE, 0) == 3


def test_estimate_changes_nothing() -> None:
    guard = limiter()
    passed(guard, ALICE, 3, 10, 3)
    assert guard.estimate(ALICE, 12) == 0
    assert guard.estimate(ALICE, 10) == 3


# --- several processes on one buffer -----------------------------------------------------------------------


def test_two_limiters_share_a_buffer() -> None:
    buffer = bytearray(Limiter.buffer_size())
    first, second = Limiter(buffer), Limiter(buffer)
    assert passed(first, ALICE, 10, 7, 6) == 6
    assert passed(second, ALICE, 10, 7, 10) == 4
    assert first.estimate(ALICE, 7) == 10
    assert first.allow_aggregate(Aggregate.BYO, 1, 7) is True
    assert second.allow_aggregate(Aggregate.BYO, 1, 7) is False


def test_a_late_process_still_counts_in_the_second_before() -> None:
    buffer = bytearray(Limiter.buffer_size())
    late, early = Limiter(buffer), Limiter(buffer)
    assert passed(late, ALICE, 5, 7, 3) == 3
    assert passed(early, ALICE, 5, 8, 1) == 1
    assert passed(late, ALICE, 5, 7, 9) == 2
    assert early.estimate(ALICE, 8) == 1
    # The late one enters its window anew and must not take it for a stale one.
    assert passed(Limiter(buffer), ALICE, 5, 7, 9) == 0


@pytest.mark.parametrize("lead", [2, 60])
def test_a_later_process_counts_into_the_newer_window(lead: int) -> None:
    buffer = bytearray(Limiter.buffer_size())
    early = Limiter(buffer)
    passed(early, ALICE, UNLIMITED, 7 + lead, 3)
    assert passed(Limiter(buffer), ALICE, 5, 7, 9) == 2
    assert early.estimate(ALICE, 7 + lead) == 5


def test_a_buffer_from_another_clock_is_cleared() -> None:
    buffer = bytearray(Limiter.buffer_size())
    passed(Limiter(buffer), ALICE, UNLIMITED, 7 + 62, 3)
    guard = Limiter(buffer)
    assert passed(guard, ALICE, 2, 7, 9) == 2
    assert guard.estimate(ALICE, 7) == 2


# --- aggregates --------------------------------------------------------------------------------------------


def test_aggregates_are_exact_and_apart() -> None:
    guard = limiter()
    for window in (7, 8):
        assert [guard.allow_aggregate(Aggregate.BYO, 2, window) for _ in range(3)] == [True, True, False]
        assert [guard.allow_aggregate(Aggregate.UNVERIFIED, 1, window) for _ in range(2)] == [True, False]
    assert guard.estimate(ALICE, 8) == 0


def test_aggregates_and_credentials_do_not_meet() -> None:
    guard = limiter()
    corners = [placed(*[0] * ROWS), placed(*[ROW_COUNTERS - 1] * ROWS)]
    for window in (7, 8):
        for corner in corners:
            assert passed(guard, corner, 4, window, 9) == 4
        for aggregate in Aggregate:
            assert sum(guard.allow_aggregate(aggregate, 3, window) for _ in range(9)) == 3
    assert [guard.estimate(corner, window) for corner in corners for window in (7, 8)] == [4] * 4


# --- limits of the counters and of the buffer --------------------------------------------------------------


def full_buffer(count: int, window: int) -> bytearray:
    """All counters of both windows at one value, made by hand."""
    half = Limiter.buffer_size() // WINDOWS
    buffer = bytearray(struct.pack("=I", count) * (Limiter.buffer_size() // 4))
    for slot in range(WINDOWS):
        held = window if window % WINDOWS == slot else window - 1
        buffer[slot * half : slot * half + 8] = struct.pack("=Q", held)
    return buffer


def test_counters_saturate() -> None:
    guard = Limiter(full_buffer(COUNT_MAX - 1, 9))
    assert passed(guard, ALICE, UNLIMITED, 9, 4) == 4
    assert guard.estimate(ALICE, 9) == COUNT_MAX
    assert guard.estimate(BOB, 9) == COUNT_MAX - 1
    assert [guard.allow_aggregate(Aggregate.BYO, UNLIMITED, 9) for _ in range(3)] == [True] * 3
    assert guard.allow_aggregate(Aggregate.BYO, COUNT_MAX, 9) is False
    assert guard.allow_aggregate(Aggregate.UNVERIFIED, COUNT_MAX, 9) is True
    assert guard.allow(ALICE, COUNT_MAX, 9) is False
    assert guard.allow(BOB, COUNT_MAX, 9) is True


@pytest.mark.parametrize("window", [10, 11])
def test_a_stale_window_is_cleared_whole(window: int) -> None:
    buffer = full_buffer(COUNT_MAX, 9)
    guard = Limiter(buffer)
    guard.allow(ALICE, 1, window)
    half = Limiter.buffer_size() // WINDOWS
    start = (window % WINDOWS) * half
    words = struct.unpack_from(f"={half // 4}I", buffer, start)
    assert sum(words[2:]) == ROWS
    assert struct.unpack_from("=Q", buffer, start) == (window,)
    untouched = buffer[half - start : 2 * half - start]
    assert untouched[8:] == b"\xff" * (half - 8)


def test_buffer_size_is_stated() -> None:
    assert Limiter.buffer_size() == WINDOWS * (64 + ROWS * ROW_COUNTERS * 4)


def test_buffers_too_small_or_read_only_are_refused() -> None:
    size = Limiter.buffer_size()
    with pytest.raises(ValueError, match=f"writable buffer of {size} bytes"):
        Limiter(bytearray(size - 1))
    with pytest.raises(ValueError, match="writable"):
        Limiter(memoryview(bytes(size)))


def test_a_refused_buffer_is_let_go() -> None:
    buffer = bytearray(10)
    with pytest.raises(ValueError, match="writable") as refused:
        Limiter(buffer)
    # The traceback still holds the frame that looked at it.
    assert refused.value.__traceback__ is not None
    buffer.append(0)


def test_a_larger_buffer_is_used_only_as_far_as_stated() -> None:
    size = Limiter.buffer_size()
    buffer = bytearray(size + 4096)
    guard = Limiter(memoryview(buffer))
    guard.allow(placed(*[65_535] * ROWS), 1, 7)
    assert any(buffer[:size])
    assert not any(buffer[size:])


def test_release_lets_shared_memory_be_closed() -> None:
    shared = mmap.mmap(-1, Limiter.buffer_size())
    guard = Limiter(memoryview(shared))
    guard.allow(ALICE, 1, 7)
    with pytest.raises(BufferError):
        shared.close()
    guard.release()
    shared.close()
    assert shared.closed


# --- against exact counts ----------------------------------------------------------------------------------

# Few counters, so that nearly every fingerprint collides in some rows; the ends of a row are among them.
crowded = st.tuples(*[st.sampled_from([0, 1, 2, ROW_COUNTERS - 1])] * ROWS)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(crowded, st.integers(1, 4), st.integers(0, 12), st.booleans()), max_size=60))
def test_never_under_and_at_most_the_fullest_row_over(
    steps: "list[tuple[tuple[int, ...], int, int, bool]]",
) -> None:
    guard = limiter()
    window = 100
    exact: Counter[tuple[int, ...]] = Counter()
    for indices, tries, limit, next_window in steps:
        if next_window:
            window += 1
            exact.clear()
        for _ in range(tries):
            before = exact[indices]
            estimated = guard.estimate(placed(*indices), window)
            allowed = guard.allow(placed(*indices), limit, window)
            if limit:
                assert allowed is (estimated < limit)
                exact[indices] += allowed
                # Never under: a limit is never exceeded.
                assert not (allowed and before >= limit)
            else:
                assert allowed is True
    for indices, count in exact.items():
        # What a plain count-min sketch would say, computed from the exact counts.
        plain = min(sum(other for place, other in exact.items() if place[row] == indices[row]) for row in range(ROWS))
        assert count <= guard.estimate(placed(*indices), window) <= plain


def test_over_count_is_as_rare_as_stated() -> None:
    """20,000 credentials with one request each: the bound says (20,000 / 65,536)^5 = 0.26 % at most."""
    guard = limiter()
    callers = [hashlib.blake2b(b"%d" % n, digest_size=32, key=b"seed").digest() for n in range(20_000)]
    for caller in callers:
        assert guard.allow(caller, UNLIMITED, 7) is True
    estimates = [guard.estimate(caller, 7) for caller in callers]
    assert min(estimates) == 1
    over = sum(estimate > 1 for estimate in estimates)
    assert over <= len(callers) * (len(callers) / ROW_COUNTERS) ** 5
    assert sum(estimate > 2 for estimate in estimates) <= len(callers) * (len(callers) / ROW_COUNTERS / 2) ** 5
