"""Stored items named in the `input` of a Responses request, found while the body passes.

A shared pool key resolves the ids that any tenant stored at the provider, so these ids are what the rule on
stored references looks for (OpenAI: API reference, Responses, `input` item types).
"""

from __future__ import annotations

import json
from typing import Final

from aigw_core.usage.grammar import chosen_keys, elements_without, skip_space
from aigw_core.usage.jsontext import scan_with
from aigw_core.usage.scanner import DEPTH_MAX, RootScanner
from aigw_core.usage.stride import STRIDE_MAX, STRIDE_MIN, crossing_of, stride

INPUT: Final = "input"
STORED_ITEM: Final = "stored item"
"""The name under which an item that refers to stored content is logged; no chosen key can be spelt so."""

_ITEM_KEYS: Final = frozenset({"id", "type", "role", "content", "encrypted_content", "result"})
_ITEM: Final = chosen_keys(_ITEM_KEYS, any_case=True)
_ID: Final = chosen_keys(frozenset({"id"}), any_case=True)
_WITHOUT_ID: Final = elements_without("id")
_CARRIED_IN: Final[dict[str, tuple[str, ...]]] = {
    "reasoning": ("encrypted_content", "content"),
    "image_generation_call": ("result",),
}
"""Items that the provider completes from its store by their id, unless one of these members carries it."""

# Objects become tuples of their members, so that a repeated member is seen; numbers are not converted.
_scan_members: Final = scan_with(json.JSONDecoder(object_pairs_hook=tuple, parse_int=bool, parse_float=bool))
_BLANKS: Final = b" \t\n\r"

_OBJECT: Final = 0x7B
_ARRAY: Final = 0x5B
_COMMA: Final = 0x2C
_OPEN_INPUT: Final = b"["
_INPUT_DEPTH: Final = 2  # root, input
_ITEM_DEPTH: Final = 3  # root, input, item


