"""Incremental parser for `text/event-stream` (WHATWG HTML, 9.2.6 "Interpreting an event stream")."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from aigw_core.usage.grammar import many

EVENT_MAX: Final = 1024 * 1024
"""Bytes of one event, line ends counted as one each, where its data is collected: a stream cannot claim more memory
than this."""

LONG_EVENT: Final = 8 * 1024
"""Bytes, counted likewise, beyond which an event's data is read as it comes, as are long documents."""
NAME_MAX: Final = 256
"""Bytes kept of an event's name: those of providers have under 64."""


class LongData(Protocol):
    """Takes the data of one long event, in any split."""

    def feed(self, data: bytes) -> None: ...


Event: TypeAlias = tuple[bytes, bytes | LongData | None, int, int]
"""`(name, data, start, end)`.

`name` is the value of the last `event` field, empty where none was given. `data` is the `data` lines
joined by LF; of a long event what the parser's `long_data` made and was fed these; None where the event
outgrew the limit. `start` and `end` are offsets of the event's bytes relative to the buffer of the feed()
call that returned it: from its first field line (negative where that arrived earlier) through the blank
line that ended it. Comments and blank lines before an event are outside of its bytes.
"""

_BOM: Final = b"\xef\xbb\xbf"
_LF: Final = 0x0A
_CR: Final = 0x0D
_COLON: Final = 0x3A
_DATA: Final = b"data:"
_LINE_KEPT: Final = len(b"event: ") + NAME_MAX
_NO_LINE: Final = -1
_EOL: Final = rb"(?:\r\n?+|\n)"
_LINE_END: Final = re.compile(_EOL)
_LINE: Final = rb"[^\r\n]++" + _EOL
_BETWEEN: Final = re.compile(many(rb"[\r\n]++|:[^\r\n]*+(?=[\r\n])"))
"""Blank lines and whole comment lines: keep-alives come in long runs of them."""
_DATALESS: Final = re.compile(
    many(
        rb"[\r\n]++|:[^\r\n]*+(?=[\r\n])|" + rb"(?![:\r\n])" + many(rb"(?!data[:\r\n])" + _LINE, b"+") + rb"(?=[\r\n])"
    )
)
"""The same, and whole events without a line of data: they are none."""
_LINES: Final = re.compile(many(_LINE, b"+"))
"""Whole lines that are not blank."""


class _Field:
    """Finds the values of one field in such lines."""

    __slots__ = ("_name", "_others", "_values")

    def __init__(self, name: bytes) -> None:
        others = many(rb"(?!" + name + rb"[:\r\n])" + _LINE)
        self._name = name
        self._others = re.compile(others)
        # Begins and ends where a line does, so that no search begins inside of one.
        self._values = re.compile(name + rb"(?:: ?+([^\r\n]*+))?+" + _EOL + others)

    def values(self, data: bytes, at: int, end: int) -> list[bytes]:
        if data.find(self._name, at, end) < 0:
            return []
        others = self._others.match(data, at, end)
        return self._values.findall(data, at if others is None else others.end(), end)


_DATA_FIELD: Final = _Field(b"data")
_NAME_FIELD: Final = _Field(b"event")


