"""The providers' side: sockets, what arrives and leaves on them, and the pool's bookkeeping done twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aigw_core.effects import Connect, ConnectFailure, ReleaseUpstream
from aigw_core.origin import Origin
from tests.simulation.answers import Answer, draw_answer
from tests.simulation.faults import Fault, require
from tests.simulation.limits import BYTEWISE_MAX

if TYPE_CHECKING:
    from tests.simulation.exchange import Exchange
    from tests.simulation.line import Line
    from tests.simulation.readers import Body
    from tests.simulation.world import World

POOL_MAX: Final = 6
"""Idle connections of one origin: few, so that the pool overflows."""
_COUNTED_WHOLE: Final = (Fault.INTERIM_HEADS, Fault.INTERIM_FLOOD, Fault.SWITCHING_PROTOCOLS, Fault.GARBAGE_HEAD)
_CONNECT_FAULTS: Final = {
    Fault.DNS_FAILS: ConnectFailure.DNS,
    Fault.TLS_FAILS: ConnectFailure.TLS,
    Fault.CONNECT_FAILS: ConnectFailure.CONNECT,
}


class Socket:
    """One connection to a provider, seen from the provider."""

    def __init__(self, world: World, origin: Origin) -> None:
        self.world = world
        self.origin = origin
        self.line: Line | None = None
        self.exchange: Exchange | None = None
        self.attempt = 0
        self.alive = True
        self.dirty = False
        """A byte moved for the present exchange."""
        self.reused = False
        self.answer: Answer | None = None
        self._offset = 0
        self._head = b""
        self._body: Body | None = None
        self._cuts: list[int] = []

    def attach(self, line: Line, exchange: Exchange, attempt: int) -> None:
        self.line, self.exchange, self.attempt = line, exchange, attempt
        self.dirty = False
        self.answer = None
        self._offset = 0
        self._head = b""
        self._body = None

    @property
    def clean(self) -> bool:
        """Fit for another request: untouched, or one request and its answer, both to their ends."""
        if not self.alive:
            return False
        if not self.dirty:
            return True
        exchange, answer = self.exchange, self.answer
        if exchange is None or answer is None or answer.broken_at is not None:
            return False
        through = exchange.request_whole and self._offset == answer.framed_size and answer.reusable
        return through and answer.framing != "close"

    # From the gateway

    def receive(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        require(self.alive, "bytes for a dead connection")
        self.dirty = True
        body = self._body
        if body is None:
            self._head += data
            head, mark, data = self._head.partition(b"\r\n\r\n")
            require(mark, "half a request head")
            require(b"bai_v" not in head, "a virtual key travels")
            exchange.begin_upstream()
            body = self._body = exchange.upstream_head(head, self.origin.authority.encode())
            if body.over:
                exchange.upstream_payload(b"")
            self._arrived(exchange)
        if data:
            before = body.over
            require(not before, "bytes beyond the request")
            payload, rest = body.feed(data)
            require(not rest, "bytes beyond the request")
            exchange.upstream_payload(payload)
        if body.over and self.answer is None:
            self._answer_soon()

    def _arrived(self, exchange: Exchange) -> None:
        plan, world = exchange.plan, self.world
        if plan.fault is Fault.EARLY_ANSWER and self._body is not None and not self._body.over:
            world.tally[Fault.EARLY_ANSWER] += 1
            self._answer_soon()
        elif plan.fault in (Fault.PROVIDER_READS_SLOWLY, Fault.PROVIDER_NEVER_READS) and self.line is not None:
            world.tally[plan.fault] += 1
            line, attempt = self.line, self.attempt
            line.feed("up_blocked", line.machine.upstream_blocked, attempt)
            if plan.fault is Fault.PROVIDER_READS_SLOWLY:
                world.at(
                    world.rng.random() * 0.5,
                    lambda: line.feed("up_writable", line.machine.upstream_writable, attempt),
                )

    # To the gateway

    def _answer_soon(self) -> None:
        exchange, world = self.exchange, self.world
        assert exchange is not None
        plan, rng = exchange.plan, world.rng
        echo = b""
        if plan.fault is Fault.ECHOES_POOL_KEY and plan.managed:
            echo = plan.site.key
            world.tally[Fault.ECHOES_POOL_KEY] += 1
        option = True if exchange.spliced else plan.asked is True
        answer = draw_answer(plan, rng, with_usage=option or not plan.site.needs_option, echo=echo)
        self.answer = exchange.answer = answer
        exchange.fed = 0
        exchange.fed_end = False
        self._cuts = self._draw_cuts(answer)
        self._later(rng.random() * 0.05)

    def _draw_cuts(self, answer: Answer) -> list[int]:
        world, size = self.world, len(answer.wire)
        fault = None if self.exchange is None else self.exchange.plan.fault
        draw = world.rng.random()
        if fault is Fault.BYTEWISE and size < 2 * BYTEWISE_MAX:
            return [*range(1, min(size, BYTEWISE_MAX)), size]
        if draw < 0.5:
            cuts = [size]
        else:
            cuts = sorted({world.rng.randrange(1, size + 1) for _ in range(world.rng.randrange(1, 6))} | {size})
        return cuts

    def _later(self, delay: float) -> None:
        line, attempt = self.line, self.attempt
        self.world.at(delay, lambda: self._deliver(line, attempt))

    def _deliver(self, line: Line | None, attempt: int) -> None:
        if line is None or self.line is not line or self.attempt != attempt or not self.alive:
            return
        exchange, answer, world = self.exchange, self.answer, self.world
        assert exchange is not None
        assert answer is not None
        if not line.machine.wants_upstream and world.rng.random() < 0.9:
            self._later(0.05)
            return
        fault = exchange.plan.fault
        if self._strikes(fault, answer, line):
            return
        end = self._cuts.pop(0)
        self.feed_piece(end)
        if self._cuts:
            self._later(world.rng.random() * 0.01)
        elif answer.framing == "close" and self.line is line and self.attempt == attempt:
            exchange.fed_end = True
            self.end(error=False)

    def feed_piece(self, end: int) -> None:
        line, exchange, answer = self.line, self.exchange, self.answer
        assert line is not None
        assert exchange is not None
        assert answer is not None
        piece = answer.wire[self._offset : end]
        self._offset = end
        exchange.fed = end
        self._tally(exchange.plan.fault, answer, end)
        if piece:
            line.feed("up_data", line.machine.receive_upstream, self.attempt, piece)

    def _tally(self, fault: Fault | None, answer: Answer, end: int) -> None:
        whole = end == len(answer.wire)
        if fault is Fault.GARBAGE_CHUNK:
            struck = answer.broken_at is not None and end >= answer.broken_at
        elif fault is Fault.EXTRA_BYTES:
            struck = whole and answer.framed_size < end
        else:
            struck = whole and fault in _COUNTED_WHOLE
        if struck and fault is not None:
            self.world.tally[fault] += 1

    def _strikes(self, fault: Fault | None, answer: Answer, line: Line) -> bool:
        """A fault that ends or stops the answer here."""
        world, rng = self.world, self.world.rng
        if fault in (Fault.RESET_BEFORE_HEAD, Fault.STALLS_BEFORE_HEAD) and self._offset == 0:
            world.tally[fault] += 1
            if fault is Fault.RESET_BEFORE_HEAD:
                self.end(error=True)
            return True
        if fault is Fault.STALE_REUSED and self.reused and self._offset == 0:
            world.tally[fault] += 1
            self.end(error=rng.random() < 0.5)
            return True
        if fault is Fault.RESET_IN_HEAD and answer.head_size > 2:
            world.tally[fault] += 1
            self.feed_piece(rng.randrange(1, answer.head_size))
            if self.line is line:
                self.end(error=rng.random() < 0.7)
            return True
        in_body = (Fault.RESET_IN_BODY, Fault.EOF_IN_BODY, Fault.STALLS_IN_BODY)
        if fault in in_body and answer.framing in ("length", "chunked") and len(answer.wire) > answer.head_size + 1:
            world.tally[fault] += 1
            self.feed_piece(rng.randrange(answer.head_size, len(answer.wire)))
            if self.line is line and fault is not Fault.STALLS_IN_BODY:
                self.end(error=fault is Fault.RESET_IN_BODY)
            return True
        return False

    def end(self, *, error: bool) -> None:
        """The provider's connection ends while the gateway uses it."""
        line, attempt = self.line, self.attempt
        assert line is not None
        self.alive = False
        if error:
            line.feed("up_lost", line.machine.upstream_lost, attempt, True)
        elif self.world.rng.random() < 0.5:
            line.feed("up_eof", line.machine.upstream_lost, attempt, False)
        else:
            line.feed("up_eof", line.machine.receive_upstream, attempt, b"")


