from __future__ import annotations

import errno
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream, TaskGroup, TaskStatus
from anyio.streams.stapled import MultiListener

from aigw_anyio import httpd, lifecycle
from aigw_anyio.deny import keeper
from aigw_anyio.deny.control import DenyControl, DenySource
from aigw_anyio.deny.file import FileDenySource
from aigw_anyio.deny.snapshotfile import write_snapshot
from aigw_anyio.lifecycle import Options, run_gateway
from aigw_anyio.limits import out_of_files
from aigw_anyio.settings import ListenAddr, Settings, load_settings
from aigw_anyio.sinks import FactSink, StdoutSink
from aigw_anyio.tls import TlsContexts
from aigw_core.denyset import DenyChange, DenySet
from aigw_core.denyview import DenyView
from aigw_core.facts import OpenRecord
from aigw_core.gateway import Gateway
from aigw_core.snapshot import Snapshot
from tests.anyio_layer.conftest import exchange, numbered, request_bytes

pytestmark = pytest.mark.anyio
DEADLINE = 20.0


class FakePlane:
    """Listens, and counts connections that a test opens and closes by hand."""

    def __init__(self, gateway: Gateway, sink: FactSink, settings: Settings) -> None:
        self.gateway = gateway
        self.sink = sink
        self.settings = settings
        self.connections = 0
        self.streams = 0
        self.calls: list[str] = []
        self.on_cut: Callable[[], None] = lambda: None
        self._listener: MultiListener[SocketStream] | None = None

    async def start(self, tasks: TaskGroup) -> tuple[str, int]:
        self._listener = await httpd.listen(*self.settings.listen_addr)
        return httpd.bound_address(self._listener)

    @property
    def is_listening(self) -> bool:
        return self._listener is not None

    def stop_accepting(self) -> None:
        self.calls.append("stop_accepting")

    def drain(self) -> None:
        self.calls.append("drain")

    def cut(self) -> None:
        self.calls.append("cut")
        self.on_cut()

    def apply_deny(self, changes: list[DenyChange] | None) -> None:
        self.calls.append("apply_deny")

    def reload(self, tls: TlsContexts, idle: list[object]) -> None:
        self.calls.append(f"reload {tls.listener} {idle}")

    async def aclose(self) -> None:
        self.calls.append("aclose")
        if self._listener is not None:
            await self._listener.aclose()


class Run:
    """A gateway that runs in a task group."""

    def __init__(
        self, config: Path, environ: dict[str, str] | None = None, *, plane: type[FakePlane] = FakePlane
    ) -> None:
        self.planes: list[FakePlane] = []
        self._make_plane = plane
        self.code: int | None = None
        self._config = config
        self._environ = {"AI_LISTEN_ADDR": "127.0.0.1:0", "AI_METRICS_LISTEN": "127.0.0.1:0", **(environ or {})}
        self._listening = anyio.Event()

    @property
    def plane(self) -> FakePlane:
        return self.planes[-1]

    def load(self) -> tuple[Settings, list[str]]:
        return load_settings(config=self._config, environ=self._environ)

    async def start(
        self,
        tasks: TaskGroup,
        sink_fd: int,
        movable: frozenset[str] = frozenset(),
        deny_source: DenySource | None = None,
    ) -> None:
        def factory(gateway: Gateway, sink: FactSink, settings: Settings) -> FakePlane:
            self.planes.append(self._make_plane(gateway, sink, settings))
            return self.planes[-1]

        def announce(address: ListenAddr) -> None:
            assert address.port
            self._listening.set()

        options = Options(
            "test",
            reload=self.load,
            movable=movable,
            announce=announce,
            make_sink=lambda _: StdoutSink(sink_fd),
            make_deny_source=lambda _settings, _make_host: deny_source,
        )

        async def run() -> None:
            self.code = await run_gateway(self.load()[0], factory, options)
            self._listening.set()

        tasks.start_soon(run)
        await self._listening.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await anyio.sleep(0.001)

    async def until_over(self) -> None:
        await self.until(lambda: self.code is not None)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "aigw.toml"
    file.write_text("rate_limit_rps = 1\n")
    return file


