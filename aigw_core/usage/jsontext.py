"""JSON decoding of provider bytes: what `json.loads` accepts in UTF-8, and no other error than ValueError."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from math import isfinite, isnan
from types import NoneType
from typing import Final

DEPTH_MAX: Final = 32
"""Levels of a usage object that a fact keeps: providers use four, and an encoder recurses over each."""

_BLANKS: Final = " \t\r\n"


def scan_with(decoder: json.JSONDecoder) -> Callable[[str, int], tuple[object, int]]:
    """What its ``raw_decode`` calls, without that call; it raises StopIteration where no value begins."""
    scan: Callable[[str, int], tuple[object, int]] = decoder.scan_once  # type: ignore[attr-defined]
    return scan


_scan: Final = scan_with(json.JSONDecoder())


class NestedTooDeepError(ValueError):
    """A JSON text is nested deeper than the interpreter recurses; it may be valid all the same."""


def decode_json(data: bytes) -> object:
    """The value of one JSON text in UTF-8, blanks around it allowed; the last of duplicate members wins.

    `NaN` and `Infinity` pass, as in the SDKs. Raises NestedTooDeepError, and ValueError for anything else: broken
    UTF-8, trailing text, an integer of more digits than the interpreter converts.
    """
    text = data.decode()
    try:
        value, end = _scan(text, 0)
    except RecursionError:
        raise NestedTooDeepError("nested too deep") from None
    except (StopIteration, ValueError):
        # Blanks before the value are rare, so they are looked for only now.
        trimmed = text.lstrip(_BLANKS)
        if len(trimmed) == len(text):
            raise ValueError("no JSON value") from None
        return decode_json(trimmed.encode())
    if end != len(text) and text[end:].strip(_BLANKS):
        raise ValueError("text after the JSON value")
    return value


_ESCAPED_LETTER = re.compile(rb"\\u00[67]")


def may_repeat(data: bytes | bytearray, quoted: bytes) -> bool:
    """Whether a member of that quoted name can occur twice: its escaped spelling needs an escaped ASCII letter."""
    return data.count(quoted) > 1 or (data.find(b"\\u00") >= 0 and _ESCAPED_LETTER.search(data) is not None)


def has_conflicting_members(data: bytes, name: str) -> bool:
    """Whether an object of this JSON text states the member `name` twice, with different values.

    False where the text cannot be decoded.
    """
    conflict = False

    def collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal conflict
        values = [value for member, value in pairs if member == name]
        if len(values) > 1 and any(value != values[-1] for value in values):
            conflict = True
        return dict(pairs)

    try:
        json.loads(data, object_pairs_hook=collect)
    except (ValueError, RecursionError):
        return False
    return conflict


def storable(members: dict[str, object]) -> dict[str, object]:
    """A decoded JSON object that every encoder takes: the same one where it is so already.

    Infinite numbers, which is also what those beyond a float decode to, saturate; NaN becomes None, and so
    does what is nested deeper than DEPTH_MAX levels.
    """
    if _is_plain(members) or _encodes(members.values(), DEPTH_MAX - 1):
        return members
    return {name: _storable(value, DEPTH_MAX - 1) for name, value in members.items()}


_COUNTER_KINDS: Final[frozenset[type]] = frozenset({int})
_PLAIN_KINDS: Final[frozenset[type]] = frozenset({int, str, NoneType, dict})


def _is_plain(members: dict[str, object]) -> bool:
    """Counters and texts, and objects of counters: what nearly every usage object is made of."""
    kinds = set(map(type, members.values()))
    if dict in kinds:
        for value in members.values():
            if type(value) is dict and not _COUNTER_KINDS.issuperset(map(type, value.values())):
                return False
    return kinds <= _PLAIN_KINDS


def _encodes(values: Iterable[object], depth: int) -> bool:
    for value in values:
        if isinstance(value, dict):
            if not depth or not _encodes(value.values(), depth - 1):
                return False
        elif isinstance(value, list):
            if not depth or not _encodes(value, depth - 1):
                return False
        elif isinstance(value, float) and not isfinite(value):
            return False
    return True


def _storable(value: object, depth: int) -> object:
    if isinstance(value, dict):
        return {name: _storable(member, depth - 1) for name, member in value.items()} if depth else None
    if isinstance(value, list):
        return [_storable(item, depth - 1) for item in value] if depth else None
    if isinstance(value, float) and not isfinite(value):
        if isnan(value):
            return None
        return sys.float_info.max if value > 0 else -sys.float_info.max
    return value
