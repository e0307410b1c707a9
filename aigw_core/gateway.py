"""What the connections of one process share: policy, limiter, deny-set, pool, ids, running exchanges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from aigw_core.clock import Clock, Ids
from aigw_core.denyset import DenyChange, DenyReason, DenyScope, DenySet
from aigw_core.keys import VirtualKey, fingerprint
from aigw_core.limiter import Limiter
from aigw_core.origin import Origin
from aigw_core.peers import Peer
from aigw_core.policy import Policy
from aigw_core.pool import UpstreamPool
from aigw_core.stats import Stats
from aigw_core.strangers import Strangers
from aigw_core.work import ANSWERS_RESUMED_MAX, WorkShares

if TYPE_CHECKING:
    from aigw_core.effects import Effect, ExchangeEffect

HEADS_HELD_MAX: Final = 16 * 1024 * 1024
"""Bytes of incomplete heads that all connections of a process hold together: whoever sends them is not known yet, and
what one connection may hold, times as many as there may be, is gigabytes."""
HEAD_SHARE_MAX: Final = 16
"""A head holds at most this fraction (1/16) of what is still free: large ones are refused long before small ones."""
HEAD_SMALL_SIZE: Final = 2_048
"""Bytes of a head that may wait as long as anything is free: an SDK's has below 1 KiB."""
CLOCK_JUMP_MAX: Final = 5.0
"""Seconds that the wall clock may step before the deny feed no longer counts as current."""


class Cuttable(Protocol):
    """A running exchange as whoever drives it knows it: a Connection, or an embedder's own object."""

    def cut(self, reason: DenyReason | None, now: float) -> Sequence[Effect | ExchangeEffect]: ...


class Gateway:
    """Shared state. Like every part of the core it performs no I/O and is used from one thread."""

    def __init__(
        self,
        policy: Policy,
        *,
        entropy: bytes,
        limiter: Limiter,
        now: float,
        wall: float,
        hash_key: bytes | None = None,
        deny: DenySet | None = None,
        pool_max_idle: int = 100,
    ) -> None:
        """``entropy``: at least 32 bytes from the system's generator, of this process alone: ids are told apart by it.

        ``hash_key``: 16 to 64 random bytes under which credentials are counted, one for all workers that share a
        limiter's buffer; by default out of ``entropy``. Raises ValueError for other lengths.

        ``now`` is monotonic seconds, ``wall`` seconds since the epoch.
        """
        if len(entropy) < 32:
            raise ValueError("at least 32 bytes of entropy are needed")
        self.policy = policy
        self.limiter = limiter
        self.deny = deny if deny is not None else DenySet()
        self.deny_state = "none"
        """``none``, ``cold``, ``seeding``, ``live``, ``reconnecting``."""
        self.deny_seeded = False
        """Whether a whole deny-set has been in force once, from the feed or a snapshot."""
        self.deny_confirmed_at: float | None = None
        """Monotonic seconds at which the feed last knew that it was current; None without a feed."""
        self.pool: UpstreamPool[object] = UpstreamPool(max_idle=pool_max_idle)
        self.heads_held = 0
        """Bytes of heads that are not complete, of all connections; kept by them."""
        self.strangers = Strangers()
        """What providers said of callers' own keys."""
        self.stats = Stats()
        self.work = WorkShares()
        """Whose request is read on in which turn: a driver of many connections begins turns, see there."""
        self.answer_work = WorkShares(ANSWERS_RESUMED_MAX, 0.0)
        """The same for answers."""
        self.draining = False
        self.active = 0
        self.hash_key = hash_key if hash_key is not None else entropy[5:32]
        # A key of the wrong length is told now, not at the first request.
        fingerprint(b"", self.hash_key)
        self.ids = Ids(entropy)
        self.clock = Clock(now, wall)
        self._by_tenant: dict[int, dict[Cuttable, VirtualKey]] = {}

    def deny_unready(self) -> bool:
        """The deny-set has a feed that was never seeded."""
        return self.deny_state in ("cold", "seeding") and not self.deny_seeded

    def deny_stale_ms(self, now: float) -> int | None:
        """Milliseconds since the feed was last current; None where there is no feed."""
        if self.deny_confirmed_at is None:
            return None
        return max(0, int((now - self.deny_confirmed_at) * 1000))

    def set_clock(self, now: float, wall: float) -> bool:
        """Call about once a second. A jump of the wall clock leaves the deny feed marked stale; True tells of one."""
        jump = abs(self.clock.set(now, wall))
        if jump > CLOCK_JUMP_MAX and self.deny_confirmed_at is not None:
            self.deny_confirmed_at -= jump
        return jump > CLOCK_JUMP_MAX

    def may_hold(self, size: int, more: int) -> bool:
        """Whether a connection may hold ``size`` bytes of a head, ``more`` of which are not counted yet."""
        free = HEADS_HELD_MAX - self.heads_held - more
        return free >= 0 and size <= max(free // HEAD_SHARE_MAX, HEAD_SMALL_SIZE)

    def peer(self, address: str | bytes | None) -> Peer | None:
        """What counts a new connection from this address; None where it is not known."""
        return Peer(address, self.hash_key) if address else None

    def new_id(self, now: float) -> str:
        return self.ids.make(self.clock.wall_ms(now))

    def reload(self, policy: Policy) -> list[object]:
        """Swaps the policy whole; running exchanges keep theirs. Returns idle connections to close."""
        policy.keyring.take_over(self.policy.keyring)
        self.policy = policy
        keep: set[Origin] = {provider.origin for provider in policy.providers.values()}
        return self.pool.retire(keep)

    def drain(self) -> None:
        """From now on answers say ``Connection: close``."""
        self.draining = True

    def register(self, owner: Cuttable, caller: VirtualKey) -> None:
        self._by_tenant.setdefault(caller.tenant_id, {})[owner] = caller

    def unregister(self, owner: Cuttable, caller: VirtualKey) -> None:
        running = self._by_tenant.get(caller.tenant_id)
        if running is not None:
            running.pop(owner, None)
            if not running:
                del self._by_tenant[caller.tenant_id]

    def apply_deny(self, changes: Iterable[DenyChange] | None = None) -> list[tuple[Cuttable, DenyReason]]:
        """The running exchanges that must be cut now, after the deny-set changed.

        With ``changes`` only their tenants and keys are looked at; with None, after a whole new set, every
        running tenant and key is looked up, never the whole set. The driver calls ``cut`` on each.
        """
        cut_on = self.policy.cut_streams_on
        if not cut_on:
            return []
        tenants: Iterable[int] = self._by_tenant
        if changes is not None:
            # A tenant's entry goes before those of its keys, so its removal can bring one of them into force.
            relevant = [c for c in changes if c.reason is not None or c.subject.scope is DenyScope.TENANT]
            if not relevant:
                return []
            if all(c.subject.scope is DenyScope.TENANT for c in relevant):
                tenants = [t for t in dict.fromkeys(c.subject.id for c in relevant) if t in self._by_tenant]
        found: list[tuple[Cuttable, DenyReason]] = []
        for tenant in tenants:
            for owner, caller in self._by_tenant[tenant].items():
                reason = self.deny.check(caller.tenant_id, caller.key_id)
                if reason is not None and reason in cut_on:
                    found.append((owner, reason))
        return found
