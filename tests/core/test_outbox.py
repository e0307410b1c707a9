from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aigw_core.outbox import Cursor, Outbox, content_key, message_id, parse_cursor, read_back_from

STREAM = "AI_USAGE 2026"


def offer(outbox: Outbox, sequence: int, *, is_fact: bool = True) -> bool:
    return outbox.offer(str(sequence) if is_fact else None, 1, 100 * sequence, sequence)


def test_the_cursor_moves_over_contiguous_acknowledgements_only() -> None:
    outbox = Outbox(Cursor(), STREAM, {})
    assert [offer(outbox, n) for n in (1, 2, 3)] == [True, True, True]
    assert outbox.in_flight == 3
    assert outbox.acked(2, 11)
    assert outbox.acked(3, 12)
    assert (outbox.cursor().sequence, outbox.cursor().stream_seq) == (0, 0)
    assert outbox.acked(1, 10)
    assert outbox.cursor() == Cursor(1, 300, 3, STREAM, 12)
    assert outbox.is_settled


def test_records_that_are_no_facts_are_passed_when_nothing_waits() -> None:
    outbox = Outbox(Cursor(), STREAM, {})
    assert not offer(outbox, 1, is_fact=False)
    assert outbox.cursor().sequence == 1
    assert offer(outbox, 2)
    assert not offer(outbox, 3, is_fact=False)
    assert outbox.cursor().sequence == 1
    outbox.acked(2, 5)
    assert (outbox.cursor().sequence, outbox.cursor().stream_seq, outbox.is_settled) == (3, 5, True)


def test_what_is_published_out_of_order_says_nothing_about_the_others() -> None:
    """The id of the first one was taken, so it stands behind the others; the third has no answer yet."""
    outbox = Outbox(Cursor(), STREAM, {})
    assert [offer(outbox, n) for n in (1, 2, 3)] == [True, True, True]
    assert outbox.acked(2, 11)
    assert outbox.acked(1, 13, in_order=False)
    cursor = outbox.cursor()
    assert (cursor.sequence, cursor.stream_seq) == (2, 11), "the third stands at 12, maybe"


def test_what_was_found_and_is_none_of_ours_holds_nothing_back() -> None:
    outbox = Outbox(Cursor(1, 100, 1, STREAM, 7), STREAM, {"2": 9, "a stranger's": 8})
    assert not offer(outbox, 2)
    assert outbox.cursor().stream_seq == 7
    outbox.forget_found()
    assert outbox.cursor() == Cursor(1, 200, 2, STREAM, 9)


def test_a_fact_is_recognised_by_all_of_its_bytes() -> None:
    assert content_key(b'{"id":"1"}') == content_key(b'{"id":"1"}')
    assert content_key(b'{"id":"1"}') != content_key(b'{"id":"1" }')


def test_further_message_ids_follow_from_the_fact() -> None:
    ids = [message_id("1", b"fact", attempt) for attempt in range(4)]
    assert ids[0] == "1"
    assert len(set(ids)) == 4
    assert all(len(each) == len("1.") + 32 and each.startswith("1.") for each in ids[1:])
    assert ids == [message_id("1", b"fact", attempt) for attempt in range(4)]
    assert message_id("1", b"fact!", 1) != ids[1]


def test_what_was_found_is_not_published_again() -> None:
    outbox = Outbox(Cursor(1, 100, 1, STREAM, 7), STREAM, {"2": 9, "4": 8})
    assert [offer(outbox, n) for n in (2, 3, 4)] == [False, True, False]
    assert outbox.cursor() == Cursor(1, 200, 2, STREAM, 7), "4 stands at 8, so the next round reads from there"
    outbox.acked(3, 10)
    assert outbox.cursor() == Cursor(1, 400, 4, STREAM, 10)


def test_an_answer_that_nobody_waits_for() -> None:
    outbox = Outbox(Cursor(), STREAM, {})
    assert not outbox.acked(5, 1)
    offer(outbox, 5)
    assert outbox.acked(5, 1)
    assert not outbox.acked(5, 1)


