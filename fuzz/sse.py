"""SSE parser: WHATWG's rules read literally, and the same events however the stream is split."""

from __future__ import annotations

import re
from typing import Final

from aigw_core.usage.sse import EVENT_MAX, SSEParser
from fuzz.inputs import case_of

TOKENS: Final = (b"data: ", b"data:", b"event: ", b"\n\n", b"\r\n\r\n", b"\r\r", b"\xef\xbb\xbf", b": c\n", b"id: 1\n")
_SMALL_EVENT: Final = 24

Event = tuple[bytes, bytes | None, int, int]
"""Name, data, absolute start and end."""


def check(data: bytes) -> None:
    case = case_of(data)
    event_max = _SMALL_EVENT if case.options & 1 else EVENT_MAX
    whole, whole_end, skipped = _read([case.data], event_max)
    assert _read(case.pieces, event_max) == (whole, whole_end, skipped), "the split changes the events"
    assert skipped >= sum(payload is None for _, payload, _, _ in whole)
    at = 0
    for _, payload, start, end in whole:
        assert at <= start < end <= len(case.data), "spans overlap or leave the stream"
        assert payload is None or len(payload) <= event_max
        at = end
    if event_max == EVENT_MAX:
        assert [(name, payload) for name, payload, _, _ in whole] == _reference(case.data)


def _read(pieces: list[bytes], event_max: int) -> tuple[list[Event], tuple[bytes, bytes] | None, int]:
    parser = SSEParser(event_max=event_max)
    stream = b"".join(pieces)
    events: list[Event] = []
    at = 0
    for piece in pieces:
        for name, payload, start, end in parser.feed(piece):
            # An event that ends in CR ends there or behind its LF, whichever the piece shows.
            last = at + end
            if stream[last - 1 : last + 1] == b"\r\n":
                last += 1
            events.append((name, payload, at + start, last))
        assert 0 <= parser.open_at <= len(piece)
        at += len(piece)
    end_event = parser.finish()
    assert parser.finish() is None
    return events, end_event, parser.skipped


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
