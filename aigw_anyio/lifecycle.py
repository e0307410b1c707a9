"""From settings to a running gateway and back: start, signals, reload, drain."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import SocketStream, TaskGroup
from anyio.streams.stapled import MultiListener

from aigw_anyio import httpd, logs
from aigw_anyio.admin import AdminState, serve_admin
from aigw_anyio.dataplane import DataPlaneFactory
from aigw_anyio.deny.control import DenySource
from aigw_anyio.deny.keeper import DenyKeeper
from aigw_anyio.deny.sources import MakeHost, make_deny_source
from aigw_anyio.memory import settle_heap
from aigw_anyio.notify import Notifier
from aigw_anyio.plane import PlaneBase
from aigw_anyio.settings import ListenAddr, Settings, SettingsError, waits_for_restart
from aigw_anyio.settings.checks import max_connections
from aigw_anyio.sinks import FactSink, SinkError, StdoutSink
from aigw_anyio.sinks.choice import make_sink
from aigw_anyio.sinks.protocol import TakesOver
from aigw_anyio.socketstream import bind_listeners
from aigw_anyio.tls import TlsContexts, tls_contexts
from aigw_core.gateway import Gateway
from aigw_core.limiter import Limiter

CLOCK_SECS: Final = 1.0
"""Between two reports of the wall clock to the core."""
DRAIN_POLL_SECS: Final = 0.05
"""Between two looks at the number of open connections while draining."""
CUT_SECS: Final = 3.0
"""For cut connections to close: a little over the two seconds for which they linger."""
FLUSH_SECS: Final = 10.0
"""For a slow reader to take the last facts."""
FORCED_SECS: Final = 1.0
"""The same after a second signal, or where the start or a task has failed."""
CLOSE_SECS: Final = 2.0
"""For sockets to close once every exchange is over."""
STOP_SLACK_SECS: Final = CUT_SECS + 2 * FLUSH_SECS + CLOSE_SECS
"""The most that a drain takes beyond ``shutdown_delay_secs`` and ``shutdown_grace_secs``."""

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 2

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Reload = Callable[[], tuple[Settings, list[str]]]
"""Loads the settings again, with their warnings. Raises SettingsError."""

_log = logging.getLogger("aigw.lifecycle")


class StartError(Exception):
    """The gateway cannot start; the text is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a process has from the one that forked it, and that others may have too."""

    admin_address: ListenAddr
    """Of its admin pages, in place of ``metrics_listen``."""
    limiter_buffer: mmap.mmap
    hash_key: bytes
    progress: memoryview[float]
    """As :attr:`aigw_anyio.plane.PlaneBase.progress`."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides, and embedders of the lifecycle may."""

    backend: str
    reload: Reload | None = None
    movable: frozenset[str] = frozenset()
    """The names among ``listen_addr`` and ``metrics_listen`` whose port, when taken, gives way to a free one."""
    owns_process: bool = False
    """Whether process-wide settings, such as those of the garbage collector, may be changed."""
    announce: Callable[[ListenAddr], None] | None = None
    """Called with the bound data address, after the ``listening`` line."""
    notifier: Notifier = field(default_factory=Notifier)
    """The service manager that is told of each change of state; by default none."""
    make_sink: Callable[[Settings], FactSink] = make_sink
    make_nats_host: MakeHost | None = None
    """Where the NATS code of the deny feed runs; by default in the running loop or, on trio, in a thread."""
    inherited: Inherited | None = None
    """Of one process among several; what is told of all of them is told by the one that forked them."""
    make_deny_source: Callable[[Settings, MakeHost | None], DenySource | None] = make_deny_source