@pytest.fixture(autouse=True)
def _own_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freezing the heap is for a process that the gateway has to itself."""
    monkeypatch.setattr(lifecycle, "settle_heap", lambda: None)


def send(which: signal.Signals) -> None:
    os.kill(os.getpid(), which)


def admin_port(stderr: str) -> int:
    line = next(line for line in stderr.splitlines() if line.startswith("listening "))
    return int(line.rpartition(":")[2])


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
async def test_clean_stop(
    config: Path, which: signal.Signals, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Run(config)
    with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno())
            send(which)
            await run.until_over()
    assert run.code == 0
    assert run.plane.calls == ["stop_accepting", "drain", "aclose"]
    assert run.plane.gateway.draining
    out, err = capsys.readouterr()
    assert out == ""
    listening = [line for line in err.splitlines() if line.startswith("listening ")]
    assert len(listening) == 1
    data, admin = listening[0].removeprefix("listening ").split(" ")
    assert data.startswith("data=127.0.0.1:")
    assert admin.startswith("admin=127.0.0.1:")


class SlowSource:
    """Says nothing for a moment, and then what it is told to, if anything."""

    name = "slow"

    def __init__(self, run: Run, word: Callable[[DenyControl], None] | None) -> None:
        self.listened_before: bool | None = None
        self._run = run
        self._word = word

    def restored(self, snapshot: Snapshot) -> None:
        raise AssertionError(f"there is no snapshot, but {snapshot}")

    async def run(self, control: DenyControl) -> None:
        if self._word is not None:
            await anyio.sleep(0.05)
            self.listened_before = self._run.plane.is_listening
            self._word(control)
        await anyio.sleep_forever()


async def start_and_stop(run: Run, source: DenySource, path: Path) -> None:
    with anyio.fail_after(DEADLINE), path.open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno(), deny_source=source)
            assert run.plane.is_listening
            send(signal.SIGTERM)
            await run.until_over()
    assert run.code == 0


@pytest.mark.parametrize(
    "word", [lambda control: control.live(), lambda control: control.lost("gone")], ids=["live", "lost"]
)
async def test_nobody_is_served_before_the_deny_source_has_answered(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: Callable[[DenyControl], None]
) -> None:
    monkeypatch.setattr(keeper, "FIRST_ANSWER_SECS", 2 * DEADLINE)
    run = Run(config)
    source = SlowSource(run, word)
    await start_and_stop(run, source, tmp_path / "facts")
    assert source.listened_before is False


@pytest.mark.parametrize("has_snapshot", [False, True])
async def test_a_deny_file_is_in_force_before_anybody_is_served(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_snapshot: bool
) -> None:
    """Also where a snapshot that does not have its last entry is in force."""
    monkeypatch.setattr(keeper, "FIRST_ANSWER_SECS", 2 * DEADLINE)
    held: list[int] = []

    class Plane(FakePlane):
        async def start(self, tasks: TaskGroup) -> tuple[str, int]:
            held.append(self.gateway.deny.size)
            return await super().start(tasks)

    file = tmp_path / "deny.json"
    file.write_text('{"blackhole.1": "spend"}')
    source = FileDenySource(file)
    snapshot_path = tmp_path / "deny.snapshot"
    if has_snapshot:
        write_snapshot(snapshot_path, Snapshot(source.name, DenyView(DenySet()), None, 1.0))
    run = Run(config, {"AI_SNAPSHOT_PATH": str(snapshot_path)}, plane=Plane)
    await start_and_stop(run, source, tmp_path / "facts")
    assert held == [1]


async def test_a_deny_source_that_says_nothing_is_not_waited_for_long(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "FIRST_ANSWER_SECS", 0.05)
    run = Run(config)
    await start_and_stop(run, SlowSource(run, None), tmp_path / "facts")
    assert run.plane.gateway.deny_state == "cold"


async def test_drain_waits_for_running_exchanges(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Run(config)
    with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno())
            port = admin_port(capsys.readouterr().err)
            assert (await exchange(port, request_bytes("GET", "/readyz")))[0] == 200
            run.plane.connections = 1
            send(signal.SIGTERM)
            await run.until(lambda: "drain" in run.plane.calls)
            assert (await exchange(port, request_bytes("GET", "/readyz")))[::2] == (
                503,
                b'{"status": "draining", "deny": "none", "deny_revision": null}\n',
            )
            assert run.code is None
            run.plane.connections = 0
            await run.until_over()
    assert run.code == 0
    assert "cut" not in run.plane.calls


async def test_connections_are_accepted_during_the_delay(config: Path, tmp_path: Path) -> None:
    config.write_text("shutdown_delay_secs = 3600")
    run = Run(config)
    with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno())
            send(signal.SIGTERM)
            await run.until(lambda: run.plane.gateway.draining)
            assert run.plane.calls == []
            send(signal.SIGTERM)
            await run.until_over()
    assert run.code == 1
    assert run.plane.calls == ["stop_accepting", "cut", "aclose"]


async def test_grace_ends_in_a_cut_whose_facts_are_written(config: Path, tmp_path: Path, record: OpenRecord) -> None:
    config.write_text("shutdown_grace_secs = 0")
    run = Run(config)
    with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno())
            plane = run.plane
            plane.connections = 1

            def on_cut() -> None:
                plane.sink.emit(numbered(record, 1))
                plane.connections = 0

            plane.on_cut = on_cut
            send(signal.SIGTERM)
            await run.until_over()
    assert run.code == 0
    assert plane.calls == ["stop_accepting", "drain", "cut", "aclose"]
    assert (tmp_path / "facts").read_bytes() == numbered(record, 1).encode() + b"\n"


async def test_second_signal_stops_at_once_and_facts_are_written(
    config: Path, tmp_path: Path, record: OpenRecord
) -> None:
    run = Run(config)
    with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno())
            run.plane.connections = 1
            run.plane.on_cut = lambda: run.plane.sink.emit(numbered(record, 1))
            send(signal.SIGTERM)
            await run.until(lambda: "drain" in run.plane.calls)
            send(signal.SIGINT)
            await run.until_over()
    assert run.code == 1
    assert run.plane.calls == ["stop_accepting", "drain", "stop_accepting", "cut", "aclose"]
    assert (tmp_path / "facts").read_bytes() == numbered(record, 1).encode() + b"\n"


async def test_facts_that_nobody_takes_are_no_clean_stop(
    config: Path, record: OpenRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "FLUSH_SECS", 0.01)
    run = Run(config)
    reader, writer = os.pipe()
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, writer)
            for number in range(200):
                run.plane.sink.emit(numbered(record, number))
            run.plane.sink.push()
            assert run.plane.sink.stats.buffered_bytes > 0
            send(signal.SIGTERM)
            await run.until_over()
    os.close(reader)
    os.close(writer)
    assert run.code == 1


async def test_reload_swaps_the_policy(config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aigw")
    run = Run(config)
    with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno())
            gateway = run.plane.gateway
            before = gateway.policy
            config.write_text("rate_limit_rps = 0.5\nworkers = 0\n")
            send(signal.SIGHUP)
            await run.until(lambda: "configuration not reloaded" in caplog.text)
            assert gateway.policy is before
            config.write_text("rate_limit_rps = 7\nmax_connections = 3\n")
            send(signal.SIGHUP)
            await run.until(lambda: gateway.policy is not before)
            assert gateway.policy.rate_limit_rps == 7
            assert {p.origin.generation for p in gateway.policy.providers.values()} == {1}
            send(signal.SIGTERM)
            await run.until_over()
    assert run.code == 0
    assert run.plane.calls[0] == "reload None []"
    messages = [entry.getMessage() for entry in caplog.records]
    (refused,) = [message for message in messages if message.startswith("configuration not reloaded: ")]
    assert refused.startswith("configuration not reloaded: rate_limit_rps: is not a whole number")
    assert " | workers: " in refused, "one line for all problems"
    assert "settings that take a restart have changed: max_connections" in messages


async def test_certificates_that_are_replaced_while_they_are_read(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good when the settings were checked, and gone a moment later: nothing changes, and nothing ends."""

    def gone(*_: object) -> TlsContexts:
        raise ValueError("the key cannot be read: No such file or directory")

    run = Run(config)
    with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno())
            monkeypatch.setattr(lifecycle, "tls_contexts", gone)
            before = run.plane.gateway.policy
            send(signal.SIGHUP)
            await run.until(lambda: "configuration not reloaded: certificates: the key cannot be read" in caplog.text)
            assert run.plane.gateway.policy is before
            send(signal.SIGTERM)
            await run.until_over()
    assert run.code == 0
    assert not any(call.startswith("reload") for call in run.plane.calls)


