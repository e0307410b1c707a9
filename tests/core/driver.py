"""Drives a Connection in memory, and checks the contract of driving while it does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from aigw_core.connection import Connection
from aigw_core.effects import (
    Close,
    CloseDownstream,
    Connect,
    ConnectFailure,
    Effect,
    EmitFact,
    OpenFact,
    ReleaseUpstream,
    SendDownstream,
    SendUpstream,
    VoidFact,
)
from aigw_core.facts import OpenRecord, UsageFact
from aigw_core.gateway import Gateway
from aigw_core.keys import KeyRing, mint_virtual_key, public_key_of
from aigw_core.limiter import Limiter
from aigw_core.origin import parse_origin
from aigw_core.policy import Policy, ProviderPolicy
from aigw_core.providers import PROVIDERS
from aigw_core.secrets import Secret

SEED = Secret(bytes([7]) * 32)
POOL_KEY = b"sk-pool-secret-0123456789"
BYO_KEY = b"sk-byo-caller"
VIRTUAL_KEY = mint_virtual_key(SEED, kid=1, tenant_id=1, vpc_id=2).encode()
VIRTUAL_KEY_V2 = mint_virtual_key(SEED, kid=1, tenant_id=1, vpc_id=2, key_id=9).encode()
WALL = 1_763_900_000.0


def make_policy(**changes: object) -> Policy:
    """The ten providers on loopback origins with pool keys, and a key ring that knows SEED as kid 1."""
    providers = {}
    for name, provider in PROVIDERS.items():
        base = ProviderPolicy.of(provider)
        providers[name] = ProviderPolicy(
            name=name,
            origin=parse_origin(f"http://{name}.test"),
            scope=base.scope,
            pool_key=Secret(POOL_KEY),
            auth_scheme=base.auth_scheme,
            messages_auth_scheme=base.messages_auth_scheme,
            dialect=base.dialect,
            key_prefixes=base.key_prefixes,
            base_url=base.base_url,
            usage=base.usage,
        )
    fields: dict[str, object] = {
        "providers": providers,
        "keyring": KeyRing({1: public_key_of(SEED)}),
        "rate_limit_rps": 0,
        "byo_rate_limit_rps": 0,
        "unverified_rate_limit_rps": 0,
    }
    return Policy(**{**fields, **changes})  # type: ignore[arg-type]  # tests name their own fields


def make_gateway(policy: Policy | None = None) -> Gateway:
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    return Gateway(policy or make_policy(), entropy=bytes(range(32)), limiter=limiter, now=0.0, wall=WALL)


@dataclass
class Ledger:
    """A fact sink that checks its own contract."""

    answer: str = "accept"
    """accept, refuse, or hold (answered later by the test)."""
    opened: list[OpenRecord] = field(default_factory=list)
    facts: list[UsageFact] = field(default_factory=list)
    voids: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Every open record has exactly one end."""
        ends = [*self.voids, *self.refused, *[fact.id for fact in self.facts]]
        assert sorted(ends) == sorted(record.id for record in self.opened)
        assert len(set(ends)) == len(ends)

    @property
    def owed(self) -> list[str]:
        ended = {*self.voids, *self.refused, *[fact.id for fact in self.facts]}
        return [record.id for record in self.opened if record.id not in ended]


