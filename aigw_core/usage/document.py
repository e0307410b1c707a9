"""One JSON answer: decoded whole while it is short, scanned at its root where it is long."""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder
from typing import Final

from aigw_core.usage.jsontext import decode_json, has_conflicting_members, may_repeat
from aigw_core.usage.scanner import RootScanner

DOCUMENT_MAX: Final = 256 * 1024
"""Bytes collected to be decoded at once: the decoding of more would stall the other connections."""

BACKLOG_STEP: Final = 32 * 1024
"""Bytes of the collected text scanned with each later piece, so that no call pays for all of it."""


class JSONDocument:
    """Takes a JSON text in any split and gives the wanted root members, whatever stands around them.

    Up to DOCUMENT_MAX bytes every member is given, beyond it only `members`.
    """

    __slots__ = (
        "_body",
        "_members",
        "_read_size",
        "_scanner",
        "_sound",
        "_utf8",
        "closed",
        "long",
        "root",
        "size",
    )

    def __init__(self, members: frozenset[str]) -> None:
        self.size = 0
        self.long = False
        """The text outgrew DOCUMENT_MAX."""
        self.closed = False
        """As of the last read(): the text is one whole JSON object."""
        self.root: dict[str, object] = {}
        """As of the last read(): root members; those that were complete where the text is not."""
        self._members = members
        self._body: bytes | bytearray = b""  # plain bytes as long as one piece came: the usual case
        self._scanner: RootScanner | None = None
        self._utf8: IncrementalDecoder | None = None
        self._sound = True  # no broken UTF-8 so far, of a long text
        self._read_size = -1

    def feed(self, data: bytes) -> None:
        size = len(data)
        self.size += size
        if self._scanner is None:
            if not self._body:
                self._body = data
            else:
                if isinstance(self._body, bytes):
                    self._body = bytearray(self._body)
                self._body += data
            if self.size <= DOCUMENT_MAX:
                return
            self.long = True
            self._scanner = RootScanner(self._members, lenient=True)
            self._utf8 = getincrementaldecoder("utf-8")()
            self._scan(self._scanner, self._collected(size + BACKLOG_STEP))
        elif self._body:
            self._body += data
            self._scan(self._scanner, self._collected(size + BACKLOG_STEP))
        else:
            self._scan(self._scanner, data)

    def read(self) -> bool:
        """Bring `root` and `closed` up to date; False, at no cost, where nothing was fed since."""
        if self._read_size == self.size:
            return False
        self._read_size = self.size
        if self._scanner is not None:
            self._scan(self._scanner, self._collected(len(self._body)))
            self._take(self._scanner, sound=self._sound)
        else:
            self._read_whole()
        return True

    def states_twice(self, name: str) -> bool:
        """Whether the member `name` is stated again with another value; a long text counts repetitions."""
        if self._scanner is not None:
            # Read up to here by read(), which brought the member.
            return self._scanner.counts.get(name, 0) > 1
        if not may_repeat(self._body, b'"%b"' % name.encode()):
            return False
        return has_conflicting_members(bytes(self._body), name)

    def _collected(self, size: int) -> bytes:
        """Take the first bytes of what was collected and not scanned yet."""
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)
        taken = bytes(self._body[:size])
        del self._body[:size]
        return taken

    def _scan(self, scanner: RootScanner, data: bytes) -> None:
        # The scanner is lenient about NaN, which clients take, and so about UTF-8, which they do not.
        if self._utf8 is not None and self._sound and not (data.isascii() and not self._utf8.getstate()[0]):
            try:
                self._utf8.decode(data)
            except UnicodeDecodeError:
                self._sound = False
        scanner.feed(data)

    def _read_whole(self) -> None:
        data = bytes(self._body)
        try:
            root = decode_json(data)
        except ValueError:
            scanner = RootScanner(self._members, lenient=True)
            scanner.feed(data)
            # A text that is closed and still no JSON is broken; one that was cut gives what it has.
            self._take(scanner, sound=not scanner.closed)
            return
        self.closed = isinstance(root, dict)
        self.root = root if isinstance(root, dict) else {}

    def _take(self, scanner: RootScanner, *, sound: bool) -> None:
        self.closed = scanner.closed and sound
        self.root = {}
        if scanner.failed or not sound:
            return
        for name, text in scanner.captured.items():
            try:
                self.root[name] = decode_json(text)
            except ValueError:
                self.closed = False
