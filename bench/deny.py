"""The deny feed: from a write to its refusal, and the seeding of a large bucket.

Starts a nats-server and a gateway of its own on loopback. Needs the dev extra.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import nats

from aigw_anyio.deny.control import DenyControl
from aigw_anyio.deny.nats import NatsDenySource
from aigw_anyio.deny.snapshotfile import read_snapshot, write_snapshot
from aigw_anyio.nats.hosting import LoopHost
from aigw_anyio.nats.options import parse_nats_url
from aigw_core.secrets import Secret
from tests.e2e import keys
from tests.e2e.gateway import Gateway
from tests.nats.bucket import Bucket
from tests.nats.feedrun import make_gateway
from tests.nats.server import NatsServer

WAIT_SECS: Final = 600.0
"""For a million entries on a slow machine."""
LOAD_CALLERS: Final = 2
"""Threads that send requests without a pause while latency is measured."""


class Caller:
    """Asks the gateway about one tenant, over one connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=30)

    def status(self, key: str) -> int:
        self._connection.request("GET", "/openai/v1/models", headers={"authorization": f"Bearer {key}"})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status


def latency(folder: Path, entries: int) -> dict[str, float]:
    """Milliseconds from before the put to the first refused request, and the same for the removal."""
    server = NatsServer(folder / "nats").start()
    stop = threading.Event()
    load: list[threading.Thread] = []
    with Bucket(server.url) as bucket:
        bucket.create()
        environ = {"AI_SIGNING_KEYS": keys.SIGNING_KEYS, "AI_NATS_URL": server.url, "AI_RATE_LIMIT_RPS": "0"}
        gateway = Gateway("asyncio", {**environ, "AI_UNVERIFIED_RATE_LIMIT_RPS": "0", "AI_LOG_LEVEL": "error"})
        try:
            until(lambda: '"live"' in gateway.admin("/readyz")[1])
            load = [threading.Thread(target=_press, args=(gateway.address, stop)) for _ in range(LOAD_CALLERS)]
            for thread in load:
                thread.start()
            caller = Caller(gateway.address)
            found: dict[str, list[float]] = {"put": [], "delete": []}
            for number in range(entries):
                key = keys.virtual_key(100_000 + number, 1)
                caller.status(key)
                for name, write, refused in (("put", bucket.put, True), ("delete", bucket.delete, False)):
                    began = time.perf_counter()
                    write(f"blackhole.{100_000 + number}", *(("spend",) if refused else ()))
                    while (caller.status(key) == 402) is not refused:
                        pass
                    found[name].append((time.perf_counter() - began) * 1000)
        finally:
            stop.set()
            for thread in load:
                thread.join()
            gateway.send_signal(signal.SIGTERM)
            gateway.wait()
    server.stop()
    return {f"{name}_{label}_ms": value for name, row in found.items() for label, value in quantiles(row).items()}


def quantiles(row: list[float]) -> dict[str, float]:
    ordered = sorted(row)
    at = {"p99": 0.99, "p99_9": 0.999}
    found = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in at.items()}
    return {
        "median": round(statistics.median(row), 3),
        **{k: round(v, 3) for k, v in found.items()},
        "max": round(ordered[-1], 3),
    }


def _press(address: tuple[str, int], stop: threading.Event) -> None:
    caller, key = Caller(address), keys.virtual_key(7, 7)
    while not stop.is_set():
        caller.status(key)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)


def seeding(folder: Path, entries: int) -> dict[str, float]:
    """Seconds to seed and to read all again, resident memory in MB, and the snapshot."""
    server = NatsServer(folder / "nats").start()
    try:
        with Bucket(server.url) as bucket:
            bucket.create()
            asyncio.run(_fill(server.url, entries))
            until(lambda: int(bucket.info()["state"]["messages"]) == entries)
        return asyncio.run(_seed(server.url, folder / "snapshot"))
    finally:
        server.stop()


async def _fill(url: str, entries: int) -> None:
    client = await nats.connect(url)
    for number in range(entries):
        await client.publish(f"$KV.ai-gateway.blackhole.{number + 10**9}", b"spend")
        if number % 2_000 == 0:
            await client.flush(60)
    await client.flush(60)
    await client.close()


async def _seed(url: str, path: Path) -> dict[str, float]:
    gateway = make_gateway()
    source = NatsDenySource(parse_nats_url(Secret(url)), "ai-gateway", LoopHost())
    control = DenyControl(gateway, source.name)
    before = resident_mb()
    began = time.perf_counter()
    task = asyncio.create_task(source.run(control))
    # The longest turn of the loop is what running exchanges feel.
    longest = await _wait_live(control, 0)
    found = {
        "seed_secs": time.perf_counter() - began,
        "longest_turn_ms": longest * 1000,
        "set_mb": resident_mb() - before,
    }
    began = time.perf_counter()
    source.doubt("measured")
    longest = await _wait_live(control, 1)
    found |= {
        "rescan_secs": time.perf_counter() - began,
        "rescan_longest_turn_ms": longest * 1000,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
    }
    began = time.perf_counter()
    captured = control.capture(time.time(), time.monotonic()).captured()
    found["snapshot_copy_ms"] = (time.perf_counter() - began) * 1000
    began = time.perf_counter()
    write_snapshot(path, captured)
    found |= {"snapshot_write_secs": time.perf_counter() - began, "snapshot_mb": path.stat().st_size / 2**20}
    began = time.perf_counter()
    assert read_snapshot(path, source.name) is not None
    found["snapshot_read_secs"] = time.perf_counter() - began
    task.cancel()
    await asyncio.wait({task})
    return {"entries": gateway.deny.size, **{name: round(value, 3) for name, value in found.items()}}


async def _wait_live(control: DenyControl, rescans: int) -> float:
    longest, last = 0.0, time.perf_counter()
    while control.gateway.deny_state != "live" or control.read_stats().rescans < rescans:
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.deny", description="The deny feed, against a nats-server of its own.")
    parser.add_argument("--latency", type=int, default=1_000, metavar="N", help="entries, one after the other; 0: none")
    parser.add_argument("--seed", type=int, default=1_000_000, metavar="N", help="entries of the bucket; 0: none")
    arguments = parser.parse_args()
    for name, measure, size in (("latency", latency, arguments.latency), ("seed", seeding, arguments.seed)):
        if size:
            with tempfile.TemporaryDirectory() as folder:
                sys.stdout.write(f"{json.dumps({name: measure(Path(folder), size)})}\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