class SSEParser:
    """Takes the bytes of a stream in any split and gives whole events, in bounded memory.

    `id` and `retry` fields are ignored, an event without a `data` line is none. Where there is a `long_data`, the data
    of an event larger than LONG_EVENT goes to what that makes, whatever its length. Without one, an event larger than
    `event_max` is given without its data and counted in `skipped`. The last event of a stream that ends without a
    blank line comes out of finish().
    """

    __slots__ = (
        "_after_cr",
        "_bom_seen",
        "_data",
        "_event_at",
        "_event_max",
        "_idle",
        "_in_event",
        "_in_line",
        "_line",
        "_long",
        "_long_data",
        "_long_lines",
        "_name",
        "_overlong",
        "_size",
        "_streamed",
        "_whole_max",
        "open_at",
        "skipped",
    )

    def __init__(
        self,
        *,
        event_max: int = EVENT_MAX,
        long_data: Callable[[], LongData] | None = None,
    ) -> None:
        self.skipped = 0
        self.open_at = 0
        """Offset, in the buffer last fed, from which bytes belong to an unfinished event."""
        self._event_max = event_max
        self._long_data = long_data
        self._whole_max = event_max if long_data is None else LONG_EVENT
        self._idle = False  # between events, with nothing remembered: the fast path may run
        self._bom_seen = 0  # bytes of a byte order mark matched so far; 3 also means "too late for one"
        self._after_cr = False
        self._in_line = _NO_LINE  # or the first byte of the unfinished line
        self._line = bytearray()
        self._in_event = False
        self._event_at = 0
        self._size = 0
        self._overlong = False
        self._name = b""
        self._data: list[bytes] = []
        self._long: LongData | None = None
        self._long_lines = False  # a data line of a long event began
        self._streamed = False  # the unfinished line is one of them

    def feed(self, data: bytes) -> list[Event]:
        """The events that end within `data`, in order."""
        size = len(data)
        if not self._idle:
            return self._feed_lines(data, 0, []) if size else []
        # A number: looking for bytes with `in` tries that first, and fails, at four times the cost.
        if _CR in data:
            return self._feed_lines(data, 0, [])
        if data.find(b"\n") == size - 2 and data.startswith(b"data: ") and data.endswith(b"\n"):
            if size - 1 <= self._whole_max:
                self.open_at = size
                return [(b"", data[6:-2], 0, size)]
            return self._feed_lines(data, 0, [])
        return self._feed_blocks(data)

    def finish(self) -> tuple[bytes, bytes | LongData] | None:
        """Name and data of the event that the end of the stream left without its blank line.

        WHATWG drops such an event; its numbers were sent all the same. None where there is none, or
        where it outgrew the limit, and on every later call. Nothing may be fed afterwards.
        """
        if self._line:
            self._field(bytes(self._line))
            self._line.clear()
        data, self._long = self._collected(), None
        self._data.clear()
        return None if data is None else (self._name, data)

    def _collected(self) -> bytes | LongData | None:
        data = self._data
        if self._long is not None:
            return self._long if self._long_lines else None
        if not data:
            return None
        return data[0] if len(data) == 1 else b"\n".join(data)

    def _feed_blocks(self, data: bytes) -> list[Event]:
        """Whole events in the two shapes that providers send; anything else goes line by line."""
        events: list[Event] = []
        start = 0
        while (end := data.find(b"\n\n", start)) >= 0:
            if end + 1 - start > self._whole_max:
                break
            first = data.find(b"\n", start)
            if data.startswith(b"data: ", start) and first == end:
                events.append((b"", data[start + 6 : end], start, end + 2))
            elif (
                data.startswith(b"event: ", start)
                and data.startswith(b"data: ", first + 1)
                and data.find(b"\n", first + 1) == end
            ):
                events.append((data[start + 7 : first], data[first + 7 : end], start, end + 2))
            else:
                break
            start = end + 2
        if start < len(data):
            return self._feed_lines(data, start, events)
        self.open_at = start
        return events

    def _feed_lines(self, data: bytes, at: int, events: list[Event]) -> list[Event]:
        size = len(data)
        if self._bom_seen < 3:
            at = self._skip_bom(data)
            if self._bom_seen < 3:
                self.open_at = 0
                return events
        if self._after_cr and at < size:
            self._after_cr = False
            if data[at] == _LF:
                at += 1
        if self._in_line != _NO_LINE and at < size:
            at = self._next_line(data, at, events)
        while at < size:
            if not self._in_event:
                at = self._skip_between(data, at)
                if at == size:
                    break
            run = _LINES.match(data, at)
            at = self._next_line(data, at, events) if run is None else self._take_lines(data, at, run.end(), events)
        in_event = self._in_event
        self._idle = not (in_event or self._in_line != _NO_LINE or self._after_cr)
        if in_event:
            self.open_at = max(self._event_at, 0)
            self._event_at -= size
        else:
            self.open_at = size
        return events

    def _skip_between(self, data: bytes, at: int) -> int:
        """What stands between two events, those without data included where none can be over the limit."""
        end = len(data) if self._long_data is not None else at + self._whole_max
        between = _DATALESS.match(data, at, end)
        if between is None or between.end() == at:
            between = _BETWEEN.match(data, at)
        return at if between is None else between.end()

    def _take_lines(self, data: bytes, at: int, end: int, events: list[Event]) -> int:
        """Whole lines that are not blank, in a few steps however many there are."""
        size = end - at - data.count(b"\r\n", at, end)
        if self._long_data is None and self._size + size > self._whole_max:
            # Which line is over the limit matters.
            return self._next_line(data, at, events)
        if not self._in_event:
            self._in_event = True
            self._event_at = at
        names = _NAME_FIELD.values(data, at, end)
        if names:
            self._name = names[-1][:NAME_MAX]
        values = _DATA_FIELD.values(data, at, end)
        if self._long is None:
            self._data += values
        elif values:
            self._begin_long_line(self._long, b"\n".join(values))
        self._grow(size)
        if end == len(data):
            self._after_cr = data[end - 1] == _CR
        return end

    def _next_line(self, data: bytes, at: int, events: list[Event]) -> int:
        """One line, the rest of one, or what there is of one."""
        ends = _LINE_END.search(data, at)
        if ends is None:
            self._begin_line(data, at)
            return len(data)
        end, after = ends.span()
        if after == len(data):
            self._after_cr = data[after - 1] == _CR
        self._end_line(data, at, end, after, events)
        return after

    def _skip_bom(self, data: bytes) -> int:
        """Match the one byte order mark that may lead the stream; returns where the text goes on."""
        at = 0
        seen = self._bom_seen
        while seen < 3 and at < len(data) and data[at] == _BOM[seen]:
            seen += 1
            at += 1
        if seen < 3 and at < len(data):
            if seen:
                self._begin_line(_BOM[:seen], 0)
                self._event_at = at - seen
            seen = 3
        self._bom_seen = seen
        return at

    def _begin_line(self, data: bytes, at: int) -> None:
        """Remember a piece of a line that goes on in a later buffer."""
        if self._in_line == _NO_LINE:
            self._in_line = data[at]
            if self._in_line != _COLON and not self._in_event:
                self._in_event = True
                self._event_at = at
        if self._in_event:
            self._grow(len(data) - at)
            if self._in_line != _COLON and not self._overlong:
                if self._long is None:
                    self._line += data[at:]
                else:
                    self._stream(data[at:])

    def _end_line(self, data: bytes, at: int, end: int, after: int, events: list[Event]) -> None:
        first = self._in_line
        if first == _NO_LINE:
            if at == end:
                if self._in_event:
                    self._dispatch(after, events)
                return
            first = data[at]
            if first != _COLON and not self._in_event:
                self._in_event = True
                self._event_at = at
        self._in_line = _NO_LINE
        if not self._in_event:
            return
        self._grow(end + 1 - at)
        if first != _COLON and not self._overlong:
            line = data[at:end]
            if self._streamed and self._long is not None:
                self._long.feed(line)
                self._streamed = False
                return
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            self._field(line)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size <= self._whole_max or self._overlong:
            return
        if self._long_data is None:
            self._overlong = True
            self.skipped += 1
            self._line.clear()
            self._data.clear()
            self._long = None
            self._streamed = False
        elif self._long is None:
            self._long = self._long_data()
            if self._data:
                self._begin_long_line(self._long, b"\n".join(self._data))
            self._data.clear()
            self._stream(b"")

    def _stream(self, piece: bytes) -> None:
        """A piece of an unfinished line of a long event, whose end is still to come."""
        long = self._long
        assert long is not None
        if self._streamed:
            long.feed(piece)
            return
        line = self._line
        line += piece
        if not line.startswith(_DATA):
            # Of a line that is no data its beginning is enough.
            del line[_LINE_KEPT:]
        elif len(line) > len(_DATA):
            # One byte more than the name: a blank behind it is no part of the value.
            self._begin_long_line(long, bytes(line[len(_DATA) :]).removeprefix(b" "))
            line.clear()
            self._streamed = True

    def _begin_long_line(self, long: LongData, value: bytes) -> None:
        if self._long_lines:
            long.feed(b"\n")
        self._long_lines = True
        long.feed(value)

    def _field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if field == b"data":
            if self._long is None:
                self._data.append(value)
            else:
                self._begin_long_line(self._long, value)
        elif field == b"event":
            self._name = value[:NAME_MAX]

    def _dispatch(self, end: int, events: list[Event]) -> None:
        data = self._collected()
        if data is not None or self._overlong:
            events.append((self._name, data, self._event_at, end))
        self._in_event = False
        self._overlong = False
        self._size = 0
        self._name = b""
        self._data.clear()
        self._long = None
        self._long_lines = False
