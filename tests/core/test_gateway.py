"""What connections share: ids, clocks, the deny-set's age, counters, the index of running exchanges."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.denyset import DenyChange, DenyReason, DenyScope, DenySet, DenySubject
from aigw_core.effects import Effect
from aigw_core.gateway import CLOCK_JUMP_MAX, Gateway
from aigw_core.keys import VirtualKey
from aigw_core.limiter import Limiter
from tests.core.driver import WALL, make_gateway, make_policy

FRAUD, SPEND, UNKNOWN = DenyReason.FRAUD, DenyReason.SPEND, DenyReason.UNKNOWN


def new_gateway(entropy: bytes, hash_key: bytes | None = None) -> Gateway:
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    return Gateway(make_policy(), entropy=entropy, hash_key=hash_key, limiter=limiter, now=0.0, wall=WALL)


class Running:
    """An exchange that can be cut."""

    def cut(self, reason: DenyReason | None, now: float) -> list[Effect]:
        raise AssertionError("the gateway tells whom to cut, and cuts nobody")


def tenant(number: int, reason: DenyReason | None) -> DenyChange:
    return DenyChange(DenySubject(DenyScope.TENANT, number), reason)


def key(number: int, reason: DenyReason | None) -> DenyChange:
    return DenyChange(DenySubject(DenyScope.KEY, number), reason)


def caller(tenant_id: int, key_id: int | None = None) -> VirtualKey:
    return VirtualKey(1 if key_id is None else 2, 1, tenant_id, 0, key_id)


@pytest.mark.parametrize(("size", "enough"), [(31, False), (32, True), (64, True)])
def test_entropy(size: int, enough: bool) -> None:
    if enough:
        assert len(new_gateway(bytes(size)).new_id(0.0)) == 32
    else:
        with pytest.raises(ValueError, match="entropy"):
            new_gateway(bytes(size))


@pytest.mark.parametrize(("size", "fits"), [(15, False), (16, True), (64, True), (65, False)])
def test_a_hash_key_of_the_wrong_size_is_told_at_once(size: int, fits: bool) -> None:
    if fits:
        assert new_gateway(bytes(32), bytes(size)).hash_key == bytes(size)
    else:
        with pytest.raises(ValueError):  # noqa: PT011  # one text is ours, the other hashlib's
            new_gateway(bytes(32), bytes(size))


def test_workers_of_one_limiter_share_a_hash_key_and_never_an_id() -> None:
    shared = b"h" * 32
    first, second = new_gateway(b"1" * 32, shared), new_gateway(b"2" * 32, shared)
    assert first.hash_key == second.hash_key
    assert {first.new_id(0.0) for _ in range(50)}.isdisjoint(second.new_id(0.0) for _ in range(50))


def test_ids_tell_nothing_of_the_hash_key() -> None:
    """An id goes to callers and begins with the process's entropy."""
    gateway = new_gateway(bytes(range(100, 132)))
    assert gateway.new_id(0.0)[12:22] == bytes(range(100, 105)).hex()
    assert not set(bytes(range(100, 105))) & set(gateway.hash_key)


def test_ids_carry_wall_time_and_sort() -> None:
    gateway = make_gateway()
    made = [gateway.new_id(now) for now in (0.0, 0.0, 0.001, 60.0)]
    assert made == sorted(made)
    assert int(made[0][:12], 16) == int(WALL * 1000)
    assert int(made[3][:12], 16) == int(WALL * 1000) + 60_000


@pytest.mark.parametrize(
    ("state", "seeded", "unready"),
    [
        ("none", False, False),
        ("cold", False, True),
        ("seeding", False, True),
        ("live", False, False),
        ("reconnecting", False, False),
        ("cold", True, False),
        ("seeding", True, False),
    ],
)
def test_when_the_deny_set_was_never_seeded(state: str, seeded: bool, unready: bool) -> None:
    gateway = make_gateway()
    gateway.deny_state = state
    gateway.deny_seeded = seeded
    assert gateway.deny_unready() is unready


