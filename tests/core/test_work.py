"""Shares of reading: what one key reads in a turn, and who goes on next."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aigw_core.work import ANSWERS_RESUMED_MAX, CHARGED_MIN, KEYS_MAX, TENANT_TURN_BYTES, TURN_BYTES, WorkShares


def test_a_share_is_used_up_and_comes_back_with_the_turn() -> None:
    work = WorkShares()
    taken = 0
    while work.take(("t", "a"), CHARGED_MIN):
        taken += CHARGED_MIN
    assert taken == TURN_BYTES
    assert work.take(("t", "b"), TURN_BYTES)
    assert not work.take(("t", "b"), CHARGED_MIN)
    assert work.is_due
    assert work.turn() == []
    assert work.take(("t", "a"), CHARGED_MIN)


def test_small_pieces_are_not_charged() -> None:
    work = WorkShares()
    for _ in range(100):
        assert work.take(("t", "a"), CHARGED_MIN - 1)
    assert not work.is_due
    assert work.take(("t", "a"), TURN_BYTES)
    assert work.take(("t", "a"), CHARGED_MIN - 1)


def test_keys_take_turns_whatever_the_number_of_their_connections() -> None:
    work = WorkShares(ANSWERS_RESUMED_MAX)
    crowd = [f"a{n}" for n in range(1_000)]
    for owner in crowd:
        work.wait(("t", "a"), owner)
    work.wait(("t", "b"), "b0")
    work.wait(("t", "c"), "c0")
    work.wait(("t", "c"), "c0")
    assert work.waiting == 1_002
    assert work.turn() == ["a0", "b0", "c0", "a1"]
    assert work.turn() == ["a2", "a3", "a4", "a5"]
    work.wait(("t", "b"), "b0")
    assert work.turn()[:2] == ["a6", "b0"]


def test_tenants_take_turns_whatever_the_number_of_their_keys() -> None:
    work = WorkShares()
    for key in range(1_000):
        work.wait(("crowd", key), ("crowd", key))
    for key in (1, 2):
        work.wait(("small", key), ("small", key))
    assert [work.turn()[0] for _ in range(5)] == [
        ("crowd", 0),
        ("small", 1),
        ("crowd", 1),
        ("small", 2),
        ("crowd", 2),
    ]


def test_the_keys_of_a_tenant_share_what_it_may_read_in_a_turn() -> None:
    work = WorkShares()
    allowed = [key for key in range(100) if work.take(("crowd", key), TURN_BYTES)]
    assert len(allowed) == TENANT_TURN_BYTES // TURN_BYTES
    assert work.take(("small", 0), TURN_BYTES)
    work.turn()
    assert work.take(("crowd", 99), TURN_BYTES)


def test_who_is_gone_is_not_resumed() -> None:
    work = WorkShares()
    for owner in ("x", "y"):
        work.wait(("t", "a"), owner)
    work.forget("x")
    work.forget("x")
    assert work.turn() == ["y"]
    assert (work.waiting, work.is_due, work.turn()) == (0, False, [])


def test_a_driver_that_begins_no_turn_does_not_make_it_grow() -> None:
    work = WorkShares()
    for key in range(3 * KEYS_MAX):
        assert work.take((key, key), CHARGED_MIN)
        assert len(work._used) <= KEYS_MAX


class Fairness(RuleBasedStateMachine):
    """Everybody who waits comes to their turn, and no tenant twice before another once."""

    def __init__(self) -> None:
        super().__init__()
        self.work = WorkShares(ANSWERS_RESUMED_MAX)
        self.waiting: dict[tuple[int, int], int] = {}

    @rule(key=st.integers(0, 4), number=st.integers(0, 9))
    def wait(self, key: int, number: int) -> None:
        self.work.wait((key % 2, key), (key, number))
        self.waiting.setdefault((key, number), 0)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.waiting)))
        self.work.forget(owner)
        del self.waiting[owner]

    @rule()
    def turn(self) -> None:
        tenants = {key % 2 for key, _ in self.waiting}
        owners = self.work.turn()
        assert len(owners) == len(set(owners)) == min(ANSWERS_RESUMED_MAX, len(self.waiting))
        chosen = {owner[0] % 2 for owner in owners if isinstance(owner, tuple)}
        assert len(chosen) == min(len(tenants), len(owners))
        for owner in owners:
            assert isinstance(owner, tuple)
            del self.waiting[owner]
        for owner in self.waiting:
            self.waiting[owner] += 1
            assert self.waiting[owner] <= 50

    @invariant()
    def counts_agree(self) -> None:
        assert self.work.waiting == len(self.waiting)
        assert self.work.is_due or not self.waiting


TestFairness = Fairness.TestCase
