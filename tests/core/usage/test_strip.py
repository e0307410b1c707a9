"""Taking events out of a stream: byte for byte, in any split, within the bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.sse import SSEParser
from aigw_core.usage.strip import HELD_MAX, EventStrip
from tests.core.usage.helpers import byte_by_byte, split_at

REMOVED = b"gone"


class Stripped:
    """Relays a stream without the events whose data starts with REMOVED."""

    def __init__(self, pieces: list[bytes]) -> None:
        parser = SSEParser()
        strip = EventStrip()
        self.most_held = 0
        relayed: list[bytes] = []
        fed = 0
        for piece in pieces:
            removed = [
                (start, end)
                for _, data, start, end in parser.feed(piece)
                if isinstance(data, bytes) and data.startswith(REMOVED) and end - start <= HELD_MAX
            ]
            relayed.append(strip.relay(piece, removed, parser.open_at))
            fed += len(piece)
            self.most_held = max(self.most_held, len(strip._held))
        self.relayed = b"".join(relayed)
        self.tail = strip.release()
        self.pieces = relayed


@pytest.mark.parametrize(
    ("stream", "relayed"),
    [
        (b"data: a\n\ndata: gone\n\ndata: b\n\n", b"data: a\n\ndata: b\n\n"),
        (b"data: gone\n\n", b""),
        (b"data: gone\n\ndata: gone\n\n", b""),
        (b"data: a\r\n\r\ndata: gone\r\n\r\ndata: b\r\n\r\n", b"data: a\r\n\r\ndata: b\r\n\r\n"),
        (b"data: a\r\rdata: gone\r\rdata: b\r\r", b"data: a\r\rdata: b\r\r"),
        (b"data: gone\r\n\rdata: b\n\n", b"data: b\n\n"),
        (b"data: gone\r\r\n\ndata: b\n\n", b"\ndata: b\n\n"),
        (b": c\n\n: d\ndata: gone\n\n\n: e\n\n", b": c\n\n: d\n\n: e\n\n"),
        (b"event: x\nid: 1\n: inside\ndata: gone\n\ndata: b\n\n", b"data: b\n\n"),
        (b"\xef\xbb\xbfdata: gone\n\ndata: b\n\n", b"\xef\xbb\xbfdata: b\n\n"),
        (b"\xef\xbbdata: gone\n\n", b"\xef\xbbdata: gone\n\n"),
        (b"data: a\n\ndata: gone\n", b"data: a\n\ndata: gone\n"),
        (b"data: a\n\ndata: gone", b"data: a\n\ndata: gone"),
        (b"junk\n\n  \ndata: a\n\n", b"junk\n\n  \ndata: a\n\n"),
    ],
)
def test_removed_events_leave_every_other_byte(stream: bytes, relayed: bytes) -> None:
    for pieces in ([stream], byte_by_byte(stream), [b"", stream, b""]):
        stripped = Stripped(pieces)
        assert stripped.relayed + stripped.tail == relayed


parts = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"data: x",
        b"data: gone",
        b": c",
        b"event: e",
        b" ",
        b"\xef\xbb\xbf",
        b"\xef",
        b"data: gone\n\n",
        b"data: gone\r\n\r\n",
        b"data: keep\n\n",
        b": c\n\n",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(parts, max_size=30).map(b"".join), st.lists(st.integers(0, 400), max_size=10))
def test_any_split_relays_the_same(stream: bytes, cuts: list[int]) -> None:
    whole = Stripped([stream])
    split = Stripped(split_at(stream, cuts))
    assert split.relayed + split.tail == whole.relayed + whole.tail
    if b"gone" not in stream:
        assert whole.relayed + whole.tail == stream


def test_whole_events_are_relayed_as_the_same_object() -> None:
    piece = b"data: a\n\ndata: b\n\n: c\n\n"
    assert Stripped([b"\n", piece]).pieces[1] is piece


def test_only_the_unfinished_event_is_held() -> None:
    stripped = Stripped([b"data: a\n\n: c\n\ndata: b", b"\n", b"\ndata: d\n\n"])
    assert stripped.pieces == [b"data: a\n\n: c\n\n", b"", b"data: b\n\ndata: d\n\n"]


@pytest.mark.parametrize("whole", [True, False])
def test_an_event_up_to_the_limit_is_removed_and_a_longer_one_passes(whole: bool) -> None:
    for size in (HELD_MAX, HELD_MAX + 1):
        event = b"data: gone" + b"x" * (size - 12) + b"\n\n"
        stream = b"data: a\n\n" + event + b"data: b\n\n"
        pieces = [stream] if whole else [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
        stripped = Stripped(pieces)
        assert stripped.relayed == (stream if size > HELD_MAX else b"data: a\n\ndata: b\n\n")
        assert stripped.most_held <= HELD_MAX


def test_a_long_event_is_let_go_as_soon_as_it_outgrows_the_limit() -> None:
    first = b"data: gone" + b"x" * (HELD_MAX - 10)
    stripped = Stripped([first, b"y", b"z", b"\n\ndata: ", b"b\n\n", b"data: gone\n\n"])
    assert stripped.pieces == [b"", first + b"y", b"z", b"\n\n", b"data: b\n\n", b""]
    stripped = Stripped([first + b"y", b"\n\n", b"data: go", b"ne\n\n"])
    assert stripped.pieces == [first + b"y", b"\n\n", b"", b""]
    stripped = Stripped([first[:-2], b"\n\n"])
    assert stripped.relayed == b""
