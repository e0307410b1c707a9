"""The address cache: fresh, then stale, then gone, and never more than its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.resolver import (
    ADDRESSES_MAX,
    ENTRIES_MAX,
    STALE_SECS_MAX,
    TTL_SECS,
    AddressCache,
    order,
)

HOST, PORT = "api.example", 443
STORED_AT = 1000.0
ADDRESSES = (("192.0.2.1", 443), ("192.0.2.2", 443))


def stored() -> AddressCache[tuple[str, int]]:
    cache: AddressCache[tuple[str, int]] = AddressCache()
    cache.store(HOST, PORT, ADDRESSES, STORED_AT)
    return cache


def test_bounds_are_those_stated() -> None:
    assert (TTL_SECS, STALE_SECS_MAX) == (30.0, 300.0)


@pytest.mark.parametrize(
    ("age", "fresh", "stale"),
    [
        (0.0, True, True),
        (29.999, True, True),
        (30.0, False, True),
        (329.999, False, True),
        (330.0, False, False),
        (1e9, False, False),
    ],
)
def test_ages(age: float, fresh: bool, stale: bool) -> None:
    cache = stored()
    now = STORED_AT + age
    assert cache.fresh(HOST, PORT, now) == (ADDRESSES if fresh else None)
    assert cache.stale(HOST, PORT, now) == (ADDRESSES if stale else None)


def test_other_places_are_unknown() -> None:
    cache = stored()
    for host, port in ((HOST, 80), ("other.example", PORT)):
        assert cache.fresh(host, port, STORED_AT) is None
        assert cache.stale(host, port, STORED_AT) is None
        assert cache.forget(host, port) is False


def test_a_new_answer_takes_the_place_of_the_old_one() -> None:
    cache = stored()
    cache.store(HOST, PORT, [("192.0.2.9", 443)], STORED_AT + 40.0)
    assert cache.fresh(HOST, PORT, STORED_AT + 69.0) == (("192.0.2.9", 443),)
    assert len(cache) == 1


def test_forget() -> None:
    cache = stored()
    assert cache.forget(HOST, PORT) is True
    assert cache.forget(HOST, PORT) is False
    assert cache.stale(HOST, PORT, STORED_AT) is None


def test_an_empty_answer_displaces_nothing() -> None:
    cache = stored()
    with pytest.raises(ValueError, match="without addresses"):
        cache.store(HOST, PORT, [], STORED_AT + 1.0)
    assert cache.fresh(HOST, PORT, STORED_AT + 1.0) == ADDRESSES


def test_own_times() -> None:
    cache: AddressCache[str] = AddressCache(ttl=1.0, stale_max=2.0)
    cache.store(HOST, PORT, ["x"], 0.0)
    assert [cache.fresh(HOST, PORT, now) for now in (0.5, 1.0)] == [("x",), None]
    assert [cache.stale(HOST, PORT, now) for now in (2.5, 3.0)] == [("x",), None]


def test_addresses_of_one_answer_are_bounded() -> None:
    cache: AddressCache[int] = AddressCache()
    cache.store(HOST, PORT, range(ADDRESSES_MAX), 0.0)
    assert cache.fresh(HOST, PORT, 0.0) == tuple(range(ADDRESSES_MAX))
    cache.store(HOST, PORT, range(ADDRESSES_MAX + 1), 0.0)
    assert cache.fresh(HOST, PORT, 0.0) == tuple(range(ADDRESSES_MAX))


def test_entries_are_bounded_and_the_oldest_answer_goes() -> None:
    cache: AddressCache[str] = AddressCache(entries_max=2)
    cache.store("a", 1, ["a"], 0.0)
    cache.store("b", 1, ["b"], 1.0)
    cache.store("a", 1, ["a again"], 2.0)
    assert len(cache) == 2
    cache.store("c", 1, ["c"], 3.0)
    assert len(cache) == 2
    assert [cache.fresh(host, 1, 3.0) for host in "abc"] == [("a again",), None, ("c",)]


def test_default_entry_bound() -> None:
    cache: AddressCache[str] = AddressCache()
    for number in range(ENTRIES_MAX + 5):
        cache.store("h", number, ["x"], 0.0)
    assert len(cache) == ENTRIES_MAX
    assert cache.fresh("h", 4, 0.0) is None
    assert cache.fresh("h", 5, 0.0) == ("x",)


def test_addresses_are_opaque() -> None:
    token = object()
    cache: AddressCache[object] = AddressCache()
    cache.store(HOST, PORT, [token], 0.0)
    addresses = cache.fresh(HOST, PORT, 0.0)
    assert addresses is not None
    assert addresses[0] is token


@given(st.lists(st.integers(), min_size=1, max_size=8, unique=True), st.integers(-20, 20))
def test_order_rotates(addresses: list[int], start: int) -> None:
    rotated = order(addresses, start)
    assert sorted(rotated) == sorted(addresses)
    for offset, address in enumerate(rotated):
        assert address == addresses[(start + offset) % len(addresses)]


def test_order_of_nothing() -> None:
    assert order([], 3) == ()
    assert order(("a", "b", "c"), 0) == ("a", "b", "c")
    assert order(("a", "b", "c"), 4) == ("b", "c", "a")