async def run_gateway(settings: Settings, factory: DataPlaneFactory, options: Options) -> int:
    """Serves until a signal asks to stop; returns the exit code.

    SIGTERM and SIGINT drain, a second one stops at once, SIGHUP reloads. Must run in the main thread.
    """
    process = _Process(settings, factory, options)
    code, problem = EXIT_FAILED, None
    with anyio.open_signal_receiver(*_STOP_SIGNALS, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:
            try:
                code = await process.run(signals, tasks)
            except StartError as error:
                problem = str(error)
            tasks.cancel_scope.cancel()
    # Only now: where what is wrong shows at the end, too, as without file descriptors, it is told once, by the caller.
    if problem is not None:
        logs.say(f"aigw: {problem}")
    return code


class _Process:
    def __init__(self, settings: Settings, factory: DataPlaneFactory, options: Options) -> None:
        self._settings = settings
        self._started_with = settings
        self._factory = factory
        self._options = options
        self._generation = 0
        self._status = ""
        inherited = options.inherited
        self._gateway = Gateway(
            settings.build_policy(0),
            entropy=os.urandom(32),
            hash_key=inherited.hash_key if inherited is not None else None,
            limiter=Limiter(memoryview(inherited.limiter_buffer) if inherited else bytearray(Limiter.buffer_size())),
            now=anyio.current_time(),
            wall=time.time(),
            pool_max_idle=settings.pool_max_idle,
        )
        self._sink = options.make_sink(settings)
        self._plane = factory(self._gateway, self._sink, settings)
        # A data plane of another kind is known to live by the signs of life of its event loop alone.
        if inherited is not None and isinstance(self._plane, PlaneBase):
            self._plane.progress = inherited.progress
        source = options.make_deny_source(settings, options.make_nats_host)
        snapshot_path = Path(settings.snapshot_path) if settings.snapshot_path is not None else None
        self._deny = DenyKeeper(self._gateway, source, snapshot_path) if source is not None else None

    async def run(self, signals: AsyncIterator[signal.Signals], tasks: TaskGroup) -> int:
        try:
            await self._start_sink(tasks)
            await self._start(tasks)
            await self._serve(signals)
            code = await self._stop(signals, tasks)
        except BaseException:
            await self._abandon()
            raise
        return code

    async def _start_sink(self, tasks: TaskGroup) -> None:
        try:
            await tasks.start(self._sink.run)
        except SinkError as error:
            raise StartError(str(error)) from None

    async def _start(self, tasks: TaskGroup) -> None:
        state = AdminState(
            self._gateway,
            self._sink,
            self._options.backend,
            started_at=anyio.current_time(),
            connections_max=max_connections(self._settings),
        )
        if self._deny is not None:
            state.deny = self._deny.control.read_stats
            self._deny.cut_with(lambda changes: self._plane.apply_deny(changes))
            tasks.start_soon(self._deny.run)
        admin, admin_address = await self._bind_admin()
        # Probes are answered before the data listener is there: alive, not ready.
        await tasks.start(serve_admin, admin, state)
        if self._deny is not None:
            await self._deny.first_answer()
        data_address = await self._bind_data(tasks)
        state.connections = lambda: self._plane.connections
        state.streams = lambda: self._plane.streams
        state.is_listening = True
        tasks.start_soon(self._tell_time)
        if self._options.owns_process:
            settle_heap()
        if self._options.inherited is None:
            logs.say(listening_line(data_address, admin_address))
        if isinstance(self._sink, StdoutSink):
            self._sink.tell_risk()
        self._status = serving_status(data_address, admin_address)
        self._options.notifier.ready(self._status)
        if isinstance(self._sink, TakesOver):
            self._options.notifier.take_over = self._sink.take_over
        tasks.start_soon(self._options.notifier.watch)
        if self._options.announce is not None:
            self._options.announce(data_address)

    async def _bind_admin(self) -> tuple[MultiListener[SocketStream], ListenAddr]:
        if self._options.inherited is not None:
            listener = await httpd.adopt(bind_listeners(*self._options.inherited.admin_address, reuse_port=True))
            return listener, ListenAddr(*httpd.bound_address(listener))
        wanted = self._settings.metrics_listen
        try:
            listener = await httpd.listen(wanted.host, wanted.port)
        except OSError as error:
            if not self._gives_way("metrics_listen", wanted, error):
                raise StartError(cannot_listen("metrics_listen", wanted, error)) from None
            listener = await httpd.listen(wanted.host, 0)
        return listener, ListenAddr(*httpd.bound_address(listener))

    async def _bind_data(self, tasks: TaskGroup) -> ListenAddr:
        wanted = self._settings.listen_addr
        try:
            return ListenAddr(*await self._plane.start(tasks))
        except OSError as error:
            if not self._gives_way("listen_addr", wanted, error):
                raise StartError(cannot_listen("listen_addr", wanted, error)) from None
        await self._plane.aclose()
        changed = self._settings.model_copy(update={"listen_addr": ListenAddr(wanted.host, 0)})
        self._plane = self._factory(self._gateway, self._sink, changed)
        try:
            return ListenAddr(*await self._plane.start(tasks))
        except OSError as error:
            raise StartError(cannot_listen("listen_addr", changed.listen_addr, error)) from None

    def _gives_way(self, name: str, wanted: ListenAddr, error: OSError) -> bool:
        if name not in self._options.movable or _errno(error) != errno.EADDRINUSE:
            return False
        logs.say(f"port {wanted.port} is taken, so a free one is used")
        return True

    async def _tell_time(self) -> None:
        while True:
            await anyio.sleep(CLOCK_SECS)
            if self._gateway.set_clock(anyio.current_time(), time.time()) and self._deny is not None:
                self._deny.look()

    async def _serve(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Returns at the first signal to stop."""
        async for received in signals:
            if received in _STOP_SIGNALS:
                _log.info("draining", extra={"fields": {"signal": received.name}})
                return
            await self._reload()

    async def _reload(self) -> None:
        reload = self._options.reload
        if reload is None:
            return
        self._options.notifier.reloading()
        status = self._status
        try:
            settings, warnings, tls = await anyio.to_thread.run_sync(_read_again, reload)
        except SettingsError as error:
            _log.error("configuration not reloaded: %s", " | ".join(error.problems))
            status += "; the configuration was not reloaded, the log says why"
        else:
            self._adopt(settings, warnings, tls)
        self._options.notifier.ready(status)

    def _adopt(self, settings: Settings, warnings: list[str], tls: TlsContexts) -> None:
        """Without a wait in it: no exchange sees half of it."""
        self._generation += 1
        idle = self._gateway.reload(settings.build_policy(self._generation))
        self._plane.reload(tls, idle)
        # The reasons that end running exchanges may be others now.
        self._plane.apply_deny(None)
        logs.configure(settings.log_format, settings.log_level)
        self._gateway.stats.logs_all = settings.access_log
        for warning in warnings:
            _log.warning("%s", warning)
        waiting = waits_for_restart(self._started_with, settings)
        if waiting:
            _log.warning("settings that take a restart have changed: %s", ", ".join(waiting))
        self._settings = settings
        _log.info("configuration reloaded")

    async def _stop(self, signals: AsyncIterator[signal.Signals], tasks: TaskGroup) -> int:
        is_clean = False
        with anyio.CancelScope() as patience:

            async def watch() -> None:
                async for received in signals:
                    if received in _STOP_SIGNALS:
                        patience.cancel()
                        return

            tasks.start_soon(watch)
            is_clean = await self._drain()
        if patience.cancelled_caught:
            _log.warning("stopped at once by a second signal")
            await self._abandon()
        else:
            with anyio.move_on_after(CLOSE_SECS):
                await self._plane.aclose()
        return EXIT_OK if is_clean else EXIT_FAILED

    async def _drain(self) -> bool:
        """Whether every fact was written."""
        plane, settings = self._plane, self._settings
        self._gateway.drain()
        longest = settings.shutdown_delay_secs + settings.shutdown_grace_secs + STOP_SLACK_SECS
        self._options.notifier.stopping("draining", longest)
        await anyio.sleep(settings.shutdown_delay_secs)
        plane.stop_accepting()
        plane.drain()
        with anyio.move_on_after(settings.shutdown_grace_secs):
            await self._wait_until_closed()
        if plane.connections:
            _log.warning("the grace is over", extra={"fields": {"connections": plane.connections}})
            plane.cut()
            with anyio.move_on_after(CUT_SECS):
                await self._wait_until_closed()
        with anyio.move_on_after(FLUSH_SECS):
            await self._sink.flush()
        if self._deny is not None:
            with anyio.move_on_after(FLUSH_SECS):
                await self._deny.flush()
        return self._is_flushed()

    async def _wait_until_closed(self) -> None:
        while self._plane.connections:
            await anyio.sleep(DRAIN_POLL_SECS)

    async def _abandon(self) -> None:
        """Ends everything in bounded time, whatever is being cancelled around it."""
        self._plane.stop_accepting()
        self._plane.cut()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(FORCED_SECS):
                await self._sink.flush()
            with anyio.move_on_after(FORCED_SECS):
                await self._plane.aclose()
        self._is_flushed()

    def _is_flushed(self) -> bool:
        waiting = self._sink.stats.buffered_bytes
        if waiting:
            _log.error("usage facts could not be written", extra={"fields": {"bytes": waiting}})
        return not waiting


def listening_line(data: ListenAddr, admin: ListenAddr) -> str:
    """What is said once the gateway serves, in every log format."""
    return f"listening data={data} admin={admin}"


def serving_status(data: ListenAddr, admin: ListenAddr) -> str:
    """What the service manager shows."""
    return f"serving on {data}, admin on {admin}"


def _read_again(reload: Reload) -> tuple[Settings, list[str], TlsContexts]:
    """In a worker thread. Raises SettingsError."""
    settings, warnings = reload()
    try:
        return settings, warnings, tls_contexts(settings.tls_files, settings.upstream_ca_path)
    except ValueError as error:
        # They were good a moment ago, when the settings were checked: somebody is writing them.
        raise SettingsError([f"certificates: {error}"]) from None


def _errno(error: OSError) -> int | None:
    """The number of a bind error; some event loops keep it only in the text of a new one."""
    return error.errno if error.errno is not None else getattr(error.__cause__, "errno", None)


def cannot_listen(name: str, address: ListenAddr, error: OSError) -> str:
    """The line that a start ends with."""
    number = _errno(error)
    reason = os.strerror(number) if number is not None and number > 0 else "the address cannot be used"
    return f"{name}: cannot listen on {address}: {reason}"