class MemoryDriver:
    """One connection and whatever upstream attempts it makes."""

    def __init__(self, gateway: Gateway | None = None, *, connect: str = "auto", sink: str = "accept") -> None:
        self.gateway = gateway if gateway is not None else make_gateway()
        self.now = 0.0
        self.machine = Connection(self.gateway, self.now)
        self.connect = connect
        """auto: at once, fresh; reuse: from the pool, in one input with the sink's answer; manual: the test does it."""
        self.ledger = Ledger(sink)
        self.down = b""
        self.up: dict[int, bytes] = {}
        self.connects: list[Connect] = []
        self.released: dict[int, bool] = {}
        self.closed: Close | None = None
        self._pending: deque[Callable[[], list[Effect]]] = deque()
        self._opened: str | None = None

    # Inputs

    def receive(self, data: bytes) -> MemoryDriver:
        return self.run(self.machine.receive_downstream(data, self.now))

    def upstream(self, data: bytes, attempt: int | None = None) -> MemoryDriver:
        number = self.attempt if attempt is None else attempt
        return self.run(self.machine.receive_upstream(number, data, self.now))

    def upstream_lost(self, *, error: bool = True, attempt: int | None = None) -> MemoryDriver:
        number = self.attempt if attempt is None else attempt
        return self.run(self.machine.upstream_lost(number, error, self.now))

    def connected(self, *, reused: bool = False) -> MemoryDriver:
        return self.run(self.machine.upstream_connected(self.attempt, reused, self.now))

    def connect_failed(self, failure: ConnectFailure = ConnectFailure.CONNECT) -> MemoryDriver:
        return self.run(self.machine.upstream_failed(self.attempt, failure, self.now))

    def fact_opened(self) -> MemoryDriver:
        self.ledger.answered.add(self.ledger.opened[-1].id)
        return self.run(self.machine.fact_opened(self.ledger.opened[-1].id, self.now))

    def lost(self) -> MemoryDriver:
        return self.run(self.machine.downstream_lost(self.now))

    def advance(self, seconds: float) -> MemoryDriver:
        """Moves the clock, ticking at every deadline on the way."""
        end = self.now + seconds
        while (deadline := self.machine.deadline) is not None and deadline[0] <= end:
            assert self.machine.wake_at <= deadline[0]
            self.now = max(self.now, deadline[0])
            self.run(self.machine.tick(self.now))
        self.now = end
        return self

    # Effects

    def reading(self) -> bool:
        """Whether the machine asks for more from the caller. A method, so that checkers do not narrow it."""
        return self.machine.wants_downstream

    def done(self) -> bool:
        return self.machine.done

    @property
    def attempt(self) -> int:
        return self.connects[-1].attempt

    @property
    def sent_upstream(self) -> bytes:
        """What the latest attempt was sent."""
        return self.up.get(self.attempt, b"")

    def run(self, effects: list[Effect]) -> MemoryDriver:
        while True:
            self._check_order(effects)
            for effect in effects:
                self._carry_out(effect)
            if self._opened is not None:
                self._pending.append(partial(self._feed_opened, self._opened))
                self._opened = None
            if self._pending:
                effects = self._pending.popleft()()
            elif self.machine.wants_resume:
                effects = self.machine.resume(self.now)
            else:
                return self

    @staticmethod
    def _check_order(effects: list[Effect]) -> None:
        kinds = [type(effect) for effect in effects]
        if EmitFact in kinds:
            assert kinds[0] is EmitFact
        assert kinds.count(SendDownstream) <= 2
        if CloseDownstream in kinds:
            assert SendDownstream not in kinds[kinds.index(CloseDownstream) :]

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, SendDownstream):
            assert self.closed is None, "nothing is sent after a close"
            assert effect.data
            self.down += effect.data
        elif isinstance(effect, SendUpstream):
            assert effect.attempt == self.attempt
            assert effect.attempt not in self.released
            assert set(self.ledger.owed) <= self.ledger.answered, "no byte goes upstream before its own open record"
            self.up[effect.attempt] = self.up.get(effect.attempt, b"") + effect.data
        elif isinstance(effect, OpenFact):
            self._open(effect.record)
        elif isinstance(effect, EmitFact):
            assert effect.fact.id in self.ledger.owed
            self.ledger.facts.append(effect.fact)
        elif isinstance(effect, VoidFact):
            assert effect.id in self.ledger.owed
            self.ledger.voids.append(effect.id)
        elif isinstance(effect, Connect):
            assert not self.connects or effect.attempt > self.attempt, "attempt numbers are never reused"
            self.connects.append(effect)
            if self.connect != "manual":
                reused = self.connect == "reuse" and not effect.fresh
                opened, self._opened = (self._opened, None) if reused else (None, self._opened)
                if opened is not None:
                    self._pending.append(lambda: self.machine.opened_and_connected(opened, effect.attempt, self.now))
                else:
                    self._pending.append(lambda: self.machine.upstream_connected(effect.attempt, reused, self.now))
        elif isinstance(effect, ReleaseUpstream):
            self.released[effect.attempt] = effect.reusable
        else:
            assert self.closed is None, "a connection is closed once"
            self.closed = effect.how

    def _feed_opened(self, fact_id: str) -> list[Effect]:
        return self.machine.fact_opened(fact_id, self.now)

    def _open(self, record: OpenRecord) -> None:
        self.ledger.opened.append(record)
        if self.ledger.answer != "hold":
            self.ledger.answered.add(record.id)
        if self.ledger.answer == "accept":
            self._opened = record.id
        elif self.ledger.answer == "refuse":
            self.ledger.refused.append(record.id)
            self._pending.append(lambda: self.machine.fact_refused(record.id, self.now))


def request(
    body: bytes = b"",
    *,
    method: bytes = b"POST",
    target: bytes = b"/openai/v1/chat/completions",
    key: bytes = VIRTUAL_KEY,
    headers: bytes = b"",
    length: bool = True,
    version: bytes = b"HTTP/1.1",
) -> bytes:
    """A request as a caller sends it; ``headers`` are whole lines with their CRLF."""
    lines = b"%b %b %b\r\nHost: gateway\r\n" % (method, target, version)
    if key:
        lines += b"Authorization: Bearer %b\r\n" % key
    if length and (body or method == b"POST"):
        lines += b"Content-Length: %d\r\n" % len(body)
    return lines + headers + b"\r\n" + body


def json_response(body: bytes, *, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b" % (
        status,
        len(body),
        headers,
        body,
    )


CHAT = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
CHAT_STREAM = b'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"hi"}]}'
COMPLETION = (
    b'{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,'
    b'"completion_tokens":3,"total_tokens":12}}'
)
