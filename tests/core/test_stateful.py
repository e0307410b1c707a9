"""Rule machines: any order of inputs against a small exact model (limiter, pool, exchange, connection)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from aigw_core.denyset import DenyReason
from aigw_core.effects import (
    Close,
    Connect,
    ConnectFailure,
    CutResponse,
    EmitFact,
    ExchangeEffect,
    OpenFact,
    ReleaseUpstream,
    SendInformational,
    SendRequestBody,
    SendRequestEnd,
    SendRequestHead,
    SendResponseBody,
    SendResponseEnd,
    SendResponseHead,
    VoidFact,
)
from aigw_core.exchange import Exchange
from aigw_core.headers import Headers
from aigw_core.limiter import INDEX_OFFSET, ROWS, Aggregate, Limiter
from aigw_core.messages import CHUNKED, Framing, Length, RequestHead, ResponseHead
from aigw_core.origin import Origin, parse_origin
from aigw_core.policy import OnClientAbort, Policy
from aigw_core.pool import UpstreamPool
from aigw_core.states import ExchangeState
from tests.core.driver import (
    BYO_KEY,
    CHAT,
    CHAT_STREAM,
    COMPLETION,
    VIRTUAL_KEY,
    MemoryDriver,
    json_response,
    make_gateway,
    make_policy,
    request,
)

STEPS: Final = settings(max_examples=60, stateful_step_count=40, deadline=None)


# Limiter

CELLS: Final = st.lists(st.integers(0, 2), min_size=ROWS, max_size=ROWS)
"""Few counters for many credentials, so that they do collide."""


def _mark(cells: list[int]) -> bytes:
    return (bytes(INDEX_OFFSET) + b"".join(cell.to_bytes(2, "little") for cell in cells)).ljust(32, b"\0")


def _bound(counts: Counter[bytes], mark: bytes) -> int:
    """What a plain count-min sketch says, from exact counts: its least counter, each the sum of who shares it."""
    return min(
        sum(count for other, count in counts.items() if other[at : at + 2] == mark[at : at + 2])
        for at in range(INDEX_OFFSET, INDEX_OFFSET + 2 * ROWS, 2)
    )


class LimiterMachine(RuleBasedStateMachine):
    """Exact counts by credential; the estimate is never below them, and above them by sharers of every counter at most.

    Two limiters on one buffer, as two processes have: each asks in its turn, and both count the same.
    """

    marks = Bundle("marks")

    def __init__(self) -> None:
        super().__init__()
        buffer = bytearray(Limiter.buffer_size())
        self.limiters = [Limiter(buffer), Limiter(buffer)]
        self.window = 1_000
        self.exact: dict[int, Counter[bytes]] = {self.window: Counter()}
        self.aggregates: Counter[Aggregate] = Counter()

    @rule(target=marks, cells=CELLS)
    def credential(self, cells: list[int]) -> bytes:
        return _mark(cells)

    @rule(mark=marks, limit=st.integers(1, 12), process=st.integers(0, 1))
    def asks(self, mark: bytes, limit: int, process: int) -> None:
        counts = self.exact[self.window]
        before, bound = counts[mark], _bound(counts, mark)
        if self.limiters[process].allow(mark, limit, self.window):
            assert before < limit, "more than the limit passes"
            counts[mark] += 1
        else:
            assert bound >= limit, "refused though its fullest counter cannot have reached the limit"

    @rule(mark=marks, process=st.integers(0, 1))
    def asks_without_a_limit(self, mark: bytes, process: int) -> None:
        assert self.limiters[process].allow(mark, 0, self.window)

    @rule(aggregate=st.sampled_from(Aggregate), limit=st.integers(1, 5), process=st.integers(0, 1))
    def asks_together(self, aggregate: Aggregate, limit: int, process: int) -> None:
        passes = self.limiters[process].allow_aggregate(aggregate, limit, self.window)
        assert passes is (self.aggregates[aggregate] < limit), "an aggregate is counted exactly"
        self.aggregates[aggregate] += passes

    @rule(seconds=st.sampled_from([1, 1, 1, 2, 3, 100]))
    def time_passes(self, seconds: int) -> None:
        self.window += seconds
        self.exact = {window: counts for window, counts in self.exact.items() if window == self.window - 1}
        self.exact[self.window] = Counter()
        self.aggregates.clear()

    @invariant()
    def counts_hold(self) -> None:
        for window, counts in self.exact.items():
            for mark, count in counts.items():
                estimates = {limiter.estimate(mark, window) for limiter in self.limiters}
                (estimate,) = estimates
                assert estimate >= count, "under the exact count"
                assert estimate <= _bound(counts, mark), "over what all who share a counter have passed together"

    def teardown(self) -> None:
        for limiter in self.limiters:
            limiter.release()


TestLimiter = LimiterMachine.TestCase
TestLimiter.settings = STEPS


# Pool

ORIGINS: Final = [parse_origin(f"http://{name}.test") for name in "abc"]
POOL_MAX: Final = 3


class PoolMachine(RuleBasedStateMachine):
    """Idle connections as one list, oldest first."""

    out = Bundle("out")

    def __init__(self) -> None:
        super().__init__()
        self.pool: UpstreamPool[int] = UpstreamPool(max_idle=POOL_MAX)
        self.now = 0.0
        self.made = 0
        self.idle: list[tuple[int, Origin, float]] = []

    @rule(target=out, origin=st.sampled_from(ORIGINS))
    def connects(self, origin: Origin) -> tuple[int, Origin]:
        self.made += 1
        return self.made, origin

    @rule(held=consumes(out), timeout=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 5.0]))
    def is_given_back(self, held: tuple[int, Origin], timeout: float) -> None:
        handle, origin = held
        closed = self.pool.checkin(origin, handle, self.now, idle_timeout=timeout)
        if timeout <= 0:
            assert closed == [handle]
            return
        self.idle.append((handle, origin, self.now + timeout))
        mine = [entry for entry in self.idle if entry[1] == origin]
        expected = [mine[0][0]] if len(mine) > POOL_MAX else []
        assert closed == expected
        self._forget(closed)

    @rule(target=out, origin=st.sampled_from(ORIGINS))
    def is_taken(self, origin: Origin) -> object:
        alive = [handle for handle, own, until in self.idle if own == origin and until > self.now]
        handle = self.pool.checkout(origin, self.now)
        assert handle == (alive[-1] if alive else None), "not the newest that lives"
        if handle is None:
            return multiple()
        self._forget([handle])
        return handle, origin

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(self.idle))[0]
        assert self.pool.remove(handle)
        assert not self.pool.remove(handle)
        self._forget([handle])

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expires(self) -> None:
        due = {handle for handle, _, until in self.idle if until <= self.now}
        closed = self.pool.expire(self.now)
        assert set(closed) == due
        assert len(closed) == len(due)
        self._forget(closed)

    @rule(keep=st.sets(st.sampled_from(ORIGINS)))
    def retires(self, keep: set[Origin]) -> None:
        closed = self.pool.retire(keep)
        assert sorted(closed) == sorted(handle for handle, origin, _ in self.idle if origin not in keep)
        self._forget(closed)

    @rule()
    def drains(self) -> None:
        assert sorted(self.pool.drain()) == sorted(handle for handle, _, _ in self.idle)
        self.idle.clear()

    def _forget(self, handles: list[int]) -> None:
        self.idle = [entry for entry in self.idle if entry[0] not in handles]

    @invariant()
    def books_agree(self) -> None:
        assert self.pool.idle_count == len(self.idle)
        assert (self.pool.next_expiry is None) is (not self.idle)
        if self.pool.next_expiry is not None:
            assert self.pool.next_expiry <= min(until for _, _, until in self.idle)


TestPool = PoolMachine.TestCase
TestPool.settings = STEPS


# Exchange: parsed HTTP


def _policy(*, drains: bool) -> Policy:
    base = make_policy()
    abort = OnClientAbort.DRAIN if drains else OnClientAbort.ABORT
    openai = replace(base.providers["openai"], on_client_abort=abort)
    return make_policy(providers={**base.providers, "openai": openai})


class ExchangeRules(RuleBasedStateMachine):
    """One exchange, inputs in any order that a driver may produce; effects are checked as a ledger and a wire would."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.begun = self.request_over = False
        self.managed = False
        self.record: str | None = None
        self.accepted = False
        self.ends: list[str] = []
        self.connecting = self.connected = 0
        self.last_attempt = 0
        self.head_up = self.end_up = False
        self.answering = False
        self.final_head = self.answer_over = self.cut_off = False
        self.left = False

    @initialize(managed=st.booleans(), drains=st.booleans(), stream=st.booleans(), chunked=st.booleans())
    def begins(self, managed: bool, drains: bool, stream: bool, chunked: bool) -> None:
        self.managed = managed
        whole = CHAT_STREAM if stream else CHAT
        self.gateway = make_gateway(_policy(drains=drains))
        self.exchange = Exchange(self.gateway)
        framing: Framing = CHUNKED if chunked else Length(len(whole))
        fields = [(b"Host", b"gateway"), (b"Authorization", b"Bearer " + (VIRTUAL_KEY if managed else BYO_KEY))]
        if not chunked:
            fields.append((b"Content-Length", b"%d" % len(whole)))
        head = RequestHead(b"POST", b"/openai/v1/chat/completions", Headers.of(fields), framing)
        self.rest = whole
        self.take(self.exchange.request_head(head, self.now))
        assert self.exchange.state is (ExchangeState.OPENING if managed else ExchangeState.ADMITTED)

    def take(self, effects: list[ExchangeEffect]) -> None:
        kinds = [type(effect) for effect in effects]
        assert EmitFact not in kinds[1:]
        for effect in effects:
            self.carry(effect)

    def carry(self, effect: ExchangeEffect) -> None:
        match effect:
            case OpenFact(record):
                assert self.managed
                assert self.record is None
                self.record = record.id
            case EmitFact(fact):
                assert self.accepted
                assert fact.id == self.record
                self.ends.append("fact")
            case VoidFact(id_):
                assert not self.accepted
                assert id_ == self.record
                self.ends.append("void")
            case Connect(attempt=attempt):
                assert attempt > self.last_attempt
                self.connecting = self.last_attempt = attempt
                self.connected = 0
                self.head_up = self.end_up = False
            case ReleaseUpstream(attempt=attempt):
                assert attempt in (self.connecting, self.connected)
                self.connecting = self.connected = 0
            case SendRequestHead(attempt=attempt):
                assert attempt == self.connected
                assert self.accepted or not self.managed, "a byte upstream before admission"
                assert not self.head_up
                self.head_up = True
            case SendRequestBody(attempt=attempt, data=data):
                assert attempt == self.connected
                assert data
                assert self.head_up
                assert not self.end_up
            case SendRequestEnd(attempt=attempt):
                assert attempt == self.connected
                assert self.head_up
                assert not self.end_up
                self.end_up = True
            case SendInformational():
                assert not self.final_head
            case SendResponseHead():
                assert not self.final_head, "two final heads"
                assert not self.left
                self.final_head = True
            case SendResponseBody():
                assert self.final_head
                assert not self.answer_over
                assert not self.left
            case SendResponseEnd():
                assert self.final_head
                assert not self.answer_over
                self.answer_over = True
            case CutResponse():
                assert self.final_head
                assert not self.answer_over
                self.cut_off = True

    # The caller

    @precondition(lambda self: self.rest and not self.left)
    @rule(size=st.integers(1, 100))
    def sends_body(self, size: int) -> None:
        piece, self.rest = self.rest[:size], self.rest[size:]
        self.take(self.exchange.request_body(piece, self.now))

    @precondition(lambda self: not self.rest and not self.request_over and not self.left)
    @rule()
    def ends_request(self) -> None:
        self.request_over = True
        self.take(self.exchange.request_end(self.now))

    @precondition(lambda self: not self.left)
    @rule()
    def leaves(self) -> None:
        self.left = True
        self.take(self.exchange.downstream_lost(self.now))

    # The sink

    @precondition(lambda self: self.record is not None and not self.accepted and not self.ends)
    @rule(accepts=st.sampled_from([True, True, True, False]))
    def sink(self, accepts: bool) -> None:
        assert self.record is not None
        if accepts:
            self.accepted = True
            self.take(self.exchange.fact_opened(self.record, self.now))
        else:
            self.ends.append("refused")
            self.take(self.exchange.fact_refused(self.record, self.now))

    @rule(accepts=st.booleans())
    def sink_speaks_of_another(self, accepts: bool) -> None:
        answer = self.exchange.fact_opened if accepts else self.exchange.fact_refused
        assert answer("0" * 32, self.now) == []

    # The provider

    @precondition(lambda self: self.connecting)
    @rule(reused=st.booleans())
    def gets_connection(self, reused: bool) -> None:
        self.connected, self.connecting = self.connecting, 0
        self.answering = False
        self.take(self.exchange.upstream_connected(self.connected, reused, self.now))

    @precondition(lambda self: self.connecting)
    @rule(failure=st.sampled_from(ConnectFailure))
    def gets_none(self, failure: ConnectFailure) -> None:
        attempt, self.connecting = self.connecting, 0
        self.take(self.exchange.upstream_failed(attempt, failure, self.now))

    @precondition(lambda self: self.connected and self.head_up and not self.answering)
    @rule(status=st.sampled_from([200, 200, 200, 103, 100, 101, 429]))
    def answers(self, status: int) -> None:
        framing = Length(len(COMPLETION)) if status >= 200 else Length(0)
        head = ResponseHead(status, b"x", Headers.of([(b"Content-Type", b"application/json")]), framing)
        self.answering = status >= 200
        self.take(self.exchange.response_head(self.connected, head, self.now))

    @precondition(lambda self: self.connected and self.answering)
    @rule(at=st.integers(0, len(COMPLETION) - 1))
    def answer_body(self, at: int) -> None:
        self.take(self.exchange.response_body(self.connected, COMPLETION[at:], self.now))

    @precondition(lambda self: self.connected and self.answering)
    @rule(by_close=st.booleans())
    def answer_ends(self, by_close: bool) -> None:
        self.take(self.exchange.response_end(self.connected, self.now, reusable=not by_close, by_close=by_close))

    @precondition(lambda self: self.connected)
    @rule(broken=st.booleans())
    def connection_ends(self, broken: bool) -> None:
        lost = self.exchange.upstream_broken if broken else self.exchange.upstream_lost
        self.take(lost(self.connected, self.now))

    @precondition(lambda self: self.last_attempt > 1)
    @rule(what=st.integers(0, 3))
    def an_old_attempt_speaks(self, what: int) -> None:
        old, now = self.last_attempt - 1, self.now
        head = ResponseHead(200, b"OK", Headers.of([]), Length(4))
        inputs = (
            lambda: self.exchange.upstream_connected(old, True, now),
            lambda: self.exchange.upstream_lost(old, now),
            lambda: self.exchange.response_head(old, head, now),
            lambda: self.exchange.response_body(old, b"late", now),
        )
        assert inputs[what]() == []

    # Time and control

    @rule(seconds=st.sampled_from([0.1, 4.9, 5.0, 11.0, 61.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.exchange.tick(self.now))

    @rule(reason=st.sampled_from([None, DenyReason.FRAUD, DenyReason.SPEND]))
    def is_cut(self, reason: DenyReason | None) -> None:
        self.take(self.exchange.cut(reason, self.now))
        assert self.exchange.state is ExchangeState.ENDED

    @invariant()
    def one_end(self) -> None:
        assert len(self.ends) <= 1
        if not hasattr(self, "exchange") or self.exchange.state is not ExchangeState.ENDED:
            return
        assert bool(self.ends) is self.managed, "it ended, and the ledger does not know"
        assert (self.connecting, self.connected) == (0, 0), "it ended with a connection in its hands"
        assert self.left or self.answer_over or self.cut_off, "it ended, and the caller does not know"
        assert self.exchange.deadline is None
        assert self.gateway.active == 0

    def teardown(self) -> None:
        if hasattr(self, "exchange"):
            self.left = True
            self.take(self.exchange.abandon(self.now))
            assert self.exchange.abandon(self.now) == []
            assert len(self.ends) == self.managed
            assert self.gateway.active == 0


TestExchange = ExchangeRules.TestCase
TestExchange.settings = STEPS


# The connection, over bytes

REQUESTS: Final = [
    request(CHAT),
    request(CHAT_STREAM),
    request(CHAT, key=BYO_KEY),
    request(CHAT, headers=b"Connection: close\r\n"),
    request(CHAT, version=b"HTTP/1.0"),
    request(method=b"GET", target=b"/openai/v1/models", length=False),
    request(CHAT, key=b""),
    request(CHAT, target=b"/nowhere"),
    request(b"2\r\n{}\r\n0\r\n\r\n", headers=b"Transfer-Encoding: chunked\r\n", length=False),
    request(b"2\r\n{}XX", headers=b"Transfer-Encoding: chunked\r\n", length=False),
    b"GARBAGE\r\n\r\n",
    b"\r\n",
]
ANSWERS: Final = [
    json_response(COMPLETION),
    json_response(b"{}", status=b"429 Slow", headers=b"Connection: close\r\n"),
    b"HTTP/1.1 103 Hints\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"SSH-2.0\r\n\r\n",
]
SPLITS: Final = st.lists(st.integers(1, 400), max_size=3)


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class ConnectionRules(RuleBasedStateMachine):
    """Any order of what peers, sink, clock and driver do; the driver checks every effect (see MemoryDriver)."""

    @initialize(connect=st.sampled_from(["auto", "reuse", "manual"]), sink=st.sampled_from(["accept", "hold"]))
    def begins(self, connect: str, sink: str) -> None:
        self.driver = MemoryDriver(make_gateway(_policy(drains=sink == "hold")), connect=connect, sink=sink)
        self.blocked = False
        self.gone = False
        self.answered: set[int] = set()

    @property
    def upstream_is_there(self) -> bool:
        driver = self.driver
        if not driver.connects or driver.attempt in driver.released:
            return False
        return driver.connect != "manual" or driver.attempt in self.answered

    @property
    def is_connecting(self) -> bool:
        driver = self.driver
        waits = bool(driver.connects) and driver.attempt not in self.answered | driver.released.keys()
        return driver.connect == "manual" and waits

    @property
    def hears(self) -> bool:
        return not self.gone and self.driver.closed is not Close.ABORT

    @precondition(lambda self: self.hears)
    @rule(data=st.sampled_from(REQUESTS), cuts=SPLITS)
    def caller_sends(self, data: bytes, cuts: list[int]) -> None:
        for piece in _pieces(data, cuts):
            self.driver.receive(piece)

    @precondition(lambda self: self.hears)
    @rule(reset=st.booleans())
    def caller_leaves(self, reset: bool) -> None:
        self.gone = True
        if reset:
            self.driver.lost()
        else:
            self.driver.receive(b"")

    @precondition(lambda self: self.upstream_is_there)
    @rule(data=st.sampled_from(ANSWERS), cuts=SPLITS)
    def provider_sends(self, data: bytes, cuts: list[int]) -> None:
        attempt = self.driver.attempt
        for piece in _pieces(data, cuts):
            self.driver.upstream(piece, attempt)

    @precondition(lambda self: self.upstream_is_there)
    @rule(error=st.booleans(), as_data=st.booleans())
    def provider_ends(self, error: bool, as_data: bool) -> None:
        if as_data and not error:
            self.driver.upstream(b"")
        else:
            self.driver.upstream_lost(error=error)

    @precondition(lambda self: self.is_connecting)
    @rule(reused=st.booleans(), failure=st.sampled_from([None, None, *ConnectFailure]))
    def driver_connects(self, reused: bool, failure: ConnectFailure | None) -> None:
        self.answered.add(self.driver.attempt)
        if failure is None:
            self.driver.connected(reused=reused)
        else:
            self.driver.connect_failed(failure)

    @precondition(lambda self: len(self.driver.connects) > 1)
    @rule()
    def an_old_attempt_speaks(self) -> None:
        driver = self.driver
        before = driver.down, driver.machine.state
        driver.upstream(json_response(b'"late"'), driver.attempt - 1)
        driver.upstream_lost(attempt=driver.attempt - 1)
        assert (driver.down, driver.machine.state) == before

    @precondition(lambda self: set(self.driver.ledger.owed) - self.driver.ledger.answered)
    @rule(accepts=st.sampled_from([True, True, False]))
    def sink(self, accepts: bool) -> None:
        driver = self.driver
        (record,) = set(driver.ledger.owed) - driver.ledger.answered
        if accepts:
            driver.ledger.answered.add(record)
            driver.run(driver.machine.fact_opened(record, driver.now))
        else:
            driver.ledger.refused.append(record)
            driver.run(driver.machine.fact_refused(record, driver.now))

    @rule()
    def queue_passes_its_mark(self) -> None:
        machine, now = self.driver.machine, self.driver.now
        self.blocked = not self.blocked
        self.driver.run(machine.downstream_blocked(now) if self.blocked else machine.downstream_writable(now))

    @precondition(lambda self: self.upstream_is_there)
    @rule()
    def provider_reads_slowly(self) -> None:
        machine, now, attempt = self.driver.machine, self.driver.now, self.driver.attempt
        self.driver.run(machine.upstream_blocked(attempt, now))
        self.driver.run(machine.upstream_writable(attempt, now))

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 31.0, 61.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.driver.advance(seconds)

    @rule(cut=st.booleans())
    def is_ended(self, cut: bool) -> None:
        driver = self.driver
        driver.run(driver.machine.cut(None, driver.now) if cut else driver.machine.drain(driver.now))

    @invariant()
    def is_sound(self) -> None:
        if not hasattr(self, "driver"):
            return
        machine = self.driver.machine
        deadline = machine.deadline
        assert deadline is None or machine.wake_at <= deadline[0]
        if machine.done:
            assert deadline is None
            assert not self.driver.ledger.owed
            assert self.driver.gateway.active == 0
        else:
            # What waits for a peer has a timer; what is blocked by the caller has the write timer.
            assert deadline is not None or machine.busy

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        driver = self.driver
        if not self.gone and not driver.done():
            driver.advance(2_000.0)
            assert driver.done() or self.driver.machine.busy
        driver.run(driver.machine.abandon(driver.now))
        assert driver.machine.abandon(driver.now) == []
        assert driver.done()
        driver.ledger.check()
        assert driver.gateway.active == 0


TestConnection = ConnectionRules.TestCase
TestConnection.settings = STEPS
