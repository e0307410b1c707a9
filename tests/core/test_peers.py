"""Shares of the common limits: what one address, or one connection, cannot take from the others."""

from __future__ import annotations

from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.limiter import Aggregate, Limiter
from aigw_core.peers import Peer, has_room, take

HASH_KEY = bytes(range(16))
BYO, UNVERIFIED = Aggregate.BYO, Aggregate.UNVERIFIED


def limiter() -> Limiter:
    return Limiter(bytearray(Limiter.buffer_size()))


def peer(address: str | bytes = "192.0.2.1") -> Peer:
    return Peer(address, HASH_KEY)


class Spend(Protocol):
    """Tries so often, and says how many times it passed."""

    def __call__(self, one: Peer, guard: Limiter, limit: int, window: int = 0, tries: int = 2_000) -> int: ...


def charged(one: Peer | None, guard: Limiter, limit: int, window: int = 0, tries: int = 2_000) -> int:
    """As keys are charged whose signature does not hold: asked before, counted after."""
    count = 0
    for _ in range(tries):
        if has_room(one, guard, BYO, limit, window):
            take(one, guard, BYO, limit, window)
            count += 1
    return count


def passed(one: Peer, guard: Limiter, limit: int, window: int = 0, tries: int = 2_000) -> int:
    """As BYO callers are counted."""
    return sum(one.allow(guard, BYO, limit, window) for _ in range(tries))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", b"192.0.2.1"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8::1", "2001:db8:0:0:ffff:ffff:ffff:ffff"),
        ("fe80::1%eth0", "fe80::2%eth1"),
        ("socket", b"socket"),
    ],
)
def test_addresses_of_one_customer_are_one(one: str | bytes, other: str | bytes) -> None:
    assert peer(one).mark(BYO) == peer(other).mark(BYO)


@pytest.mark.parametrize(
    ("one", "other"),
    [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("192.0.2.1", "2001:db8::1"), ("a", "b")],
)
def test_addresses_of_others_are_others(one: str, other: str) -> None:
    assert peer(one).mark(BYO) != peer(other).mark(BYO)


def test_marks_are_keyed_and_apart_for_each_aggregate() -> None:
    marks = {peer().mark(BYO), peer().mark(UNVERIFIED), Peer("192.0.2.1", bytes(16)).mark(BYO)}
    assert {len(mark) for mark in marks} == {32}
    assert len(marks) == 3


def test_without_a_limit_nothing_is_counted() -> None:
    guard, one = limiter(), peer()
    assert charged(one, guard, 0) == charged(None, guard, 0) == passed(one, guard, 0) == 2_000
    assert guard.room(BYO, 10, 0) == 10
    assert guard.estimate(one.mark(BYO), 0) == 0


def test_of_an_unknown_address_the_sum_alone_counts() -> None:
    guard = limiter()
    assert charged(None, guard, 100) == 100
    assert not has_room(peer(), guard, BYO, 100, 0)


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 1), (3, 1), (10, 1), (11, 2), (100, 10), (1_000, 100)])
def test_a_connection_gets_a_fifth_of_its_address_and_each_at_least_one(limit: int, expected: int) -> None:
    assert charged(peer(), limiter(), limit) == expected


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 1), (3, 2), (10, 5), (1_000, 500)])
def test_an_address_gets_half_however_many_connections_it_opens(limit: int, expected: int) -> None:
    guard = limiter()
    assert sum(charged(peer(), guard, limit, tries=1) for _ in range(2_000)) == expected


@pytest.mark.parametrize("attackers", [1, 2, 4, 9, 99])
@pytest.mark.parametrize(("spend", "shared"), [(charged, 1_000), (passed, 1_000 - 63)])
def test_what_addresses_leave(attackers: int, spend: Spend, shared: int) -> None:
    guard, limit = limiter(), 1_000
    for _ in range(limit):
        for number in range(attackers):
            spend(peer(f"192.0.2.{number}"), guard, limit, tries=1)
    assert guard.room(BYO, limit, 0) == shared // (attackers + 1)
    assert has_room(peer("198.51.100.1"), guard, BYO, limit, 0)


@pytest.mark.parametrize("attackers", [1, 4, 12, 96])
@pytest.mark.parametrize(("spend", "shared"), [(charged, 1_000), (passed, 1_000 - 63)])
def test_what_connections_of_one_address_leave_to_each_other(attackers: int, spend: Spend, shared: int) -> None:
    guard, limit = limiter(), 1_000
    connections = [peer() for _ in range(attackers)]
    for _ in range(limit):
        for one in connections:
            spend(one, guard, limit, tries=1)
    left = sum(charged(peer(), guard, limit, tries=1) for _ in range(limit))
    assert left == pytest.approx(shared / 2 * 4 / (attackers + 4), abs=attackers / 4 + 1)
    assert left >= 1


def test_the_first_sixteenth_is_not_shared_out() -> None:
    guard, one = limiter(), peer()
    assert passed(one, guard, 1_000, tries=63) == 63
    assert guard.estimate(one.mark(BYO), 0) == 0
    assert passed(one, guard, 1_000) == 94, "a fifth of half of the rest"
    assert guard.estimate(one.mark(BYO), 0) == 94


def test_windows_and_aggregates_are_apart() -> None:
    guard, one = limiter(), peer()
    assert [charged(one, guard, 100, window) for window in (5, 6, 7)] == [10, 10, 10]
    assert one.may_take(guard, UNVERIFIED, 100, 7)
    assert charged(one, guard, 100, 7) == 0


def test_workers_share_what_an_address_takes_and_a_connection_is_of_one_worker() -> None:
    buffer = bytearray(Limiter.buffer_size())
    first, second = Limiter(buffer), Limiter(buffer)
    assert sum(charged(peer(), first, 1_000, tries=1) for _ in range(300)) == 300
    assert sum(charged(peer(), second, 1_000, tries=1) for _ in range(300)) == 200


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 60),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=200),
    by_allow=st.booleans(),
)
def test_the_sum_never_passes_the_limit_and_no_address_more_than_the_others_find_free(
    limit: int, steps: list[tuple[int, int]], by_allow: bool
) -> None:
    guard = limiter()
    total, unshared = 0, (limit + 15) // 16 if by_allow else 0
    peers = {(a, c): peer(f"192.0.2.{a}") for a in range(4) for c in range(3)}
    counts = dict.fromkeys(range(4), 0)
    for address, connection in steps:
        before = guard.room(BYO, limit, 0)
        if (passed if by_allow else charged)(peers[address, connection], guard, limit, tries=1):
            counts[address] += before <= limit - unshared
            total += 1
            assert counts[address] <= guard.room(BYO, limit, 0) + 1
    assert guard.room(BYO, limit, 0) == limit - total >= 0
    if guard.room(BYO, limit, 0):
        assert has_room(peer("198.51.100.1"), guard, BYO, limit, 0)
