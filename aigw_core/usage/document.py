"""One JSON answer: decoded whole while it is short, scanned at its root where it is long."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aigw_core.usage.jsontext import NestedTooDeepError, decode_json, has_conflicting_members, may_repeat
from aigw_core.usage.nested import NestedScanner
from aigw_core.usage.scanner import RootScanner
from aigw_core.usage.utf8 import Utf8Check

DOCUMENT_MAX: Final = 8 * 1024
"""Bytes collected to be decoded at once. Longer texts are scanned as they come, which costs no more and shows the
driver from the first piece on how much of them it may read at a time."""

_NONE_NESTED: Final[Mapping[str, frozenset[str]]] = MappingProxyType({})


class JSONDocument:
    """Takes a JSON text in any split and gives the wanted root members, whatever stands around them.

    Up to DOCUMENT_MAX bytes every member is given, beyond it only `members`, and of those named in `nested`
    only the members named there; what is too long or nested too deep to be kept is True.
    """

    __slots__ = (
        "_body",
        "_members",
        "_nested",
        "_read_size",
        "_scanner",
        "_sound",
        "_utf8",
        "closed",
        "root",
        "size",
    )

    def __init__(self, members: frozenset[str], nested: Mapping[str, frozenset[str]] = _NONE_NESTED) -> None:
        self.size = 0
        self.closed = False
        """As of the last read(): the text is one whole JSON object."""
        self.root: dict[str, object] = {}
        """As of the last read(): root members; those that were complete where the text is not."""
        self._members = members
        self._nested = nested
        self._body: bytes | bytearray = b""  # plain bytes as long as one piece came: the usual case
        self._scanner: RootScanner | None = None
        self._utf8: Utf8Check | None = None
        self._sound = True  # no broken UTF-8 so far, of a long text
        self._read_size = -1

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        if self._scanner is not None:
            self._scan(self._scanner, data)
            return
        if not self._body:
            self._body = data
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        if self.size > DOCUMENT_MAX:
            self._scanner = _new_scanner(self._members, self._nested)
            self._utf8 = Utf8Check()
            collected, self._body = bytes(self._body), b""
            self._scan(self._scanner, collected)

    def read(self) -> bool:
        """Bring `root` and `closed` up to date; False, at no cost, where nothing was fed since."""
        if self._read_size == self.size:
            return False
        self._read_size = self.size
        if self._scanner is not None:
            self._take(self._scanner, sound=self._sound)
        else:
            self._read_whole()
        return True

    def states_twice(self, name: str) -> bool:
        """Whether the member `name` is stated again with another value; a long text counts repetitions."""
        if self._scanner is not None:
            return _repeats(self._scanner, name)
        return states_twice(bytes(self._body), name)

    def _scan(self, scanner: RootScanner, data: bytes) -> None:
        # The scanner is lenient about NaN, which clients take, and so about UTF-8, which they do not.
        if self._utf8 is not None and self._sound:
            self._sound = self._utf8.valid(data) == len(data)
        scanner.feed(data)

    def _read_whole(self) -> None:
        data = bytes(self._body)
        try:
            root = decode_json(data)
        except ValueError as error:
            scanner = _new_scanner(self._members, self._nested)
            scanner.feed(data)
            # A text that is closed and still no JSON is broken; one that was cut gives what it has.
            self._take(scanner, sound=not scanner.closed or isinstance(error, NestedTooDeepError))
            return
        self.closed = isinstance(root, dict)
        self.root = root if isinstance(root, dict) else {}

    def _take(self, scanner: RootScanner, *, sound: bool) -> None:
        self.closed = scanner.closed and sound
        self.root = {}
        if scanner.failed or not sound:
            return
        self.root.update(dict.fromkeys(scanner.truncated, True))
        for name, text in scanner.captured.items():
            try:
                self.root[name] = decode_json(text)
            except NestedTooDeepError:
                self.root[name] = True
            except ValueError:
                self.closed = False


def states_twice(data: bytes, name: str) -> bool:
    """Whether an object of a short, valid JSON text states the member `name` twice, with different values.

    The last one counts, as in every JSON reader that providers use; the other one is worth a flag.
    """
    return may_repeat(data, b'"%b"' % name.encode()) and has_conflicting_members(data, name)


def _new_scanner(members: frozenset[str], nested: Mapping[str, frozenset[str]]) -> RootScanner:
    return NestedScanner(members, nested, lenient=True) if nested else RootScanner(members, lenient=True)


def _repeats(scanner: RootScanner, name: str) -> bool:
    inner = f".{name}"
    return any(count > 1 for path, count in scanner.counts.items() if path == name or path.endswith(inner))
