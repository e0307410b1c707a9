"""The rate guard: a count-min sketch of two rotating one-second windows over a buffer it is given.

Count-min sketch: Cormode and Muthukrishnan 2005; conservative update: Estan and Varghese 2002.
"""

import struct
from enum import IntEnum
from typing import Final, Literal

ROWS: Final = 5
ROW_COUNTERS: Final = 65_536
WINDOWS: Final = 2
# Bytes 16 to 26 of a fingerprint choose the counters, two bytes for each row. The others are left to those
# who bucket by fingerprint elsewhere, so that their collisions and ours are independent.
INDEX_OFFSET: Final = 16
# Counters are u32 and stay at the largest value.
COUNT_MAX: Final = 2**32 - 1
# How many windows a buffer may be ahead of a caller who is merely late. Farther ahead it was written under
# another clock, and waiting for it would refuse or pass everyone for as long as the clocks differ.
LEAD_MAX: Final = 60

_COUNTER_SIZE: Final = 4
# One cache line in front of each window: its index as u64, then the aggregates' counters.
_HEADER_SIZE: Final = 64
_AGGREGATES_OFFSET: Final = 8
_ROW_SIZE: Final = ROW_COUNTERS * _COUNTER_SIZE
_WINDOW_SIZE: Final = _HEADER_SIZE + ROWS * _ROW_SIZE
_BUFFER_SIZE: Final = WINDOWS * _WINDOW_SIZE
_ZEROS: Final = bytes(_WINDOW_SIZE - _AGGREGATES_OFFSET)
_row_indices: Final = struct.Struct(f"<{ROWS}H").unpack_from


class Aggregate(IntEnum):
    """What is limited as a whole, by one exact counter each."""

    BYO = 0
    UNVERIFIED = 1


