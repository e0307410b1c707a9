"""Wall time as text and request ids, from numbers that the driver hands in."""

from __future__ import annotations

_DAY = 86_400


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month, day of a day count since 1970-01-01 in the proleptic Gregorian calendar.

    Counts in 400-year eras that begin on March 1st, so that the leap day is the last of its year.
    """
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    return year_of_era + era * 400 + (month <= 2), month, day


def rfc3339(wall_ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 UTC with milliseconds, ``2026-01-31T09:05:00.042Z``."""
    seconds, ms = divmod(wall_ms, 1000)
    days, second_of_day = divmod(seconds, _DAY)
    year, month, day = _civil(days)
    hour, rest = divmod(second_of_day, 3600)
    minute, second = divmod(rest, 60)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}.{ms:03d}Z"


class Clock:
    """Turns the driver's monotonic seconds into wall time, and spots jumps.

    The driver reports both clocks about once a second; between reports wall time follows the monotonic one.
    """

    __slots__ = ("_cached_prefix", "_cached_second", "_offset_ms")

    def __init__(self, now: float, wall: float) -> None:
        self._offset_ms = (wall - now) * 1000.0
        self._cached_second = -1
        self._cached_prefix = ""

    def set(self, now: float, wall: float) -> float:
        """Adopt a new pair; returns how far the wall clock had jumped, in seconds."""
        offset_ms = (wall - now) * 1000.0
        jump = (offset_ms - self._offset_ms) / 1000.0
        self._offset_ms = offset_ms
        return jump

    def wall_ms(self, now: float) -> int:
        return max(0, int(now * 1000.0 + self._offset_ms))

    def text(self, wall_ms: int) -> str:
        """As :func:`rfc3339`; the text of the current second is kept."""
        second, ms = divmod(wall_ms, 1000)
        if second != self._cached_second:
            self._cached_prefix = rfc3339(wall_ms)[:19]
            self._cached_second = second
        return f"{self._cached_prefix}.{ms:03d}Z"


class Ids:
    """Unique, sortable ids: 48 bits of milliseconds, 40 of per-process entropy, 40 of a counter, in hex."""

    __slots__ = ("_count", "_entropy")

    def __init__(self, entropy: bytes) -> None:
        if len(entropy) < 5:
            raise ValueError("at least 5 bytes of entropy are needed")
        self._entropy = entropy[:5].hex()
        self._count = 0

    def make(self, wall_ms: int) -> str:
        self._count = (self._count + 1) & 0xFF_FFFF_FFFF
        return f"{wall_ms & 0xFFFF_FFFF_FFFF:012x}{self._entropy}{self._count:010x}"
