"""Takes events out of a relayed event stream without touching any other byte."""

from __future__ import annotations

from typing import Final

HELD_MAX: Final = 64 * 1024
"""Bytes of an unfinished event held back: usage events have under 2 KiB, and a caller must not wait for
the rest of a longer event."""

_CR: Final = 0x0D


class EventStrip:
    """Holds back the bytes of the unfinished event, so that it can still be taken out when it ends.

    An event larger than HELD_MAX is never taken out.
    """

    __slots__ = ("_held", "_passing", "_swallow_lf")

    def __init__(self) -> None:
        self._held = bytearray()
        self._passing = False  # the unfinished event outgrew the limit and was let go
        self._swallow_lf = False  # a removed event ended in CR: a LF that follows is still its own

    def relay(self, data: bytes, removed: list[tuple[int, int]], open_at: int) -> bytes:
        """The bytes to relay now.

        `removed`: spans of events to take out, in order, as offsets into `data`; a start may be negative
        for bytes that are held. `open_at`: where in `data` the unfinished event begins, its length where
        there is none.
        """
        size = len(data)
        if open_at == size and not removed and not self._held and not self._swallow_lf:
            self._passing = False
            return data
        if not size:
            return b""
        if self._passing:
            if open_at == 0:
                return data
            self._passing = False
        held = self._held
        pieces: list[bytes] = []
        at = 0
        if self._swallow_lf:
            self._swallow_lf = False
            at = data.startswith(b"\n")
        for start, end in removed:
            # What is held begins with the unfinished event, so a negative start takes all of it.
            if start >= 0:
                pieces += bytes(held), data[at:start]
            held.clear()
            at = end
            self._swallow_lf = end == size and data[end - 1] == _CR
        if held and open_at == 0:
            held += data
        else:
            pieces += bytes(held), data[at:open_at]
            held.clear()
            held += data[open_at:]
        if len(held) > HELD_MAX:
            self._passing = True
            pieces.append(self.release())
        return b"".join(pieces)

    def release(self) -> bytes:
        """The bytes held back, which are held no longer."""
        held = bytes(self._held)
        self._held.clear()
        return held
