"""What is measured: each mode takes one target through one window and returns one row of figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bench import proc, work
from bench.load import ClosedLoop, percentile, transfer
from bench.report import Column, Row
from bench.servers import Cores, ProviderProcess
from bench.streams import StreamClient, StreamLoad
from bench.targets import Target

MODES: Final = ("json", "connect", "sse", "body", "mem")
FACTS_SECS: Final = 2.0
"""For the last facts of a window to be written."""
_NOISE: Final = [
    Column("gateway core %", "core_percent", digits=0),
    Column("others on it %", "others_percent", digits=0),
]
COLUMNS: Final[dict[str, list[Column]]] = {
    "json": [
        Column("CPU µs/request", "cpu_us", compared=True, plotted=True),
        Column("requests/s", "per_s", digits=0, compared=True),
        Column("p50 ms", "p50_ms", digits=2),
        Column("p99 ms", "p99_ms", digits=2, compared=True, plotted=True),
        Column("facts/request", "facts_each", digits=2),
        Column("errors", "errors", digits=0),
        *_NOISE,
    ],
    "connect": [
        Column("CPU µs/connection", "cpu_us", compared=True, plotted=True),
        Column("connections/s", "per_s", digits=0, compared=True),
        Column("p50 ms", "p50_ms", digits=2),
        Column("p99 ms", "p99_ms", digits=2, compared=True),
        Column("facts/request", "facts_each", digits=2),
        Column("errors", "errors", digits=0),
        *_NOISE,
    ],
    "sse": [
        Column("CPU µs/event", "cpu_us", compared=True, plotted=True),
        Column("p50 ms", "p50_ms", digits=2),
        Column("added p50 ms", "added_p50_ms", digits=2, compared=True),
        Column("p99 ms", "p99_ms", digits=2),
        Column("added p99 ms", "added_p99_ms", digits=2, compared=True, plotted=True),
        Column("p99.9 ms", "p999_ms", digits=2),
        Column("added p99.9 ms", "added_p999_ms", digits=2, compared=True),
        Column("first event p50 ms", "first_p50_ms", digits=1),
        Column("events/s", "per_s", digits=0),
        Column("complete %", "complete_percent", digits=0),
        Column("facts/stream", "facts_each", digits=2),
        *_NOISE,
    ],
    "body": [
        Column("MB/s", "mb_per_s", digits=0, compared=True),
        Column("CPU µs/MB", "cpu_us_per_mb", digits=0, compared=True, plotted=True),
        Column("errors", "errors", digits=0),
        *_NOISE,
    ],
    "mem": [
        Column("base MB", "base_mb", compared=True, plotted=True),
        Column("KB/idle connection", "kb_per_idle", compared=True, plotted=True),
        Column("idle alive", "idle_alive", digits=0),
        Column("KB/stream", "kb_per_stream", compared=True, plotted=True),
        Column("streams at once", "active", digits=0),
        Column("MB after", "after_mb"),
    ],
}


@dataclass(slots=True)
class Settings:
    """Sizes of the windows."""

    seconds: float = 5.0
    """A window of json and connect."""
    concurrency: Sequence[int] = (32, 1)
    streams: Sequence[int] = (100, 1_000)
    events: int = 200
    delay_ms: float = 10.0
    events_per_s: int = 20_000
    """sse: the most that the provider sends, by longer delays; the load can read as much, and no gateway is full."""
    body_mb: int = 40
    transfers: int = 3
    """Bodies in a window."""
    connections: int = 1_000
    """mem: idle ones, then streams."""
    stream_delay_ms: float = 2_000.0
    """mem: between two events; memory is read while nothing moves."""
    settle: float = 1.0
    """Seconds of quiet before memory is read."""
    timeout: float = 120.0
    """For one window of streams."""


@dataclass(slots=True)
class Bench:
    """One run."""

    provider: ProviderProcess
    cores: Cores
    settings: Settings
    direct: dict[str, Row] = field(default_factory=dict)
    """sse: the row of this round without a gateway, by variant."""

    def variants(self, mode: str) -> list[str]:
        """The windows that a round of this mode has for each target."""
        settings = self.settings
        if mode == "json":
            return [f"c={n}" for n in settings.concurrency]
        if mode == "connect":
            return [f"c={max(settings.concurrency)}"]
        if mode == "sse":
            return [f"streams={n}" for n in settings.streams]
        if mode == "body":
            return [f"{settings.body_mb} MB up", f"{settings.body_mb} MB down"]
        return [""]

    def prepare(self, mode: str, variant: str) -> None:
        """Sets the provider's plan before a window."""
        settings = self.settings
        size = settings.body_mb * 1_000_000 if variant.endswith("down") else work.ANSWER_SIZE
        slow = mode == "mem"
        delay_ms = settings.stream_delay_ms if slow else settings.delay_ms
        if mode == "sse":
            delay_ms = max(delay_ms, 1e3 * int(variant.removeprefix("streams=")) / settings.events_per_s)
        self.provider.configure(answer_bytes=size, events=3 if slow else settings.events, delay_ms=delay_ms)

    def window(self, mode: str, variant: str, target: Target) -> Row:
        """One window of one target. Raises OSError where it does not answer."""
        if mode == "sse":
            return self._sse(target, variant)
        if mode == "body":
            return self._body(target, upwards=variant.endswith("up"))
        if mode == "mem":
            return self._mem(target)
        return self._requests(target, int(variant.removeprefix("c=")), fresh=mode == "connect")

    def _measured(self, target: Target, work_: Callable[[], int], result: Row) -> Row:
        """Adds what the work, which returns how often something was done, cost the target."""
        if target.facts is not None:
            target.facts.forget_facts()
        with proc.Window(target.process(), self.cores.gateway) as window:
            done = work_()
        result["per_s"] = done / window.wall
        result["cpu_us"] = window.cpu / done * 1e6 if window.cpu is not None and done else None
        result["core_percent"], result["others_percent"] = window.core_percent, window.others_percent
        return result

    def _facts_each(self, target: Target, exchanges: int) -> float | None:
        if target.facts is None or not exchanges:
            return None
        # Exchanges that the end of the window cut off are still being noticed.
        end = time.monotonic() + FACTS_SECS
        while (facts := target.facts.count_facts()) < exchanges and time.monotonic() < end:
            time.sleep(0.02)
        return facts / exchanges

    def _requests(self, target: Target, connections: int, *, fresh: bool) -> Row:
        loop = ClosedLoop(target, target.request(work.chat_request()), connections=connections, fresh=fresh)
        result = loop.result
        row = self._measured(target, lambda: loop.run(self.settings.seconds).requests, {})
        # What was cut off at the end of the window has a fact too.
        row["facts_each"] = self._facts_each(target, result.sent)
        row["errors"] = float(result.errors)
        row["p50_ms"] = percentile(result.latencies, 0.5, 1e6)
        row["p99_ms"] = percentile(result.latencies, 0.99, 1e6)
        return row

    def _sse(self, target: Target, variant: str) -> Row:
        settings, count = self.settings, int(variant.removeprefix("streams="))
        load = StreamLoad(target, count, timeout=settings.timeout)
        result = load.result
        row = self._measured(target, lambda: load.run(settings.events).events, {})
        row["facts_each"] = self._facts_each(target, count)
        row["complete_percent"] = 100 * result.complete / count
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999)):
            row[name] = percentile(result.latencies, share, 1e6)
        row["first_p50_ms"] = percentile(result.first, 0.5, 1e6)
        if target.name == "direct":
            self.direct[variant] = row
        for name in ("p50_ms", "p99_ms", "p999_ms"):
            mine, floor = row[name], self.direct.get(variant, {}).get(name)
            if target.name != "direct" and mine is not None and floor is not None:
                row[f"added_{name}"] = mine - floor
        return row

    def _body(self, target: Target, *, upwards: bool) -> Row:
        settings = self.settings
        size = settings.body_mb * 1_000_000
        request = target.request(work.chat_request(padding=size if upwards else 0))
        row: Row = {"errors": 0.0}
        seconds: list[float] = []

        def run() -> int:
            for _ in range(settings.transfers):
                try:
                    moved = transfer(target, request)
                except OSError:
                    moved = None
                if moved is None or moved.status != 200:
                    row["errors"] = (row["errors"] or 0.0) + 1
                else:
                    seconds.append(moved.seconds)
            return len(seconds)

        self._measured(target, run, row)
        if seconds:
            row["mb_per_s"] = settings.body_mb * len(seconds) / sum(seconds)
            cpu = row["cpu_us"]
            row["cpu_us_per_mb"] = None if cpu is None else cpu / settings.body_mb
        return row

    def _mem(self, target: Target) -> Row:
        pid = self._fresh(target)
        if pid is None:
            return {}
        row: Row = {"base_mb": proc.rss(pid) / 1e6}
        self._idle(target, pid, row)
        pid = self._fresh(target) or pid
        self._active(target, pid, row)
        time.sleep(self.settings.settle + 1)
        row["after_mb"] = proc.rss(pid) / 1e6
        return row

    def _fresh(self, target: Target) -> int | None:
        """A process that has answered both kinds of requests once, and rests."""
        if target.process() is None:
            return None
        target.restart_if_possible()
        self.provider.configure(events=1, delay_ms=1)
        for stream in (False, True):
            target.exchange(work.chat_request(stream=stream), stream=stream)
        self.prepare("mem", "")
        time.sleep(self.settings.settle)
        return target.process()

    def _idle(self, target: Target, pid: int, row: Row) -> None:
        """Keep-alive connections that each had one answer."""
        settings = self.settings
        before = proc.rss(pid)
        request = target.request(work.chat_request())
        loop = ClosedLoop(target, request, connections=settings.connections)
        with loop.idle_connections() as alive:
            time.sleep(settings.settle)
            count = alive()
            row["idle_alive"] = float(count)
            row["kb_per_idle"] = (proc.rss(pid) - before) / 1e3 / count if count else None

    def _active(self, target: Target, pid: int, row: Row) -> None:
        """Streams that have begun and not ended; the reading while most of them run is taken."""
        settings = self.settings
        before = proc.rss(pid)
        readings: list[tuple[int, int]] = []
        load = StreamLoad(target, settings.connections, timeout=settings.timeout)

        def look() -> None:
            readings.append((_running(load.clients), proc.rss(pid)))

        load.run(3, look=look)
        if readings:
            active, resident = max(readings)
            row["active"] = float(active)
            row["kb_per_stream"] = (resident - before) / 1e3 / active if active else None


def _running(clients: list[StreamClient]) -> int:
    return sum(client.first_ns is not None and not client.ended for client in clients)
