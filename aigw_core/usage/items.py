"""Stored items named in the `input` of a Responses request, found while the body passes.

A shared pool key resolves the ids that any tenant stored at the provider, so these ids are what the rule on
stored references looks for (OpenAI: API reference, Responses, `input` item types).
"""

from __future__ import annotations

import json
from typing import Final

from aigw_core.usage.grammar import chosen_keys, elements_without, skip_space
from aigw_core.usage.scanner import RootScanner

INPUT: Final = "input"
STORED_ITEM: Final = "stored item"
"""The name under which an item that refers to stored content is logged; no chosen key can be spelt so."""

_ITEM_KEYS: Final = frozenset({"id", "type", "role", "content", "encrypted_content", "result"})
_ITEM: Final = chosen_keys(_ITEM_KEYS, any_case=True)
_WITHOUT_ID: Final = elements_without("id")
_CARRIED_IN: Final[dict[str, tuple[str, ...]]] = {
    "reasoning": ("encrypted_content", "content"),
    "image_generation_call": ("result",),
}
"""Items that the provider completes from its store by their id, unless one of these members carries it."""

_OBJECT: Final = 0x7B
_ARRAY: Final = 0x5B
_ITEM_DEPTH: Final = 3  # root, input, item


class InputItemScanner(RootScanner):
    """A root scanner that also looks at each element of the root member ``input``.

    What refers to stored content is logged as STORED_ITEM, and so is an ``input`` that is an object, since
    no provider documents what it makes of one. ``log`` is always kept.
    """

    __slots__ = ("_ambiguous", "_inside", "_item", "_root_keys")

    def __init__(self, keys: frozenset[str], *, capture_max: int = 65_536) -> None:
        super().__init__(keys | {INPUT}, capture_max=capture_max, log=True, any_case=True)
        self._root_keys = self._chosen
        self._inside = False
        self._item: dict[str, bytes | None] = {}
        self._ambiguous = False  # the item repeats a member with another value

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
        return self._comma(pos) if data[pos] == 0x2C else self._close(data, pos)

    def _left(self) -> None:
        if self._floor == _ITEM_DEPTH:
            if ("id" in self._item and self._ambiguous) or _is_stored(self._item):
                self._note(self._base)
            self._level, self._floor = 1, 2
            self._chosen = self._root_keys
        else:
            self._inside = False
            self._floor = 1

    def _keep(self, name: str, raw: bytes | None, begin: int, end: int) -> None:
        if self._level == _ITEM_DEPTH:
            # Parsers differ in which of two values they take, so an id beside such a member is refused.
            self._ambiguous |= self._item.setdefault(name, raw) != raw
            self._item[name] = raw
        else:
            super()._keep(name, raw, begin, end)

    def _note(self, offset: int) -> None:
        assert self.log is not None
        self.log.append((STORED_ITEM, None, offset, offset))


def _is_stored(item: dict[str, bytes | None]) -> bool:
    """Whether an item of ``input`` stands for content that the provider stored; None: a value too long to keep."""
    stated = {name for name, raw in item.items() if raw != b"null"}
    if "id" not in stated:
        return False
    raw = item.get("type") or b""
    if not raw.startswith(b'"'):
        # `type` may be left out of a reference and of a message; a message has both of these.
        return not stated >= {"role", "content"}
    kind = json.loads(raw)
    if kind == "item_reference":
        return True
    carriers = _CARRIED_IN.get(kind)
    return carriers is not None and stated.isdisjoint(carriers)
