"""A rig without any I/O: the reference driver, on a clock that moves by itself. It shows how little a driver is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

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
from aigw_core.gateway import Gateway
from aigw_core.testing import commands as c
from aigw_core.testing.ledger import Ledger
from aigw_core.testing.scenario import Feature, Scenario
from aigw_core.testing.watch import Watch

FEATURES: Final = frozenset(Feature)
ORIGIN: Final = "http://provider.test"
READ_SIZE: Final = 65_536
"""Bytes fed at a time, as a driver reads them from a socket."""
QUEUE_HIGH: Final = 65_536
"""Bytes that wait for a peer at which it counts as blocked."""


@dataclass(eq=False)
class _Pipe:
    """One connection seen from the driver: what the peer is to receive, and what it gave to be sent."""

    to_peer: bytearray = field(default_factory=bytearray)
    outbox: bytearray = field(default_factory=bytearray)
    blocked: bool = False
    high: int = QUEUE_HIGH
    peer_ends: bool = False
    end_fed: bool = False
    closed: c.Ended | None = None
    """How the driver ended it."""
    half_closed: bool = False
    lost: bool = False
    attempt: int = 0
    idle: bool = False


class MemoryRig:
    """Plays the commands of one scenario on one Connection."""

    def __init__(self, scenario: Scenario) -> None:
        self.ledger = Ledger(scenario.answering)
        self.watch = Watch()
        self.now = 0.0
        self.gateway: Gateway = scenario.gateway(ORIGIN, self.now)
        self._provider = scenario.provider
        self._down = _Pipe()
        self._machine = self.watch.connection_class(self.gateway, self.now)
        self._machine.context = self
        self._ups: list[_Pipe] = []
        self._accepted = 0
        self._up: _Pipe | None = None
        self._pending: deque[Callable[[], list[Effect]]] = deque()

    # Commands

    def do(self, command: c.Command) -> Any:
        """The answer to one command. Raises AssertionError where it would wait for ever."""
        return _COMMANDS[type(command)](self, command)

    def close(self) -> None:
        """The end of every driver."""
        self._run(self._machine.abandon(self.now))
        self._let_go()
        self.watch.check()
        self.ledger.check()

    def _caller_connect(self, _: c.CallerConnect) -> None:
        assert not self._machine.done, "the rig has one connection"

    def _caller_send(self, command: c.CallerSend) -> None:
        self._down.outbox += command.data
        self._pump()

    def _caller_end(self, _: c.CallerEnd) -> None:
        self._down.peer_ends = True
        self._pump()

    def _caller_reset(self, _: c.CallerReset) -> None:
        self._down.lost = True
        self._feed(lambda: self._machine.downstream_lost(self.now))
        self._pump()

    def _caller_receive(self, _: c.CallerReceive) -> bytes | c.Ended:
        return self._receive(self._down)

    def _provider_accept(self, _: c.ProviderAccept) -> None:
        self._wait(lambda: len(self._ups) > self._accepted, "no connection to the provider")
        self._accepted += 1

    def _provider_send(self, command: c.ProviderSend) -> None:
        self._ups[command.number].outbox += command.data
        self._pump()

    def _provider_end(self, command: c.ProviderEnd) -> None:
        self._ups[command.number].peer_ends = True
        self._pump()

    def _provider_reset(self, command: c.ProviderReset) -> None:
        pipe = self._ups[command.number]
        pipe.lost = True
        self._feed(lambda: self._machine.upstream_lost(pipe.attempt, True, self.now))
        self._pump()

    def _provider_receive(self, command: c.ProviderReceive) -> bytes | c.Ended:
        return self._receive(self._ups[command.number])

    def _settle(self, _: c.Settle) -> None:
        self._pump()

    def _await_ledger(self, command: c.AwaitLedger) -> None:
        wanted = (command.opened, command.ended)
        self._wait(lambda: (len(self.ledger.opened), len(self.ledger.ended)) == wanted, f"the ledger is not {wanted}")

    def _answer_fact(self, command: c.AnswerFact) -> None:
        fact_id = self.ledger.answer(command.accepted)
        answer = self._machine.fact_opened if command.accepted else self._machine.fact_refused
        self._feed(lambda: answer(fact_id, self.now))
        self._pump()

    def _drain(self, _: c.Drain) -> None:
        self._feed(lambda: self._machine.drain(self.now))
        self._pump()

    def _cut(self, command: c.Cut) -> None:
        self._feed(lambda: self._machine.cut(command.reason, self.now))
        self._pump()

    def _stop(self, _: c.Stop) -> None:
        self._run(self._machine.abandon(self.now))
        self.gateway.pool.drain()
        for pipe in self._ups:
            pipe.idle = False
        self._let_go()

    # Waiting: only the machine's own timers can still bring something about

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        self._pump()
        while not condition():
            deadline = self._machine.deadline
            assert deadline is not None, what
            assert self._machine.wake_at <= deadline[0], "wake_at is a lower bound"
            self.now = max(self.now, deadline[0])
            self._feed(lambda: self._machine.tick(self.now))
            self._pump()

    def _receive(self, pipe: _Pipe) -> bytes | c.Ended:
        self._wait(lambda: bool(pipe.to_peer) or pipe.closed is not None or pipe.half_closed, "nothing will ever come")
        if not pipe.to_peer:
            return pipe.closed or c.Ended(True)
        data = bytes(pipe.to_peer)
        pipe.to_peer.clear()
        self._edge(pipe)
        self._pump()
        return data

    def _pump(self) -> None:
        """Feeds what peers sent, as long as the machine wants it."""
        moved = True
        while moved and not self._machine.done:
            moved = self._pump_down()
            for pipe in list(self._ups):
                moved = self._pump_up(pipe) or moved
        if self._machine.done:
            self._let_go()

    def _pump_down(self) -> bool:
        pipe = self._down
        if pipe.lost or pipe.end_fed or pipe.closed or not self._machine.wants_downstream:
            return False
        if not pipe.outbox and not pipe.peer_ends:
            return False
        data = bytes(pipe.outbox[:READ_SIZE])
        del pipe.outbox[:READ_SIZE]
        pipe.end_fed = not data
        self._feed(lambda: self._machine.receive_downstream(data, self.now))
        return True

    def _pump_up(self, pipe: _Pipe) -> bool:
        if pipe.lost or pipe.end_fed or pipe.closed or (pipe is self._up and not self._machine.wants_upstream):
            return False
        if not pipe.outbox and not pipe.peer_ends:
            return False
        if pipe.idle:
            self.gateway.pool.remove(pipe)
            pipe.closed = c.Ended(True)
            return True
        data = bytes(pipe.outbox[:READ_SIZE])
        del pipe.outbox[:READ_SIZE]
        pipe.end_fed = not data
        self._feed(lambda: self._machine.receive_upstream(pipe.attempt, data, self.now))
        return True

    # Driving

    def _feed(self, machine_input: Callable[[], list[Effect]]) -> None:
        self._run(machine_input())

    def _run(self, effects: list[Effect]) -> None:
        while True:
            self._check_order(effects)
            for effect in effects:
                _EFFECTS[type(effect)](self, effect)
            if self._pending:
                effects = self._pending.popleft()()
            elif self._machine.wants_resume:
                effects = self._machine.resume(self.now)
            else:
                return

    @staticmethod
    def _check_order(effects: list[Effect]) -> None:
        """What the machine owes its drivers."""
        kinds = [type(effect) for effect in list(effects)]
        assert EmitFact not in kinds[1:], "a fact comes first"
        if CloseDownstream in kinds:
            assert SendDownstream not in kinds[kinds.index(CloseDownstream) :], "nothing is sent after a close"

    def _send_downstream(self, effect: SendDownstream) -> None:
        assert not self._down.half_closed, "nothing is sent after a close"
        if not self._down.lost and self._down.closed is None:
            self._down.to_peer += effect.data
            self._edge(self._down)

    def _send_upstream(self, effect: SendUpstream) -> None:
        if self._up is not None and self._up.attempt == effect.attempt:
            self._up.to_peer += effect.data
            self._edge(self._up)

    def _edge(self, pipe: _Pipe) -> None:
        """Tells of a queue that passes its mark, or is empty again, once the current effects are through."""
        if pipe.blocked is (len(pipe.to_peer) > (0 if pipe.blocked else pipe.high)) or pipe.closed is not None:
            return
        pipe.blocked = not pipe.blocked
        machine = self._machine
        if pipe is self._down:
            edge = machine.downstream_blocked if pipe.blocked else machine.downstream_writable
            self._pending.append(lambda: edge(self.now))
        else:
            up_edge = machine.upstream_blocked if pipe.blocked else machine.upstream_writable
            self._pending.append(lambda: up_edge(pipe.attempt, self.now))
        if not pipe.blocked:
            self._run([])

    def _open_fact(self, effect: OpenFact) -> None:
        accepted, fact_id = self.ledger.open(effect.record), effect.record.id
        if accepted is not None:
            answer = self._machine.fact_opened if accepted else self._machine.fact_refused
            self._pending.append(lambda: answer(fact_id, self.now))

    def _emit_fact(self, effect: EmitFact) -> None:
        self.ledger.emit(effect.fact)

    def _void_fact(self, effect: VoidFact) -> None:
        self.ledger.void(effect.id)

    def _connect(self, effect: Connect) -> None:
        attempt, machine = effect.attempt, self._machine
        if self._provider == "silent":
            return
        if self._provider == "refusing":
            self._pending.append(lambda: machine.upstream_failed(attempt, ConnectFailure.CONNECT, self.now))
            return
        idle = None if effect.fresh else self.gateway.pool.checkout(effect.origin, self.now)
        if isinstance(idle, _Pipe):
            self._up, idle.attempt, idle.idle = idle, attempt, False
        else:
            self._up = _Pipe(attempt=attempt)
            self._ups.append(self._up)
        self._pending.append(lambda: machine.upstream_connected(attempt, idle is not None, self.now))

    def _release(self, effect: ReleaseUpstream) -> None:
        pipe, self._up = self._up, None
        if pipe is None or pipe.attempt != effect.attempt:
            return
        if effect.reusable and not pipe.lost:
            pipe.idle = True
            (origin,) = {provider.origin for provider in self.gateway.policy.providers.values()}
            self.gateway.pool.checkin(origin, pipe, self.now, idle_timeout=effect.idle_timeout)
        else:
            pipe.closed = c.Ended(False)

    def _close_downstream(self, effect: CloseDownstream) -> None:
        pipe = self._down
        if effect.how is Close.ABORT:
            pipe.closed = c.Ended(False)
        else:
            pipe.half_closed = True
            pipe.high = 0
            self._edge(pipe)

    def _let_go(self) -> None:
        """Both sockets are closed."""
        if self._down.closed is None:
            self._down.closed = c.Ended(not self._down.to_peer)
        for pipe in self._ups:
            if pipe.closed is None and not pipe.idle:
                pipe.closed = c.Ended(False)


_COMMANDS: Final[dict[type[Any], Callable[[MemoryRig, Any], Any]]] = {
    c.CallerConnect: MemoryRig._caller_connect,
    c.CallerSend: MemoryRig._caller_send,
    c.CallerEnd: MemoryRig._caller_end,
    c.CallerReset: MemoryRig._caller_reset,
    c.CallerReceive: MemoryRig._caller_receive,
    c.ProviderAccept: MemoryRig._provider_accept,
    c.ProviderSend: MemoryRig._provider_send,
    c.ProviderEnd: MemoryRig._provider_end,
    c.ProviderReset: MemoryRig._provider_reset,
    c.ProviderReceive: MemoryRig._provider_receive,
    c.Settle: MemoryRig._settle,
    c.AwaitLedger: MemoryRig._await_ledger,
    c.AnswerFact: MemoryRig._answer_fact,
    c.Drain: MemoryRig._drain,
    c.Cut: MemoryRig._cut,
    c.Stop: MemoryRig._stop,
}
_EFFECTS: Final[dict[type[Effect], Callable[[MemoryRig, Any], None]]] = {
    SendDownstream: MemoryRig._send_downstream,
    SendUpstream: MemoryRig._send_upstream,
    OpenFact: MemoryRig._open_fact,
    EmitFact: MemoryRig._emit_fact,
    VoidFact: MemoryRig._void_fact,
    Connect: MemoryRig._connect,
    ReleaseUpstream: MemoryRig._release,
    CloseDownstream: MemoryRig._close_downstream,
}
"""Each method takes the type of its key, which the type of a dict cannot say."""
