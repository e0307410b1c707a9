"""What must hold of the next entry of a consumer, and when a description of the stream can be compared."""

from __future__ import annotations

import pytest

from aigw_core.denyreader import Fault, Reader, Tally, Verdict
from aigw_core.denyset import DenyChange
from aigw_core.denyview import Cursor, DenyView, Entry, EntryKind, StreamState

STREAM = StreamState("then", 10, 1)


def entry(consumer_seq: int, revision: int, time_ns: int = 0, key: str = "blackhole.1") -> Entry:
    return Entry(key, EntryKind.PUT, b"spend", revision, consumer_seq, 0, time_ns)


def test_consumer_numbers_have_no_gaps_and_stream_numbers_may() -> None:
    reader = Reader(1, DenyView(), STREAM)
    assert isinstance(reader.take(entry(1, 4)), DenyChange)
    assert reader.take(entry(2, 9)) is None
    assert reader.take(entry(4, 10)) is Fault.GAP
    assert reader.take(entry(3, 9)) is Fault.GAP
    assert reader.take(entry(3, 10)) is None


@pytest.mark.parametrize(
    ("first", "fault"), [((5, 77), None), ((5, 78), Fault.ANCHOR), ((6, 77), Fault.ANCHOR), ((4, 77), Fault.ANCHOR)]
)
def test_a_resumed_reader_starts_with_the_entry_that_is_known(first: tuple[int, int], fault: Fault | None) -> None:
    reader = Reader(1, DenyView(), STREAM, Cursor("then", 5, 77), revision=5)
    before = bool(reader.is_anchored)
    assert reader.take(entry(1, *first)) is fault
    assert (before, reader.view.deny.size, reader.is_anchored) == (False, 0, fault is None)


def test_where_another_one_may_go_on() -> None:
    reader = Reader(1, DenyView(), STREAM)
    # Revision 0 is no resume point.
    places = [(reader.cursor, reader.accounted)]
    reader.take(entry(1, 12, 99))
    assert [*places, (reader.cursor, reader.accounted)] == [(None, 10), (Cursor("then", 12, 99), 12)]


def test_only_the_same_moment_is_compared() -> None:
    tally = Tally()
    for revision, subjects in ((5, 2), (6, 3), (8, 4)):
        tally.note(revision, subjects)
    assert tally.compare(StreamState("", 6, 3)) is Verdict.SAME
    assert tally.compare(StreamState("", 5, 3)) is Verdict.OTHER
    assert tally.compare(StreamState("", 7, 3)) is Verdict.OPEN
    assert tally.ahead is None
    assert tally.compare(StreamState("", 4, 3)) is Verdict.OPEN
    assert tally.compare(StreamState("", 9, 5)) is Verdict.OPEN
    overtaken = [tally.is_overtaken]
    tally.note(9, 5)
    assert [*overtaken, tally.is_overtaken] == [False, True]
    assert tally.arrived() is Verdict.SAME


def test_a_description_that_was_passed_over_says_nothing() -> None:
    tally = Tally()
    tally.note(5, 2)
    tally.compare(StreamState("", 9, 5))
    tally.note(10, 5)
    assert tally.is_overtaken
    assert tally.arrived() is Verdict.OPEN
    assert tally.ahead is None


@pytest.mark.parametrize(("subjects", "verdict"), [(2, Verdict.SAME), (3, Verdict.OTHER)])
def test_what_was_counted_and_is_gone(subjects: int, verdict: Verdict) -> None:
    tally = Tally()
    tally.note(5, 2)
    tally.compare(StreamState("", 9, subjects))
    assert tally.nothing_more(2) is verdict
    assert tally.compare(StreamState("", 9, 2)) is Verdict.SAME
