"""Incremental scan of one JSON document (RFC 8259) in constant memory.

The scanner checks the whole grammar and keeps only the raw text of chosen root members, so a body of any
length can be read while it is relayed. Expressions consume whole runs of members and elements; the states
below take over where a piece cuts a token, where values are nested deeper than an expression reaches, and
where a chosen member stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from aigw_core.usage.capture import Capture
from aigw_core.usage.depth import skip_by_counting
from aigw_core.usage.grammar import (
    BEGUN_ESCAPE,
    ELEMENTS,
    KEY,
    LENIENT,
    MEMBERS,
    OPENERS,
    RUN_DEPTH,
    SPACE,
    STRICT,
    STRING,
    TEXT,
    VALUE,
    chosen_keys,
    resumed_escape,
    skip_space,
)
from aigw_core.usage.stride import NESTED_MAX, Pace, stride
from aigw_core.usage.utf8 import Utf8Check

DEPTH_MAX: Final = NESTED_MAX
"""Open containers in a request: as deep as the strictest of the common parsers reads, so that every whole container is
passed over in one look."""
REPEATS_MAX: Final = 16
"""Occurrences of one chosen member: each costs a look at the text behind it, and no client repeats one on purpose."""
SLICE: Final = 65_536
"""Bytes that one expression sees: bounds what a cut value costs in second looks, and the matcher's memory."""

_OBJECT: Final = 0x7B
_ARRAY: Final = 0x5B
_BOM: Final = b"\xef\xbb\xbf"
_BETWEEN: Final = b": \t\n\r"

Occurrence = tuple[str, bytes | None, int, int]
"""Name, raw text of the value (None: longer than is kept), and the absolute offsets of its span."""


