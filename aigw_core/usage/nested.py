"""Members of the root and of some objects in it, found while a long document or event passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aigw_core.usage.grammar import chosen_keys, skip_space
from aigw_core.usage.scanner import REPEATS_MAX, RootScanner

_OBJECT: Final = 0x7B


class NestedScanner(RootScanner):
    """A root scanner that goes into the root members named in ``nested`` where they are objects.

    ``captured`` has of such a member an object of the members chosen in it, by the last occurrence; ``counts``
    has these under both names, as in ``response.usage``. Memory is bounded by ``capture_max`` for each of them.
    Raises ValueError for keys that are not plain names.
    """

    __slots__ = ("_inner", "_nested", "_outer", "_root_keys")

    def __init__(
        self, keys: frozenset[str], nested: Mapping[str, frozenset[str]], *, capture_max: int = 65_536, lenient: bool
    ) -> None:
        super().__init__(keys.union(nested), capture_max=capture_max, lenient=lenient)
        self._nested = {name: chosen_keys(members) for name, members in nested.items()}
        self._root_keys = self._chosen
        self._outer = ""
        self._inner: dict[str, bytes] = {}

    def _value(self, data: bytes, pos: int, end: int) -> int:
        if self._name in self._nested and len(self._stack) == 1:
            pos = skip_space(data, pos, end)
            if pos == end:
                return end
            if data[pos] == _OBJECT:
                self._outer, self._name = self._name, None
                self._inner = {}
                self._chosen = self._nested[self._outer]
                self._level = self._floor = 2
                self._stack.append(_OBJECT)
                self._step = RootScanner._first_key
                return pos + 1
        return super()._value(data, pos, end)

    def _left(self) -> None:
        name, members = self._outer, self._inner
        self._level = self._floor = 1
        self._chosen = self._root_keys
        self._inner = {}
        self._count(name)
        self.captured[name] = b"{%b}" % b",".join(b'"%b":%b' % (key.encode(), raw) for key, raw in members.items())
        self.truncated.discard(name)

    def _keep(self, name: str, raw: bytes | None, begin: int, end: int) -> None:
        if self._level == 1:
            super()._keep(name, raw, begin, end)
            return
        self._count(f"{self._outer}.{name}")
        if raw is None:
            self._inner.pop(name, None)
        else:
            self._inner[name] = raw

    def _count(self, name: str) -> None:
        count = self.counts[name] = self.counts.get(name, 0) + 1
        if count > REPEATS_MAX:
            self._broken()
