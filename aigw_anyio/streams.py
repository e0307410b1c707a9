"""Drives a Connection over anyio byte streams, on asyncio and on trio alike.

The rules it keeps are those of :class:`aigw_core.connection.Connection`. Every socket is a
:class:`~aigw_anyio.channel.Channel`; the tasks that read them call the machine, which never waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from aigw_anyio.channel import Channel
from aigw_anyio.connecting import ConnectFailed
from aigw_anyio.upstream import StreamUpstream
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

if TYPE_CHECKING:
    from aigw_anyio.sinks import FactSink
    from aigw_core.denyset import DenyReason
    from aigw_core.gateway import Gateway
    from aigw_core.origin import Origin

_Input = Callable[[float], list[Effect]]


class Surroundings(Protocol):
    """What the drivers of one process share: :class:`aigw_anyio.streamplane.StreamDataPlane`."""

    gateway: Gateway
    sink: FactSink
    progress: memoryview[float]

    async def connect(self, origin: Origin, tries: int) -> StreamUpstream:
        """Raises ConnectFailed."""
        ...

    def idle_upstream(self, origin: Origin, now: float) -> StreamUpstream | None: ...
    def keep_upstream(self, upstream: StreamUpstream, now: float, idle_timeout: float) -> None: ...
    def await_answer(self, fact_id: str, connection: StreamDriver) -> None: ...
    def forget_answer(self, fact_id: str) -> None: ...
    def lost(self, connection: StreamDriver, *, draining: bool) -> None: ...
    def begin_turns_soon(self) -> None: ...
    def log_failures(self) -> None: ...


class StreamDriver:
    """The driver of one Connection. It decides nothing."""

    def __init__(self, shared: Surroundings, channel: Channel) -> None:
        self._shared = shared
        self._sink = shared.sink
        self._progress = shared.progress
        self.machine = Connection(shared.gateway, anyio.current_time(), peer=channel.peer_address)
        self.machine.context = self
        self._down = channel
        channel.on_data, channel.on_gone, channel.on_edge = self._arrived, self._gone, self._edge
        self._reading = True
        self._upstream: StreamUpstream | None = None
        self._upstream_reading = True
        self._unsent = False
        """There is a connection out of the pool on which nothing of this exchange was sent yet."""
        self._connecting: anyio.CancelScope | None = None
        self._pending: deque[_Input] = deque()
        self._carrying = False
        self._push_due = False
        self._alarm = anyio.CancelScope()
        self._tasks: TaskGroup

    async def run(self) -> None:
        """Serves the stream until the machine is done; however it ends, the ledger is paid and all is closed."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._down.run)
                await self._keep_time()
                self._tasks.cancel_scope.cancel()
        finally:
            self.abandon()

    async def _keep_time(self) -> None:
        """Sleeps until the machine's timers are due; :meth:`_run` moves the alarm where one comes earlier."""
        machine = self.machine
        while not machine.done:
            with anyio.CancelScope(deadline=machine.wake_at) as self._alarm:
                await anyio.sleep_forever()
            if not machine.done:
                self._feed(machine.tick)

    # What its channels call

    def _arrived(self, data: bytes) -> None:
        if self._unsent:
            self._look_again()
        self._feed(lambda now: self.machine.receive_downstream(data, now))

    def _gone(self, error: bool) -> None:  # noqa: ARG002  # to the machine a caller is gone either way
        self._feed(self.machine.downstream_lost)
        self._shared.lost(self, draining=not self.machine.done)

    def _edge(self, blocked: bool) -> None:
        self._feed(self.machine.downstream_blocked if blocked else self.machine.downstream_writable)

    def upstream_data(self, attempt: int, data: bytes) -> None:
        self._feed(lambda now: self.machine.receive_upstream(attempt, data, now))

    def upstream_gone(self, attempt: int, error: bool) -> None:
        if self._upstream is not None and self._upstream.attempt == attempt:
            self._upstream = None
        self._feed(lambda now: self.machine.upstream_lost(attempt, error, now))

    def upstream_edge(self, attempt: int, blocked: bool) -> None:
        edge = self.machine.upstream_blocked if blocked else self.machine.upstream_writable
        self._feed(lambda now: edge(attempt, now))

    # What the data plane calls

    def fact_answer(self, fact_id: str, accepted: bool) -> None:
        if self._unsent:
            self._look_again()
        answer = self.machine.fact_opened if accepted else self.machine.fact_refused
        self._feed(lambda now: answer(fact_id, now))

    def resume(self) -> None:
        self._feed(self.machine.resume)

    def drain(self) -> None:
        self._feed(self.machine.drain)

    def cut(self, reason: DenyReason | None) -> None:
        self._feed(lambda now: self.machine.cut(reason, now))

    def abandon(self) -> None:
        """Ends at once; nothing that the ledger is owed may be lost."""
        self._run(self.machine.abandon(anyio.current_time()))

    # Driving

    def _look_again(self) -> None:
        """Before a request may go out on a connection that has waited for it: bytes on it are no answer to that."""
        upstream = self._upstream
        if upstream is None:
            self._unsent = False
        elif upstream.has_input:
            attempt = upstream.attempt
            self._feed(lambda now: self.machine.upstream_lost(attempt, True, now))

    def _feed(self, machine_input: _Input) -> None:
        """Feeds now, or after the effects that are being carried out."""
        if self._carrying:
            self._pending.append(machine_input)
        else:
            now = self._progress[0] = anyio.current_time()
            self._run(machine_input(now))

    def _run(self, effects: list[Effect]) -> None:
        machine, pending = self.machine, self._pending
        self._carrying = True
        try:
            while True:
                for effect in effects:
                    _CARRY_OUT[type(effect)](self, effect)
                if not pending:
                    break
                effects = pending.popleft()(anyio.current_time())
        finally:
            self._carrying = False
        if self._push_due:
            self._push_due = False
            self._sink.push()
        if self._shared.gateway.stats.failures:
            self._shared.log_failures()
        gateway = self._shared.gateway
        if gateway.work.is_due or gateway.answer_work.is_due:
            self._shared.begin_turns_soon()
        if machine.done:
            self._finish()
            return
        if machine.wake_at < self._alarm.deadline:
            self._alarm.deadline = machine.wake_at
        self._regulate()

    def _regulate(self) -> None:
        """Reads what the machine wants, and no more."""
        wanted = self.machine.wants_downstream
        if wanted is not self._reading:
            self._reading = wanted
            (self._down.resume if wanted else self._down.pause)()
        upstream = self._upstream
        if upstream is not None and self.machine.wants_upstream is not self._upstream_reading:
            self._upstream_reading = not self._upstream_reading
            (upstream.resume if self._upstream_reading else upstream.pause)()

    def _finish(self) -> None:
        """The machine is done: both sockets go."""
        if self._down.is_empty:
            self._down.close()
        else:
            self._down.abort()
        self._stop_connecting()
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        self._shared.lost(self, draining=False)
        self._alarm.cancel()

    # Effects

    def _send_downstream(self, effect: SendDownstream) -> None:
        self._down.send(effect.data)

    def _send_upstream(self, effect: SendUpstream) -> None:
        upstream = self._upstream
        if upstream is not None and upstream.attempt == effect.attempt:
            self._unsent = False
            upstream.send(effect.data)

    def _open_fact(self, effect: OpenFact) -> None:
        record = effect.record
        accepted = self._sink.open(record)
        if accepted is None:
            self._shared.await_answer(record.id, self)
            self._push_due = True
        else:
            answer = self.machine.fact_opened if accepted else self.machine.fact_refused
            self._pending.append(lambda now: answer(record.id, now))

    def _emit_fact(self, effect: EmitFact) -> None:
        self._sink.emit(effect.fact)
        self._push_due = True

    def _void_fact(self, effect: VoidFact) -> None:
        self._shared.forget_answer(effect.id)
        self._sink.void(effect.id)
        self._push_due = True

    def _connect(self, effect: Connect) -> None:
        attempt = effect.attempt
        idle = None if effect.fresh else self._shared.idle_upstream(effect.origin, anyio.current_time())
        if idle is not None:
            self._attach(idle, attempt)
            self._unsent = True
            self._pending.append(lambda now: self.machine.upstream_connected(attempt, True, now))
            return
        self._connecting = anyio.CancelScope()
        self._tasks.start_soon(self._connect_fresh, effect, self._connecting)

    async def _connect_fresh(self, effect: Connect, scope: anyio.CancelScope) -> None:
        attempt = effect.attempt
        with scope:
            # Given up before it began: nothing of it may be seen at the provider.
            await anyio.lowlevel.checkpoint_if_cancelled()
            try:
                upstream = await self._shared.connect(effect.origin, effect.tries)
            except ConnectFailed as error:
                failure = error.failure
                self._feed(lambda now: self.machine.upstream_failed(attempt, failure, now))
                return
            if scope.cancel_called:
                upstream.abort()
                return
            self._connecting = None
            self._attach(upstream, attempt)
            self._feed(lambda now: self.machine.upstream_connected(attempt, False, now))

    def _attach(self, upstream: StreamUpstream, attempt: int) -> None:
        self._upstream = upstream
        self._upstream_reading = True
        upstream.attach(self, attempt)

    def _stop_connecting(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    def _release_upstream(self, effect: ReleaseUpstream) -> None:
        self._stop_connecting()
        upstream, self._upstream = self._upstream, None
        if upstream is None or upstream.attempt != effect.attempt:
            return
        upstream.user = None
        if effect.reusable and upstream.usable:
            self._shared.keep_upstream(upstream, anyio.current_time(), effect.idle_timeout)
        else:
            upstream.abort()

    def _close_downstream(self, effect: CloseDownstream) -> None:
        if effect.how is Close.LINGER:
            self._down.end()
            return
        self._down.abort()
        self._shared.lost(self, draining=not self.machine.done)


_CARRY_OUT: dict[type[Effect], Callable[[StreamDriver, Any], None]] = {
    SendDownstream: StreamDriver._send_downstream,
    SendUpstream: StreamDriver._send_upstream,
    OpenFact: StreamDriver._open_fact,
    EmitFact: StreamDriver._emit_fact,
    VoidFact: StreamDriver._void_fact,
    Connect: StreamDriver._connect,
    ReleaseUpstream: StreamDriver._release_upstream,
    CloseDownstream: StreamDriver._close_downstream,
}
"""Each method takes the effect type of its key, which the type of a dict cannot say."""
