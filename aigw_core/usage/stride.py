"""Passes over a long run of JSON text in a few calls, however its values are nested (RFC 8259).

The scanner reads token by token where its expressions do not reach: microseconds for some ten bytes. Here one
expression finds the containers that a text closes and leaves open, and the decoder that is written in C checks the
text between them. A byte of the most awkward text then costs a few times what a byte of ordinary JSON costs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from aigw_core.usage.depth import skip_by_counting, without_escapes
from aigw_core.usage.grammar import ChosenKeys
from aigw_core.usage.jsontext import scan_with

NESTED_MAX: Final = 128
"""Levels of containers in one text that is passed over: as many as the strictest of the common parsers reads
(serde_json), and more than any client sends."""
OPENED_MAX: Final = 512
"""Containers that one text may leave open and still be passed over: each costs a step."""

STRIDE_MIN: Final = 64
"""Bytes worth passing over at once; fewer are read token by token as quickly."""
STRIDE_MAX: Final = 4_096
"""Bytes passed over at once: more of them hold so many values at a time that the collector and the caches notice."""
STRIDE_GROWTH: Final = 4
"""How many times the bytes that were passed last may be looked at next, so that text with many stops costs no more."""
SLOW_MAX: Final = 8
"""Steps of few bytes before the next ones are passed over at once: ordinary text has fewer in a row."""
FRUITLESS_REST: Final = 48
"""Further such steps before the next attempt where one brought little: it costs as much as they do."""

_PLAIN: Final = rb"[\x00-\x21\x23-\x5a\x5c\x5e-\x7a\x7c\x7e-\xff]*+"
_TEXT: Final = _PLAIN + rb"(?:\"[\x00-\x21\x23-\xff]*+\"" + _PLAIN + rb")*+"


def _balanced(depth: int, first: bytes, last: bytes) -> re.Pattern[bytes]:
    """Scalars, strings and whole containers, up to a bracket whose partner is missing.

    Containers begin with one of the ``first`` brackets and are nested at most ``depth`` deep; strings have no escaped
    quotes, so that a text can be read backwards, too.
    """
    pattern = first + _TEXT + last
    for _ in range(depth - 1):
        pattern = first + _TEXT + rb"(?:" + pattern + _TEXT + rb")*+" + last
    return re.compile(_TEXT + rb"(?:" + pattern + _TEXT + rb")*+")


_OPENING: Final = rb"[\[{]"
_CLOSING: Final = rb"[\]}]"
SHALLOW_MAX: Final = 16
"""Levels that are tried first: text with no more of them needs no second look at how deep it goes."""
_SHALLOW: Final = _balanced(SHALLOW_MAX, _CLOSING, _OPENING)
_DEEP: Final = _balanced(NESTED_MAX, _CLOSING, _OPENING)
_SHALLOW_FORWARD: Final = _balanced(SHALLOW_MAX, _OPENING, _CLOSING)
_UNFINISHED: Final = re.compile(_TEXT.replace(rb"\x21\x23-\x5a", rb"\x21\x23-\x2b\x2d-\x5a"))
"""Read backwards: what may be the beginning of a token, up to the last comma or bracket outside of strings."""
_COMMA: Final = 0x2C
_OBJECT: Final = 0x7B
_OPENERS: Final = b"[{"
_CLOSER_OF: Final = bytes.maketrans(b"[{", b"]}")
_BLANKS: Final = b" \t\n\r"


def _refuse(_: str) -> object:
    raise ValueError("NaN and Infinity are not JSON")


Scan = Callable[[str, int], tuple[object, int]]

# Numbers are not converted: that takes longer than reading them, and fails for very long ones. Nor are objects kept.
_scan_strict: Final = scan_with(
    json.JSONDecoder(parse_int=bool, parse_float=bool, parse_constant=_refuse, object_pairs_hook=bool)
)
_scan_lenient: Final = scan_with(json.JSONDecoder(parse_int=bool, parse_float=bool, object_pairs_hook=bool))
_scan_members: Final = scan_with(json.JSONDecoder(parse_int=bool, parse_float=bool))


@dataclass(slots=True)
class Stride:
    """How far a text was passed over, and what is open there."""

    size: int
    """Bytes passed. What follows is a comma or a closing bracket, or the inside of a container just opened."""
    opened: bytes
    """The opening brackets of the containers that are open, from the one whose members are chosen from on."""
    is_inside: bool
    """The last byte opened a container."""


class Pace:
    """When a reader should pass over text at once, and over how much of it."""

    __slots__ = ("_slow", "window")

    def __init__(self) -> None:
        self._slow = 0
        self.window = STRIDE_MAX
        """Bytes to look at next."""

    def is_slow(self, taken: int, left: int) -> bool:
        """Note a step that took so many bytes; whether the next ``left`` bytes are better passed over."""
        self._slow = self._slow + 1 if taken < STRIDE_MIN else min(self._slow, 0)
        return self._slow > SLOW_MAX and left >= STRIDE_MIN

    def passed(self, stride: Stride | None) -> None:
        """Note how much could be passed over."""
        size = 0 if stride is None else stride.size
        if size < STRIDE_MIN:
            self._slow = -FRUITLESS_REST
        self.window = min(STRIDE_MAX, STRIDE_GROWTH * max(size, STRIDE_MIN)) if size else STRIDE_MIN


class _BrokenText(ValueError):
    """The text continues no JSON document beyond ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__("no JSON")
        self.size = size


