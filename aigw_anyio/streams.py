"""Drives a Connection over anyio byte streams, on asyncio and on trio alike.

The rules it keeps are those of :class:`aigw_core.connection.Connection`. Speed is not its point: one task
per socket and direction, and a queue between the machine, which never waits, and each stream, which does.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute, TaskGroup

from aigw_anyio.sinks import FactSink
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
from aigw_core.gateway import Gateway

READ_SIZE: Final = 65_536
"""Bytes taken from a stream at a time; also what is accepted beyond ``wants_…``."""
QUEUE_HIGH: Final = 65_536
"""Bytes queued for a socket at which it counts as blocked; it is writable again when the queue is empty."""

_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_RESET = struct.pack("ii", 1, 0)

OpenStream = Callable[[Connect], Awaitable[ByteStream]]
"""Gets a fresh connection for a Connect effect; raises ConnectFailed."""


class ConnectFailed(Exception):
    """No connection, for a reason that the machine is told."""

    def __init__(self, failure: ConnectFailure) -> None:
        super().__init__(failure.name)
        self.failure = failure


class _Queue:
    """The ordered, bounded write queue of one socket."""

    def __init__(self, stream: ByteStream, edge: Callable[[bool], None]) -> None:
        self.stream = stream
        self.high = QUEUE_HIGH
        self._edge = edge
        self._data: deque[bytes] = deque()
        self._size = 0
        self._blocked = False
        self._ending = False
        self._wake = anyio.Event()

    def put(self, data: bytes) -> None:
        self._data.append(data)
        self._size += len(data)
        self._check()
        self._wake.set()

    def end(self) -> None:
        """Half-close once everything is sent; until then the socket counts as blocked."""
        self._ending = True
        self.high = 0
        self._check()
        self._wake.set()

    def _check(self) -> None:
        if not self._blocked and self._size > self.high:
            self._blocked = True
            self._edge(True)

    async def pump(self) -> None:
        try:
            while True:
                while self._data:
                    data = self._data.popleft()
                    await self.stream.send(data)
                    self._size -= len(data)
                if self._blocked:
                    self._blocked = False
                    self._edge(False)
                if self._ending:
                    # TLS streams have no half-close of their own; the peer sees the end when we close.
                    if hasattr(self.stream, "send_eof"):
                        await self.stream.send_eof()
                    return
                self._wake = anyio.Event()
                await self._wake.wait()
        except _BROKEN:
            # The reading side of the same socket reports the loss.
            return


class StreamDriver:
    """One downstream stream and the upstream streams that its exchanges need."""

    def __init__(self, gateway: Gateway, stream: ByteStream, sink: FactSink, connect: OpenStream) -> None:
        self.machine = Connection(gateway, anyio.current_time())
        self.machine.context = self
        self._sink = sink
        self._open_stream = connect
        self._down = _Queue(stream, self._downstream_edge)
        self._up: tuple[int, _Queue] | None = None
        self._released = 0
        self._up_scope = anyio.CancelScope()
        self._pending: deque[Callable[[float], list[Effect]]] = deque()
        self._carrying = False
        self._changed = anyio.Event()
        self._tasks: TaskGroup

    async def run(self) -> None:
        """Serves the stream until the machine is done with it."""
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._down.pump)
                self._tasks.start_soon(self._read_downstream)
                await self._keep_time()
                self._tasks.cancel_scope.cancel()
        finally:
            self._run(self.machine.abandon(anyio.current_time()))
            self._sink.push()
            await anyio.aclose_forcefully(self._down.stream)

    async def _keep_time(self) -> None:
        while not self.machine.done:
            changed = self._changed = anyio.Event()
            with anyio.CancelScope(deadline=self.machine.wake_at):
                await changed.wait()
            if anyio.current_time() >= self.machine.wake_at:
                self.feed(self.machine.tick)

    async def _read_downstream(self) -> None:
        machine, stream = self.machine, self._down.stream
        while True:
            while not machine.wants_downstream:
                await self._changed.wait()
            try:
                data = await stream.receive(READ_SIZE)
            except anyio.EndOfStream:
                data = b""
            except _BROKEN:
                self.feed(machine.downstream_lost)
                return
            self.feed(lambda now, data=data: machine.receive_downstream(data, now))  # type: ignore[misc]  # bound at once
            if not data:
                return

    async def _upstream(self, effect: Connect) -> None:
        machine, attempt = self.machine, effect.attempt
        if attempt <= self._released:
            return
        with anyio.CancelScope() as self._up_scope:
            try:
                stream = await self._open_stream(effect)
            except ConnectFailed as error:
                failure = error.failure
                self.feed(lambda now: machine.upstream_failed(attempt, failure, now))
                return
            try:
                async with anyio.create_task_group() as tasks:
                    queue = _Queue(stream, lambda blocked: self._upstream_edge(attempt, blocked))
                    self._up = (attempt, queue)
                    tasks.start_soon(queue.pump)
                    self.feed(lambda now: machine.upstream_connected(attempt, False, now))
                    await self._read_upstream(attempt, stream)
                    tasks.cancel_scope.cancel()
            finally:
                await anyio.aclose_forcefully(stream)

    async def _read_upstream(self, attempt: int, stream: ByteStream) -> None:
        machine = self.machine
        while True:
            while not machine.wants_upstream:
                await self._changed.wait()
            try:
                data = await stream.receive(READ_SIZE)
            except anyio.EndOfStream:
                data = b""
            except _BROKEN:
                self.feed(lambda now: machine.upstream_lost(attempt, True, now))
                return
            self.feed(lambda now, data=data: machine.receive_upstream(attempt, data, now))  # type: ignore[misc]  # bound at once
            if not data:
                return

    def _downstream_edge(self, blocked: bool) -> None:
        self.feed(self.machine.downstream_blocked if blocked else self.machine.downstream_writable)

    def _upstream_edge(self, attempt: int, blocked: bool) -> None:
        edge = self.machine.upstream_blocked if blocked else self.machine.upstream_writable
        self.feed(lambda now: edge(attempt, now))

    def feed(self, machine_input: Callable[[float], list[Effect]]) -> None:
        """Feeds now, or after the effects that are being carried out."""
        if self._carrying:
            self._pending.append(machine_input)
        else:
            self._run(machine_input(anyio.current_time()))

    def _run(self, effects: list[Effect]) -> None:
        self._carrying = True
        while True:
            for effect in effects:
                self._carry_out(effect)
            if not self._pending:
                break
            effects = self._pending.popleft()(anyio.current_time())
        self._carrying = False
        self._changed.set()

    def _carry_out(self, effect: Effect) -> None:
        machine = self.machine
        if isinstance(effect, SendDownstream):
            self._down.put(effect.data)
        elif isinstance(effect, SendUpstream):
            if self._up is not None and self._up[0] == effect.attempt:
                self._up[1].put(effect.data)
        elif isinstance(effect, EmitFact):
            self._sink.emit(effect.fact)
            self._sink.push()
        elif isinstance(effect, VoidFact):
            self._sink.void(effect.id)
        elif isinstance(effect, OpenFact):
            fact_id = effect.record.id
            accepted = self._sink.open(effect.record)
            if accepted is not None:
                answer = machine.fact_opened if accepted else machine.fact_refused
                self._pending.append(lambda now: answer(fact_id, now))
        elif isinstance(effect, Connect):
            self._tasks.start_soon(self._upstream, effect)
        elif isinstance(effect, ReleaseUpstream):
            # Connections are not pooled here: each request gets its own.
            self._up = None
            self._released = effect.attempt
            self._up_scope.cancel()
        else:
            self._close(effect)

    def _close(self, effect: CloseDownstream) -> None:
        if effect.how is Close.LINGER:
            self._down.end()
            return
        raw = self._down.stream.extra(SocketAttribute.raw_socket, None)
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
