"""Times what a fact costs, sink by sink: ``python -m bench.sinks``.

A JSON exchange runs through the core, in memory, as in ``bench.core``. The baseline encodes its fact and keeps it
nowhere; the others hand it to a sink that writes to a file below ``--directory``. ``c`` is how many exchanges
begin, and then end, in one turn of the event loop, so how many records share a write. Figures are CPU time of
this process, system calls included; *more* is what the sink costs beyond the baseline of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from aigw_anyio.memory import settle_heap
from aigw_anyio.settings.model import SpoolFsync
from aigw_anyio.sinks import BaseSink, FactSink, StdoutSink
from aigw_anyio.sinks.spool import SpoolOptions, SpoolSink
from aigw_core.connection import Connection
from aigw_core.effects import Connect, Effect, EmitFact, OpenFact, SendDownstream
from aigw_core.facts import UsageFact
from aigw_core.gateway import Gateway
from bench import report
from bench.core import VARIETY, calibrate, json_exchanges, make_gateway

CONCURRENCY: Final = (1, 32)
"""Exchanges in a turn: an idle gateway, and the load of ``bench.run``."""
BASELINE: Final = "encoded, kept nowhere"


class Nowhere(BaseSink):
    """Makes the bytes of a fact, as every sink must."""

    def emit(self, fact: UsageFact) -> None:
        fact.encode()
        self.stats.written += 1


class Driver:
    """Callers on one sink, as a data plane drives them."""

    def __init__(self, gateway: Gateway, sink: FactSink, callers: int) -> None:
        self.sink = sink
        self.relayed = 0
        self._now = 0.0
        self._machines = [Connection(gateway, 0.0) for _ in range(callers)]
        self._attempts = [0] * callers
        self._waiting: dict[str, int] = {}
        sink.on_answer = self._answered

    def turn(self, request: bytes, response: bytes) -> None:
        """Every caller begins an exchange, and then ends it."""
        self._now += 0.0001
        for at, machine in enumerate(self._machines):
            self._run(at, machine.receive_downstream(request, self._now))
        self.sink.push()
        for at, machine in enumerate(self._machines):
            self._run(at, machine.receive_upstream(self._attempts[at], response, self._now))
        self.sink.push()

    def _answered(self, fact_id: str, accepted: bool) -> None:
        at = self._waiting.pop(fact_id)
        machine = self._machines[at]
        self._run(at, (machine.fact_opened if accepted else machine.fact_refused)(fact_id, self._now))

    def _run(self, at: int, effects: list[Effect]) -> None:
        machine, now = self._machines[at], self._now
        pending: list[Callable[[], list[Effect]]] = []
        while True:
            for effect in effects:
                if type(effect) is SendDownstream:
                    self.relayed += len(effect.data)
                elif type(effect) is EmitFact:
                    self.sink.emit(effect.fact)
                elif type(effect) is OpenFact:
                    accepted = self.sink.open(effect.record)
                    if accepted is None:
                        self._waiting[effect.record.id] = at
                    else:
                        pending.append(partial(machine.fact_opened, effect.record.id, now))
                elif type(effect) is Connect:
                    self._attempts[at] = effect.attempt
                    pending.append(partial(machine.upstream_connected, effect.attempt, True, now))
            if not pending:
                return
            effects = pending.pop(0)()


async def measure(sinks: dict[str, FactSink], rounds: int, exchanges: int) -> dict[str, list[report.Row]]:
    """Interleaved: every round samples each sink at each concurrency once."""
    gateway = make_gateway()
    wire = [(b"".join(request), response) for request, response in json_exchanges()]
    drivers = {(name, c): Driver(gateway, sink, c) for name, sink in sinks.items() for c in CONCURRENCY}
    results: dict[str, list[report.Row]] = {report.label(name, f"c={c}"): [] for name, c in drivers}
    for number in range(rounds + 1):
        base: dict[int, float] = {}
        for (name, c), driver in drivers.items():
            driver.sink.on_answer = driver._answered
            before, written = calibrate(), driver.sink.stats.written
            turns = max(1, exchanges // c)
            begin = time.process_time_ns()
            for turn in range(turns):
                driver.turn(*wire[turn % VARIETY])
            taken = (time.process_time_ns() - begin) / 1e3 / (turns * c)
            if driver.sink.stats.written - written != turns * c:
                raise RuntimeError("a fact was not written")
            if name == BASELINE:
                base[c] = taken
            # Segments are made and closed between the samples, in threads.
            await anyio.sleep(0.001)
            if number:
                row: report.Row = {"us": taken, "more_us": taken - base[c], "calibration_ms": before * 1e3}
                results[report.label(name, f"c={c}")].append(row)
    return results


COLUMNS: Final = [report.Column("µs", "us", digits=1, compared=True), report.Column("more, µs", "more_us", digits=1)]


async def run(directory: Path, rounds: int, exchanges: int) -> dict[str, list[report.Row]]:
    fd = os.open(directory / "facts.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    spool = SpoolSink(directory / "spool", SpoolOptions(fsync=SpoolFsync.INTERVAL))
    sinks: dict[str, FactSink] = {BASELINE: Nowhere(), "stdout to a file": StdoutSink(fd), "spool": spool}
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(spool.run)
            results = await measure(sinks, rounds, exchanges)
            tasks.cancel_scope.cancel()
    finally:
        os.close(fd)
    return results


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--exchanges", type=int, default=320, help="in one sample")
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to be measured")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write every round and a summary")
    arguments = parser.parse_args(argv)
    settle_heap()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="aigw-bench-") as directory:
        results = anyio.run(run, Path(directory), arguments.rounds, arguments.exchanges)
    summary = report.summarise(results, COLUMNS, baseline=BASELINE)
    print(f"Sinks, Python {platform.python_version()}, {arguments.rounds} rounds: min / **median** / max\n")
    print(report.table(summary, COLUMNS, baseline=BASELINE, first="sink"))
    if arguments.json is not None:
        document = {"mode": "sinks", "python": platform.python_version(), "summary": summary, "rounds": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