class RootScanner:
    """Incremental scan of one JSON document whose root is an object; keeps chosen root members.

    ``keys`` are plain ASCII names; a key matches however it is escaped. ``lenient`` is for what providers
    send: a byte order mark, ``NaN`` and ``Infinity`` pass, UTF-8 is not checked, and what is nested deeper than
    DEPTH_MAX is counted instead of checked. ``any_case`` is for readers who do not know whether the next one minds
    the case of a key: see ``misspelt``.
    Memory is bounded by ``capture_max`` for each chosen member plus one byte for each open container.

    The outcome does not depend on how the document is split into pieces. Once ``failed``, nothing more is
    read; members that were complete before stay. Raises ValueError for keys that are not plain names.
    """

    __slots__ = (
        "_base",
        "_capture",
        "_chosen",
        "_counted",
        "_escape",
        "_floor",
        "_in_key",
        "_key_text",
        "_lenient",
        "_level",
        "_name",
        "_pace",
        "_partial",
        "_runs_to",
        "_scalars",
        "_stack",
        "_step",
        "_utf8",
        "_value_at",
        "captured",
        "close_offset",
        "closed",
        "counts",
        "empty_root",
        "failed",
        "log",
        "misspelt",
        "spans",
        "truncated",
    )

    def __init__(
        self,
        keys: frozenset[str],
        *,
        capture_max: int = 65_536,
        lenient: bool = False,
        log: bool = False,
        any_case: bool = False,
    ) -> None:
        self.captured: dict[str, bytes] = {}
        """Raw JSON text of the last occurrence of each chosen root member."""
        self.counts: dict[str, int] = {}
        """Occurrences of each chosen member at the root."""
        self.spans: dict[str, tuple[int, int]] = {}
        """Absolute byte offsets of the last occurrence's value, end exclusive."""
        self.truncated: set[str] = set()
        """Chosen members whose last value exceeds ``capture_max``; ``captured`` has none then."""
        self.closed = False
        """The root object was closed, and nothing but whitespace followed so far."""
        self.close_offset: int | None = None
        """Absolute offset of the root's closing brace."""
        self.empty_root = True
        """The root object has no member so far."""
        self.failed = False
        """Not one JSON object: another root, a broken token, bytes after the root, bad UTF-8, too deep."""
        self.log: list[Occurrence] | None = [] if log else None
        """Every complete occurrence of a chosen member in document order, for the owner to drain."""
        self.misspelt: str | None = None
        """With ``any_case``: a chosen name of which a member differs in case alone. Such a member is no chosen one."""
        self._lenient = lenient
        self._runs_to = DEPTH_MAX - RUN_DEPTH - 1  # nearer to the limit each container is looked at by itself
        self._scalars = LENIENT if lenient else STRICT
        self._chosen = chosen_keys(keys, any_case=any_case)
        self._stack = bytearray()
        # A plain function: a bound method would tie the scanner into a reference cycle.
        self._step: Callable[[RootScanner, bytes, int, int], int] = type(self)._start
        self._base = 0
        self._utf8 = Utf8Check()
        self._escape = self._partial = b""
        self._in_key = False
        self._key_text: bytes | None = None
        self._name: str | None = None
        self._value_at = -1
        self._capture = Capture(capture_max)
        self._level = 1  # the depth of the object whose members are chosen from
        self._floor = 1  # runs that take several closing brackets stay above this depth
        self._pace = Pace()
        self._counted = 0  # containers that are open in a value which is skipped by counting

    @property
    def open_member(self) -> tuple[str, int] | None:
        """Name and absolute offset of the chosen member whose value has begun and is not complete."""
        return (self._name, self._value_at) if self._name is not None and self._value_at >= 0 else None

    @property
    def offset(self) -> int:
        """Bytes fed so far."""
        return self._base

    def feed(self, data: bytes) -> None:
        """Scan the next piece; never raises for its content."""
        if self.failed or not data:
            return
        size = len(data)
        valid = size if self._lenient else self._utf8.valid(data)
        pos = stop = 0
        while stop < valid and not self.failed:
            stop = min(stop + SLICE, valid)
            while pos < stop and not self.failed:
                pos = self._step(self, data, pos, stop)
        if valid < size:
            self._broken()
        if self._value_at >= 0:
            self._capture.take(data, valid)
        self._base += size

    def finish(self) -> None:
        """The document is over; ``failed`` unless its root was closed."""
        if not self.closed:
            self._broken()

    def _broken(self, end: int = 0) -> int:
        self.failed = True
        self.closed = False
        self.close_offset = None
        return end

    # States. Each is called with at least one byte, consumes what it can up to ``end``, chooses the next
    # state and returns the new position.

    def _start(self, data: bytes, pos: int, end: int) -> int:
        if self._lenient:
            at = self._base + pos
            if at < len(_BOM) and len(self._partial) == at and data[pos] == _BOM[at]:
                self._partial += data[pos : pos + 1]
                return pos + 1
            if self._partial not in (b"", _BOM):
                return self._broken(end)
        pos = skip_space(data, pos, end) if data[pos] <= 0x20 else pos
        if pos == end:
            return end
        if data[pos] != _OBJECT:
            return self._broken(end)
        self._partial = b""
        self._stack.append(_OBJECT)
        self._step = type(self)._first_key
        return pos + 1

    def _first_key(self, data: bytes, pos: int, end: int) -> int:
        pos = skip_space(data, pos, end) if data[pos] <= 0x20 else pos
        if pos == end:
            return end
        if data[pos] == 0x7D:
            return self._close(data, pos)
        return self._key(data, pos, end)

    def _key(self, data: bytes, pos: int, end: int) -> int:
        pos = skip_space(data, pos, end) if data[pos] <= 0x20 else pos
        if pos == end:
            return end
        if data[pos] != 0x22:
            return self._broken(end)
        depth = len(self._stack)
        if depth == 1:
            self.empty_root = False
        key = KEY.match(data, pos, end)
        if key is not None:
            if depth == self._level:
                self._choose(data, pos)
            self._step = type(self)._value
            return key.end()
        self._in_key = True
        self._key_text = b'"' if depth == self._level else None
        self._step = type(self)._string
        return pos + 1

    def _choose(self, text: bytes, pos: int) -> None:
        key = self._chosen.key.match(text, pos)
        name = None if key is None else key.lastgroup
        if key is not None and self._chosen.any_case and json.loads(key.group()) != name:
            self.misspelt, name = name, None
        self._name = name

    def _string(self, data: bytes, pos: int, end: int) -> int:
        """Inside a string, after its opening quote."""
        begin = pos
        if self._escape:
            pos, escape = resumed_escape(self._escape, data, pos, end)
            if escape is None:
                return self._broken(end)
            self._escape = escape
            if escape:
                self._keep_key_text(data, begin, end)
                return end
        run = TEXT.match(data, pos, end)
        assert run is not None
        stop = run.end()
        if stop == end:
            self._keep_key_text(data, begin, end)
            return end
        if data[stop] == 0x22:
            self._keep_key_text(data, begin, stop + 1)
            return self._string_end(data, stop + 1)
        cut = BEGUN_ESCAPE.fullmatch(data, stop, end)
        if cut is None:
            return self._broken(end)
        self._escape = cut.group()
        self._keep_key_text(data, begin, end)
        return end

    def _keep_key_text(self, data: bytes, begin: int, end: int) -> None:
        if self._key_text is not None:
            self._key_text += data[begin : min(end, begin + self._chosen.spelling_max)]
            if len(self._key_text) > self._chosen.spelling_max:
                self._key_text = None

    def _string_end(self, data: bytes, pos: int) -> int:
        if self._counted:
            self._step = type(self)._skip_deep
            return pos
        if not self._in_key:
            return self._value_end(data, pos)
        self._in_key = False
        if len(self._stack) == self._level:
            self._name = None
            if self._key_text is not None:
                self._choose(self._key_text, 0)
                self._key_text = None
        self._step = type(self)._colon
        return pos

    def _colon(self, data: bytes, pos: int, end: int) -> int:
        pos = skip_space(data, pos, end) if data[pos] <= 0x20 else pos
        if pos == end:
            return end
        if data[pos] != 0x3A:
            return self._broken(end)
        self._step = type(self)._value
        return pos + 1

    def _first_value(self, data: bytes, pos: int, end: int) -> int:
        """Just inside an array."""
        pos = skip_space(data, pos, end) if data[pos] <= 0x20 else pos
        if pos == end:
            return end
        if data[pos] == 0x5D:
            return self._close(data, pos)
        return self._value(data, pos, end)

    def _value(self, data: bytes, pos: int, end: int) -> int:
        pos = skip_space(data, pos, end) if data[pos] <= 0x20 else pos
        if pos == end:
            return end
        if self._name is not None and len(self._stack) == self._level:
            self._value_at = self._base + pos
            self._capture.begin(pos)
        value = VALUE.match(data, pos, end) if len(self._stack) <= self._runs_to else None
        if value is not None:
            return self._value_end(data, value.end())
        byte = data[pos]
        if byte == 0x22:
            self._step = type(self)._string
            return pos + 1
        if byte in (_OBJECT, _ARRAY):
            return self._open(data, pos, end)
        return self._scalar(data, pos, end)

    def _open(self, data: bytes, pos: int, end: int) -> int:
        run = OPENERS.match(data, pos, end)
        if run is None:  # an object whose first key is cut, or one that is empty or broken
            self._stack.append(_OBJECT)
            self._step = type(self)._first_key
            stop = pos + 1
        else:
            self._push(run.group())
            self._step = type(self)._first_value if self._stack[-1] == _ARRAY else type(self)._value
            stop = run.end()
        return self._too_deep(stop, end) if len(self._stack) > DEPTH_MAX else stop

    def _too_deep(self, pos: int, end: int) -> int:
        """The innermost container is nested too deep to be checked: broken, or skipped by counting."""
        if not self._lenient:
            return self._broken(end)
        stack = self._stack
        self._counted = len(stack) - self._level
        del stack[self._level :]
        self._step = type(self)._skip_deep
        return pos

    def _skip_deep(self, data: bytes, pos: int, end: int) -> int:
        """Inside a value that is skipped, and outside of its strings."""
        size, self._counted = skip_by_counting(data[pos:end], self._counted)
        pos += size
        if not self._counted:
            return self._value_end(data, pos)
        if pos < end:
            self._step = type(self)._string
            pos += 1
        return pos

    def _push(self, opened: bytes) -> None:
        """Note the containers that a run of opening brackets and keys opens."""
        if b'"' in opened:
            opened = STRING.sub(b"", opened)
        self._stack += opened.translate(None, _BETWEEN)

    def _scalar(self, data: bytes, pos: int, end: int) -> int:
        """A number or literal; its first bytes may have come with an earlier piece."""
        at, held = self._scalars.read(self._partial, data, pos, end)
        if at < 0:
            return self._broken(end)
        self._partial = held or b""
        if held is None:
            return self._value_end(data, at)
        self._step = type(self)._scalar
        return end

    def _value_end(self, data: bytes, pos: int) -> int:
        self._step = type(self)._after
        if self._value_at >= 0 and len(self._stack) == self._level:
            self._member_end(data, pos)
        return pos

    def _after(self, data: bytes, pos: int, end: int) -> int:
        """After a value: whole members and elements in one run, then a comma or closing brackets."""
        stack = self._stack
        depth = len(stack)
        if depth == self._level:
            skip = self._chosen.others
        elif depth > self._runs_to:
            skip = SPACE
        else:
            skip = MEMBERS if stack[-1] == _OBJECT else ELEMENTS
        run = skip.match(data, pos, end)
        assert run is not None
        taken = run.end() - pos
        pos = run.end()
        if pos == end:
            return end
        if self._pace.is_slow(taken, end - pos) and depth >= self._level:
            further = self._stride(data, pos, end)
            if further > pos:
                return further
        return self._comma(pos) if data[pos] == 0x2C else self._close(data, pos)

    def _stride(self, data: bytes, pos: int, end: int) -> int:
        """As far as unchosen members and what they hold go, in a few steps; ``pos`` where that does not apply."""
        stack, level = self._stack, self._level
        # Of what ends in the value of a chosen member, or in a container of which each element is looked at, there is
        # more to do.
        kept = self._floor - level + 2 if self._value_at >= 0 or self._floor > level else 1
        left = None if self._lenient else DEPTH_MAX - len(stack)
        text = data[pos : min(end, pos + self._pace.window)]
        passed = stride(text, bytes(stack[level - 1 :]), kept, left, self._chosen)
        self._pace.passed(passed)
        if passed is None:
            return pos
        stack[level - 1 :] = passed.opened
        if passed.is_inside:
            self._step = type(self)._first_key if stack[-1] == _OBJECT else type(self)._first_value
        return pos + passed.size

    def _comma(self, pos: int) -> int:
        self._step = type(self)._key if self._stack[-1] == _OBJECT else type(self)._value
        return pos + 1

    def _close(self, data: bytes, pos: int) -> int:
        """One closing bracket, near the floor where what it completes matters; any other byte is broken."""
        if data[pos] != self._stack.pop() + 2:  # "{" and "}", "[" and "]" are two apart
            return self._broken(len(data))
        if not self._stack:
            self.closed = True
            self.close_offset = self._base + pos
            self._step = type(self)._end
            return pos + 1
        if len(self._stack) < self._floor:
            self._left()
        return self._value_end(data, pos + 1)

    def _left(self) -> None:
        """The container at the floor was closed; never the root."""

    def _end(self, data: bytes, pos: int, end: int) -> int:
        return end if skip_space(data, pos, end) == end else self._broken(end)

    def _member_end(self, data: bytes, pos: int) -> None:
        name, begin = self._name, self._value_at
        assert name is not None
        self._name, self._value_at = None, -1
        self._keep(name, self._capture.end(data, pos), begin, self._base + pos)

    def _keep(self, name: str, raw: bytes | None, begin: int, end: int) -> None:
        self.spans[name] = (begin, end)
        count = self.counts[name] = self.counts.get(name, 0) + 1
        if raw is None:
            self.captured.pop(name, None)
            self.truncated.add(name)
        else:
            self.captured[name] = raw
            self.truncated.discard(name)
        if count > REPEATS_MAX:
            self._broken()
        elif self.log is not None:
            self.log.append((name, raw, begin, end))
