"""The scheduler, the clock, the ledger, the deny feed: everything that the lines share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Final

from aigw_core.connection import Connection
from aigw_core.denyset import DenyChange, DenyReason, DenyScope, parse_reason
from aigw_core.gateway import Gateway
from aigw_core.limiter import Limiter
from aigw_core.work import WorkShares
from tests.simulation.exchange import Exchange
from tests.simulation.faults import Fault, Violation, require
from tests.simulation.judge import Denied, Judge
from tests.simulation.line import Line
from tests.simulation.provider import POOL_MAX, Hub
from tests.simulation.requests import Plan, draw_plan
from tests.simulation.setup import TENANTS, draw_setup, policy_of

WALL: Final = 1_763_900_000.0
STEPS_MAX: Final = 2_000
"""Inputs for each exchange; more means that something goes round in circles."""
STANDSTILL_MAX: Final = 15.0
"""Seconds without a request and without an end, several times the longest chain of timers."""

_PLANNED: Final = (
    *(fault for fault in Fault if fault.value.startswith(("caller_", "connect_", "reset_", "stalls_", "interim_"))),
    Fault.SPLIT, Fault.SPLIT, Fault.BYTEWISE, Fault.PIPELINED, Fault.PIPELINED, Fault.DNS_FAILS, Fault.TLS_FAILS,
    Fault.EOF_IN_BODY, Fault.GARBAGE_HEAD, Fault.GARBAGE_CHUNK, Fault.GARBAGE_CHUNK, Fault.EXTRA_BYTES,
    Fault.UNSOLICITED_BYTES, Fault.UNSOLICITED_BYTES, Fault.STALE_REUSED, Fault.STALE_REUSED, Fault.STALE_REUSED,
    Fault.DIES_UNUSED, Fault.DIES_UNUSED, Fault.EARLY_ANSWER, Fault.EARLY_ANSWER, Fault.SWITCHING_PROTOCOLS,
    Fault.PROVIDER_READS_SLOWLY, Fault.PROVIDER_NEVER_READS, Fault.ECHOES_POOL_KEY, Fault.ABANDONED,
    Fault.SINK_REFUSES, Fault.SINK_NEVER_ANSWERS, Fault.SINK_ANSWERS_LATE, Fault.SINK_ANSWERS_LATE,
    Fault.CALLER_IGNORES_CLOSE, Fault.CALLER_READS_SLOWLY, Fault.CALLER_EOF, Fault.CALLER_RESET, Fault.CALLER_EOF,
    Fault.INTERIM_FLOOD, Fault.SWITCHING_PROTOCOLS, Fault.SINK_NEVER_ANSWERS, Fault.SINK_ANSWERS_LATE,
)  # fmt: skip
"""What strikes single exchanges; the rest strikes the gateway."""
FAULT_RATE: Final = 0.24
"""The share of exchanges that one of those is planned for."""


class Ledger:
    """A fact sink: answers open records, and knows that each has exactly one end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owed: dict[str, Exchange] = {}
        self._seen: set[str] = set()

    def open(self, fact_id: str, line: Line, exchange: Exchange) -> None:
        world, fault = self._world, exchange.plan.fault
        require(fact_id not in self._seen, "an id is used twice")
        self._seen.add(fact_id)
        self._owed[fact_id] = exchange
        if fault is Fault.SINK_NEVER_ANSWERS:
            world.tally[fault] += 1
        elif fault is Fault.SINK_REFUSES:
            world.tally[fault] += 1
            self._answer(fact_id, line, accept=False)
        elif fault in (Fault.UNSOLICITED_BYTES, Fault.DIES_UNUSED):
            # So that there is a connection before anything may be sent on it.
            world.at(0.02 + world.rng.random() * 0.1, lambda: self._answer(fact_id, line, accept=True))
        elif fault is Fault.SINK_ANSWERS_LATE:
            world.tally[fault] += 1
            if world.rng.random() < 0.5:
                world.tally[Fault.FOREIGN_FACT_ANSWER] += 1
                method = line.machine.fact_refused if world.rng.random() < 0.5 else line.machine.fact_opened
                line.feed("foreign", method, "0" * 32)
            accept = world.rng.random() < 0.9
            world.at(world.rng.random() * 0.85, lambda: self._answer(fact_id, line, accept=accept))
        else:
            self._answer(fact_id, line, accept=True)

    @staticmethod
    def _answer(fact_id: str, line: Line, *, accept: bool) -> None:
        if accept:
            line.feed("fact_opened", line.machine.fact_opened, fact_id)
        else:
            line.feed("fact_refused", line.machine.fact_refused, fact_id)

    def fed(self, fact_id: str, *, accept: bool) -> None:
        """The machine is told now; whatever ended before is not changed by that."""
        exchange = self._owed.get(fact_id)
        if exchange is None:
            return
        if accept:
            exchange.opened = True
        else:
            del self._owed[fact_id]
            exchange.ended = True
            self._world.running -= 1

    def settle(self, fact_id: str) -> Exchange:
        if fact_id not in self._owed:
            raise Violation("a fact that nobody owes")
        return self._owed.pop(fact_id)

    def void(self, fact_id: str) -> Exchange:
        if fact_id not in self._owed:
            raise Violation("a void that nobody owes")
        return self._owed.pop(fact_id)

    def check_empty(self) -> None:
        require(not self._owed, f"{len(self._owed)} open records have no end")


