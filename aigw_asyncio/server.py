"""The asyncio data plane: listener, connections, idle upstream connections."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from aigw_anyio.settings import Settings
from aigw_anyio.settings.checks import max_connections
from aigw_anyio.sinks import FactSink
from aigw_anyio.tls import listener_context, upstream_context
from aigw_asyncio.connector import Connector
from aigw_asyncio.downstream import Downstream
from aigw_asyncio.tls import TlsPipe
from aigw_asyncio.upstream import Upstream
from aigw_core.denyset import DenyChange
from aigw_core.gateway import Gateway
from aigw_core.origin import Origin

_log = logging.getLogger("aigw.exchange")

BACKLOG: Final = 1_024
"""Connections that the kernel accepts for us between two turns of the loop."""
LOG_LINES_MAX: Final = 100
"""Lines a second about failed exchanges: a flood of wrong keys must not buy a flood of formatting."""
SWEEP_SECS: Final = 1.0
"""Between looks for idle upstream connections that have expired."""


class AsyncioDataPlane:
    """Implements :class:`aigw_anyio.dataplane.DataPlane` with asyncio protocols."""

    def __init__(self, gateway: Gateway, sink: FactSink, settings: Settings) -> None:
        """Must be made inside a running event loop."""
        self.gateway = gateway
        self.sink = sink
        self.loop = asyncio.get_running_loop()
        self.failures = gateway.stats.failures
        self.connector = Connector(self.loop, _upstream_context(settings))
        files = settings.tls_files
        self._listener_tls = listener_context(*files) if files is not None else None
        self._address = settings.listen_addr
        self._max_connections = max_connections(settings)
        self._server: asyncio.Server | None = None
        self._connections: set[Downstream] = set()
        self._detached: set[Downstream] = set()
        self._answers: dict[str, Downstream] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._push_due = False
        self._log_second = 0
        self._logged = 0
        self._unlogged = 0
        sink.on_answer = self._fact_answer

    # aigw_anyio.dataplane.DataPlane

    async def start(self) -> tuple[str, int]:
        self._server = await self.loop.create_server(
            self._new_connection, self._address.host, self._address.port, backlog=BACKLOG, reuse_address=True
        )
        self._sweep = self.loop.call_later(SWEEP_SECS, self._sweep_pool)
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    def stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def drain(self) -> None:
        for connection in list(self._connections):
            connection.drain()

    def cut(self) -> None:
        for connection in [*self._connections, *self._detached]:
            connection.cut(None)

    def reload(self, settings: Settings, idle: list[object]) -> None:
        self._close_upstreams(idle)
        self.connector.replace_tls(_upstream_context(settings))

    @property
    def connections(self) -> int:
        return len(self._connections) + len(self._detached)

    async def aclose(self) -> None:
        self.stop_accepting()
        for connection in [*self._connections, *self._detached]:
            connection.abandon()
        self._connections.clear()
        self._detached.clear()
        self.sink.push()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._close_upstreams(self.gateway.pool.drain())
        await self.connector.aclose()

    def apply_deny(self, changes: list[DenyChange] | None) -> None:
        """Cuts what the deny-set now forbids; None after a whole new set."""
        for owner, reason in self.gateway.apply_deny(changes):
            downstream = getattr(owner, "context", None)
            if isinstance(downstream, Downstream):
                downstream.cut(reason)

    # What connections call

    def _new_connection(self) -> Downstream:
        tls = TlsPipe(self._listener_tls, server_side=True) if self._listener_tls is not None else None
        return Downstream(self, tls)

    def admit(self, connection: Downstream) -> bool:
        """False when the process holds as many connections as its file descriptors allow."""
        if len(self._connections) >= self._max_connections:
            return False
        self._connections.add(connection)
        return True

    def lost(self, connection: Downstream, *, draining: bool) -> None:
        """Its socket is gone; ``draining``: the machine reads on for the usage."""
        self._connections.discard(connection)
        if draining:
            self._detached.add(connection)
        else:
            self._detached.discard(connection)

    def push_facts_soon(self) -> None:
        """One write for all facts of a turn: 3 µs less for each where many end together."""
        if not self._push_due:
            self._push_due = True
            self.loop.call_soon(self._push_facts)

    def _push_facts(self) -> None:
        self._push_due = False
        self.sink.push()

    def await_answer(self, fact_id: str, connection: Downstream) -> None:
        self._answers[fact_id] = connection

    def forget_answer(self, fact_id: str) -> None:
        self._answers.pop(fact_id, None)

    def _fact_answer(self, fact_id: str, accepted: bool) -> None:
        connection = self._answers.pop(fact_id, None)
        if connection is not None:
            connection.fact_answer(fact_id, accepted)

    def idle_upstream(self, origin: Origin) -> Upstream | None:
        pool = self.gateway.pool
        while True:
            handle = pool.checkout(origin, self.loop.time())
            if handle is None:
                return None
            assert isinstance(handle, Upstream)
            handle.idle_lost = None
            if handle.is_open:
                return handle
            handle.abort()

    def keep_upstream(self, upstream: Upstream, idle_timeout: float) -> None:
        upstream.idle_lost = self._idle_lost
        upstream.resume()
        surplus = self.gateway.pool.checkin(upstream.origin, upstream, self.loop.time(), idle_timeout=idle_timeout)
        if surplus:
            self._close_upstreams(surplus)

    def _idle_lost(self, upstream: Upstream) -> None:
        self.gateway.pool.remove(upstream)

    def _sweep_pool(self) -> None:
        self._close_upstreams(self.gateway.pool.expire(self.loop.time()))
        self._sweep = self.loop.call_later(SWEEP_SECS, self._sweep_pool)

    @staticmethod
    def _close_upstreams(handles: list[object]) -> None:
        for handle in handles:
            if isinstance(handle, Upstream):
                handle.idle_lost = None
                handle.close()

    def log_failures(self) -> None:
        """One line per exchange that did not simply complete, within LOG_LINES_MAX; the others are counted."""
        failures = self.failures
        second = int(self.loop.time())
        if second != self._log_second:
            if self._unlogged:
                _log.warning("failures not logged one by one", extra={"fields": {"count": self._unlogged}})
            self._log_second, self._logged, self._unlogged = second, 0, 0
        while failures:
            if self._logged >= LOG_LINES_MAX:
                self._unlogged += len(failures)
                failures.clear()
                return
            self._logged += 1
            ended = failures.popleft()
            _log.warning(
                "%s",
                ended.reason,
                extra={
                    "fields": {
                        "request_id": ended.id,
                        "provider": ended.provider,
                        "wire": ended.wire,
                        "status": ended.status,
                        "upstream_status": ended.upstream_status,
                        "duration_ms": ended.duration_ms,
                        "detail": ended.detail,
                    }
                },
            )


def _upstream_context(settings: Settings) -> ssl.SSLContext:
    ca_file = settings.upstream_ca_file
    return upstream_context(Path(ca_file) if ca_file is not None else None)