def stride(text: bytes, opened: bytes, kept: int, depth_left: int | None, chosen: ChosenKeys) -> Stride | None:
    """Pass over text that follows a complete value; None where nothing can be passed in this way.

    ``opened`` holds the opening brackets of the open containers, from the one whose members are chosen from on; the
    first ``kept`` of them are not left. ``depth_left`` is how many more levels of containers may follow inside the
    innermost one; None for a lenient reading, which knows no limit and takes NaN and Infinity. Stops before a chosen
    member, and before what is no JSON. The UTF-8 of strings is not looked at.
    """
    try:
        return _stride(text, opened, kept, depth_left, chosen)
    except _BrokenText as broken:
        text = text[: broken.size]
    try:
        return _stride(text, opened, kept, depth_left, chosen)
    except _BrokenText:
        return None


def _stride(text: bytes, opened: bytes, kept: int, depth_left: int | None, chosen: ChosenKeys) -> Stride | None:
    crossing = crossing_of(text, len(opened) - kept)
    if crossing is None:
        return None
    size, closed, opening, nested = crossing
    base = opened[len(opened) - closed - 1 :]
    inner = bytes([text[at] for at in opening])
    prefix = "".join(['{"":' if byte == _OBJECT else "[" for byte in base]) + "0"
    suffix = (base[:1] + inner)[::-1].translate(_CLOSER_OF).decode()
    passed = text[:size]
    if (
        depth_left is not None
        and nested + len(inner) > depth_left
        and _is_deeper(passed, len(base), len(inner), depth_left)
    ):
        return None
    scan = _scan_lenient if depth_left is None else _scan_strict
    if _decoded(scan, prefix, passed, suffix) is None:
        return None
    if len(base) == len(opened) and opened[0] == _OBJECT and chosen.may_occur(passed):
        at = _first_chosen(prefix, passed, suffix, chosen)
        if at is not None:
            size = len(passed[:at].rstrip(_BLANKS)) - 1
            return Stride(size, opened[:1], False) if size > 0 else None
    return Stride(size, opened[: len(opened) - closed] + inner, bool(opening) and opening[-1] == size - 1)