class World:
    """One gateway from its start to the end of its drain."""

    def __init__(self, seed: int, exchanges: int, lines: int, without: frozenset[Fault] = frozenset()) -> None:
        self.rng = Random(seed)
        self.now = 100.0 + self.rng.random()
        self.steps = 0
        self.judged = 0
        self.relayed = 0
        self.running = 0
        self.draining = False
        self.tally: Counter[Fault] = Counter()
        self.setup = draw_setup(self.rng, 0)
        self.judge = Judge()
        self.deny_revision: int | None = None
        self.gateway = Gateway(
            policy_of(self.setup),
            entropy=self.rng.randbytes(32),
            limiter=Limiter(bytearray(Limiter.buffer_size())),
            now=self.now,
            wall=WALL,
            pool_max_idle=POOL_MAX,
        )
        self.hub = Hub(self)
        self.ledger = Ledger(self)
        self._without = without
        self._wall_offset = WALL - self.now
        self._budget = exchanges
        self._after_drain = min(exchanges // 2, self.rng.choice((0, 0, 100)))
        """Requests that are still taken after the drain began, on connections that are accepted until the end."""
        self._steps_max = STEPS_MAX * exchanges + 100_000
        self._number = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._lines: set[Line] = set()
        self._lines_max = lines
        self._truth: dict[str, tuple[bytes, int]] = {}
        self._revision = 0
        self._feed_is_up = True
        self._reloads = 0
        self._opened = 0
        self._turns_due: set[WorkShares] = set()
        self._progress = (0, 0)
        self._moved_at = self.now

    # Time

    def at(self, delay: float, event: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._heap, (self.now + delay, self._count, event))

    def run(self) -> None:
        """Until every connection is done and nothing is owed."""
        if self.setup.fail_closed:
            self.gateway.deny_state = "seeding"
            self.judge.seeded = False
            self.at(0.2, self._seeded)
        for _ in range(self._lines_max):
            self.at(self.rng.random() * 0.3, self._open_line)
        for event in (self._deny, self._housekeeping, self._maybe_reload):
            self.at(self.rng.random() * 0.1, event)
        heap = self._heap
        while heap:
            self.now, _, event = heappop(heap)
            event()
            require(self.steps < self._steps_max, "the gateway goes round in circles")
        require(not self._lines, f"{len(self._lines)} connections never come to their end")
        require(self.running == 0, "an exchange never ends")
        require(self.gateway.active == 0, "an exchange is still counted")
        self.ledger.check_empty()
        require(self._index() == set(), "an exchange is still listed as running")

    @property
    def _over(self) -> bool:
        return self._budget <= 0 and not self._lines

    # Lines

    def _open_line(self) -> None:
        if self._budget > 0:
            self._opened += 1
            line = Line(self, self._opened)
            self._lines.add(line)
            line._arm()
            line.begin()

    def begin_turns_soon(self) -> None:
        """As a driver does after each input."""
        for work in (self.gateway.work, self.gateway.answer_work):
            if work.is_due and work not in self._turns_due:
                self._turns_due.add(work)
                self.at(self.rng.random() * 0.002, partial(self._begin_turn, work))

    def _begin_turn(self, work: WorkShares) -> None:
        self._turns_due.discard(work)
        for machine in work.turn():
            assert isinstance(machine, Connection)
            require(machine.wants_resume, "somebody waits for a turn without need")
            line = machine.context
            assert isinstance(line, Line)
            self.tally[Fault.READS_IN_TURNS] += 1
            line.feed("resume", machine.resume)
        self.begin_turns_soon()

    def line_done(self, line: Line) -> None:
        self._lines.discard(line)
        self.at(self.rng.random() * 0.05, self._open_line)

    def next_plan(self) -> Plan | None:
        """The next request of anybody, or None where there are no more."""
        if self._budget <= 0:
            return None
        self._budget -= 1
        if self._budget == self._after_drain:
            self.at(0.0 if self._budget else self.rng.random() * 0.2, self._drain)
        self._number += 1
        plan = draw_plan(self.rng, self._number)
        if self.rng.random() < FAULT_RATE:
            fault = self.rng.choice(_PLANNED)
            plan.fault = None if fault in self._without else fault
            self._fit(plan)
        return plan

    @staticmethod
    def _fit(plan: Plan) -> None:
        """Some faults need a request that can suffer them."""
        if plan.fault is Fault.CALLER_BROKEN_CHUNK and plan.http_1_0:
            plan.fault = None
        needs_body = (Fault.CALLER_STALLS_BODY, Fault.CALLER_BROKEN_CHUNK, Fault.EARLY_ANSWER)
        if plan.fault in needs_body and not plan.body:
            plan.fault = None
        if plan.fault is Fault.EARLY_ANSWER and plan.wire != "messages":
            # Collected bodies are not begun upstream before they are whole.
            plan.fault = None if plan.wire in ("chat", "responses") else plan.fault
        if plan.fault is Fault.CALLER_BROKEN_CHUNK and not plan.http_1_0:
            plan.make_chunked()

    def late(self, line: Line, attempt: int) -> None:
        """What a provider still says on a connection that was given up."""
        if Fault.LATE_INPUT in self._without or self.rng.random() < 0.5:
            return
        self.at(self.rng.random() * 0.05, lambda: self._late(line, attempt))

    def _late(self, line: Line, attempt: int) -> None:
        if line.finished:
            return
        self.tally[Fault.LATE_INPUT] += 1
        machine, now = line.machine, self.now
        draw = self.rng.randrange(5)
        if draw == 0:
            effects = machine.receive_upstream(attempt, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate", now)
        elif draw == 1:
            effects = machine.upstream_lost(attempt, True, now)
        elif draw == 2:
            effects = machine.receive_upstream(attempt, b"", now)
        elif draw == 3:
            effects = machine.upstream_connected(attempt, False, now)
        else:
            effects = machine.upstream_blocked(attempt, now) + machine.upstream_writable(attempt, now)
        require(effects == [], "an input of an old attempt has effects")
        self.check_step()

    # What strikes the gateway

    def denied(self, plan: Plan) -> DenyReason | None:
        return None if plan.key is None else self.judge.denied.reason(plan.key)

    def _seeded(self) -> None:
        self.judge.seeded = True
        self._revision += 1
        self.gateway.deny.replace({}, self._revision)
        self.gateway.deny_state = "live"
        self.deny_revision = self._revision

    def _deny(self) -> None:
        """Entries come and go; while the feed is cut they gather, and come as a whole new set."""
        if self._over:
            return
        self.at(self.rng.random() * 0.08, self._deny)
        if not self.judge.seeded:
            return
        draw = self.rng.random()
        if draw < 0.12 and Fault.FEED_CUT not in self._without:
            self._feed_is_up = not self._feed_is_up
            self.gateway.deny_state = "live" if self._feed_is_up else "reconnecting"
            if self._feed_is_up:
                self.tally[Fault.FEED_CUT] += 1
                self._resync()
            return
        self._change()

    def _change(self) -> None:
        tenant = self.rng.randrange(1, TENANTS + 1)
        name = f"blackhole.{tenant}" if self.rng.random() < 0.5 else f"blackhole.key.{tenant * 10}"
        self._revision += 1
        if len(self._truth) > 4 or (name in self._truth and self.rng.random() < 0.5):
            name = self.rng.choice(sorted(self._truth))
            value, self._truth = b"", {key: entry for key, entry in self._truth.items() if key != name}
        else:
            value = self.rng.choice((b"spend", b"fraud", b' {"reason": "fraud"}', b"?"))
            self._truth[name] = (value, self._revision)
        if not self._feed_is_up:
            return
        changes = self._apply(name, value, self._revision)
        if self.rng.random() < 0.3:
            self.tally[Fault.FEED_REPLAYS] += 1
            require(self._apply(name, value, self._revision) == [], "a replayed entry changes something")
        self._cut(changes)

    def _apply(self, name: str, value: bytes, revision: int) -> list[DenyChange]:
        deny = self.gateway.deny
        if value:
            self.tally[Fault.DENY_PUT] += 1
            change = deny.put(name, value, revision)
        else:
            self.tally[Fault.DENY_REMOVED] += 1
            change = deny.remove(name, revision)
        self.deny_revision = revision
        self._set_model(self._truth)
        return [] if change is None else [change]

    def _resync(self) -> None:
        self.gateway.deny.replace(self._truth, self._revision)
        self.deny_revision = self._revision
        self._set_model(self._truth)
        self._cut(None)

    def _set_model(self, truth: dict[str, tuple[bytes, int]]) -> None:
        denied = self.judge.denied = Denied()
        for name, (value, _) in truth.items():
            text = value.strip()
            reason = DenyReason(json.loads(text)["reason"]) if text[:1] == b"{" else _REASONS[text]
            require(parse_reason(value) is reason, "a reason is read as another")
            last = int(name.rpartition(".")[2])
            (denied.keys if ".key." in name else denied.tenants)[last] = reason

    def _index(self) -> set[tuple[Line, DenyReason]]:
        """Whom the model would cut."""
        found = set()
        for line in self._lines:
            for exchange in line.exchanges:
                if exchange.managed and exchange.opened and not exchange.ended:
                    reason = self.denied(exchange.plan)
                    if reason is not None and reason in self.setup.cut_on:
                        found.add((line, reason))
        return found

    def _cut(self, changes: list[DenyChange] | None) -> None:
        by_machine = {id(line.machine): line for line in self._lines}
        got = [(by_machine.get(id(owner)), reason) for owner, reason in self.gateway.apply_deny(changes)]
        expected = self._index()
        if changes is not None:
            # Removing a key's entry brings nothing into force; what was in force before is cut at its own change.
            subjects = {
                (change.subject.scope.value, change.subject.id)
                for change in changes
                if change.reason is not None or change.subject.scope is DenyScope.TENANT
            }
            expected = {pair for pair in expected if self._touched(pair[0], subjects)}
            require(expected <= set(got), "somebody who was cut off now goes on")
            require(set(got) <= self._index(), "somebody is cut who is allowed")
        else:
            require(set(got) == expected, "the index gives others than those who are cut off")
        require(len(got) == len(set(got)), "somebody is cut twice")
        for line, reason in got:
            assert line is not None
            self.tally[Fault.STREAM_CUT_BY_DENY] += 1
            line.feed("cut", line.machine.cut, reason)

    @staticmethod
    def _touched(line: Line, subjects: set[tuple[str, int]]) -> bool:
        for exchange in line.exchanges:
            key = exchange.plan.key
            if key is not None and (("tenant", key.tenant) in subjects or ("key", key.key_id) in subjects):
                return True
        return False

    def _maybe_reload(self) -> None:
        if self._over:
            return
        self.at(0.1 + self.rng.random() * 0.5, self._maybe_reload)
        if Fault.POLICY_RELOAD in self._without:
            return
        self.tally[Fault.POLICY_RELOAD] += 1
        self._reloads += 1
        self.setup = draw_setup(self.rng, self._reloads)
        self.judge.reloaded(self.setup)
        self.hub.retired(self.gateway.reload(policy_of(self.setup)))

    def _housekeeping(self) -> None:
        """What a driver does about once a second, here more often."""
        if self._over:
            return
        self.at(0.25, self._housekeeping)
        if self._progress != (self.judged, len(self._lines)):
            self._progress = (self.judged, len(self._lines))
            self._moved_at = self.now
        require(self.now - self._moved_at < STANDSTILL_MAX, "nothing moves any more")
        if self.rng.random() < 0.3 and Fault.CLOCK_JUMP not in self._without:
            self.tally[Fault.CLOCK_JUMP] += 1
            self._wall_offset += self.rng.choice((-20.0, 20.0, 0.5))
        self.gateway.set_clock(self.now, self.now + self._wall_offset)
        self.hub.expire()
        self.gateway.stats.failures.clear()

    def _drain(self) -> None:
        """The end: what runs finishes, and what does not is cut after the grace."""
        self.draining = True
        self.gateway.drain()
        for line in self.sorted_lines():
            self.tally[Fault.DRAIN] += 1
            line.feed("drain", line.machine.drain)
        if self.rng.random() < 0.5:
            self.at(self.rng.random() * 0.5, self._grace_over)

    def _grace_over(self) -> None:
        for line in self.sorted_lines():
            self.tally[Fault.GRACE_OVER] += 1
            line.feed("cut", line.machine.cut, None)

    def sorted_lines(self) -> list[Line]:
        """In an order that a replay repeats."""
        return sorted(self._lines, key=lambda line: line.number)

    # Invariants that hold at every step

    def check_step(self) -> None:
        if self.gateway.active != self.running:
            raise Violation(f"{self.gateway.active} exchanges are counted, {self.running} run")
        if self.steps % 512 == 0:
            self.hub.check()


_REASONS: Final = {b"spend": DenyReason.SPEND, b"fraud": DenyReason.FRAUD, b"?": DenyReason.UNKNOWN}
