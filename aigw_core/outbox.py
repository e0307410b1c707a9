"""Which facts of a spool a stream holds already, and from where on that must be found out again.

Pure: an :class:`Outbox` is one *round* of publishing. It begins with what was read back from the stream and
ends at the first doubt; then the next round begins at its cursor.

The stream keeps messages in the order in which it takes them, and a round publishes in the order of the
spool, each fact once. So what was not found when the round began stands in the stream behind what was found,
and in order: behind the last acknowledged one there can only be later ones. Facts that were found may stand
anywhere behind the beginning of the round. From these two follows how far back the next round must read.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CURSOR_VERSION: Final = 1
_DIGITS: Final = 32
"""Of a message id that nobody can take beforehand: 128 bits."""


def content_key(payload: bytes) -> str:
    """What a fact in the stream is recognised by: all of its bytes. Its message id could be a stranger's."""
    return hashlib.sha256(payload).hexdigest()


def message_id(fact_id: str, payload: bytes, attempt: int) -> str:
    """The id under which a fact is published: its own, and further ones where somebody else has published under that.

    Own ids can be guessed; the further ones follow from bytes that nobody knows before the fact is there. The same fact
    always has the same ones.
    """
    if not attempt:
        return fact_id
    return f"{fact_id}.{hashlib.sha256(b'%d ' % attempt + payload).hexdigest()[:_DIGITS]}"


@dataclass(slots=True, frozen=True)
class Cursor:
    """Up to where everything in a spool is in the stream."""

    segment: int = 0
    offset: int = 0
    """Bytes from the beginning of the segment: behind the record."""
    sequence: int = 0
    """Of that record."""
    stream: str = ""
    """The stream's name and time of creation: another one's sequences say nothing."""
    stream_seq: int = 0
    """Every fact behind the cursor stands behind this sequence of the stream, if it stands there at all."""

    def encode(self) -> bytes:
        row = {"v": CURSOR_VERSION, "segment": self.segment, "offset": self.offset, "sequence": self.sequence}
        return json.dumps(row | {"stream": self.stream, "stream_seq": self.stream_seq}).encode("ascii")


def parse_cursor(data: bytes) -> Cursor | None:
    """None for what is no cursor: then everything is read back."""
    try:
        row = json.loads(data)
        numbers = [row[name] for name in ("segment", "offset", "sequence", "stream_seq")]
        stream, version = row["stream"], row["v"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if version != CURSOR_VERSION or not isinstance(stream, str):
        return None
    if any(type(number) is not int or number < 0 for number in numbers):
        return None
    segment, offset, sequence, stream_seq = numbers
    return Cursor(segment, offset, sequence, stream, stream_seq)


@dataclass(slots=True)
class _Entry:
    segment: int
    offset: int
    sequence: int
    stream_seq: int | None = None
    """Where the stream has it; None while that is not known, 0 for a record that is no fact."""
    was_found: bool = False


class Outbox:
    """One round of publishing one spool."""

    def __init__(self, cursor: Cursor, stream: str, found: Mapping[str, int]) -> None:
        """``found``: by ``content_key`` the stream sequence of each message of the subject after ``read_back_from``."""
        self._cursor = cursor
        self._stream = stream
        self._found = dict(found)
        self._floor = max(found.values(), default=read_back_from(cursor, stream))
        self._entries: deque[_Entry] = deque()
        self._in_flight: dict[int, _Entry] = {}

    @property
    def in_flight(self) -> int:
        """Facts published and not acknowledged."""
        return len(self._in_flight)

    @property
    def is_settled(self) -> bool:
        """Everything offered is in the stream."""
        return not self._entries

    def offer(self, key: str | None, segment: int, offset: int, sequence: int) -> bool:
        """The next record of the spool, with the position behind it; whether it is to be published now.

        ``key``: the ``content_key`` of a fact; None for a record that is no fact.
        """
        if key is None:
            self._entries.append(_Entry(segment, offset, sequence, stream_seq=0, was_found=True))
            self._advance()
            return False
        entry = _Entry(segment, offset, sequence)
        stream_seq = self._found.pop(key, None)
        if stream_seq is None:
            self._in_flight[sequence] = entry
        else:
            entry.stream_seq, entry.was_found = stream_seq, True
        self._entries.append(entry)
        self._advance()
        return stream_seq is None

    def forget_found(self) -> None:
        """All that was written when the round began has been offered: what was found and is left is none of ours."""
        self._found.clear()

    def acked(self, sequence: int, stream_seq: int, *, in_order: bool = True) -> bool:
        """The stream has the fact of this spool sequence. False for an answer that nobody waits for.

        ``in_order``: it was published in the order of the spool, and not a second time, behind later ones.
        """
        entry = self._in_flight.pop(sequence, None)
        if entry is None:
            return False
        # What stands out of order says nothing about where others stand, just as what was found.
        entry.stream_seq, entry.was_found = stream_seq, not in_order
        self._advance()
        return True

    def cursor(self) -> Cursor:
        """As of now; to be kept where the next round finds it."""
        floor = self._floor
        known = [*self._found.values(), *(e.stream_seq for e in self._entries if e.was_found and e.stream_seq)]
        if known:
            floor = min(floor, min(known) - 1)
        at = self._cursor
        return Cursor(at.segment, at.offset, at.sequence, self._stream, floor)

    def _advance(self) -> None:
        entries = self._entries
        while entries and (stream_seq := entries[0].stream_seq) is not None:
            entry = entries.popleft()
            if not entry.was_found:
                self._floor = max(self._floor, stream_seq)
            self._move(entry.segment, entry.offset, entry.sequence)

    def _move(self, segment: int, offset: int, sequence: int) -> None:
        self._cursor = Cursor(segment, offset, sequence)


def read_back_from(cursor: Cursor, stream: str) -> int:
    """The stream sequence behind which a round must look for its facts."""
    return cursor.stream_seq if cursor.stream == stream else 0
