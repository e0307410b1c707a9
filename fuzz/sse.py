"""SSE parser: WHATWG's rules read literally, and the same events however the stream is split."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from aigw_core.usage import sse as sse_module
from aigw_core.usage.sse import EVENT_MAX, LongData, SSEParser
from fuzz.inputs import Case, case_of, limits

TOKENS: Final = (b"data: ", b"data:", b"event: ", b"\n\n", b"\r\n\r\n", b"\r\r", b"\xef\xbb\xbf", b": c\n", b"id: 1\n")
_SMALL_EVENT: Final = 24
_SMALL_LONG: Final = 12

Event = tuple[bytes, bytes | None, int, int]
"""Name, data, absolute start and end."""


class _Collected:
    def __init__(self) -> None:
        self.data = b""

    def feed(self, data: bytes) -> None:
        self.data += data


def check(data: bytes) -> None:
    """Option bits: 0 small events only, 1 long ones are handed on."""
    case = case_of(data)
    if case.options & 2:
        with limits((sse_module, "LONG_EVENT", _SMALL_LONG)):
            _check(case, _Collected)
    else:
        _check(case, None)


def _check(case: Case, long_data: Callable[[], _Collected] | None) -> None:
    event_max = _SMALL_EVENT if case.options & 1 else EVENT_MAX
    whole, whole_end, skipped = _read([case.data], event_max, long_data)
    assert _read(case.pieces, event_max, long_data) == (whole, whole_end, skipped), "the split changes the events"
    assert skipped >= sum(payload is None for _, payload, _, _ in whole)
    at = 0
    for _, payload, start, end in whole:
        assert at <= start < end <= len(case.data), "spans overlap or leave the stream"
        assert payload is None or long_data is not None or len(payload) <= event_max
        at = end
    if event_max == EVENT_MAX:
        assert [(name, payload) for name, payload, _, _ in whole] == _reference(case.data)


def _read(
    pieces: list[bytes], event_max: int, long_data: Callable[[], _Collected] | None
) -> tuple[list[Event], tuple[bytes, bytes | None] | None, int]:
    parser = SSEParser(event_max=event_max, long_data=long_data)
    stream = b"".join(pieces)
    events: list[Event] = []
    at = 0
    for piece in pieces:
        for name, payload, start, end in parser.feed(piece):
            # An event that ends in CR ends there or behind its LF, whichever the piece shows.
            last = at + end
            if stream[last - 1 : last + 1] == b"\r\n":
                last += 1
            events.append((name, _bytes_of(payload), at + start, last))
        assert 0 <= parser.open_at <= len(piece)
        at += len(piece)
    end_event = parser.finish()
    assert parser.finish() is None
    return events, None if end_event is None else (end_event[0], _bytes_of(end_event[1])), parser.skipped


def _bytes_of(data: bytes | LongData | None) -> bytes | None:
    assert data is None or isinstance(data, bytes | _Collected)
    return data.data if isinstance(data, _Collected) else data


def _reference(stream: bytes) -> list[tuple[bytes, bytes | None]]:
    """WHATWG HTML 9.2.6 over the whole stream."""
    events: list[tuple[bytes, bytes | None]] = []
    name, lines = b"", list[bytes]()
    for line in re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))[:-1]:
        field, _, value = line.partition(b":")
        if not line:
            if lines:
                events.append((name, b"\n".join(lines)))
            name, lines = b"", []
        elif field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return events
