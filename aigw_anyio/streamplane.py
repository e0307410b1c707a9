"""A data plane on anyio: listener, connections and idle upstream connections, each in tasks of one group."""

from __future__ import annotations

import logging
import socket
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from aigw_anyio.channel import Channel
from aigw_anyio.limits import NO_ROOM
from aigw_anyio.plane import SWEEP_SECS, PlaneBase
from aigw_anyio.settings import Settings
from aigw_anyio.sinks import FactSink
from aigw_anyio.socketstream import SocketStream, bind_listeners
from aigw_anyio.streams import StreamDriver
from aigw_anyio.tls import TlsContexts
from aigw_anyio.upstream import StreamConnector, StreamUpstream
from aigw_core.gateway import Gateway
from aigw_core.origin import Origin
from aigw_core.work import WorkShares

_log = logging.getLogger("aigw.exchange")

ACCEPTED_AT_ONCE_MAX: Final = 64
"""Connections accepted in one go, so that a burst of new ones does not stop the running ones."""
ACCEPT_PAUSE_SECS: Final = 0.1
"""Where the system has no descriptors or memory for a connection: some may be free by then."""


class StreamDataPlane(PlaneBase[StreamDriver, StreamUpstream]):
    """Implements :class:`aigw_anyio.dataplane.DataPlane` on asyncio and on trio."""

    driver_class = StreamDriver
    upstream_class = StreamUpstream

    def __init__(self, gateway: Gateway, sink: FactSink, settings: Settings) -> None:
        """Must be made inside a running event loop."""
        super().__init__(gateway, sink, settings)
        self._connector: StreamConnector | None = None
        self._accepting = anyio.CancelScope()
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._turns = {work: anyio.Event() for work in (gateway.work, gateway.answer_work)}

    def now(self) -> float:
        return anyio.current_time()

    async def start(self, tasks: TaskGroup) -> tuple[str, int]:
        listeners = await anyio.to_thread.run_sync(
            partial(bind_listeners, self._address.host, self._address.port, reuse_port=self._shares_port)
        )
        bound = listeners[0].getsockname()
        await tasks.start(self._run, listeners)
        return str(bound[0]), int(bound[1])

    async def _run(self, listeners: list[socket.socket], *, task_status: TaskStatus[None]) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    self._connector = StreamConnector(self._tls.upstream, tasks)
                    tasks.start_soon(self._sweep)
                    for work in self._turns:
                        tasks.start_soon(self._begin_turns, work)
                    tasks.start_soon(self._accept, listeners, tasks)
                    task_status.started()
        finally:
            for listener in listeners:
                listener.close()
            self.abandon()
            self._ended.set()

    async def _accept(self, listeners: list[socket.socket], connections: TaskGroup) -> None:
        try:
            with self._accepting:
                async with anyio.create_task_group() as tasks:
                    for listener in listeners:
                        tasks.start_soon(self._accept_from, listener, connections)
        finally:
            for listener in listeners:
                listener.close()

    async def _accept_from(self, listener: socket.socket, connections: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener)
            for _ in range(ACCEPTED_AT_ONCE_MAX):
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    # Any other error is that of one connection, gone before we came (accept(2)).
                    if error.errno in NO_ROOM:
                        self.note_no_room(error)
                        await anyio.sleep(ACCEPT_PAUSE_SECS)
                    break
                self._serve(sock, connections)

    def _serve(self, sock: socket.socket, connections: TaskGroup) -> None:
        if self.is_full:
            self.note_full()
            sock.close()
            return
        try:
            driver = StreamDriver(self, Channel(SocketStream(sock), self.listener_pipe()))
        except OSError:
            # Gone already: a socket without a peer takes no options.
            sock.close()
            return
        self.admit(driver)
        connections.start_soon(self._drive, driver)

    async def _drive(self, driver: StreamDriver) -> None:
        """A fault of ours ends the connection in which it shows, and no other."""
        try:
            await driver.run()
        except Exception:  # noqa: BLE001  # our own bug: it is told, and ends no other connection
            _log.exception("a connection has failed")
        finally:
            self.lost(driver, draining=False)

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(SWEEP_SECS)
            self.sweep_pool()

    async def _begin_turns(self, work: WorkShares) -> None:
        while True:
            await self._turns[work].wait()
            self._turns[work] = anyio.Event()
            while work.is_due:
                # Everybody else gets a turn in between.
                await anyio.sleep(self.rest_before(work))
                self.begin_turn(work)

    def begin_turns_soon(self) -> None:
        for work, is_due in self._turns.items():
            if work.is_due:
                is_due.set()

    # aigw_anyio.dataplane.DataPlane

    def stop_accepting(self) -> None:
        self._accepting.cancel()

    def reload(self, tls: TlsContexts, idle: list[object]) -> None:
        super().reload(tls, idle)
        if self._connector is not None:
            self._connector.replace_tls(tls.upstream)

    async def aclose(self) -> None:
        self.stop_accepting()
        self.abandon()
        self.close_upstreams(self.gateway.pool.drain())
        if self._connector is not None:
            self._scope.cancel()
            await self._ended.wait()

    # aigw_anyio.streams.Surroundings

    async def connect(self, origin: Origin, tries: int) -> StreamUpstream:
        assert self._connector is not None
        return await self._connector.connect(origin, tries)