class Limiter:
    """Counts the requests of each credential, and of each aggregate, in windows of one second.

    `window` is `int(now)` of a monotonic clock in seconds, one clock for all who share the buffer: in Python
    `time.monotonic()`, but not trio's clock, which starts at a random value in each process. `fingerprint`
    is the 32-byte keyed hash of the raw credential (`keys.fingerprint`, one seed for all who share the
    buffer), so nobody can choose whom to collide with.

    A refused request is not counted: a limit of n lets n requests of each window pass, and who hammers on
    after that neither prolongs the refusal nor fills the counters that others share.

    What else has a keyed hash of 32 bytes is counted in the same way, such as the address that requests come from.

    Error bound, for one process: with N requests of other credentials counted in the window, the estimate
    for a credential is never below its true count, never more than N above it, and m or more above it with
    a probability of at most (N / (65,536 m))^5, since each of the five rows must collide by itself (Markov's
    inequality, row by row): at 10,000 requests a second fewer than 1 in 10,000 credentials are counted one
    too high. Conservative update (only the smallest of the five counters are raised) stays below this bound.

    Several processes may work on one buffer in shared memory without a lock. Two that raise a counter in the
    same instant may lose one count, and one that is suspended in between sets it back to what it had read.
    Two that enter a window in the same instant may both clear it and lose what was counted during the
    clearing, some tens of microseconds a second. All of it lets requests too many pass and refuses nobody.
    Measured: two processes of 7,000 requests a second each, all of one credential, lose 0.2 % of the counts. Two
    that do nothing else, a million times a second on busy cores, may let 1.6 times the limit pass, since the one
    that is suspended in the instant sets back most of a window.
    The window of the second before is not touched by the clearing, so a process that has read its clock just
    before the change still counts exactly.

    `buffer` has at least `buffer_size()` bytes, is writable, and zero-filled by whoever made it. Raises
    ValueError otherwise, as far as it can be seen.
    """

    __slots__ = (
        "_aggregate_views",
        "_aggregates",
        "_bytes",
        "_heads",
        "_row_views",
        "_rows",
        "_views",
        "_window",
    )

    def __init__(self, buffer: bytearray | memoryview) -> None:
        view = memoryview(buffer).cast("B")
        if view.readonly or len(view) < _BUFFER_SIZE:
            view.release()
            raise ValueError(f"a limiter needs a writable buffer of {_BUFFER_SIZE} bytes")
        self._bytes = view
        self._views: list[memoryview] = [view]
        self._heads: list[memoryview] = []
        self._aggregate_views: list[memoryview] = []
        self._row_views: list[tuple[memoryview, ...]] = []
        for start in range(0, _BUFFER_SIZE, _WINDOW_SIZE):
            self._heads.append(self._cast("Q", start, _AGGREGATES_OFFSET))
            self._aggregate_views.append(
                self._cast("I", start + _AGGREGATES_OFFSET, len(Aggregate) * _COUNTER_SIZE),
            )
            first = start + _HEADER_SIZE
            rows = range(first, first + ROWS * _ROW_SIZE, _ROW_SIZE)
            self._row_views.append(tuple(self._cast("I", row, _ROW_SIZE) for row in rows))
        self._window = -1
        self._rows = self._row_views[0]
        self._aggregates = self._aggregate_views[0]

    @staticmethod
    def buffer_size() -> int:
        """The bytes that a limiter works on: about 2.6 MB."""
        return _BUFFER_SIZE

    def release(self) -> None:
        """Let go of the buffer, so that shared memory can be closed. The limiter is unusable afterwards."""
        for view in self._views:
            view.release()

    def allow(self, fingerprint: bytes, limit: int, window: int) -> bool:
        """Whether one more request of this credential passes in this window; counts it if it does.

        `limit` is in requests a second, 0 is off (passes and does not count).
        """
        if limit <= 0:
            return True
        if window != self._window:
            self._enter(window)
        i0, i1, i2, i3, i4 = _row_indices(fingerprint, INDEX_OFFSET)
        r0, r1, r2, r3, r4 = self._rows
        least = c0 = r0[i0]
        c1 = r1[i1]
        if c1 < least:
            least = c1
        c2 = r2[i2]
        if c2 < least:
            least = c2
        c3 = r3[i3]
        if c3 < least:
            least = c3
        c4 = r4[i4]
        if c4 < least:
            least = c4
        if least >= limit:
            return False
        if least == COUNT_MAX:
            return True
        raised = least + 1
        if c0 == least:
            r0[i0] = raised
        if c1 == least:
            r1[i1] = raised
        if c2 == least:
            r2[i2] = raised
        if c3 == least:
            r3[i3] = raised
        if c4 == least:
            r4[i4] = raised
        return True

    def allow_aggregate(self, aggregate: Aggregate, limit: int, window: int) -> bool:
        """Whether one more request of this aggregate passes in this window; counts it if it does.

        `limit` is in requests a second, 0 is off (passes and does not count).
        """
        if limit <= 0:
            return True
        if window != self._window:
            self._enter(window)
        counters = self._aggregates
        count = counters[aggregate]
        if count >= limit:
            return False
        if count < COUNT_MAX:
            counters[aggregate] = count + 1
        return True

    def room(self, aggregate: Aggregate, limit: int, window: int) -> int:
        """How many more requests of this aggregate its limit leaves in this window; below 1 where it is used up."""
        if window != self._window:
            self._enter(window)
        return limit - self._aggregates[aggregate]

    def estimate(self, fingerprint: bytes, window: int) -> int:
        """The counted requests of this credential in this window, or a little more; 0 once it has passed."""
        slot = window % WINDOWS
        if self._heads[slot][0] != window:
            return 0
        indices = _row_indices(fingerprint, INDEX_OFFSET)
        counts: list[int] = [row[index] for row, index in zip(self._row_views[slot], indices, strict=True)]
        return min(counts)

    def _enter(self, window: int) -> None:
        slot = window % WINDOWS
        head = self._heads[slot]
        lead = head[0] - window
        # A small lead means that we are late, and a newer window is in use by others: we count into that one
        # rather than clear what they have counted.
        if lead < 0 or lead > LEAD_MAX:
            start = slot * _WINDOW_SIZE
            self._bytes[start + _AGGREGATES_OFFSET : start + _WINDOW_SIZE] = _ZEROS
            # Last, so that nobody counts into a window that is not clear yet.
            head[0] = window
        self._window = window
        self._rows = self._row_views[slot]
        self._aggregates = self._aggregate_views[slot]

    def _cast(self, code: Literal["I", "Q"], start: int, size: int) -> memoryview:
        part = self._bytes[start : start + size]
        view = part.cast(code)
        self._views += (part, view)
        return view
