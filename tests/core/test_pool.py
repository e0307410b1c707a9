"""The pool of idle connections against a plain list of them."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aigw_core.origin import Origin
from aigw_core.pool import IDLE_MAX, UpstreamPool

A = Origin("https", "a.example", 443)
B = Origin("https", "b.example", 443)
A1 = Origin("https", "a.example", 443, 1)
FOREVER = 1e9


def filled(*handles: str, max_idle: int = IDLE_MAX) -> UpstreamPool[str]:
    """A pool with these handles at A, expiring at 10, 20, 30, …"""
    pool: UpstreamPool[str] = UpstreamPool(max_idle=max_idle)
    for number, handle in enumerate(handles, start=1):
        assert pool.checkin(A, handle, 0.0, idle_timeout=10.0 * number) == []
    return pool


def test_empty() -> None:
    pool: UpstreamPool[str] = UpstreamPool()
    assert pool.checkout(A, 0.0) is None
    assert pool.expire(FOREVER) == []
    assert pool.drain() == []
    assert pool.retire([]) == []
    assert pool.remove("x") is False
    assert (pool.idle_count, pool.next_expiry) == (0, None)


def test_what_is_idle_can_be_looked_through() -> None:
    pool = filled("x", "y", "z")
    for handle in pool:
        assert pool.remove(handle)
    assert list(pool) == []
    pool = filled("x", "y")
    assert pool.checkout(A, 0.0) == "y"
    assert list(pool) == ["x"]


def test_the_last_one_in_is_the_first_one_out() -> None:
    pool = filled("x", "y", "z")
    assert pool.idle_count == 3
    assert [pool.checkout(A, 1.0) for _ in range(4)] == ["z", "y", "x", None]
    assert (pool.idle_count, pool.next_expiry) == (0, None)


def test_origins_and_generations_are_apart() -> None:
    pool = filled("x", "y")
    pool.checkin(A1, "z", 0.0, idle_timeout=10.0)
    assert pool.idle_by_origin() == {A: 2, A1: 1}
    assert pool.checkout(A1, 0.0) == "z"
    assert pool.checkout(A, 0.0) == "y"
    assert pool.idle_by_origin() == {A: 1}
    assert pool.checkout(B, 0.0) is None
    assert pool.checkout(A1, 0.0) is None
    assert pool.checkout(Origin("https", "a.example", 443, 0), 0.0) == "x"


@pytest.mark.parametrize(("now", "handle"), [(9.999, "x"), (10.0, None), (11.0, None)])
def test_a_handle_is_reusable_before_its_deadline(now: float, handle: str | None) -> None:
    pool = filled("x")
    assert pool.checkout(A, now) == handle
    assert pool.expire(now) == ([] if handle else ["x"])
    assert pool.idle_count == 0


def test_an_expired_newest_does_not_hide_an_older_one() -> None:
    pool: UpstreamPool[str] = UpstreamPool()
    for handle, timeout in (("long", 60.0), ("longer", 90.0), ("short", 5.0), ("shorter", 4.0)):
        pool.checkin(A, handle, 0.0, idle_timeout=timeout)
    assert pool.checkout(A, 10.0) == "longer"
    assert pool.checkout(A, 10.0) == "long"
    assert pool.checkout(A, 10.0) is None
    assert pool.idle_count == 2
    assert pool.expire(10.0) == ["short", "shorter"]


def test_skipped_ones_keep_their_place() -> None:
    pool = filled("old", "new")
    pool.checkin(A, "dead", 0.0, idle_timeout=1.0)
    assert pool.checkout(A, 2.0) == "new"
    assert pool.drain() == ["old", "dead"]


def test_over_the_limit_the_oldest_is_closed() -> None:
    pool = filled("x", "y", max_idle=2)
    assert pool.checkin(A, "z", 0.0, idle_timeout=5.0) == ["x"]
    assert pool.idle_count == 2
    assert pool.remove("x") is False
    # The limit is for each origin.
    assert pool.checkin(B, "w", 0.0, idle_timeout=5.0) == []
    assert pool.idle_count == 3


def test_default_limit() -> None:
    pool: UpstreamPool[int] = UpstreamPool()
    closed = [pool.checkin(A, number, 0.0, idle_timeout=5.0) for number in range(IDLE_MAX + 1)]
    assert closed == [[]] * IDLE_MAX + [[0]]


@pytest.mark.parametrize(("max_idle", "timeout"), [(0, 30.0), (5, 0.0), (5, -1.0)])
def test_what_may_not_be_idle_is_closed_at_once(max_idle: int, timeout: float) -> None:
    pool: UpstreamPool[str] = UpstreamPool(max_idle=max_idle)
    assert pool.checkin(A, "x", 0.0, idle_timeout=timeout) == ["x"]
    assert (pool.idle_count, pool.next_expiry) == (0, None)
    assert pool.checkout(A, 0.0) is None


def test_a_handle_is_idle_once() -> None:
    pool = filled("x")
    with pytest.raises(ValueError, match="idle already"):
        pool.checkin(B, "x", 0.0, idle_timeout=1.0)
    assert pool.checkout(A, 0.0) == "x"
    assert pool.checkin(B, "x", 0.0, idle_timeout=1.0) == []


def test_remove_from_the_middle() -> None:
    pool = filled("x", "y", "z")
    assert pool.remove("y") is True
    assert pool.remove("y") is False
    assert [pool.checkout(A, 0.0) for _ in range(3)] == ["z", "x", None]


def test_an_emptied_origin_is_empty() -> None:
    for leave in ("checkout", "remove", "expire"):
        pool = filled("x")
        if leave == "checkout":
            assert pool.checkout(A, 0.0) == "x"
        elif leave == "remove":
            assert pool.remove("x") is True
        else:
            assert pool.expire(10.0) == ["x"]
        assert pool.checkout(A, 0.0) is None
        assert pool.checkin(A, "y", 0.0, idle_timeout=1.0) == []
        assert pool.checkout(A, 0.0) == "y"


def test_expiry_of_several_origins() -> None:
    pool = filled("a10", "a20")
    pool.checkin(B, "b15", 0.0, idle_timeout=15.0)
    assert pool.next_expiry == 10.0
    assert pool.expire(9.0) == []
    assert pool.expire(15.0) == ["a10", "b15"]
    assert pool.next_expiry == 20.0
    assert pool.expire(20.0) == ["a20"]
    assert pool.next_expiry is None


def test_next_expiry_is_corrected_by_expire() -> None:
    pool = filled("x", "y")
    pool.remove("x")
    assert pool.next_expiry == 10.0
    assert pool.expire(10.0) == []
    assert pool.next_expiry == 20.0


def test_next_expiry_of_an_emptied_pool_starts_anew() -> None:
    pool = filled("x")
    pool.checkout(A, 0.0)
    pool.checkin(A, "x", 100.0, idle_timeout=30.0)
    assert pool.next_expiry == 130.0
    pool.checkin(A, "y", 100.0, idle_timeout=5.0)
    assert pool.next_expiry == 105.0


def test_retire_keeps_what_is_listed() -> None:
    pool = filled("a", "aa")
    pool.checkin(A1, "a1", 0.0, idle_timeout=5.0)
    pool.checkin(B, "b", 0.0, idle_timeout=5.0)
    assert pool.retire({A1, B}) == ["a", "aa"]
    assert pool.idle_count == 2
    assert pool.checkout(A1, 0.0) == "a1"
    # A late one of an old generation is nobody's, and expires.
    assert pool.checkin(A, "late", 0.0, idle_timeout=5.0) == []
    assert pool.expire(5.0) == ["b", "late"]


def test_drain_takes_all_and_may_be_repeated() -> None:
    pool = filled("a", "aa")
    pool.checkin(B, "b", 0.0, idle_timeout=5.0)
    assert pool.drain() == ["a", "aa", "b"]
    assert (pool.idle_count, pool.next_expiry) == (0, None)
    assert pool.checkin(A, "late", 0.0, idle_timeout=5.0) == []
    assert pool.drain() == ["late"]


class PoolMachine(RuleBasedStateMachine):
    """The model is one list of (origin, handle, deadline), oldest first."""

    MAX_IDLE = 3
    origins = st.sampled_from([A, B, A1])

    def __init__(self) -> None:
        super().__init__()
        self.pool: UpstreamPool[int] = UpstreamPool(max_idle=self.MAX_IDLE)
        self.model: list[tuple[Origin, int, float]] = []
        self.now = 0.0
        self.made = 0

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 7.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(origin=origins, timeout=st.sampled_from([0.0, 1.0, 2.0, 10.0]))
    def checkin(self, origin: Origin, timeout: float) -> None:
        self.made += 1
        expected: list[int] = []
        if timeout == 0.0:
            expected = [self.made]
        else:
            self.model.append((origin, self.made, self.now + timeout))
            same = [entry for entry in self.model if entry[0] == origin]
            if len(same) > self.MAX_IDLE:
                self.model.remove(same[0])
                expected = [same[0][1]]
        assert self.pool.checkin(origin, self.made, self.now, idle_timeout=timeout) == expected

    @rule(origin=origins)
    def checkout(self, origin: Origin) -> None:
        alive = [entry for entry in self.model if entry[0] == origin and entry[2] > self.now]
        if alive:
            self.model.remove(alive[-1])
        assert self.pool.checkout(origin, self.now) == (alive[-1][1] if alive else None)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from([0, *(entry[1] for entry in self.model)]))
        idle = [entry for entry in self.model if entry[1] == handle]
        self.model = [entry for entry in self.model if entry[1] != handle]
        assert self.pool.remove(handle) is bool(idle)

    @rule()
    def expire(self) -> None:
        expired = [entry[1] for entry in self.model if entry[2] <= self.now]
        self.model = [entry for entry in self.model if entry[2] > self.now]
        assert sorted(self.pool.expire(self.now)) == expired
        assert self.pool.next_expiry == min((entry[2] for entry in self.model), default=None)

    @rule(keep=st.sets(origins))
    def retire(self, keep: set[Origin]) -> None:
        retired = [entry[1] for entry in self.model if entry[0] not in keep]
        self.model = [entry for entry in self.model if entry[0] in keep]
        assert sorted(self.pool.retire(keep)) == retired

    @rule()
    def drain(self) -> None:
        assert self.pool.drain() == [entry[1] for entry in self.model]
        self.model = []

    @invariant()
    def counts_and_deadline(self) -> None:
        assert self.pool.idle_count == len(self.model)
        next_expiry = self.pool.next_expiry
        if self.model:
            assert next_expiry is not None
            assert next_expiry <= min(entry[2] for entry in self.model)
        else:
            assert next_expiry is None


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