def test_the_age_of_the_deny_set() -> None:
    gateway = make_gateway()
    assert gateway.deny_stale_ms(100.0) is None
    gateway.deny_confirmed_at = 90.0
    assert gateway.deny_stale_ms(100.25) == 10_250
    assert gateway.deny_stale_ms(80.0) == 0


@pytest.mark.parametrize(
    ("jump", "stale_ms"),
    [(0.0, 0), (CLOCK_JUMP_MAX, 0), (-CLOCK_JUMP_MAX, 0), (CLOCK_JUMP_MAX + 1, 6_000), (-3600.0, 3_600_000)],
)
def test_a_jump_of_the_wall_clock_makes_the_feed_stale(jump: float, stale_ms: int) -> None:
    """A suspended machine has missed what happened meanwhile."""
    gateway = make_gateway()
    gateway.deny_confirmed_at = 10.0
    gateway.set_clock(10.0, WALL + 10.0 + jump)
    assert gateway.deny_stale_ms(10.0) == stale_ms
    assert gateway.clock.wall_ms(10.0) == int((WALL + 10.0 + jump) * 1000)
    gateway.set_clock(11.0, WALL + 11.0 + jump)
    assert gateway.deny_stale_ms(10.0) == stale_ms, "a jump counts once"


def test_a_jump_without_a_feed() -> None:
    gateway = make_gateway()
    gateway.set_clock(0.0, WALL + 1000.0)
    assert gateway.deny_stale_ms(0.0) is None


# The index of running exchanges


def index(gateway: Gateway, *callers: VirtualKey) -> list[Running]:
    running = [Running() for _ in callers]
    for owner, one in zip(running, callers, strict=True):
        gateway.register(owner, one)
    return running


def test_those_who_are_cut_off_are_found() -> None:
    gateway = make_gateway()
    a, b, c, d = index(gateway, caller(1), caller(1, 7), caller(2, 7), caller(3))
    assert gateway.apply_deny([tenant(1, FRAUD)]) == [], "only what the deny-set says counts"
    change = gateway.deny.put("blackhole.1", b"fraud", 1)
    assert change is not None
    assert gateway.apply_deny([change]) == [(a, FRAUD), (b, FRAUD)]
    change = gateway.deny.put("blackhole.key.7", b"fraud", 2)
    assert change is not None
    assert gateway.apply_deny([change]) == [(a, FRAUD), (b, FRAUD), (c, FRAUD)]
    gateway.deny.replace({"blackhole.3": (b"fraud", 3)}, 3)
    assert gateway.apply_deny() == [(d, FRAUD)]


def test_spend_lets_finish() -> None:
    gateway = make_gateway()
    (owner,) = index(gateway, caller(1))
    change = gateway.deny.put("blackhole.1", b"spend", 1)
    assert change is not None
    assert gateway.apply_deny([change]) == gateway.apply_deny() == []
    gateway.policy = replace(gateway.policy, cut_streams_on=frozenset({SPEND, UNKNOWN}))
    assert gateway.apply_deny([change]) == gateway.apply_deny() == [(owner, SPEND)]
    gateway.policy = replace(gateway.policy, cut_streams_on=frozenset())
    assert gateway.apply_deny([change]) == gateway.apply_deny() == []


def test_the_reason_that_is_in_force_decides() -> None:
    """The tenant's entry goes before the key's, here as at admission."""
    gateway = make_gateway()
    index(gateway, caller(1, 7))
    gateway.deny.put("blackhole.1", b"spend", 1)
    change = gateway.deny.put("blackhole.key.7", b"fraud", 2)
    assert change is not None
    assert gateway.apply_deny([change]) == []


def test_restoring_cuts_nobody() -> None:
    gateway = make_gateway()
    index(gateway, caller(1))
    gateway.deny.put("blackhole.1", b"fraud", 1)
    change = gateway.deny.remove("blackhole.1", 2)
    assert change == tenant(1, None)
    assert gateway.apply_deny([change]) == []
    assert gateway.apply_deny([]) == []


