"""Ways to break the core: each must be caught, or the harness proves nothing.

Most of them change what goes into or comes out of public names, so that they survive a rebuilt core. A name that is
gone raises at once: then the canary is to be written anew, not dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from aigw_core import auth, exchange_requests, forwarding, keymask
from aigw_core.clock import Ids
from aigw_core.connection import Connection
from aigw_core.denyset import DenyReason, DenyScope, DenySet
from aigw_core.effects import (
    Close,
    CloseDownstream,
    Effect,
    EmitFact,
    OpenFact,
    ReleaseUpstream,
    SendDownstream,
    SendUpstream,
    VoidFact,
)
from aigw_core.exchange_machine import ExchangeMachine
from aigw_core.exchange_requests import ExchangeRequests
from aigw_core.facts import Outcome, UsageFact
from aigw_core.gateway import Gateway
from aigw_core.keys import KeyRing
from aigw_core.limiter import Limiter
from aigw_core.pool import UpstreamPool
from aigw_core.timers import Timer, Timers
from aigw_core.usage.meter import Meter
from aigw_core.work import WorkShares

Undo = Callable[[], None]
_INPUTS: Final = (
    "receive_downstream",
    "downstream_lost",
    "upstream_connected",
    "upstream_failed",
    "receive_upstream",
    "upstream_lost",
    "fact_opened",
    "fact_refused",
    "opened_and_connected",
    "tick",
    "resume",
    "cut",
    "drain",
    "abandon",
)


def _patch(owner: Any, name: str, value: object) -> Undo:
    before = owner.__dict__[name]
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def _around(owner: Any, name: str, change: Callable[..., Any]) -> Undo:
    """``change`` gets the original and its arguments."""
    before = owner.__dict__[name]
    return _patch(owner, name, lambda *args, **kwargs: change(before, *args, **kwargs))


def _rewritten(change: Callable[[list[Effect]], list[Effect]]) -> list[Undo]:
    """Every batch of effects of every connection, changed."""
    return [
        _around(Connection, name, lambda original, *args, **kwargs: change(original(*args, **kwargs)))
        for name in _INPUTS
    ]


def _fact_twice() -> list[Undo]:
    return _rewritten(lambda effects: [effects[0], *effects] if effects and type(effects[0]) is EmitFact else effects)


def _fact_lost() -> list[Undo]:
    """One in fifty."""
    seen = [0]

    def change(effects: list[Effect]) -> list[Effect]:
        if effects and type(effects[0]) is EmitFact:
            seen[0] += 1
            return effects[1:] if seen[0] % 50 == 0 else effects
        return effects

    return _rewritten(change)


def _fact_late() -> list[Undo]:
    return _rewritten(
        lambda effects: effects[1:] + effects[:1] if effects and type(effects[0]) is EmitFact else effects
    )


def _void_lost() -> list[Undo]:
    return _rewritten(lambda effects: [effect for effect in effects if type(effect) is not VoidFact])


def _last_chunk_lost() -> list[Undo]:
    def change(effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if type(effect) is SendDownstream and effect.data.endswith(b"\r\n0\r\n\r\n"):
                effect.data = effect.data[:-5]
        return effects

    return _rewritten(change)


def _cut_looks_complete() -> list[Undo]:
    def change(effects: list[Effect]) -> list[Effect]:
        for at, effect in enumerate(effects):
            if type(effect) is CloseDownstream and effect.how is Close.ABORT:
                return [*effects[:at], SendDownstream(b"0\r\n\r\n"), CloseDownstream(Close.LINGER), *effects[at + 1 :]]
        return effects

    return _rewritten(change)


def _sent_after_close() -> list[Undo]:
    def change(effects: list[Effect]) -> list[Effect]:
        kinds = [type(effect) for effect in effects]
        if CloseDownstream in kinds and SendDownstream in kinds:
            return sorted(effects, key=lambda effect: type(effect) is SendDownstream)
        return effects

    return _rewritten(change)


def _dirty_reuse() -> list[Undo]:
    def change(effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if type(effect) is ReleaseUpstream:
                effect.reusable = True
                effect.idle_timeout = effect.idle_timeout or 1.0
        return effects

    return _rewritten(change)


def _byte_flipped() -> list[Undo]:
    """The last byte of a relayed piece, rarely."""

    def change(effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if type(effect) is SendDownstream and len(effect.data) % 97 == 0:
                effect.data = effect.data[:-1] + bytes([effect.data[-1] ^ 1])
        return effects

    return _rewritten(change)


def _request_sent_early() -> list[Undo]:
    """The open record is taken for accepted at once."""

    def change(original: Any, machine: Connection, data: bytes, now: float) -> list[Effect]:
        effects: list[Effect] = original(machine, data, now)
        for effect in list(effects):
            if type(effect) is OpenFact:
                effects += machine.fact_opened(effect.record.id, now)
        return effects

    return [_around(Connection, "receive_downstream", change)]


def _late_input_taken() -> list[Undo]:
    """Any attempt will do."""

    def change(original: Any, machine: ExchangeMachine, attempt: int, *args: Any, **kwargs: Any) -> Any:
        del attempt
        return original(machine, machine.attempt, *args, **kwargs)

    def connection(original: Any, machine: Connection, attempt: int, *args: Any) -> Any:
        running = machine._exchange
        return original(machine, attempt if running is None else running.attempt, *args)

    names = ("receive_upstream", "upstream_lost")
    return [
        *[_around(Connection, name, connection) for name in names],
        _around(ExchangeMachine, "upstream_connected", change),
    ]


def _deny_skipped() -> list[Undo]:
    return [_patch(auth, "check_deny", lambda *_: None)]


def _deny_not_asked_again() -> list[Undo]:
    return [_patch(exchange_requests, "check_deny", lambda *_: None)]


def _deny_not_asked_at_the_end() -> list[Undo]:
    return [_patch(ExchangeRequests, "_is_denied", lambda *_: False)]


def _nobody_reads_on() -> list[Undo]:
    return [_patch(WorkShares, "wait", lambda *_: None)]


def _tenant_does_not_win() -> list[Undo]:
    def change(original: Any, deny: DenySet, tenant_id: int, key_id: int | None) -> DenyReason | None:
        found: DenyReason | None = original(deny, 2**63, key_id)
        return found or original(deny, tenant_id, None)

    return [_around(DenySet, "check", change)]


def _cut_misses_keys() -> list[Undo]:
    def change(original: Any, gateway: Gateway, changes: Any = None) -> Any:
        if changes is not None:
            changes = [change for change in changes if change.subject.scope is DenyScope.TENANT]
        return original(gateway, changes)

    return [_around(Gateway, "apply_deny", change)]


def _index_leaks() -> list[Undo]:
    return [_patch(Gateway, "unregister", lambda *_: None)]


def _replayed_entry_applies() -> list[Undo]:
    def change(original: Any, deny: DenySet, key: str, value: bytes, revision: int) -> Any:
        deny._revision_by_entry.pop(key, None)
        deny._tombstones.pop(key, None)
        if revision == deny.revision:
            deny.remove(key, revision)
            revision += 1
        return original(deny, key, value, revision)

    return [_around(DenySet, "put", change)]


def _limit_off_by_one() -> list[Undo]:
    def change(original: Any, limiter: Limiter, mark: bytes, limit: int, window: int) -> bool:
        return bool(original(limiter, mark, limit + 1 if limit else 0, window))

    return [_around(Limiter, "allow", change)]


def _unverified_not_limited() -> list[Undo]:
    def change(original: Any, limiter: Limiter, aggregate: Any, limit: int, window: int) -> bool:
        return bool(original(limiter, aggregate, 0 if aggregate.name == "UNVERIFIED" else limit, window))

    return [_around(Limiter, "allow_aggregate", change)]


def _pool_gives_expired() -> list[Undo]:
    return [_around(UpstreamPool, "checkout", lambda original, pool, origin, now: original(pool, origin, now - 0.3))]


def _pool_gives_oldest() -> list[Undo]:
    def change(original: Any, pool: UpstreamPool[Any], origin: Any, now: float) -> Any:
        taken = []
        while (handle := original(pool, origin, now)) is not None:
            taken.append(handle)
        for handle in reversed(taken[:-1]):
            pool.checkin(origin, handle, now, idle_timeout=0.5)
        return taken[-1] if taken else None

    return [_around(UpstreamPool, "checkout", change)]


def _virtual_key_travels() -> list[Undo]:
    dropped = forwarding.__dict__["_folded_managed"]
    return [_patch(forwarding, "_folded_managed", lambda names: dropped(names) - {b"api-key"})]


def _pool_key_shown() -> list[Undo]:
    return [
        _patch(keymask.MaskedBody, "feed", lambda _, data: data),
        _patch(keymask.KeyMask, "whole", lambda _, data: data),
    ]


def _usage_event_kept() -> list[Undo]:
    def change(original: Any, meter: Meter, *args: Any, **kwargs: Any) -> None:
        original(meter, *args, **{**kwargs, "strip_usage_event": False})

    return [_around(Meter, "__init__", change)]


def _tokens_off_by_one() -> list[Undo]:
    def change(effects: list[Effect]) -> list[Effect]:
        if effects and type(effects[0]) is EmitFact and effects[0].fact.tokens:
            tokens = effects[0].fact.tokens
            effects[0].fact.tokens = {name: count + (name == "output") for name, count in tokens.items()}
        return effects

    return _rewritten(change)


def _abort_billed_complete() -> list[Undo]:
    def change(original: Any, fact: UsageFact, record: Any, outcome: Outcome, *args: Any, **kwargs: Any) -> None:
        outcome = Outcome.COMPLETE if outcome is Outcome.CLIENT_ABORT else outcome
        original(fact, record, outcome, *args, **kwargs)

    return [_around(UsageFact, "__init__", change)]


def _post_repeated() -> list[Undo]:
    def change(original: Any, machine: ExchangeMachine, answered: bool) -> bool:
        return bool(original(machine, answered)) or (machine._reused and not answered and machine._tries < 2)

    return [_around(ExchangeMachine, "_may_repeat", change)]


def _timer_lost() -> list[Undo]:
    def change(original: Any, timers: Timers, timer: Timer, at: float) -> None:
        if timer is not Timer.READ:
            original(timers, timer, at)

    return [_around(Timers, "set", change)]


def _id_repeated() -> list[Undo]:
    def change(original: Any, ids: Ids, wall_ms: int) -> str:
        return str(original(ids, wall_ms))[:-2] + "00"

    return [_around(Ids, "make", change)]


def _cache_outlives_ring() -> list[Undo]:
    """A key that any ring verified once is good for ever."""
    known: dict[bytes, Any] = {}

    def verify(original: Any, ring: KeyRing, parsed: Any, mark: bytes) -> Any:
        known[mark] = original(ring, parsed, mark)
        return known[mark]

    return [
        _around(KeyRing, "verify", verify),
        _around(KeyRing, "lookup", lambda original, ring, mark: original(ring, mark) or known.get(mark)),
    ]


def _drain_forgotten() -> list[Undo]:
    return [_patch(Gateway, "drain", lambda _: None)]


def _piece_relayed_twice() -> list[Undo]:
    def change(effects: list[Effect]) -> list[Effect]:
        if len(effects) == 1 and type(effects[0]) is SendDownstream and len(effects[0].data) % 31 == 0:
            return [*effects, SendDownstream(effects[0].data)]
        return effects

    return _rewritten(change)


def _upstream_byte_lost() -> list[Undo]:
    def change(effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if type(effect) is SendUpstream and len(effect.data) % 53 == 0:
                effect.data = effect.data[:-1]
        return effects

    return _rewritten(change)


CANARIES: Final[dict[str, Callable[[], list[Undo]]]] = {
    make.__name__.removeprefix("_"): make
    for make in (
        _fact_twice,
        _fact_lost,
        _fact_late,
        _void_lost,
        _last_chunk_lost,
        _cut_looks_complete,
        _sent_after_close,
        _dirty_reuse,
        _byte_flipped,
        _piece_relayed_twice,
        _upstream_byte_lost,
        _request_sent_early,
        _late_input_taken,
        _deny_skipped,
        _deny_not_asked_again,
        _deny_not_asked_at_the_end,
        _nobody_reads_on,
        _tenant_does_not_win,
        _cut_misses_keys,
        _index_leaks,
        _replayed_entry_applies,
        _limit_off_by_one,
        _unverified_not_limited,
        _pool_gives_expired,
        _pool_gives_oldest,
        _virtual_key_travels,
        _pool_key_shown,
        _usage_event_kept,
        _tokens_off_by_one,
        _abort_billed_complete,
        _post_repeated,
        _timer_lost,
        _id_repeated,
        _cache_outlives_ring,
        _drain_forgotten,
    )
}


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """The core broken in this way, and whole again afterwards."""
    undo = CANARIES[name]() if name is not None else []
    try:
        yield
    finally:
        for step in reversed(undo):
            step()