async def test_port_in_use(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, variable in (("listen_addr", "AI_LISTEN_ADDR"), ("metrics_listen", "AI_METRICS_LISTEN")):
        async with await httpd.listen("127.0.0.1", 0) as taken:
            port = httpd.bound_address(taken)[1]
            run = Run(config, {variable: f"127.0.0.1:{port}"})
            with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
                async with anyio.create_task_group() as tasks:
                    await run.start(tasks, facts.fileno())
        assert run.code == 1
        err = capsys.readouterr().err
        assert err == f"aigw: {name}: cannot listen on 127.0.0.1:{port}: Address already in use\n"


async def test_what_keeps_it_from_starting_is_told_once(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without file descriptors its end may fail as its start has; whoever called tells of that."""

    class SinkWithoutFiles(StdoutSink):
        async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            try:
                await super().run(task_status=task_status)
            finally:
                raise OSError(errno.EMFILE, "Too many open files")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = {"AI_LISTEN_ADDR": f"127.0.0.1:{taken.getsockname()[1]}", "AI_METRICS_LISTEN": "127.0.0.1:0"}
        settings, _ = load_settings(config=config, environ=environ)
        with pytest.raises(BaseExceptionGroup) as raised:
            await run_gateway(settings, FakePlane, Options("test", make_sink=lambda _: SinkWithoutFiles(1)))
    assert out_of_files(raised.value)
    assert capsys.readouterr().err == ""


async def test_movable_ports_give_way(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with await httpd.listen("127.0.0.1", 0) as one, await httpd.listen("127.0.0.1", 0) as two:
        ports = [httpd.bound_address(taken)[1] for taken in (one, two)]
        run = Run(
            config,
            {"AI_LISTEN_ADDR": f"127.0.0.1:{ports[0]}", "AI_METRICS_LISTEN": f"127.0.0.1:{ports[1]}"},
        )
        with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
            async with anyio.create_task_group() as tasks:
                await run.start(tasks, facts.fileno(), frozenset({"listen_addr", "metrics_listen"}))
                send(signal.SIGTERM)
                await run.until_over()
    assert run.code == 0
    assert [plane.calls[-1] for plane in run.planes] == ["aclose", "aclose"]
    lines = capsys.readouterr().err.splitlines()
    assert f"port {ports[0]} is taken, so a free one is used" in lines
    assert f"port {ports[1]} is taken, so a free one is used" in lines
    listening = next(line for line in lines if line.startswith("listening "))
    assert f":{ports[0]} " not in listening
    assert not listening.endswith(f":{ports[1]}")


async def test_clock_is_told(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "CLOCK_SECS", 0.001)
    told: list[tuple[float, float]] = []
    monkeypatch.setattr(Gateway, "set_clock", lambda self, now, wall: told.append((now, wall)))
    run = Run(config)
    with anyio.fail_after(DEADLINE), (tmp_path / "facts").open("wb") as facts:
        async with anyio.create_task_group() as tasks:
            await run.start(tasks, facts.fileno())
            await run.until(lambda: len(told) >= 3)
            now = anyio.current_time()
            send(signal.SIGTERM)
            await run.until_over()
    assert all(first[0] < second[0] for first, second in itertools.pairwise(told))
    assert abs(told[2][0] - now) < DEADLINE
    assert told[2][1] > 1_700_000_000
