"""Keeps the raw text of one value at a time while it passes in pieces."""

from __future__ import annotations


class Capture:
    """The text of a value, up to a limit, out of the pieces that it comes in."""

    __slots__ = ("_begin", "_limit", "_part")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._begin = 0
        self._part: bytearray | None = None

    def begin(self, at: int) -> None:
        """The value begins at this offset of the current piece."""
        self._begin = at

    def take(self, piece: bytes, end: int) -> None:
        """The piece is over up to ``end``, and the value goes on; one byte over the limit says that it is too long."""
        part = self._part
        if part is None:
            part = self._part = bytearray()
        begin, self._begin = self._begin, 0
        part += piece[begin : min(end, begin + self._limit + 1 - len(part))]

    def end(self, piece: bytes, at: int) -> bytes | None:
        """The value ends at this offset of the current piece; its text, or None where it is longer than the limit."""
        if self._part is None:
            raw = piece[self._begin : min(at, self._begin + self._limit + 1)]
        else:
            self.take(piece, at)
            raw = bytes(self._part)
            self._part = None
        return raw if len(raw) <= self._limit else None