class Hub:
    """Connects lines to sockets, and keeps its own list of what is idle."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._idle: dict[Origin, list[tuple[Socket, float]]] = {}

    def connect(self, line: Line, exchange: Exchange, effect: Connect) -> None:
        world, fault = self._world, exchange.plan.fault
        require(effect.origin.host == f"{exchange.plan.site.name}.test", "a connection to another provider")
        if fault in _CONNECT_FAULTS and effect.tries < 1 + exchange.plan.number % 3:
            world.at(world.rng.random() * 0.05, lambda: self._fail(line, effect, _CONNECT_FAULTS[fault], fault))
            return
        if fault is Fault.CONNECT_STALLS:
            world.tally[fault] += 1
            return
        if not effect.fresh:
            socket = self.checkout(effect.origin)
            if socket is not None:
                socket.reused = True
                socket.attach(line, exchange, effect.attempt)
                line.socket, line.connecting = socket, 0
                line.feed("connected", line.machine.upstream_connected, effect.attempt, True)
                self._spoil(socket, line, effect)
                return
        world.at(world.rng.random() * 0.02, lambda: self._open(line, exchange, effect))

    def _fail(self, line: Line, effect: Connect, failure: ConnectFailure, fault: Fault) -> None:
        if line.connecting == effect.attempt:
            line.connecting = 0
            self._world.tally[fault] += 1
            line.feed("connect_failed", line.machine.upstream_failed, effect.attempt, failure)

    def _open(self, line: Line, exchange: Exchange, effect: Connect) -> None:
        if line.connecting != effect.attempt:
            return
        line.connecting = 0
        socket = Socket(self._world, effect.origin)
        socket.attach(line, exchange, effect.attempt)
        line.socket = socket
        self._spoil(socket, line, effect)
        line.feed("connected", line.machine.upstream_connected, effect.attempt, False)

    def _spoil(self, socket: Socket, line: Line, effect: Connect) -> None:
        exchange, world = socket.exchange, self._world
        fault = None if exchange is None else exchange.plan.fault
        if fault not in (Fault.UNSOLICITED_BYTES, Fault.DIES_UNUSED) or effect.tries > 1:
            return

        def strike() -> None:
            if socket.line is not line or socket.attempt != effect.attempt or socket.answer is not None:
                return
            if not socket.alive or socket.dirty:
                return
            world.tally[fault] += 1
            if fault is Fault.DIES_UNUSED:
                socket.end(error=world.rng.random() < 0.5)
            else:
                socket.dirty = True
                line.feed("up_data", line.machine.receive_upstream, effect.attempt, b"HTTP/1.1 200 OK\r\n\r\n")

        world.at(world.rng.random() * 0.05, strike)

    # The pool

    def checkout(self, origin: Origin) -> Socket | None:
        now = self._world.now
        idle = self._idle.get(origin, [])
        expected = None
        for at in range(len(idle) - 1, -1, -1):
            if idle[at][1] > now:
                expected = idle.pop(at)[0]
                break
        got = self._world.gateway.pool.checkout(origin, now)
        require(got is expected, "the pool gives another connection than the newest that lives")
        return expected

    def release(self, socket: Socket, effect: ReleaseUpstream, *, natural: bool) -> None:
        """``natural``: the answer came to its end, so a clean connection has to be kept."""
        world, line = self._world, socket.line
        if effect.reusable:
            require(socket.clean, "a connection that is not clean goes to the pool")
        elif natural:
            require(not socket.clean, "a clean connection is thrown away")
        exchange = socket.exchange
        socket.line = socket.exchange = None
        if not effect.reusable:
            socket.alive = False
            if exchange is not None and line is not None:
                world.late(line, effect.attempt)
            return
        idle = self._idle.setdefault(socket.origin, [])
        closed = world.gateway.pool.checkin(socket.origin, socket, world.now, idle_timeout=effect.idle_timeout)
        idle.append((socket, world.now + effect.idle_timeout))
        expected: list[object] = [idle.pop(0)[0]] if len(idle) > POOL_MAX else []
        require(closed == expected, "the pool closes another connection than its oldest")
        answer = socket.answer
        if world.rng.random() < 0.1 or (answer is not None and answer.framed_size < len(answer.wire)):
            world.at(world.rng.random() * 0.3, lambda: self._strike_idle(socket))

    def _strike_idle(self, socket: Socket) -> None:
        if socket.line is not None or not socket.alive:
            return
        for origin, idle in self._idle.items():
            for at, (held, _) in enumerate(idle):
                if held is socket:
                    del idle[at]
                    require(self._world.gateway.pool.remove(socket), f"the pool lost a connection to {origin.host}")
                    kind = Fault.IDLE_CLOSED if self._world.rng.random() < 0.5 else Fault.IDLE_BYTES
                    self._world.tally[kind] += 1
                    socket.alive = False
                    return

    def expire(self) -> None:
        now = self._world.now
        gone = {socket for idle in self._idle.values() for socket, until in idle if until <= now}
        require(set(self._world.gateway.pool.expire(now)) == gone, "the pool expires others than those that are due")
        self._forget(gone)

    def retired(self, closed: list[object]) -> None:
        """After a reload the pool let go of these."""
        gone = {socket for idle in self._idle.values() for socket, _ in idle if socket in closed}
        require(len(gone) == len(closed), "the pool retires what it does not have")
        self._forget(gone)

    def _forget(self, gone: set[Socket]) -> None:
        for socket in gone:
            socket.alive = False
        for origin, idle in self._idle.items():
            self._idle[origin] = [pair for pair in idle if pair[0] not in gone]

    def check(self) -> None:
        count = sum(len(idle) for idle in self._idle.values())
        require(self._world.gateway.pool.idle_count == count, "the pool holds another number of connections")
