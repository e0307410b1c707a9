"""One caller and its connection: sends requests, drives the machine, and checks every effect."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aigw_core.connection import Connection
from aigw_core.effects import (
    Close,
    CloseDownstream,
    Connect,
    Effect,
    EmitFact,
    OpenFact,
    ReleaseUpstream,
    SendDownstream,
    SendUpstream,
    VoidFact,
)
from aigw_core.errors import LocalProtocolError
from tests.simulation.exchange import Exchange
from tests.simulation.faults import Fault, Violation, require
from tests.simulation.limits import BYTEWISE_MAX, TRANSCRIPT_MAX
from tests.simulation.readers import AnswerReader, Fields, values
from tests.simulation.requests import Plan, wire_bytes

if TYPE_CHECKING:
    from tests.simulation.provider import Socket
    from tests.simulation.world import World

NEVER: Final = float("inf")
_LEAVERS: Final = (Fault.CALLER_RESET, Fault.CALLER_EOF)
_SLOW: Final = (Fault.CALLER_READS_SLOWLY, Fault.CALLER_NEVER_READS)
_STALLS: Final = (Fault.CALLER_STALLS_HEAD, Fault.CALLER_STALLS_BODY)


class Line:
    """A downstream connection from its first byte to ``done``."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.machine = Connection(world.gateway, world.now)
        self.machine.context = self
        self.socket: Socket | None = None
        self.connecting = 0
        self.closed: Close | None = None
        self.gone = False
        """The caller sends no more."""
        self.finished = False
        self.exchanges: deque[Exchange] = deque()
        """Those whose answer is not complete; the first one is being answered, the last one runs upstream."""
        self._cause = ""
        self._pending: deque[tuple[str, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._carrying = False
        self._armed = NEVER
        self._blocked = False
        self._promised_close = False
        self._plans: deque[Plan] = deque()
        """Sent, or being sent, and not judged yet."""
        self._pieces: list[bytes] = []
        self._sending: Plan | None = None
        self._reader = AnswerReader(self._on_final, self._on_interim, self._on_body, self._on_end)
        self._attempts = 0
        self.transcript: deque[tuple[float, str, tuple[Any, ...]]] = deque(maxlen=TRANSCRIPT_MAX)
        """The last inputs, for whoever reads a failure."""
        self._stalled = False
        """A request was begun that never gets its end."""

    # The caller

    def begin(self) -> None:
        """Sends the next request, or leaves."""
        if self.gone or self._stalled or self.closed is not None or self._pieces or self.finished:
            return
        plan = self.world.next_plan()
        if plan is None:
            if self.world.rng.random() < 0.7:
                self.world.at(self.world.rng.random() * 0.1, self._leave)
            return
        self._plans.append(plan)
        self._sending = plan
        self._pieces = self._cut(plan, wire_bytes(plan, self.world.rng))
        if plan.fault in (Fault.CALLER_GARBAGE, Fault.CALLER_BROKEN_CHUNK):
            self.world.tally[plan.fault] += 1
        if plan.fault in _LEAVERS:
            self.world.at(self.world.rng.random() * 0.12, lambda: self._leave(plan.fault))
        elif plan.fault is Fault.ABANDONED:
            self.world.at(self.world.rng.random() * 0.12, self._abandon)
        self.push()

    def _cut(self, plan: Plan, raw: bytes) -> list[bytes]:
        rng, size = self.world.rng, len(raw)
        if plan.fault is Fault.BYTEWISE and size < BYTEWISE_MAX:
            self.world.tally[Fault.BYTEWISE] += 1
            return [raw[at : at + 1] for at in range(size)]
        cuts = {size}
        if plan.fault is Fault.SPLIT:
            self.world.tally[Fault.SPLIT] += 1
            cuts |= {rng.randrange(1, size) for _ in range(rng.randrange(1, 9))}
        elif plan.fault is Fault.CALLER_STALLS_HEAD:
            cuts = {rng.randrange(1, plan.head_size)}
        elif plan.fault is Fault.CALLER_STALLS_BODY and size > plan.head_size:
            cuts = {rng.randrange(plan.head_size, size)}
        elif plan.expects:
            cuts.add(plan.head_size)
        elif plan.fault is Fault.EARLY_ANSWER and size > plan.head_size + 1:
            cuts |= {plan.head_size, rng.randrange(plan.head_size + 1, size)}
        elif rng.random() < 0.2:
            cuts.add(rng.randrange(1, size))
        ends = sorted(cuts)
        return [raw[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def push(self) -> None:
        """The next piece of the request, if the gateway reads."""
        world, plan = self.world, self._sending
        if self.gone or not self._pieces or plan is None or self.machine.done or self.closed is Close.ABORT:
            return
        if not self.machine.wants_downstream and world.rng.random() < 0.9:
            world.at(0.05, self.push)
            return
        piece = self._pieces.pop(0)
        last = not self._pieces
        self.feed("down_data", self.machine.receive_downstream, piece)
        if not last:
            slow = plan.fault is Fault.EARLY_ANSWER or plan.expects
            world.at(world.rng.random() * (0.2 if slow else 0.004), self.push)
        elif plan.fault in _STALLS:
            world.tally[plan.fault] += 1
            self._stalled = True
        elif plan.fault is Fault.PIPELINED and self.closed is None:
            world.tally[Fault.PIPELINED] += 1
            self.begin()
        else:
            self._maybe_next()

    def _maybe_next(self) -> None:
        """After an answer and with nothing left to send: think, then ask again."""
        if self._pieces or self._plans or self.exchanges or self.gone or self._stalled or self.closed is not None:
            return
        self.world.at(self.world.rng.random() * 0.05, self._next_if_idle)

    def _next_if_idle(self) -> None:
        # Whoever does not read asks for nothing more, unless it is pipelined: the gateway would not begin it.
        if not (self._pieces or self._plans or self.exchanges or self._blocked):
            self.begin()

    def _leave(self, fault: Fault | None = None) -> None:
        if self.gone or self.finished:
            return
        if fault is not None:
            self.world.tally[fault] += 1
        reset = fault is Fault.CALLER_RESET or (fault is None and self.world.rng.random() < 0.5)
        self.gone = True
        if reset:
            self.feed("down_lost", self.machine.downstream_lost)
        else:
            self.feed("down_eof", self.machine.receive_downstream, b"")

    def _abandon(self) -> None:
        if self.finished:
            return
        self.world.tally[Fault.ABANDONED] += 1
        self.gone = True
        self.feed("abandon", self.machine.abandon)
        require(self.machine.done, "an abandoned connection is not done")
        require(not self.machine.abandon(self.world.now), "abandon is not idempotent")

    def _after_close(self) -> None:
        """The gateway half-closed: the caller reads to the end, says more or nothing, and closes."""
        if self.gone or self.finished:
            return
        plan, rng = self._sending, self.world.rng
        if plan is not None and plan.fault is Fault.CALLER_IGNORES_CLOSE:
            self.world.tally[Fault.CALLER_IGNORES_CLOSE] += 1
            self.feed("down_data", self.machine.receive_downstream, b"x" * rng.choice((10, 70_000, 1 << 20)))
            if rng.random() < 0.5:
                return
        self._leave()

    # The driver

    def feed(self, cause: str, method: Callable[..., Any], *args: Any) -> None:
        """One input; effects first, then what they raised."""
        if self._carrying:
            self._pending.append((cause, method, args))
            return
        if self.finished:
            return
        self._carrying = True
        while True:
            self._one(cause, method, args)
            if not self._pending:
                break
            cause, method, args = self._pending.popleft()
        self._carrying = False
        if self.machine.done:
            self._finish()
        elif self.machine.wake_at < self._armed:
            self._arm()
        self.world.begin_turns_soon()

    def _one(self, cause: str, method: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.world.steps += 1
        self._cause = cause
        self.transcript.append((self.world.now, cause, args))
        self._before(cause, args)
        try:
            effects: list[Effect] = method(*args, self.world.now)
        except LocalProtocolError as error:
            raise Violation(f"the machine calls {cause} a misuse: {error}") from error
        if cause == "tick":
            require(self.world.now >= self._armed, "ticked before its time")
            self._armed = NEVER
        self._check_order(effects)
        for effect in effects:
            _CARRY[type(effect)](self, effect)
        self._after(cause)
        self.world.check_step()

    def _before(self, cause: str, args: tuple[Any, ...]) -> None:
        if cause in ("fact_opened", "fact_refused"):
            self.world.ledger.fed(args[0], accept=cause == "fact_opened")
        if cause in ("down_eof", "down_lost"):
            for exchange in self.exchanges:
                exchange.left = True
                exchange.draining = not exchange.ended and exchange.may_drain()

    @staticmethod
    def _check_order(effects: list[Effect]) -> None:
        for at, effect in enumerate(effects):
            if type(effect) is EmitFact:
                require(at == 0, "EmitFact does not come first")

    def _arm(self) -> None:
        at = self._armed = self.machine.wake_at
        deadline = self.machine.deadline
        require(deadline is None or at <= deadline[0], "woken after the deadline")
        self.world.at(max(0.0, at - self.world.now), lambda: self._on_timer(at))

    def _on_timer(self, at: float) -> None:
        if at == self._armed and not self.finished:
            self.feed("tick", self.machine.tick)

    def _finish(self) -> None:
        self.finished = True
        if self.socket is not None:
            raise Violation("done with an upstream connection in its hands")
        self.world.line_done(self)

    # Effects

    def _open_fact(self, effect: OpenFact) -> None:
        record = effect.record
        exchange = self._admitted()
        require(exchange.managed, "an open record for a caller who is not managed")
        exchange.record = record
        exchange.check_record(record, self.world.deny_revision)
        self.world.ledger.open(record.id, self, exchange)

    def _emit_fact(self, effect: EmitFact) -> None:
        exchange = self.world.ledger.settle(effect.fact.id)
        require(exchange in self.exchanges, "a fact of another connection")
        require(exchange.opened, "a fact for what was not admitted")
        exchange.fact = effect.fact
        exchange.ended = True
        self.world.running -= 1

    def _void_fact(self, effect: VoidFact) -> None:
        exchange = self.world.ledger.void(effect.id)
        require(not exchange.opened, "a void for what was admitted")
        exchange.ended = True
        self.world.running -= 1

    def _connect(self, effect: Connect) -> None:
        require(effect.attempt > self._attempts, "an attempt number used before")
        self._attempts = effect.attempt
        last = self.exchanges[-1] if self.exchanges else None
        if effect.tries == 0 and not (last is not None and last.managed and last.connects == 0):
            last = self._admitted()
            require(not last.managed, "a connection before the open record")
            last.opened = True
        assert last is not None
        require(not last.ended, "a connection for nothing")
        last.connects += 1
        require(last.connects <= 3, "more than two retries")
        if last.sent_up:
            plan = last.plan
            safe = plan.method in (b"GET", b"HEAD") and not plan.body
            require(safe and last.fed == 0 and not last.head_sent, "what may not be repeated is sent again")
            last.answer = None
        last.attempt = self.connecting = effect.attempt
        self.world.hub.connect(self, last, effect)

    def _release(self, effect: ReleaseUpstream) -> None:
        if self.connecting == effect.attempt:
            self.connecting = 0
            return
        socket, self.socket = self.socket, None
        if socket is None:
            return
        require(socket.attempt == effect.attempt, "another attempt is released")
        natural = self._cause == "up_data" and socket.exchange is not None and socket.exchange.whole
        self.world.hub.release(socket, effect, natural=natural)

    def _send_upstream(self, effect: SendUpstream) -> None:
        exchange = self.exchanges[-1]
        require(effect.attempt == exchange.attempt, "bytes for another attempt")
        require(exchange.opened, "bytes upstream before the open record is accepted")
        if not exchange.sent_up or self.socket is None or not self.socket.dirty:
            denied = self.world.denied(exchange.plan)
            require(denied is None, "the first byte for somebody who is cut off")
        require(self.socket is not None and effect.data, "bytes for no connection")
        assert self.socket is not None
        exchange.sent_up = True
        if self.socket.alive:
            was_whole = exchange.request_whole
            self.socket.receive(effect.data)
            if exchange.request_whole and not was_whole:
                denied = self.world.denied(exchange.plan)
                require(denied is None, "a request becomes whole for a caller who was denied")

    def _send_downstream(self, effect: SendDownstream) -> None:
        require(self.closed is None, "something is sent after a close")
        require(not any(exchange.left for exchange in self.exchanges), "something is sent to a caller who left")
        require(effect.data, "nothing is sent")
        self._reader.feed(effect.data)
        plan = self.exchanges[0].plan if self.exchanges else self._sending
        if plan is not None and plan.fault in _SLOW and not self._blocked:
            self._block(plan.fault)

    def _block(self, fault: Fault | None) -> None:
        assert fault is not None
        self._blocked = True
        self.world.tally[fault] += 1
        self.feed("blocked", self.machine.downstream_blocked)
        if fault is Fault.CALLER_READS_SLOWLY:
            self.world.at(self.world.rng.random() * 0.4, self._unblock)

    def _unblock(self) -> None:
        self._blocked = False
        self.feed("writable", self.machine.downstream_writable)
        self._maybe_next()

    def _close(self, effect: CloseDownstream) -> None:
        require(self.closed is None, "closed twice")
        self.closed = effect.how
        if effect.how is Close.ABORT:
            self.gone = True
            return
        require(self._reader.closed(), "an orderly close cuts an answer")
        if self.exchanges and self._reader.body is not None:
            self._reader.body = None
            self._on_end()
        self.world.at(self.world.rng.random() * 0.1, self._after_close)

    # What comes back

    def _admitted(self) -> Exchange:
        """The gateway lets a request pass. What it refused before in the same turn is answered later in it."""
        while self._plans:
            exchange = self._judge(refused=False)
            if exchange.refused is None:
                return exchange
        raise Violation("somebody is allowed who is refused")

    def _judge(self, *, refused: bool) -> Exchange:
        """The gateway has decided over the next request: so does the model."""
        require(self._plans, "an answer to nobody's question")
        plan = self._plans.popleft()
        world = self.world
        if plan is self._sending and self._cause == "tick" and refused:
            expected: int | None = 408
        else:
            expected = world.judge.decide(plan, world.setup, world.now)
        if expected is None:
            require(not refused, "somebody is refused who is allowed")
            world.running += 1
        elif expected == 429:
            world.tally[Fault.LIMIT_REACHED] += 1
        world.judged += 1
        exchange = Exchange(plan, world.setup, world.now, refused=expected)
        self.exchanges.append(exchange)
        return exchange

    def _answering(self) -> Exchange:
        """The first that has no whole answer; a refusal is answered in the turn in which it is judged."""
        for exchange in self.exchanges:
            if not exchange.over:
                return exchange
        return self._judge(refused=True)

    def _on_final(self, status: int, reason: bytes, fields: Fields) -> bytes:
        exchange = self._answering()
        exchange.answered(status, reason, fields, draining=self.world.draining)
        self._promised_close = b"close" in values(fields, b"connection")
        if exchange.own_status is not None:
            fits = exchange.own_answer_fits(self._cause, self.world.denied(exchange.plan))
            require(fits, f"status {status} of our own after {self._cause}, admission said {exchange.refused}")
        else:
            self.world.relayed += 1
        # A head that could not be read has no method; what answers it has a body.
        return b"POST" if exchange.refused == 408 or exchange.plan.malformed is not None else exchange.plan.method

    def _on_interim(self, status: int, fields: Fields) -> None:
        exchange = self._answering()
        require(not exchange.plan.http_1_0, "an interim answer for HTTP/1.0")
        require(exchange.opened, "an interim answer before admission")
        if status == 100:
            require(exchange.plan.expects, "100 that nobody waits for")
        else:
            require(exchange.plan.fault in (Fault.INTERIM_HEADS, Fault.INTERIM_FLOOD), "an interim answer of nobody")

    def _on_body(self, payload: bytes) -> None:
        self._answering().body_relayed(payload)

    def _on_end(self) -> None:
        self._answering().answer_over()

    # After each input

    def _after(self, cause: str) -> None:
        if self.connecting == 0 and self.socket is None:
            if cause in ("connect_failed", "up_lost", "up_eof", "up_data"):
                self._note_pending("upstream_error")
            elif cause == "tick":
                self._note_pending("timeout")
        while self.exchanges:
            exchange = self.exchanges[0]
            if not exchange.managed and not exchange.ended and self._byo_over(exchange):
                exchange.ended = True
                self.world.running -= 1
            if exchange.fact is not None:
                exchange.check_fact(cause, self.world.now, self.world.denied(exchange.plan))
                exchange.fact = None
            if not exchange.ended:
                self._check_running(exchange, cause)
                break
            over = exchange.over or exchange.left or self.closed is not None or self.machine.done
            require(over, f"an exchange ended by {cause} leaves its caller without an end")
            if self.closed is Close.ABORT and not exchange.left:
                require(not exchange.over or exchange.own_status is None, "a reset behind a whole answer")
            self.exchanges.popleft()
            self._check_promise(exchange)
            if not self.exchanges and not self._pieces:
                self._maybe_next()

    def _byo_over(self, exchange: Exchange) -> bool:
        return exchange.over or exchange.left or self.closed is not None or self.machine.done

    def _note_pending(self, outcome: str) -> None:
        exchange = self.exchanges[-1] if self.exchanges else None
        if exchange is not None and exchange.managed and not exchange.opened and not exchange.ended:
            exchange.pended = exchange.pended or outcome

    def _check_running(self, exchange: Exchange, cause: str) -> None:
        require(cause not in ("cut", "abandon"), f"{cause} ends nothing")
        require(not exchange.over or exchange.refused is not None, "an answer is complete and its exchange runs on")
        if exchange.left:
            require(exchange.draining, "the caller left and the exchange runs on")
        if exchange.opened and exchange.whole:
            raise Violation("the provider's answer is complete and the exchange runs on")
        exchange.check_flow()

    def _check_promise(self, exchange: Exchange) -> None:
        """A connection goes on exactly where the answer says so."""
        if exchange.left or self.machine.done or self.closed is not None:
            return
        require(not self._promised_close, "Connection: close, and the connection goes on")


_CARRY: Final[dict[type[Effect], Callable[[Line, Any], None]]] = {
    OpenFact: Line._open_fact,
    EmitFact: Line._emit_fact,
    VoidFact: Line._void_fact,
    Connect: Line._connect,
    ReleaseUpstream: Line._release,
    SendUpstream: Line._send_upstream,
    SendDownstream: Line._send_downstream,
    CloseDownstream: Line._close,
}
