"""The soak, short; and that what leaks is seen."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from aigw_core.connection import Connection
from bench import census, watched
from bench.census import Census, NotAtRest
from bench.core import make_gateway
from bench.counting import no_collector
from bench.servers import GatewayProcess
from bench.soak import Row, memory

ROOT = Path(__file__).resolve().parent.parent
RUN_SECS = 150
"""Twice what a process may take to come to rest, and then some."""


@pytest.mark.parametrize("frontend", ["asyncio", "trio"])
def test_a_short_soak_is_judged(frontend: str) -> None:
    command = [sys.executable, "-m", "bench.soak", "--frontend", frontend, "--exchanges", "50", "--window", "0.2"]
    tiny = "--connections 4 --streams 12 --at-once 6 --events 3 --delay-ms 5 --idle-secs 0.2"
    command += tiny.split()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["facts"] == document["exchanges"] + document["streams"]
    assert (document["exchanges"] >= 50, document["streams"]) == (True, 12)
    assert len(document["rss_mb"]) == len(document["fds"]) >= 4
    assert (
        set(document["before"])
        == set(document["after"])
        == {
            "fds",
            "spool files",
            "tasks",
            "timers",
            "threads",
            "objects",
        }
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_process_counts_what_it_holds(backend: str) -> None:
    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        before = watched.census()
        held = [Connection(make_gateway(), 0.0) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 1_000)
            await anyio.wait_all_tasks_blocked()
            after = watched.census()
            tasks.cancel_scope.cancel()
        assert len(held) == 3
        return before, after

    before, after = anyio.run(run, backend=backend)
    # trio.sleep is a deadline, as is each of asyncio's timers.
    assert [after[name] - before[name] for name in ("tasks", "timers")] == [1, 1]
    assert after["objects"] - before["objects"] >= 3
    kind = "aigw_core.connection.Connection"
    assert after["kinds"][kind] - before["kinds"].get(kind, 0) == 3


def test_threads_are_counted() -> None:
    async def run() -> tuple[int, int]:
        # Idle threads of earlier tests may end meanwhile; then it is tried again.
        while True:
            count = threading.active_count()
            found = int(str(watched.census()["threads"]))
            if count == threading.active_count():
                return count, found

    release = threading.Event()
    held = threading.Thread(target=release.wait)
    held.start()
    try:
        count, found = asyncio.run(run())
    finally:
        release.set()
        held.join()
    assert found == count >= 2


def test_dead_cycles_are_no_leak_and_are_told() -> None:
    async def run() -> tuple[dict[str, Any], dict[str, Any]]:
        before = watched.census()
        with no_collector():
            machine = Connection(make_gateway(), 0.0)
            machine.context = machine
            del machine
            return before, watched.census()

    before, after = asyncio.run(run())
    assert after["objects"] == before["objects"]
    assert after["in_cycles"] >= 1


def test_a_cancelled_timer_is_none() -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        handles = [loop.call_later(1_000, print) for _ in range(2)]
        counts = [watched._asyncio()[1]]
        for handle in handles:
            handle.cancel()
            counts.append(watched._asyncio()[1])
        return counts

    assert asyncio.run(run()) == [2, 1, 0]


def test_a_leak_is_told_with_its_classes() -> None:
    before = Census({"fds": 9, "tasks": 3, "objects": 5}, {"a.Connection": 2, "a.Timer": 3})
    assert census.grown(before, before) == []
    for files, leaks in ((4, []), (5, ["spool files: 1 before, 5 after"])):
        assert census.grown(Census({"spool files": 1}, {}), Census({"spool files": files}, {})) == leaks
    assert census.grown(before, Census({"fds": 8, "tasks": 3, "objects": 5}, {"a.Meter": 5})) == []
    after = Census({"fds": 9, "tasks": 4, "objects": 7}, {"a.Connection": 3, "a.Timer": 2, "a.Meter": 2})
    assert census.grown(before, after) == [
        "tasks: 3 before, 4 after",
        "objects: 5 before, 7 after",
        "  a.Connection: 1 more",
        "  a.Meter: 2 more",
    ]


def test_what_is_still_held_without_load_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"aigw_connections": 2.0, "aigw_exchanges": 0.0, "aigw_facts_outstanding": 1.0}
    monkeypatch.setattr(census, "metrics", lambda gateway: found)
    monkeypatch.setattr(census, "REST_SECS", -1.0)
    gateway = GatewayProcess.__new__(GatewayProcess)
    with pytest.raises(NotAtRest, match=r": 2 connections, 1 open facts$"):
        census.wait_for_rest(gateway)
    found |= {"aigw_connections": 0.0, "aigw_facts_outstanding": 0.0}
    census.wait_for_rest(gateway)


def test_memory_counts_from_a_tenth_of_the_exchanges() -> None:
    rows = [Row(5, 0, 40.0, 9), Row(5, 10, 60.0, 9), Row(10, 10, 50.0, 9), Row(100, 10, 55.0, 9), Row(100, 20, 58.0, 9)]
    assert memory(rows) == (60.0, 58.0)
    assert memory([*rows, Row(100, 30, 99.0, 9)]) == (60.0, 99.0)


def test_trio_says_what_is_read_of_it() -> None:
    """A private part of trio, whose change must not look like a leak."""

    async def run() -> tuple[int, int]:
        return watched._trio()[0], trio.lowlevel.current_statistics().tasks_living

    counted, told = trio.run(run)
    assert counted == told
