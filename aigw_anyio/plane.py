"""What every data plane keeps: connections, who waits for which answer, idle upstream connections, the failure log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

from aigw_anyio.settings import Settings
from aigw_anyio.settings.checks import max_connections
from aigw_anyio.sinks import FactSink
from aigw_anyio.tls import TlsContexts, tls_contexts
from aigw_anyio.tlspipe import TlsPipe
from aigw_core.denyset import DenyChange
from aigw_core.gateway import Gateway
from aigw_core.origin import Origin
from aigw_core.stats import ExchangeLog
from aigw_core.work import WorkShares

if TYPE_CHECKING:
    from aigw_core.denyset import DenyReason

_log = logging.getLogger("aigw.exchange")
_access_log = logging.getLogger("aigw.access")

LOG_LINES_MAX: Final = 100
"""Lines a second about failed exchanges: a flood of wrong keys must not buy a flood of formatting."""
NO_ROOM_TOLD_SECS: Final = 1.0
"""Between two lines that say that no connection can be accepted: it is tried far more often."""
FULL_TOLD_SECS: Final = 10.0
"""Between two lines that say that connections are closed at once: whoever is turned away tries again."""
SWEEP_SECS: Final = 1.0
"""Between looks for idle upstream connections that have expired."""


class Responds(Protocol):
    """A machine, as far as it is counted."""

    context: object
    """Its driver."""

    @property
    def responding(self) -> bool: ...


class Driver(Protocol):
    """The driver of one connection, as its data plane knows it. Each call is one input of its machine."""

    @property
    def machine(self) -> Responds: ...

    def resume(self) -> None: ...
    def drain(self) -> None: ...
    def cut(self, reason: DenyReason | None) -> None: ...
    def abandon(self) -> None: ...
    def fact_answer(self, fact_id: str, accepted: bool) -> None: ...


class IdleLost(Protocol):
    """Is told that an idle connection died."""

    def __call__(self, upstream: Any, /) -> None: ...


class PooledUpstream(Protocol):
    """A connection to a provider that can be kept for another exchange."""

    origin: Origin
    idle_lost: IdleLost | None
    """Told when the connection dies in the pool."""

    @property
    def is_open(self) -> bool: ...

    @property
    def has_input(self) -> bool:
        """The socket has something to read, its end included, that the event loop has not brought yet."""
        ...

    def resume(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


D = TypeVar("D", bound=Driver)
U = TypeVar("U", bound=PooledUpstream)


class PlaneBase(Generic[D, U]):
    """The bookkeeping of a data plane; the frontend adds the sockets and names its two classes."""

    driver_class: type[D]
    upstream_class: type[U]

    def __init__(self, gateway: Gateway, sink: FactSink, settings: Settings) -> None:
        self.gateway = gateway
        self.sink = sink
        self.failures = gateway.stats.failures
        gateway.stats.logs_all = settings.access_log
        self._tls = tls_contexts(settings.tls_files, settings.upstream_ca_path)
        self.progress = memoryview(bytearray(8)).cast("d")
        """One number, the time of the last input of any connection. A supervisor that shares the memory sees by it that
        this process is busy and does not hang. Set it before ``start``."""
        self._address = settings.listen_addr
        self._shares_port = settings.workers > 1
        self._max_connections = max_connections(settings)
        self._connections: set[D] = set()
        self._detached: set[D] = set()
        self._answers: dict[str, D] = {}
        self._no_room_told = -NO_ROOM_TOLD_SECS
        self._full_told = -FULL_TOLD_SECS
        self._turned_away = 0
        self._log_second = 0
        self._logged = 0
        self._unlogged = 0
        sink.on_answer = self._fact_answer

    def now(self) -> float:
        """Monotonic seconds of the event loop."""
        raise NotImplementedError

    # aigw_anyio.dataplane.DataPlane, as far as it needs no sockets

    def drain(self) -> None:
        for connection in list(self._connections):
            connection.drain()

    def cut(self) -> None:
        for connection in [*self._connections, *self._detached]:
            connection.cut(None)

    @property
    def connections(self) -> int:
        return len(self._connections) + len(self._detached)

    @property
    def streams(self) -> int:
        return sum(connection.machine.responding for connection in self._connections)

    def reload(self, tls: TlsContexts, idle: list[object]) -> None:
        self.close_upstreams(idle)
        if (tls.listener is None) == (self._tls.listener is None):
            self._tls = tls
        else:
            # From one connection to the next, callers would find another protocol on the same port.
            self._tls = TlsContexts(self._tls.listener, tls.upstream)

    def apply_deny(self, changes: list[DenyChange] | None) -> None:
        """Cuts what the deny-set now forbids; None after a whole new set."""
        for owner, reason in self.gateway.apply_deny(changes):
            driver = getattr(owner, "context", None)
            if isinstance(driver, self.driver_class):
                driver.cut(reason)

    def begin_turn(self, work: WorkShares) -> None:
        """Lets the connections read on whose turn it is; called with ``rest_before(work)`` in between."""
        for owner in work.turn():
            driver = getattr(owner, "context", None)
            if isinstance(driver, self.driver_class):
                try:
                    driver.resume()
                except Exception:  # noqa: BLE001  # our own bug: it is logged, and the others read on
                    _log.exception("a connection has failed as it read on")
                    driver.abandon()

    def rest_before(self, work: WorkShares) -> float:
        """Seconds until the next turn; nobody rests for others who are not there."""
        return work.rest_secs if self.gateway.active > work.waiting else 0.0

    def abandon(self) -> None:
        """Every connection pays what it owes to the ledger."""
        for connection in [*self._connections, *self._detached]:
            connection.abandon()
        self._connections.clear()
        self._detached.clear()
        self.sink.push()

    # What connections call

    def listener_pipe(self) -> TlsPipe | None:
        """TLS for one caller, where the listener has a certificate."""
        context = self._tls.listener
        return TlsPipe(context, server_side=True) if context is not None else None

    @property
    def is_full(self) -> bool:
        """The process holds as many connections as its file descriptors allow."""
        return len(self._connections) >= self._max_connections

    def note_no_room(self, error: OSError) -> None:
        """A connection cannot be accepted, for want of descriptors or memory."""
        now = self.now()
        if now - self._no_room_told >= NO_ROOM_TOLD_SECS:
            self._no_room_told = now
            _log.error("no connection can be accepted", extra={"fields": {"error": error.strerror}})

    def note_full(self) -> None:
        """A connection is closed at once, since the process is full."""
        self._turned_away += 1
        now = self.now()
        if now - self._full_told >= FULL_TOLD_SECS:
            fields = {"open": len(self._connections), "closed": self._turned_away}
            self._full_told, self._turned_away = now, 0
            _log.warning("max_connections is reached, new connections are closed at once", extra={"fields": fields})

    def admit(self, connection: D) -> bool:
        """False when the process is full."""
        if self.is_full:
            self.note_full()
            return False
        self._connections.add(connection)
        return True

    def lost(self, connection: D, *, draining: bool) -> None:
        """Its socket is gone; ``draining``: the machine reads on for the usage."""
        self._connections.discard(connection)
        if draining:
            self._detached.add(connection)
        else:
            self._detached.discard(connection)
            # Each holds the other: together they would wait for the collector, which looks rarely.
            connection.machine.context = None

    def await_answer(self, fact_id: str, connection: D) -> None:
        self._answers[fact_id] = connection

    def forget_answer(self, fact_id: str) -> None:
        self._answers.pop(fact_id, None)

    def _fact_answer(self, fact_id: str, accepted: bool) -> None:
        connection = self._answers.pop(fact_id, None)
        if connection is not None:
            connection.fact_answer(fact_id, accepted)

    def idle_upstream(self, origin: Origin, now: float) -> U | None:
        pool = self.gateway.pool
        while True:
            handle = cast("U | None", pool.checkout(origin, now))
            if handle is None:
                return None
            handle.idle_lost = None
            # What comes between two exchanges belongs to nobody: the next one must not take it for its answer.
            if handle.is_open and not handle.has_input:
                return handle
            handle.abort()

    def keep_upstream(self, upstream: U, now: float, idle_timeout: float) -> None:
        upstream.idle_lost = self._idle_lost
        upstream.resume()
        surplus = self.gateway.pool.checkin(upstream.origin, upstream, now, idle_timeout=idle_timeout)
        if surplus:
            self.close_upstreams(surplus)

    def _idle_lost(self, upstream: U) -> None:
        self.gateway.pool.remove(upstream)

    def sweep_pool(self) -> None:
        """Call every SWEEP_SECS."""
        self.close_upstreams(self.gateway.pool.expire(self.now()))

    def close_upstreams(self, handles: list[object]) -> None:
        for handle in handles:
            if isinstance(handle, self.upstream_class):
                handle.idle_lost = None
                handle.close()

    def log_failures(self) -> None:
        """One line per exchange that did not simply complete, within LOG_LINES_MAX; the others are counted.

        With ``access_log`` one line per exchange, whatever became of it.
        """
        failures, logs_all = self.failures, self.gateway.stats.logs_all
        second = int(self.now())
        if second != self._log_second:
            if self._unlogged:
                _log.warning("failures not logged one by one", extra={"fields": {"count": self._unlogged}})
            self._log_second, self._logged, self._unlogged = second, 0, 0
        while failures:
            if self._logged >= LOG_LINES_MAX and not logs_all:
                self._unlogged += len(failures)
                failures.clear()
                return
            self._logged += 1
            ended = failures.popleft()
            if ended.is_complete:
                _access_log.info("%s", ended.reason, extra={"fields": _fields(ended)})
            else:
                _log.warning("%s", ended.reason, extra={"fields": _fields(ended)})


def _fields(ended: ExchangeLog) -> dict[str, object]:
    """What a line of the log says of an exchange, in the order of the reference."""
    return {
        "request_id": ended.id,
        "trace_id": ended.trace_id,
        "provider": ended.provider,
        "wire": ended.wire,
        "caller": ended.caller,
        "status": ended.status,
        "upstream_status": ended.upstream_status,
        "duration_ms": ended.duration_ms,
        "ttft_ms": ended.ttft_ms,
        "request_bytes": ended.request_bytes,
        "response_bytes": ended.response_bytes,
        "detail": ended.detail or None,
    }
