from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aigw_core.ledger_shares import LedgerShares


def filled(shares: LedgerShares, tenant: int, room: int) -> int:
    """How many records this tenant gets before it is refused."""
    taken = 0
    while taken <= room and shares.take(f"{tenant}-{taken}", tenant, room):
        taken += 1
    return taken


@pytest.mark.parametrize(("room", "share"), [(65_536, 16_384), (2_048, 512), (100, 25), (99, 24), (8, 2), (7, 1)])
def test_a_lone_tenant_holds_a_quarter(room: int, share: int) -> None:
    shares = LedgerShares()
    assert filled(shares, 1, room) == share
    assert (len(shares), shares.held_by(1)) == (share, share)


def test_each_next_tenant_holds_a_quarter_of_what_the_others_leave() -> None:
    shares = LedgerShares()
    assert [filled(shares, tenant, 1024) for tenant in range(4)] == [256, 192, 144, 108]


@pytest.mark.parametrize("room", [0, 1, 2, 3, 4])
def test_the_first_record_of_a_tenant_is_never_refused_for_its_share(room: int) -> None:
    shares = LedgerShares()
    assert shares.take("a", 1, room)
    assert shares.take("b", 2, room)
    assert not shares.take("c", 1, room)


def test_what_is_released_can_be_taken_again() -> None:
    shares = LedgerShares()
    assert filled(shares, 1, 8) == 2
    shares.release("1-0")
    assert "1-0" not in shares
    assert "1-1" in shares
    shares.release("1-0")
    shares.release("unknown")
    assert shares.held_by(1) == 1
    assert shares.take("again", 1, 8)
    assert not shares.take("more", 1, 8)


def test_room_that_shrinks_takes_nothing_away() -> None:
    shares = LedgerShares()
    assert filled(shares, 1, 40) == 10
    assert not shares.take("more", 1, 20)
    assert len(shares) == 10
    shares.release("1-0")
    assert shares.take("more", 1, 40)


TENANTS: Final = st.integers(1, 4)


class Shares(RuleBasedStateMachine):
    """Any order of openings and ends against a list of who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = LedgerShares()
        self.open: list[tuple[str, int]] = []
        self.numbers = itertools.count()
        self.room = 0

    @initialize(room=st.integers(0, 64))
    def begin(self, room: int) -> None:
        self.room = room

    @rule(room=st.integers(0, 64))
    def resize(self, room: int) -> None:
        self.room = room

    @rule(tenant=TENANTS)
    def take(self, tenant: int) -> None:
        record = f"r{next(self.numbers)}"
        held = sum(1 for _, of in self.open if of == tenant)
        free_of_others = self.room - (len(self.open) - held)
        wanted = held == 0 or (held + 1) <= free_of_others / 4
        assert self.shares.take(record, tenant, self.room) is wanted
        if wanted:
            self.open.append((record, tenant))

    @rule(at=st.integers(0, 200))
    def release(self, at: int) -> None:
        record = self.open.pop(at % len(self.open))[0] if self.open else "none"
        self.shares.release(record)
        self.shares.release(record)

    @invariant()
    def counts_what_is_open(self) -> None:
        assert len(self.shares) == len(self.open)
        for tenant in range(1, 5):
            assert self.shares.held_by(tenant) == sum(1 for _, of in self.open if of == tenant)

    def teardown(self) -> None:
        for record, _ in self.open:
            self.shares.release(record)
        fresh = LedgerShares()
        assert (self.shares._held, self.shares._holders) == (fresh._held, fresh._holders), "nothing is left behind"


Shares.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestShares = Shares.TestCase
