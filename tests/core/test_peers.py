"""Shares of the common limits: what one address, or one connection, cannot take from the others."""

from __future__ import annotations

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


def taken(one: Peer | None, guard: Limiter, limit: int, window: int = 0, tries: int = 2_000) -> int:
    """How many of so many requests pass."""
    passed = 0
    for _ in range(tries):
        if has_room(one, guard, BYO, limit, window):
            take(one, guard, BYO, limit, window)
            passed += 1
    return passed


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
    assert taken(one, guard, 0) == taken(None, guard, 0) == 2_000
    assert guard.room(BYO, 10, 0) == 10
    assert guard.estimate(one.mark(BYO), 0) == 0


def test_of_an_unknown_address_the_sum_alone_counts() -> None:
    guard = limiter()
    assert taken(None, guard, 100) == 100
    assert not has_room(peer(), guard, BYO, 100, 0)


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 1), (3, 1), (10, 1), (11, 2), (100, 10), (1_000, 100)])
def test_a_connection_gets_a_fifth_of_its_address_and_each_at_least_one(limit: int, expected: int) -> None:
    assert taken(peer(), limiter(), limit) == expected


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 1), (3, 2), (10, 5), (1_000, 500)])
def test_an_address_gets_half_however_many_connections_it_opens(limit: int, expected: int) -> None:
    guard = limiter()
    assert sum(taken(peer(), guard, limit, tries=1) for _ in range(2_000)) == expected


@pytest.mark.parametrize("attackers", [1, 2, 4, 9, 99])
def test_what_addresses_leave(attackers: int) -> None:
    guard, limit = limiter(), 1_000
    for _ in range(limit):
        for number in range(attackers):
            taken(peer(f"192.0.2.{number}"), guard, limit, tries=1)
    assert guard.room(BYO, limit, 0) == limit // (attackers + 1)
    assert has_room(peer("198.51.100.1"), guard, BYO, limit, 0)


@pytest.mark.parametrize("attackers", [1, 4, 12, 96])
def test_what_connections_of_one_address_leave_to_each_other(attackers: int) -> None:
    guard, limit = limiter(), 1_000
    connections = [peer() for _ in range(attackers)]
    for _ in range(limit):
        for one in connections:
            taken(one, guard, limit, tries=1)
    left = sum(taken(peer(), guard, limit, tries=1) for _ in range(limit))
    assert left == pytest.approx(limit / 2 * 4 / (attackers + 4), abs=attackers / 4 + 1)
    assert left >= 1


def test_windows_and_aggregates_are_apart() -> None:
    guard, one = limiter(), peer()
    assert [taken(one, guard, 100, window) for window in (5, 6, 7)] == [10, 10, 10]
    assert one.may_take(guard, UNVERIFIED, 100, 7)
    assert taken(one, guard, 100, 7) == 0


def test_workers_share_what_an_address_takes_and_a_connection_is_of_one_worker() -> None:
    buffer = bytearray(Limiter.buffer_size())
    first, second = Limiter(buffer), Limiter(buffer)
    assert sum(taken(peer(), first, 1_000, tries=1) for _ in range(300)) == 300
    assert sum(taken(peer(), second, 1_000, tries=1) for _ in range(300)) == 200


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 60),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=200),
)
def test_the_sum_never_passes_the_limit_and_no_address_more_than_the_others_find_free(
    limit: int, steps: list[tuple[int, int]]
) -> None:
    guard = limiter()
    peers = {(a, c): peer(f"192.0.2.{a}") for a in range(4) for c in range(3)}
    counts = dict.fromkeys(range(4), 0)
    for address, connection in steps:
        if taken(peers[address, connection], guard, limit, tries=1):
            counts[address] += 1
            assert counts[address] <= guard.room(BYO, limit, 0) + 1
    assert guard.room(BYO, limit, 0) == limit - sum(counts.values()) >= 0
    if guard.room(BYO, limit, 0):
        assert has_room(peer("198.51.100.1"), guard, BYO, limit, 0)
