"""The event stream parser against the WHATWG rules, its offsets, its bounds."""

from __future__ import annotations

import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage import sse
from aigw_core.usage.sse import EVENT_MAX, NAME_MAX, SSEParser
from tests.core.usage.helpers import byte_by_byte, split_at

Named = tuple[bytes, bytes | sse.LongData | None]


def events_of(pieces: list[bytes], *, event_max: int = EVENT_MAX) -> list[Named]:
    parser = SSEParser(event_max=event_max)
    return [(name, data) for piece in pieces for name, data, _, _ in parser.feed(piece)]


def reference(stream: bytes) -> list[Named]:
    """WHATWG 9.2.6 read literally, over the whole stream."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\r|\n", stream)
    events: list[Named] = []
    name, data = b"", b""
    for line in lines[:-1]:
        if not line:
            if data:
                events.append((name, data[:-1]))
            name, data = b"", b""
            continue
        if line.startswith(b":"):
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data += value + b"\n"
        elif field == b"event":
            name = value
    return events


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: x\n\n", [(b"", b"x")]),
        (b"data:x\n\n", [(b"", b"x")]),
        (b"data:  x\n\n", [(b"", b" x")]),
        (b"data\n\n", [(b"", b"")]),
        (b"data\ndata\n\n", [(b"", b"\n")]),
        (b"data: a\ndata: b\n\n", [(b"", b"a\nb")]),
        (b"data: a\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\n", [(b"", b"a"), (b"", b"b"), (b"", b"c")]),
        (b"data: a\r\n\ndata: b\n\r\n", [(b"", b"a"), (b"", b"b")]),
        (b"event: ping\ndata: x\n\n", [(b"ping", b"x")]),
        (b"data: x\nevent: ping\nevent: pong\n\n", [(b"pong", b"x")]),
        (b"event: lost\n\ndata: x\n\n", [(b"", b"x")]),
        (b": comment\n\n:\n\ndata: x\n: inside\ndata: y\n\n", [(b"", b"x\ny")]),
        (b"id: 1\nretry: 10\nfoo: bar\nDATA: no\n data: no\ndata: x\n\n", [(b"", b"x")]),
        (b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n", [(b"", b"x")]),
        (b"\xef\xbbdata: x\n\ndata: y\n\n", [(b"", b"y")]),
        ("data: \u2028\x0b\x85\n\n".encode(), [(b"", "\u2028\x0b\x85".encode())]),
        (b"\x00: x\ndata: y\n\n\x00\ndata: z\n\n", [(b"", b"y"), (b"", b"z")]),
        (b"\n\n\r\r\n", []),
        (b"data: never ended\n", []),
    ],
)
def test_whatwg_rules(stream: bytes, expected: list[Named]) -> None:
    assert reference(stream) == expected
    assert events_of([stream]) == expected
    assert events_of([b"", *byte_by_byte(stream)]) == expected


tokens = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"data",
        b"data: ",
        b"data:",
        b"event: ",
        b":",
        b" ",
        b"\x00",
        b"a",
        b"x{}",
        b"\xef\xbb\xbf",
        b"\xef",
        b"data: {}\n\n",
        b"event: e\ndata: 1\n\n",
        b": c\n\n",
        b"id: 1\n",
    ]
)
streams = st.lists(tokens, max_size=40).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=12)


@settings(max_examples=400, deadline=None)
@given(streams, cuts)
def test_any_split_reads_as_the_reference_does(stream: bytes, at: list[int]) -> None:
    assert events_of(split_at(stream, at)) == reference(stream)


@settings(max_examples=300, deadline=None)
@given(streams, cuts)
def test_spans_cover_events_and_nothing_else(stream: bytes, at: list[int]) -> None:
    """Cutting out every span leaves comments and blank lines; open_at says where an unfinished event is."""
    parser = SSEParser()
    base = 0
    spans: list[tuple[int, int, Named]] = []
    for piece in split_at(stream, at):
        for name, data, start, end in parser.feed(piece):
            spans.append((base + start, base + end, (name, data)))
        if piece:
            assert 0 <= parser.open_at <= len(piece)
            seen = stream[: base + len(piece)]
            unfinished = seen[base + parser.open_at :]
            if spans and spans[-1][1] == base + len(piece):
                assert unfinished == b""
            base += len(piece)
    last = 0
    for start, end, event in spans:
        assert last <= start < end <= len(stream)
        # A byte order mark counts only where the stream begins, so a line end goes before each part.
        assert last == 0 or reference(b"\n" + stream[last:start] + b"\n\n") == []
        assert reference(b"\n" + stream[start:end] + b"\n") == [event]
        last = end


def test_open_at_leaves_comments_and_blank_lines_out() -> None:
    parser = SSEParser()
    for piece, open_at in [
        (b"\n: comment", 10),
        (b" goes on", 8),
        (b"\ndata: {", 1),
        (b"}", 0),
        (b"\n", 0),
        (b"\n\n", 2),
        (b"data: {}\n\nda", 10),
    ]:
        parser.feed(piece)
        assert parser.open_at == open_at, piece


def test_start_of_an_event_that_came_in_pieces_is_negative() -> None:
    parser = SSEParser()
    assert parser.feed(b": c\n\nevent: x\nda") == []
    assert parser.feed(b"ta: 1\n") == []
    assert parser.feed(b"\ndata: 2\n\n") == [(b"x", b"1", -17, 1), (b"", b"2", 1, 10)]


def test_lf_after_a_cr_that_ended_the_buffer_opens_nothing() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: 1\r\r") == [(b"", b"1", 0, 9)]
    assert parser.feed(b"\ndata: 2\n\n") == [(b"", b"2", 1, 10)]


@pytest.mark.parametrize("prefix", [b"", b": c\n\n", b"\n"])
def test_limit_of_one_event(prefix: bytes) -> None:
    line = b"data: " + b"x" * 93
    assert len(line) + 1 == 100
    for pieces in ([prefix + line + b"\n\n"], [prefix + line[:50], line[50:], b"\n\n"]):
        parser = SSEParser(event_max=100)
        assert [event[:2] for piece in pieces for event in parser.feed(piece)] == [(b"", line[6:])]
        assert parser.skipped == 0
        parser = SSEParser(event_max=99)
        assert [event[:2] for piece in pieces for event in parser.feed(piece)] == [(b"", None)]
        assert parser.skipped == 1
        assert [event[:2] for event in parser.feed(b"data: y\n\n")] == [(b"", b"y")]


@pytest.mark.parametrize("event", [b"data: 0123456789\n\n", b"event: 12\ndata: 12345\n\n", b"id: 0123456789ab\n\n"])
def test_limit_between_whole_events(event: bytes) -> None:
    """The fast paths for whole events keep to the same limit."""
    size = len(event) - 1
    for event_max, skipped in [(size, 0), (size - 1, 2)]:
        for feeds in ([event, event], [event + event], [b": c\n\n" + event + event]):
            parser = SSEParser(event_max=event_max)
            parser.feed(b"\n")
            read = [data for feed in feeds for _, data, _, _ in parser.feed(feed)]
            assert parser.skipped == skipped
            if b"data" in event:
                assert read.count(None) == skipped
                assert len(read) == 2


def test_an_overlong_event_keeps_its_name() -> None:
    stream = b"event: big\ndata: " + b"x" * 100 + b"\n\ndata: y\n\n"
    assert events_of([stream], event_max=99) == [(b"big", None), (b"", b"y")]
    assert events_of(byte_by_byte(stream), event_max=99) == [(b"big", None), (b"", b"y")]


def test_lines_without_data_count_against_the_limit() -> None:
    assert events_of([b"id: 1234\n" * 11 + b"data: x\n\n"], event_max=99) == [(b"", None)]
    assert events_of([b"id: 1234\n" * 10 + b"data: x\n\n"], event_max=99) == [(b"", b"x")]


@pytest.mark.parametrize("line", [b"data: ", b": ", b"id: ", b"data: x\ndata: "])
def test_memory_is_bounded_for_an_endless_line(line: bytes) -> None:
    parser = SSEParser(event_max=64 * 1024)
    parser.feed(line)
    piece = b"x" * 16_384
    tracemalloc.start()
    try:
        for _ in range(500):
            assert parser.feed(piece) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 256 * 1024
    assert parser.skipped == (0 if line == b": " else 1)


@pytest.mark.parametrize(
    ("stream", "tail"),
    [
        (b"data: 1\n\n", None),
        (b"data: 1", (b"", b"1")),
        (b"data: 1\n", (b"", b"1")),
        (b"event: e\r\ndata: 1\r\ndata: 2", (b"e", b"1\n2")),
        (b"event: e\n", None),
        (b": comment", None),
        (b"data: 1\n: comm", (b"", b"1")),
        (b"", None),
    ],
)
def test_finish_shows_the_event_without_a_blank_line(stream: bytes, tail: Named | None) -> None:
    for pieces in ([stream], byte_by_byte(stream)):
        parser = SSEParser()
        for piece in pieces:
            parser.feed(piece)
        assert parser.finish() == tail
        assert parser.finish() is None


def test_finish_does_not_show_an_overlong_event() -> None:
    parser = SSEParser(event_max=10)
    parser.feed(b"data: 12345")
    assert parser.finish() is None
    assert parser.skipped == 1


class Collected:
    """The data of a long event, as it came."""

    def __init__(self) -> None:
        self.data = b""

    def feed(self, data: bytes) -> None:
        self.data += data


@settings(max_examples=150, deadline=None)
@given(streams, st.lists(st.integers(0, 400), max_size=8))
def test_a_long_event_is_handed_on_as_it_comes(stream: bytes, cuts: list[int]) -> None:
    """The same events, and which of them are long does not depend on the split."""
    expected = reference(stream)
    kinds: list[list[type]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sse, "LONG_EVENT", 16)
        for pieces in ([stream], split_at(stream, cuts), byte_by_byte(stream)):
            parser = SSEParser(long_data=Collected)
            events = [(name, data) for piece in pieces for name, data, _, _ in parser.feed(piece)]
            assert [(name, data.data if isinstance(data, Collected) else data) for name, data in events] == expected
            kinds.append([type(data) for _, data in events])
            assert parser.skipped == 0
    assert kinds[0] == kinds[1] == kinds[2]


@pytest.mark.parametrize(
    ("stream", "is_long", "data"),
    [
        (b"data: 123456789\n\n", False, b"123456789"),
        (b"data: 1234567890\n\n", True, b"1234567890"),
        (b"data: 1234567890", False, b"1234567890"),
        (b"data: 1234567890x", True, b"1234567890x"),
        (b"data:1234567890xy", True, b"1234567890xy"),
        (b"data: 1\ndata: 2\ndata: 3", True, b"1\n2\n3"),
        (b"data: 1\nid: 1234567890", True, b"1"),
        (b"id: 123456789012\ndata:  1", True, b" 1"),
    ],
)
def test_where_an_event_becomes_long(
    monkeypatch: pytest.MonkeyPatch, stream: bytes, is_long: bool, data: bytes
) -> None:
    monkeypatch.setattr(sse, "LONG_EVENT", 16)
    for pieces in ([stream], byte_by_byte(stream)):
        parser = SSEParser(long_data=Collected)
        events = [(name, found) for piece in pieces for name, found, _, _ in parser.feed(piece)]
        _, found = events[0] if events else parser.finish() or (b"", None)
        assert (isinstance(found, Collected), found.data if isinstance(found, Collected) else found) == (is_long, data)
        assert parser.finish() is None


def test_a_long_event_without_data_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONG_EVENT", 16)
    parser = SSEParser(long_data=Collected)
    assert parser.feed(b"id: 123456789012345\n\n") == []
    assert [event[:2] for event in parser.feed(b"data: y\n\n")] == [(b"", b"y")]


def test_a_long_event_has_no_limit_but_keeps_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONG_EVENT", 16)
    lines = b"event: big" + b"g" * 9_000 + b"\ndata: " + b"x" * 100_000 + b"\nother: " + b"z" * 100_000
    stream = lines + b"\n\ndata: y\n\n"
    for pieces in ([stream], byte_by_byte(stream)):
        parser = SSEParser(event_max=99, long_data=Collected)
        events = []
        for piece in pieces:
            events += [(name, data) for name, data, _, _ in parser.feed(piece)]
            assert len(parser._line) <= 300
        assert isinstance(events[0][1], Collected)
        assert (events[0][0], events[0][1].data) == (b"big" + b"g" * (NAME_MAX - 3), b"x" * 100_000)
        assert events[1:] == [(b"", b"y")]
        assert parser.skipped == 0
