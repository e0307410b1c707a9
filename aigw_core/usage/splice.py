"""The include_usage splice: what is changed in a request body, and bytes with their changes on the way out.

OpenAI, Chat Completions reference: `stream_options.include_usage` adds a last chunk with the usage of the
whole request. It is allowed only with `stream: true`.
"""

from __future__ import annotations

from typing import Final

from aigw_core.usage.rules import is_true_text
from aigw_core.usage.scanner import RootScanner

_OPTION: Final = b'"stream_options":{"include_usage":true}'
_MEMBER: Final = b'"include_usage":true'
SPLICE_MAX: Final = len(_OPTION) + 1
"""Bytes that the longest splice adds: the whole option and a comma."""
_INCLUDE_USAGE: Final = frozenset({"include_usage"})
RootScanner(_INCLUDE_USAGE, any_case=True)  # compiles the expressions for this set

Edit = tuple[int, int, bytes]
"""Absolute offsets of the bytes replaced, end exclusive, and what replaces them."""


class StreamOptions:
    """What one `stream_options` value says, and the edits that make its include_usage true."""

    __slots__ = ("asks", "edits", "is_misspelt", "is_object", "offset", "refuses")

    def __init__(self, raw: bytes, offset: int) -> None:
        self.offset = offset
        self.is_object = raw.startswith(b"{")
        self.asks = False
        """The client asked for usage itself: the last include_usage is true."""
        self.refuses = False
        """The client said that it wants none: it states an include_usage that is not true."""
        self.is_misspelt = False
        """A member differs from include_usage in case alone."""
        self.edits: list[Edit] = []
        """Empty where the value is neither an object nor null: the provider will refuse it."""
        if raw == b"null":
            self.edits.append((offset, offset + 4, b"{%b}" % _MEMBER))
            return
        if not self.is_object:
            return
        scanner = RootScanner(_INCLUDE_USAGE, log=True, any_case=True)
        scanner.feed(raw)
        scanner.finish()
        assert scanner.log is not None
        self.is_misspelt = scanner.misspelt is not None
        if scanner.close_offset is None:
            return  # repeats the member more often than anybody does
        self.asks = is_true_text(scanner.captured.get("include_usage"))
        # Every occurrence, so that a parser that takes the first of duplicates reads the same.
        self.edits = [(offset + begin, offset + end, b"true") for _, _, begin, end in scanner.log]
        self.refuses = bool(self.edits) and not self.asks
        if not self.edits:
            at = offset + scanner.close_offset
            self.edits.append((at, at, _MEMBER if scanner.empty_root else b"," + _MEMBER))

    @property
    def growth(self) -> int:
        """Bytes that the edits add."""
        return sum(len(text) - (end - begin) for begin, end, text in self.edits)


def option_appended(close_offset: int, *, empty_root: bool) -> Edit:
    """The whole option as the last root member."""
    return close_offset, close_offset, _OPTION if empty_root else b"," + _OPTION


class Outgoing:
    """Body bytes that wait for their release, with the edits that apply to them.

    Has no limit of its own: what waits is bounded by the holds of the owner.
    """

    __slots__ = ("_begin", "_waiting", "edits", "released")

    def __init__(self) -> None:
        self._waiting: bytes | bytearray = b""  # plain bytes as long as one piece waits: the usual case
        self._begin = 0  # absolute offset of the first waiting byte
        self.edits: list[Edit] = []
        """Edits not yet applied, by rising offset; none lies before what was released."""
        self.released = 0
        """Bytes released, edits included."""

    def release(self, data: bytes, limit: int) -> bytes:
        """Take a piece and give every byte before the absolute offset ``limit``, edits applied."""
        if not self._waiting:
            self._waiting = data
        elif data:
            if isinstance(self._waiting, bytes):
                self._waiting = bytearray(self._waiting)
            self._waiting += data
        if limit <= self._begin:
            return b""
        out = self._edited(limit) if self.edits else self._taken(limit)
        self.released += len(out)
        return out

    def _taken(self, limit: int) -> bytes:
        waiting = self._waiting
        size = limit - self._begin
        self._begin = limit
        if size == len(waiting):
            self._waiting = b""
            return waiting if isinstance(waiting, bytes) else bytes(waiting)
        out = bytes(waiting[:size])
        if isinstance(waiting, bytes):
            self._waiting = waiting[size:]
        else:
            del waiting[:size]
        return out

    def _edited(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        while self.edits and self.edits[0][0] < limit:
            begin, end, text = self.edits[0]
            if end > limit:  # the withheld byte belongs to what is replaced
                limit = begin
                break
            pieces += (self._taken(begin), text)
            self._taken(end)
            del self.edits[0]
        pieces.append(self._taken(limit))
        return b"".join(pieces)