def test_restoring_a_tenant_brings_the_entry_of_its_key_into_force() -> None:
    gateway = make_gateway()
    owner, _, _ = index(gateway, caller(1, 7), caller(1, 8), caller(2))
    gateway.deny.put("blackhole.1", b"spend", 1)
    gateway.deny.put("blackhole.key.7", b"fraud", 2)
    change = gateway.deny.remove("blackhole.1", 3)
    assert change is not None
    assert gateway.apply_deny([change]) == [(owner, FRAUD)]


def test_nobody_is_named_twice() -> None:
    gateway = make_gateway()
    (owner,) = index(gateway, caller(1, 7))
    gateway.deny.put("blackhole.1", b"fraud", 1)
    for changes in ([tenant(1, FRAUD)] * 2, [tenant(1, FRAUD), key(7, FRAUD)], [tenant(9, FRAUD), tenant(1, FRAUD)]):
        assert gateway.apply_deny(changes) == [(owner, FRAUD)]


def test_who_has_ended_is_not_found() -> None:
    gateway = make_gateway()
    first, second = index(gateway, caller(1), caller(1))
    gateway.deny.put("blackhole.1", b"fraud", 1)
    gateway.unregister(first, caller(1))
    gateway.unregister(first, caller(1))
    assert gateway.apply_deny() == [(second, FRAUD)]
    gateway.unregister(second, caller(1))
    gateway.unregister(second, caller(5))
    assert gateway.apply_deny() == []
    assert gateway._by_tenant == {}, "a tenant without exchanges leaves nothing behind"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.none() | st.integers(1, 3)), max_size=8),
    st.lists(
        st.tuples(
            st.sampled_from([f"blackhole.{n}" for n in (1, 2, 3)] + [f"blackhole.key.{n}" for n in (1, 2, 3)]),
            st.sampled_from([b"fraud", b"spend", b"x", None]),
        ),
        max_size=8,
    ),
)
def test_looking_at_the_changes_finds_what_looking_at_all_finds(
    callers: list[tuple[int, int | None]], entries: list[tuple[str, bytes | None]]
) -> None:
    gateway = make_gateway()
    index(gateway, *[caller(*one) for one in callers])
    changes: list[DenyChange] = []
    for revision, (name, value) in enumerate(entries, start=1):
        change = gateway.deny.remove(name, revision) if value is None else gateway.deny.put(name, value, revision)
        if change is not None:
            changes.append(change)
    by_changes, whole = gateway.apply_deny(changes), gateway.apply_deny()
    assert set(by_changes) == set(whole)
    assert len(by_changes) == len(set(by_changes))


def test_a_reload_swaps_the_policy_and_gives_back_what_no_longer_fits() -> None:
    gateway = make_gateway()
    old = gateway.policy.providers["openai"].origin
    kept = gateway.policy.providers["groq"].origin
    gateway.pool.checkin(old, "old", 0.0, idle_timeout=30.0)
    gateway.pool.checkin(kept, "kept", 0.0, idle_timeout=30.0)
    moved = replace(gateway.policy.providers["openai"], origin=replace(old, generation=1))
    policy = replace(gateway.policy, providers={**gateway.policy.providers, "openai": moved})
    assert gateway.reload(policy) == ["old"]
    assert gateway.policy is policy
    assert gateway.pool.checkout(kept, 0.0) == "kept"


def test_draining_is_remembered() -> None:
    gateway = make_gateway()
    assert not gateway.draining
    gateway.drain()
    assert gateway.draining


def test_a_deny_set_may_be_given() -> None:
    deny = DenySet()
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    gateway = Gateway(make_policy(), entropy=bytes(32), limiter=limiter, now=0.0, wall=0.0, deny=deny)
    assert gateway.deny is deny
