"""Many exchanges and streams through one process with a spool: ``python -m bench.soak``.

Prints resident memory, open files and disk as they go. At the end, with no load left, the process must hold what it
held before: no more files, tasks, timers, threads, pool entries or objects of ours. Ends with 1 unless all of that,
and memory, stayed flat, and the spool has the size that its records add up to.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aigw_anyio.sinks.spool.follow import Follower
from aigw_anyio.sinks.spool.layout import segments, spools
from aigw_anyio.sinks.spool.verify import verify
from aigw_core.spool import HEADER_SIZE, Kind, SegmentScan
from bench import census, proc, work
from bench.census import Census, NotAtRest
from bench.load import ClosedLoop
from bench.run import FRONTENDS
from bench.servers import VIRTUAL_KEY, Cores, GatewayProcess, ProviderProcess
from bench.streams import StreamLoad
from bench.targets import Target

WARM_SHARE: Final = 0.1
"""Of the exchanges: caches and the allocator have their size then, and growth counts from there."""
GROWTH_MAX_MB: Final = 10.0
"""On top of ten per cent."""
STREAMS_SECS: Final = 300.0
"""For one batch of streams."""


@dataclass(frozen=True, slots=True)
class Row:
    """How things stood behind one window or batch."""

    exchanges: int
    streams: int
    rss_mb: float
    fds: int


@dataclass(slots=True)
class Soak:
    """One run against one process."""

    options: argparse.Namespace
    gateway: GatewayProcess
    target: Target
    rows: list[Row] = field(default_factory=list)
    exchanges: int = 0
    streams: int = 0
    begin: float = field(default_factory=time.monotonic)

    def run(self) -> tuple[Census, Census]:
        """Before and after. Raises RuntimeError where a request fails, NotAtRest where something does not end."""
        options = self.options
        print("| exchanges | streams | seconds | RSS MB | open files | spool MB |\n|---:|---:|---:|---:|---:|---:|")
        # What takes memory once: as many connections of each kind as there will be at a time.
        self._requests()
        self._batch()
        before = census.settle(self.gateway)
        self._repeat(self._requests, lambda: self.exchanges >= options.exchanges)
        self._repeat(self._batch, lambda: self.streams >= options.streams)
        after = census.settle(self.gateway, before)
        self._note()
        return before, after

    def _repeat(self, step: Callable[[], None], is_over: Callable[[], bool]) -> None:
        while not is_over():
            step()

    def _requests(self) -> None:
        options = self.options
        request = self.target.request(work.chat_request())
        result = ClosedLoop(self.target, request, connections=options.connections).run(options.window)
        if result.errors:
            raise RuntimeError(f"{result.errors} requests failed")
        self.exchanges += result.sent
        self._note()

    def _batch(self) -> None:
        options = self.options
        result = StreamLoad(self.target, options.at_once, timeout=STREAMS_SECS).run(options.events)
        if result.complete != options.at_once:
            raise RuntimeError(f"{options.at_once - result.complete} streams of {options.at_once} were not complete")
        self.streams += options.at_once
        self._note()

    def _note(self) -> None:
        pid = self.gateway.pid
        row = Row(self.exchanges, self.streams, proc.rss(pid) / 1e6, len(proc.open_files(pid)))
        self.rows.append(row)
        cells = [str(row.exchanges), str(row.streams), f"{time.monotonic() - self.begin:.0f}", f"{row.rss_mb:.1f}"]
        cells += [str(row.fds), f"{spool_mb(self.gateway.spool):.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def spool_mb(directory: Path) -> float:
    return sum(segment.path.stat().st_size for spool in spools(directory) for segment in segments(spool)) / 1e6


def computed_bytes(directory: Path) -> tuple[int, int]:
    """What the records of all segments add up to, heads included; and how many facts are among them."""
    total = facts = 0
    for spool in spools(directory):
        for segment in segments(spool):
            scan = SegmentScan(segment.path.read_bytes())
            records = list(scan)
            facts += sum(record.kind == Kind.FACT for record in records)
            total += sum(HEADER_SIZE + len(record.payload) for record in records)
            total += len(scan.head.encode()) if scan.head is not None else 0
    return total, facts


def soak(options: argparse.Namespace) -> int:
    """Returns the exit code."""
    cores = Cores.choose(0, 1)
    with tempfile.TemporaryDirectory(prefix="aigw-bench-") as name:
        provider = ProviderProcess(Path(name), cores.load, port=0)
        provider.configure(events=options.events, delay_ms=options.delay_ms, answer_bytes=work.ANSWER_SIZE)
        module = FRONTENDS[options.frontend][1]
        gateway = GatewayProcess(
            cores.gateway, provider.url, module=module, spool=True, watched=True, idle_secs=options.idle_secs
        )
        if cores.load is not None:
            # After the children: they inherit the cores of this process.
            os.sched_setaffinity(0, {cores.load})
        try:
            run = Soak(options, gateway, gateway.target("aigw", VIRTUAL_KEY))
            try:
                before, after = run.run()
            except OSError as error:
                raise RuntimeError(f"the gateway does not answer: {error}; {gateway.last_words}") from error
            gateway.end()
            return _judge(run, before, after)
        finally:
            gateway.stop()
            provider.stop()


def memory(rows: list[Row]) -> tuple[float, float]:
    """The most MB until a tenth of the exchanges was done, and the most since."""
    warm = next(
        at for at, row in enumerate(rows, 1) if row.exchanges >= WARM_SHARE * rows[-1].exchanges and row.streams
    )
    return max(row.rss_mb for row in rows[:warm]), max(row.rss_mb for row in rows[warm - 1 :])


def _judge(run: Soak, before: Census, after: Census) -> int:
    warm, highest = memory(run.rows)
    is_flat = highest <= 1.1 * warm + GROWTH_MAX_MB
    leaks = census.grown(before, after)
    directory, total = run.gateway.spool, run.exchanges + run.streams
    computed, facts = computed_bytes(directory)
    actual = sum(segment.path.stat().st_size for spool in spools(directory) for segment in segments(spool))
    problems = verify(directory).problems
    print(f"\nRSS: {warm:.1f} MB at most until a tenth, {highest:.1f} MB since: {'flat' if is_flat else 'GROWS'}")
    held = ", ".join(f"{name} {before.figures[name]} -> {count}" for name, count in after.figures.items())
    print(f"at rest, before -> after: {held}: {'LEAKS' if leaks else 'flat'}")
    print(f"at rest, after: no {', no '.join(census.HELD)}")
    print(f"dead objects of ours in cycles, which wait for the collector: {before.in_cycles}, then {after.in_cycles}")
    for leak in leaks:
        print(f"  {leak}")
    print(f"spool: {actual} bytes, {computed} computed; {facts} facts of {total} exchanges, {len(problems)} problems")
    follower = Follower(spools(directory)[0])
    sizes = [len(record.payload) for record in follower.read() if record.kind == Kind.FACT]
    print(f"a fact has {sum(sizes) / max(1, len(sizes)):.0f} bytes, an exchange {actual / max(1, facts):.0f} on disk")
    document = {
        "frontend": run.options.frontend,
        "exchanges": run.exchanges,
        "streams": run.streams,
        "facts": facts,
        "rss_mb": [round(row.rss_mb, 1) for row in run.rows],
        "fds": [row.fds for row in run.rows],
        "before": dict(before.figures),
        "after": dict(after.figures),
        "in_cycles": [before.in_cycles, after.in_cycles],
        "spool_bytes": actual,
    }
    print(json.dumps(document))
    return 0 if is_flat and not leaks and actual == computed and facts >= total and not problems else 1


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--frontend", choices=list(FRONTENDS), default="asyncio")
    add("--exchanges", type=int, default=1_000_000, help="JSON requests and their answers")
    add("--connections", type=int, default=32, help="that send them")
    add("--window", type=float, default=5.0, help="seconds between two lines; connections end with it")
    add("--streams", type=int, default=10_000)
    add("--at-once", type=int, default=500, help="streams in a batch")
    add("--events", type=int, default=40, help="of a stream")
    add("--delay-ms", type=float, default=50.0, help="between two events of a stream")
    add("--idle-secs", type=float, default=5.0, help="for which connections to the provider are kept")
    options = parser.parse_args(argv)
    proc.raise_open_files_limit()
    # SIGTERM must stop the children too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return soak(options)
    except (RuntimeError, NotAtRest) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
