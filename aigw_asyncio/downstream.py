"""One caller's connection: feeds the machine and carries out its effects."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from aigw_anyio.connecting import ConnectFailed
from aigw_anyio.tlspipe import TlsPipe
from aigw_asyncio.reading import Reading
from aigw_asyncio.sockets import peer_address, reset, tune
from aigw_asyncio.upstream import Upstream
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
from aigw_core.timers import NEVER

if TYPE_CHECKING:
    from aigw_asyncio.server import AsyncioDataPlane
    from aigw_core.denyset import DenyReason

_Input = Callable[[float], list[Effect]]


class Downstream(Reading):
    """The driver of one Connection. It decides nothing: see the contract in Connection's docstring."""

    __slots__ = (
        "_answer_work",
        "_armed_at",
        "_carrying",
        "_connecting",
        "_failures",
        "_loop_time",
        "_now",
        "_opened",
        "_pending",
        "_plane",
        "_progress",
        "_reading",
        "_sink",
        "_timer",
        "_timers",
        "_tls",
        "_transport",
        "_turn",
        "_unsent",
        "_upstream",
        "_work",
        "machine",
    )

    def __init__(self, plane: AsyncioDataPlane, tls: TlsPipe | None) -> None:
        super().__init__(plane.read_buffer)
        self._plane = plane
        self._turn = plane.turn
        self._sink = plane.sink
        self._progress = plane.progress
        self._failures = plane.failures
        self._work, self._answer_work = plane.gateway.work, plane.gateway.answer_work
        self._loop_time = plane.loop_time
        self._now = 0.0
        """The time at which effects are carried out."""
        self.machine: Connection
        """There as soon as the caller's address is known."""
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._upstream: Upstream | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._pending: deque[_Input] = deque()
        self._opened: str | None = None
        """The id of a record that the sink has just accepted, which the machine was not told yet."""
        self._unsent = False
        """There is a connection out of the pool on which nothing of this exchange was sent yet."""
        self._carrying = False
        self._reading = True
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = NEVER

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: the transports of uvloop do not inherit from asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        self._now = self._loop_time()
        self.machine = Connection(self._plane.gateway, self._now, peer=peer_address(transport))
        self.machine.context = self
        self._timers = self.machine.timers
        if not self._plane.admit(self):
            transport.abort()
            return
        tune(transport)
        self._arm()

    def received(self, data: bytes) -> None:
        if self._unsent:
            self._look_again()
        tls = self._tls
        if tls is None:
            now = self._loop_time()
            self._run(self.machine.receive_downstream(data, now), now)
            return
        try:
            plain = tls.receive(data)
        except ssl.SSLError:
            self._write(tls.outgoing())
            self._feed(self.machine.downstream_lost)
            self._abort()
            return
        self._write(tls.outgoing())
        if plain:
            now = self._loop_time()
            self._run(self.machine.receive_downstream(plain, now), now)
        if tls.closed:
            self._feed(partial(self.machine.receive_downstream, b""))

    def eof_received(self) -> bool:
        self._feed(partial(self.machine.receive_downstream, b""))
        # True: the transport stays until the machine is done with it.
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._transport = None
        self._feed(self.machine.downstream_lost)
        self._regulate_upstream()
        self._plane.lost(self, draining=not self.machine.done)

    def pause_writing(self) -> None:
        # Comes out of a write, thus while effects are carried out: the machine is told, and asked, afterwards.
        self._feed(self._downstream_blocked)

    def resume_writing(self) -> None:
        self._feed(self._downstream_writable)

    def _downstream_blocked(self, now: float) -> list[Effect]:
        effects = self.machine.downstream_blocked(now)
        self._regulate_upstream()
        return effects

    def _downstream_writable(self, now: float) -> list[Effect]:
        effects = self.machine.downstream_writable(now)
        self._regulate_upstream()
        return effects

    def _regulate_upstream(self) -> None:
        """Reads no more from the provider than the caller takes, or the machine wants for itself."""
        upstream = self._upstream
        if upstream is None:
            return
        if self.machine.wants_upstream:
            upstream.resume()
        else:
            upstream.pause()

    # What its upstream calls

    def upstream_data(self, upstream: Upstream, data: bytes) -> None:
        if self._carrying:
            self._pending.append(partial(self.machine.receive_upstream, upstream.attempt, data))
        else:
            now = self._loop_time()
            self._run(self.machine.receive_upstream(upstream.attempt, data, now), now)

    def upstream_gone(self, upstream: Upstream, error: bool) -> None:
        if self._upstream is upstream:
            self._upstream = None
        self._feed(partial(self.machine.upstream_lost, upstream.attempt, error))

    def upstream_write_edge(self, upstream: Upstream, blocked: bool) -> None:
        edge = self.machine.upstream_blocked if blocked else self.machine.upstream_writable
        self._feed(partial(edge, upstream.attempt))

    # What the data plane calls

    def fact_answer(self, fact_id: str, accepted: bool) -> None:
        if self._unsent:
            self._look_again()
        answer = self.machine.fact_opened if accepted else self.machine.fact_refused
        self._feed(partial(answer, fact_id))

    def resume(self) -> None:
        self._feed(self._resume)

    def _resume(self, now: float) -> list[Effect]:
        effects = self.machine.resume(now)
        self._regulate_upstream()
        return effects

    def drain(self) -> None:
        self._feed(self.machine.drain)

    def cut(self, reason: DenyReason | None) -> None:
        self._feed(partial(self.machine.cut, reason))

    def abandon(self) -> None:
        """The event loop stops: nothing that the ledger is owed may be lost."""
        now = self._loop_time()
        self._run(self.machine.abandon(now), now)
        self._dispose()

    # Driving

    def _look_again(self) -> None:
        """Before a request may go out on a connection that has waited for it: bytes on it are no answer to that."""
        upstream = self._upstream
        if upstream is None:
            self._unsent = False
        elif upstream.has_input:
            self._feed(partial(self.machine.upstream_lost, upstream.attempt, True))

    def _feed(self, machine_input: _Input) -> None:
        """Feeds now, or after the effects that are being carried out."""
        if self._carrying:
            self._pending.append(machine_input)
        else:
            now = self._loop_time()
            self._run(machine_input(now), now)

    def _run(self, effects: list[Effect], now: float) -> None:
        """Carries out effects, then feeds what came up meanwhile: in the same turn, so at the same time."""
        machine, pending = self.machine, self._pending
        self._carrying = True
        self._now = self._progress[0] = now
        try:
            while True:
                for effect in effects:
                    _CARRY_OUT[type(effect)](self, effect)
                if self._opened is not None:
                    pending.append(partial(machine.fact_opened, self._opened))
                    self._opened = None
                if not pending:
                    break
                effects = pending.popleft()(now)
        finally:
            self._carrying = False
        if machine.done:
            self._finish()
            return
        if self._timers.wake_at < self._armed_at:
            self._arm()
        if machine.wants_downstream is not self._reading:
            self._toggle_reading()
        if self._work.is_due or self._answer_work.is_due:
            self._regulate_upstream()
            self._plane.begin_turns_soon()
        if self._failures:
            self._plane.log_failures()

    def _toggle_reading(self) -> None:
        self._reading = not self._reading
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._reading:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_at = self.machine.wake_at
        self._timer = None if self._armed_at == NEVER else self._plane.loop.call_at(self._armed_at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._armed_at = NEVER
        self._feed(self.machine.tick)

    # Effects

    def _open_fact(self, effect: OpenFact) -> None:
        record = effect.record
        accepted = self._sink.open(record)
        if accepted is None:
            self._plane.await_answer(record.id, self)
        elif accepted:
            self._opened = record.id
        else:
            self._pending.append(partial(self.machine.fact_refused, record.id))

    def _emit_fact(self, effect: EmitFact) -> None:
        self._sink.emit(effect.fact)
        self._turn.push_soon()

    def _void_fact(self, effect: VoidFact) -> None:
        self._plane.forget_answer(effect.id)
        self._sink.void(effect.id)
        self._turn.push_soon()

    def _connect(self, effect: Connect) -> None:
        attempt = effect.attempt
        if not effect.fresh:
            idle = self._plane.idle_upstream(effect.origin, self._now)
            if idle is not None:
                self._attach(idle, attempt)
                self._unsent = True
                opened, self._opened = self._opened, None
                if opened is not None:
                    self._pending.append(partial(self.machine.opened_and_connected, opened, attempt))
                else:
                    self._pending.append(partial(self.machine.upstream_connected, attempt, True))
                return
        self._connecting = self._plane.loop.create_task(self._connect_fresh(effect))

    async def _connect_fresh(self, effect: Connect) -> None:
        attempt = effect.attempt
        try:
            upstream = await self._plane.connector.connect(effect.origin, effect.tries)
        except ConnectFailed as error:
            failure = error.failure
            self._connecting = None
            self._feed(partial(self.machine.upstream_failed, attempt, failure))
            return
        self._connecting = None
        self._attach(upstream, attempt)
        self._feed(partial(self.machine.upstream_connected, attempt, False))

    def _attach(self, upstream: Upstream, attempt: int) -> None:
        self._upstream = upstream
        upstream.attempt = attempt
        upstream.user = self
        if not self.machine.wants_upstream:
            upstream.pause()

    def _release_upstream(self, effect: ReleaseUpstream) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        upstream, self._upstream = self._upstream, None
        if upstream is None or upstream.attempt != effect.attempt:
            return
        upstream.user = None
        if effect.reusable and upstream.usable:
            self._plane.keep_upstream(upstream, self._now, effect.idle_timeout)
        else:
            upstream.abort()

    def _send_upstream(self, effect: SendUpstream) -> None:
        upstream = self._upstream
        if upstream is not None and upstream.attempt == effect.attempt:
            self._unsent = False
            upstream.send(effect.data)

    def _send_downstream(self, effect: SendDownstream) -> None:
        transport = self._transport
        if transport is not None:
            self._turn.write(transport, effect.data if self._tls is None else self._tls.send(effect.data))

    def _close_downstream(self, effect: CloseDownstream) -> None:
        transport = self._transport
        if transport is None:
            return
        if effect.how is Close.ABORT:
            self._abort()
            return
        if self._tls is not None and self._tls.established:
            self._write(self._tls.close_notify())
        self._turn.flush()
        # From here on the queue counts as blocked until it is empty.
        transport.set_write_buffer_limits(high=0)
        if not transport.is_closing() and transport.can_write_eof():
            transport.write_eof()

    def _write(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._turn.write(self._transport, data)

    def _abort(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            self._turn.flush()
            reset(transport)
            self._plane.lost(self, draining=not self.machine.done)

    def _finish(self) -> None:
        """The machine is done: both sockets go."""
        transport = self._transport
        if transport is not None:
            self._turn.flush()
            if transport.get_write_buffer_size():
                self._abort()
            else:
                transport.close()
        else:
            self._plane.lost(self, draining=False)
        self._dispose()

    def _dispose(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self._failures:
            self._plane.log_failures()


_CARRY_OUT: dict[type[Effect], Callable[[Downstream, Any], None]] = {
    SendDownstream: Downstream._send_downstream,
    SendUpstream: Downstream._send_upstream,
    OpenFact: Downstream._open_fact,
    EmitFact: Downstream._emit_fact,
    VoidFact: Downstream._void_fact,
    Connect: Downstream._connect,
    ReleaseUpstream: Downstream._release_upstream,
    CloseDownstream: Downstream._close_downstream,
}
"""Each method takes the effect type of its key, which the type of a dict cannot say."""