class InputItemScanner(RootScanner):
    """A root scanner that also looks at each element of the root member ``input``.

    What refers to stored content is logged as STORED_ITEM, and so is an ``input`` that is an object, since
    no provider documents what it makes of one. ``log`` is always kept.
    """

    __slots__ = ("_ambiguous", "_inside", "_item", "_item_misspelt", "_root_keys")

    def __init__(self, keys: frozenset[str], *, capture_max: int = 65_536) -> None:
        super().__init__(keys | {INPUT}, capture_max=capture_max, log=True, any_case=True)
        self._root_keys = self._chosen
        self._inside = False
        self._item: dict[str, bytes | None] = {}
        self._ambiguous = False  # the item repeats a member
        self._item_misspelt: str | None = None  # a member that the item spells in another case

    def _value(self, data: bytes, pos: int, end: int) -> int:
        if data[pos] <= 0x20:
            pos = skip_space(data, pos, end)
            if pos == end:
                return end
        byte = data[pos]
        depth = len(self._stack)
        if depth == 1 and self._name == INPUT:
            self._name = None
            if byte == _OBJECT:
                self._note(self._base + pos)
            elif byte == _ARRAY:
                self._inside = True
                self._floor = 2
                return self._enter(_ARRAY, pos)
        elif depth == 2 and self._inside and byte == _OBJECT:
            self._item = {}
            self._ambiguous = False
            self._item_misspelt = None
            self._level = self._floor = _ITEM_DEPTH
            self._chosen = _ITEM
            return self._enter(_OBJECT, pos)
        return super()._value(data, pos, end)

    def _enter(self, opener: int, pos: int) -> int:
        self._stack.append(opener)
        if opener == _ARRAY:
            self._step = RootScanner._first_value
        else:
            self._step = RootScanner._first_key
        return pos + 1

    def _after(self, data: bytes, pos: int, end: int) -> int:
        if not self._inside or len(self._stack) != 2:
            return super()._after(data, pos, end)
        run = _WITHOUT_ID.match(data, pos, end)
        assert run is not None
        pos = run.end()
        if pos == end:
            return end
        if data[pos] != _COMMA:
            return self._close(data, pos)
        # An item longer than what is looked at costs more than the look.
        if end - pos >= STRIDE_MIN and (size := self._stride_items(data[pos : min(end, pos + STRIDE_MAX)])):
            return pos + size
        return self._comma(pos)

    def _stride_items(self, text: bytes) -> int:
        """Bytes of whole items at the beginning of this text, which are judged at once."""
        size = _size_of_items(text)
        passed = stride(text[:size], _OPEN_INPUT, 1, DEPTH_MAX - _INPUT_DEPTH, self._chosen) if size else None
        if passed is None or passed.opened != _OPEN_INPUT:
            return 0
        size = passed.size
        if _ID.quoted.search(text, 0, size) is not None:
            items, _ = _scan_members(f"[0{text[:size].decode()}]", 0)
            assert isinstance(items, list)
            for item in items:
                if type(item) is tuple:
                    self._judge(item)
        return size

    def _judge(self, item: tuple[tuple[str, object], ...]) -> None:
        members = dict(item)
        if "id" not in members:
            if "id" in map(str.casefold, members):
                self.misspelt = "id"
            return
        if not _ITEM_KEYS.issuperset(members):
            for name in members.keys() - _ITEM_KEYS:
                # Of the names here it finds what the expressions find: the Kelvin sign and the long s count as letters.
                folded = name.casefold()
                if folded in _ITEM_KEYS:
                    self.misspelt = folded
        if members["id"] is not None:
            stated = {name for name, value in members.items() if value is not None}
            if _refers(stated, members.get("type")):
                self._note(self._base)
        if len(item) > len(members) and _repeats(item):
            self._note(self._base)

    def _choose(self, text: bytes, pos: int) -> None:
        before = self.misspelt
        super()._choose(text, pos)
        name = self.misspelt
        if name is not before and self._level == _ITEM_DEPTH and name != "id":
            # It matters beside an id only.
            self._item_misspelt, self.misspelt = name, before

    def _left(self) -> None:
        if self._floor == _ITEM_DEPTH:
            if "id" in self._item:
                self.misspelt = self._item_misspelt or self.misspelt
                if self._ambiguous or _is_stored(self._item):
                    self._note(self._base)
            self._level, self._floor = 1, 2
            self._chosen = self._root_keys
        else:
            self._inside = False
            self._floor = 1

    def _keep(self, name: str, raw: bytes | None, begin: int, end: int) -> None:
        if self._level == _ITEM_DEPTH:
            # Parsers differ in which of two values they take, so an id beside such a member is refused.
            self._ambiguous |= name in self._item
            self._item[name] = raw
        else:
            super()._keep(name, raw, begin, end)

    def _note(self, offset: int) -> None:
        assert self.log is not None
        self.log.append((STORED_ITEM, None, offset, offset))


def _size_of_items(text: bytes) -> int:
    """Bytes, from a comma on, up to an item that the text does not complete, or to the end of the array."""
    crossed = crossing_of(text, 0)
    if crossed is None:
        return 0
    size, _, opening, _ = crossed
    if not opening:
        return size
    before = text[: opening[0]].rstrip(_BLANKS)
    return len(before) - 1 if before.endswith(b",") else 0


def _repeats(item: tuple[tuple[str, object], ...]) -> bool:
    names = [name for name, _ in item if name in _ITEM_KEYS]
    return len(set(names)) < len(names)


def _is_stored(item: dict[str, bytes | None]) -> bool:
    """Whether an item of ``input`` stands for content that the provider stored; None: a value too long to keep."""
    raw = item.get("type") or b""
    kind: object = json.loads(raw) if raw.startswith(b'"') else None
    return _refers({name for name, raw in item.items() if raw != b"null"}, kind)


def _refers(stated: set[str], kind: object) -> bool:
    """The same by the names of the members that are not null and the value of ``type``."""
    if "id" not in stated:
        return False
    if not isinstance(kind, str):
        # `type` may be left out of a reference and of a message; a message has both of these.
        return not stated >= {"role", "content"}
    if kind == "item_reference":
        return True
    carriers = _CARRIED_IN.get(kind)
    return carriers is not None and stated.isdisjoint(carriers)