def crossing_of(text: bytes, closed_max: int) -> tuple[int, int, list[int], int] | None:
    """What a text closes and opens, up to its last comma or bracket outside of strings.

    (bytes up to there, containers closed, offsets of those opened and not closed, levels of whole containers at most)
    """
    plain = without_escapes(text)
    if plain.count(b'"') & 1:
        plain = plain[: plain.rfind(b'"')]
    backward = plain[::-1]
    length = len(plain)
    end = _matched(_UNFINISHED, backward, 0)
    if end == length:
        return None
    if backward[end] == _COMMA:
        end += 1
    at, opening = _opened(backward, end, _SHALLOW)
    nested, closed = SHALLOW_MAX, 0
    if at < length:
        # What is closed stands in front of what is opened, and ends here.
        front = plain[: length - at]
        begin = 0
        while (begin := _matched(_SHALLOW_FORWARD, front, begin)) < len(front) and front[begin] not in _OPENERS:
            closed += 1
            begin += 1
        if begin < len(front):
            nested = NESTED_MAX
            at, opening = _opened(backward, end, _DEEP)
            closed = _net(plain[: length - at], b"]}", b"[{")
    if len(opening) > OPENED_MAX or closed < 0:
        return None
    opening.reverse()
    size = length - end
    if closed > closed_max:
        # The container that is kept ends here: whoever reads its members sees to that.
        size, closed = skip_by_counting(plain, closed_max + 1)[0] - 1, closed_max
        opening.clear()
    return (size, closed, opening, nested) if size else None


def _opened(backward: bytes, at: int, balanced: re.Pattern[bytes]) -> tuple[int, list[int]]:
    """Where, read backwards, a text has no more brackets that it leaves open, and the offsets of those it does."""
    opening: list[int] = []
    while (at := _matched(balanced, backward, at)) < len(backward) and backward[at] in _OPENERS:
        opening.append(len(backward) - 1 - at)
        at += 1
        if len(opening) > OPENED_MAX:
            break
    return at, opening


def _net(plain: bytes, more: bytes, less: bytes) -> int:
    """How many more of some bytes than of others stand outside of strings."""
    bare = b"".join(plain.split(b'"')[::2])
    return len(bare) - len(bare.translate(None, more)) - (len(bare) - len(bare.translate(None, less)))


def _is_deeper(passed: bytes, closing: int, opening: int, depth_left: int) -> bool:
    """Whether a container in text that is checked elsewhere is nested too deep.

    ``closing`` containers are open before the text, and ``opening`` of it stay open after it.
    """
    if passed.count(b"[") + passed.count(b"{") <= depth_left:
        return False
    plain = without_escapes(passed)[::-1]
    outer = NESTED_MAX - depth_left - closing
    whole = b"]" * (outer + 1 + opening) + plain + b"[" * (outer + closing)
    return _matched(_DEEP, whole, 0) != len(whole)


def _matched(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None
    return match.end()


def _decoded(scan: Scan, prefix: str, text: bytes, suffix: str) -> object:
    """What the scan makes of the text; None where the decoder does not reach. Raises _BrokenText."""
    document = prefix + text.decode("latin-1") + suffix
    try:
        value, end = scan(document, 0)
    except RecursionError:
        return None
    except StopIteration as missing:
        raise _BrokenText(max(0, missing.value - len(prefix))) from None
    except json.JSONDecodeError as error:
        raise _BrokenText(max(0, error.pos - len(prefix))) from None
    except ValueError:
        raise _BrokenText(0) from None  # NaN, where it is not taken
    if end != len(document):
        raise _BrokenText(max(0, end - len(prefix)))
    return value


def _first_chosen(prefix: str, text: bytes, suffix: str, chosen: ChosenKeys) -> int | None:
    """The offset of the first chosen key that is a member of the outermost object, in a text that was decoded.

    Every place that looks like one gets a name of its own; the decoder then says which of them is a member.
    """
    parts = chosen.quoted.split(text)
    if len(parts) == 1:
        return None
    mark = b"\\u0001"
    while mark in text:
        mark += mark
    numbered = [b""] * (2 * len(parts) - 1)
    numbered[::2] = parts
    numbered[1::2] = [b'"%b%d"' % (mark, number) for number in range(len(parts) - 1)]
    members = _decoded(_scan_members, prefix, b"".join(numbered), suffix)
    assert isinstance(members, dict)
    start = "\x01" * (len(mark) // 6)
    number = next((int(name[len(start) :]) for name in members if name.startswith(start)), None)
    return None if number is None else next(islice(chosen.quoted.finditer(text), number, None)).start()
