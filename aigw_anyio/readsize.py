"""How much a connection reads at a time, so that no turn of the event loop is long whatever its bytes are.

What bytes cost depends on what they say: base64 is read at hundreds of megabytes a second, narrow nested JSON at two.
All connections of a process take turns, so the size follows from the time that the last read has taken.
"""

from __future__ import annotations

from typing import Final

READ_MAX: Final = 16_384
"""Bytes of the first reads of a connection, and the most: nearly every JSON request and answer fits, and a body that
becomes costly where it was cheap has no large read under way."""
READ_MIN: Final = 4_096
"""The least: below it the turns themselves are what costs. Smaller reads are not timed."""
LONG_SECS: Final = 0.004
"""A read that takes longer makes the next ones smaller in proportion."""
SHORT_SECS: Final = 0.001
"""One that was as large as allowed, and takes less, makes the next ones twice as large."""


def next_read_size(size: int, taken: int, secs: float) -> int:
    """The size after a read of ``taken`` of ``size`` bytes that took ``secs`` to be carried out."""
    if secs > LONG_SECS:
        return max(READ_MIN, min(size, int(taken * LONG_SECS / secs)))
    if taken >= size and secs < SHORT_SECS:
        return min(READ_MAX, 2 * size)
    return size
