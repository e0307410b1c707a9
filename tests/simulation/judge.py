"""Who is admitted: steps 1 to 10 of the request path over plain values, with exact counts behind the limiter."""

from __future__ import annotations

from dataclasses import dataclass, field

from aigw_core.denyset import DenyReason
from tests.simulation.requests import Plan
from tests.simulation.setup import FORGED, Key, Setup


@dataclass
class Denied:
    """Who is cut off, by plain maps; the tenant's entry goes before the key's."""

    tenants: dict[int, DenyReason] = field(default_factory=dict)
    keys: dict[int, DenyReason] = field(default_factory=dict)

    def reason(self, key: Key) -> DenyReason | None:
        found = self.tenants.get(key.tenant)
        if found is None and key.key_id is not None:
            found = self.keys.get(key.key_id)
        return found


@dataclass
class Counts:
    """Requests that passed, exactly, by window and whom they are counted for."""

    window: int = -1
    passed: dict[object, int] = field(default_factory=dict)

    def is_full(self, whom: object, limit: int, window: int) -> bool:
        """Whether the next one would be refused."""
        return bool(limit) and window == self.window and self.passed.get(whom, 0) >= limit

    def allow(self, whom: object, limit: int, window: int) -> bool:
        if limit == 0:
            return True
        if window != self.window:
            self.window = window
            self.passed = {}
        count = self.passed.get(whom, 0)
        if count >= limit:
            return False
        self.passed[whom] = count + 1
        return True


class Judge:
    """The admission decision. ``decide`` is asked once for each request head, in the order of the gateway."""

    def __init__(self) -> None:
        self.denied = Denied()
        self.counts = Counts()
        self.seeded = True
        self._verified: dict[bytes, int] = {}
        """The kid of each key that is known."""

    def reloaded(self, setup: Setup) -> None:
        """What verified stays known as long as its kid does."""
        self._verified = {token: kid for token, kid in self._verified.items() if kid in setup.kids}

    def decide(self, plan: Plan, setup: Setup, now: float) -> int | None:
        """The status of the refusal, 0 for any refusal, None where the request is authorized."""
        if plan.malformed is not None:
            return plan.malformed
        if not plan.routed:
            return 404
        if plan.credential in ("conflict", "misplaced"):
            return 400
        if plan.credential in ("none", "malformed"):
            return 401
        refused = self._limit(plan, setup, int(now))
        if refused is not None:
            return refused
        if plan.key is None:
            return 426 if plan.upgrade else None
        reason = self.denied.reason(plan.key)
        if reason is not None:
            return 402 if reason is DenyReason.SPEND else 403
        if setup.fail_closed and not self.seeded:
            return 503
        if plan.upgrade:
            return 426
        if not plan.in_scope:
            return 404
        if not plan.method_fits:
            return 405
        return 503 if plan.site.name in setup.keyless else None

    def _limit(self, plan: Plan, setup: Setup, window: int) -> int | None:
        allow = self.counts.allow
        is_known = plan.token in self._verified
        kid = plan.key.kid if plan.key is not None else 1 if plan.token in FORGED else None
        if not allow(plan.token, setup.rate, window):
            return 429
        if plan.credential == "byo":
            if not allow("byo", setup.byo_rate, window):
                return 429
        elif not is_known and kid in setup.kids and self.counts.is_full("unverified", setup.unverified_rate, window):
            return 429
        if plan.declared is not None and plan.declared > setup.body_max:
            return 413
        if plan.credential == "byo" or is_known:
            return None
        if kid not in setup.kids:
            return 401
        if plan.key is None:
            allow("unverified", setup.unverified_rate, window)
            return 401
        self._verified[plan.token] = plan.key.kid
        return None