def test_another_stream_is_read_from_its_beginning() -> None:
    cursor = Cursor(1, 100, 1, STREAM, 7)
    assert read_back_from(cursor, STREAM) == 7
    assert read_back_from(cursor, "AI_USAGE 2027") == 0


@given(st.builds(Cursor, *[st.integers(0, 2**63)] * 3, st.text(max_size=40), st.integers(0, 2**63)))
def test_cursors_come_back(cursor: Cursor) -> None:
    assert parse_cursor(cursor.encode()) == cursor


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"v":2,"segment":1,"offset":1,"sequence":1,"stream":"","stream_seq":1}',
        b'{"v":1,"segment":-1,"offset":1,"sequence":1,"stream":"","stream_seq":1}',
        b'{"v":1,"segment":true,"offset":1,"sequence":1,"stream":"","stream_seq":1}',
        b'{"v":1,"segment":1,"offset":1,"sequence":1,"stream":null,"stream_seq":1}',
    ],
)
def test_what_is_no_cursor_is_none(data: bytes) -> None:
    assert parse_cursor(data) is None


class PublishingMachine(RuleBasedStateMachine):
    """A stream without any dedupe window: what is published twice is there twice.

    Messages on the way and answers on the way back are lost with the connection, in order; a full stream takes
    some and refuses others. Whatever happens, no fact may be in the stream twice, and none behind the cursor may
    be missing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[str] = []
        self.saved = Cursor()
        self.written = 0
        self._begin()

    def _begin(self) -> None:
        behind = read_back_from(self.saved, STREAM)
        found = {fact_id: n for n, fact_id in enumerate(self.stored, 1) if n > behind}
        self.outbox = Outbox(self.saved, STREAM, found)
        self.next = self.saved.sequence + 1
        self.begun_at = self.written
        self.on_the_way: list[int] = []
        self.late: set[int] = set()
        self.answers: list[tuple[int, int]] = []

    @rule(count=st.integers(1, 5))
    def write(self, count: int) -> None:
        self.written += count

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        for _ in range(count):
            if self.next <= self.written:
                # Every third record is no fact.
                if offer(self.outbox, self.next, is_fact=self.next % 3 != 0):
                    self.on_the_way.append(self.next)
                self.next += 1
        if self.next > self.begun_at:
            self.outbox.forget_found()

    @rule()
    def take_an_id(self) -> None:
        """A stranger was first with the id of the next one, which is published again, behind those on the way."""
        if self.on_the_way:
            self.late.add(self.on_the_way[0])
            self.on_the_way.append(self.on_the_way.pop(0))

    @rule()
    def add_junk(self) -> None:
        self.stored.append(f"junk {len(self.stored)}")

    @rule(count=st.integers(1, 5))
    def store(self, count: int) -> None:
        for sequence in self.on_the_way[:count]:
            self.stored.append(str(sequence))
            self.answers.append((sequence, len(self.stored)))
        del self.on_the_way[:count]

    @rule(count=st.integers(1, 5))
    def answer(self, count: int) -> None:
        for sequence, stream_seq in self.answers[:count]:
            assert self.outbox.acked(sequence, stream_seq, in_order=sequence not in self.late)
        del self.answers[:count]

    @rule()
    def save(self) -> None:
        self.saved = self.outbox.cursor()

    @rule()
    def refuse_the_first(self) -> None:
        """A full stream had room for a later, smaller one. What is in flight is settled, then a new round begins."""
        if not self.on_the_way:
            return
        del self.on_the_way[0]
        self.store(len(self.on_the_way))
        self.answer(len(self.answers))
        self.saved = self.outbox.cursor()
        self._begin()

    @rule(stored=st.integers(0, 5))
    def lose_the_connection(self, stored: int) -> None:
        self.store(stored)
        self._begin()

    @invariant()
    def nothing_twice_and_nothing_missing(self) -> None:
        assert len(set(self.stored)) == len(self.stored)
        passed = self.outbox.cursor().sequence
        assert [n for n in range(1, passed + 1) if n % 3 and str(n) not in self.stored] == []


PublishingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPublishing = PublishingMachine.TestCase
