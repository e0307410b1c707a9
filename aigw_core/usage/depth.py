"""Skips a JSON value that nobody reads by counting brackets outside of strings, however deep it is nested."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

_STEPS: Final = [{0x5B: 1, 0x7B: 1, 0x5D: -1, 0x7D: -1}.get(byte, 0) for byte in range(256)]
_OTHERS: Final = bytes(byte for byte in range(256) if not _STEPS[byte])


def without_escapes(text: bytes) -> bytes:
    """Text of the same length in which every quote begins or ends a string; it begins outside of one."""
    if b"\\" not in text:
        return text
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def skip_by_counting(text: bytes, depth: int) -> tuple[int, int]:
    """Bytes that belong to a value of which ``depth`` containers are open, and how many are open behind them.

    Behind 0 the value ends. The text begins outside of a string; a string that it cuts is left for the next one.
    """
    parts = without_escapes(text).split(b'"')
    size = len(text)
    if not len(parts) % 2:
        size -= len(parts.pop()) + 1
    brackets = b"".join(parts[::2]).translate(None, _OTHERS)
    opened = len(brackets.translate(None, b"]}"))
    closed = len(brackets) - opened
    if closed < depth:
        return size, depth + opened - closed
    at = 0
    for number, part in enumerate(parts):
        if not number % 2:
            depths = list(accumulate(map(_STEPS.__getitem__, part), initial=depth))
            if 0 in depths:
                return at + depths.index(0), 0
            depth = depths[-1]
        at += len(part) + 1
    return size, depth
