"""The asyncio data plane: listener, connections, idle upstream connections."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from typing import Any

from anyio.abc import TaskGroup

from aigw_anyio.connecting import Resolver
from aigw_anyio.limits import NO_ROOM
from aigw_anyio.plane import SWEEP_SECS, PlaneBase
from aigw_anyio.settings import Settings
from aigw_anyio.sinks import FactSink
from aigw_anyio.sockets import BACKLOG
from aigw_anyio.tls import TlsContexts
from aigw_asyncio.connector import Connector
from aigw_asyncio.downstream import Downstream
from aigw_asyncio.reading import ReadBuffer
from aigw_asyncio.turn import Turn
from aigw_asyncio.upstream import Upstream
from aigw_core.gateway import Gateway
from aigw_core.work import WorkShares


class AsyncioDataPlane(PlaneBase[Downstream, Upstream]):
    """Implements :class:`aigw_anyio.dataplane.DataPlane` with asyncio protocols."""

    driver_class = Downstream
    upstream_class = Upstream

    def __init__(self, gateway: Gateway, sink: FactSink, settings: Settings) -> None:
        """Must be made inside a running event loop."""
        super().__init__(gateway, sink, settings)
        self.loop = asyncio.get_running_loop()
        # asyncio's own time() is a Python function around this one.
        is_plain = type(self.loop).time is asyncio.BaseEventLoop.time and "time" not in vars(self.loop)
        self.loop_time: Callable[[], float] = time.monotonic if is_plain else self.loop.time
        self.read_buffer = ReadBuffer(self.loop)
        self.connector: Connector
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self.turn = Turn(self.loop, sink.push)
        self._turns_due: set[WorkShares] = set()
        self._outer_handler = self.loop.get_exception_handler()

    def now(self) -> float:
        return self.loop.time()

    # aigw_anyio.dataplane.DataPlane

    async def start(self, tasks: TaskGroup) -> tuple[str, int]:
        self.connector = Connector(self.loop, self._tls.upstream, Resolver(tasks), self.read_buffer, self.turn)
        self._server = await self._listen()
        self._sweep = self.loop.call_later(SWEEP_SECS, self._sweep_pool)
        self.loop.set_exception_handler(self._explain)
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    async def _listen(self) -> asyncio.Server:
        host, port = self._address.host, self._address.port
        try:
            return await self.loop.create_server(
                self._new_connection,
                host,
                port,
                backlog=BACKLOG,
                reuse_address=True,
                reuse_port=self._shares_port,
            )
        except OSError as error:
            if error.errno is None and error.__cause__ is None:
                # Python 3.13 passes over addresses that are not this machine's, and tells at the end without a number.
                raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL)) from error
            raise

    def stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def reload(self, tls: TlsContexts, idle: list[object]) -> None:
        super().reload(tls, idle)
        self.connector.replace_tls(tls.upstream)

    async def aclose(self) -> None:
        self.stop_accepting()
        self.abandon()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self.close_upstreams(self.gateway.pool.drain())

    def _explain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The exception handler of the loop, to its end: what a listener has begun may fail after it is closed."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in NO_ROOM and "socket" in context:
            # asyncio tells so for each of its thousand tries a second, with a traceback.
            self.note_no_room(error)
        elif self._server is None and "_start_serving" in str(context.get("message")):
            # The next of these tries, on a listener that is closed by now.
            return
        elif self._outer_handler is not None:
            self._outer_handler(loop, context)
        else:
            loop.default_exception_handler(context)

    # What connections call

    def _new_connection(self) -> Downstream:
        return Downstream(self, self.listener_pipe())

    def begin_turns_soon(self) -> None:
        """Somebody waits to read on, or used of a share."""
        for work in (self.gateway.work, self.gateway.answer_work):
            if work.is_due and work not in self._turns_due:
                self._turns_due.add(work)
                self.loop.call_later(self.rest_before(work), self._begin_turn, work)

    def _begin_turn(self, work: WorkShares) -> None:
        self._turns_due.discard(work)
        self.begin_turn(work)
        self.begin_turns_soon()

    def await_answer(self, fact_id: str, connection: Downstream) -> None:
        super().await_answer(fact_id, connection)
        self.turn.push_soon()

    def _sweep_pool(self) -> None:
        self.sweep_pool()
        self._sweep = self.loop.call_later(SWEEP_SECS, self._sweep_pool)
