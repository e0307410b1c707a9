"""What a running gateway holds: by its metrics, by the kernel, and by its own count (``bench.watched``)."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from aigw_anyio.sinks.spool.housekeeping import SPARES_MAX
from bench import proc
from bench.servers import GatewayProcess

REST_SECS: Final = 60.0
"""For connections to close and idle ones to expire once the load is over, on a busy machine."""
POLL_SECS: Final = 0.1
ANSWER_SECS: Final = 30.0
"""For one scrape or one count."""
HELD: Final = {
    "connections": "aigw_connections",
    "exchanges": "aigw_exchanges",
    "pool entries": "aigw_upstream_idle_connections",
    "open facts": "aigw_facts_outstanding",
}
"""What is 0 in a gateway at rest, and the metric that says so."""
MAY_BE: Final = {"spool files": 2 + SPARES_MAX, "threads": 4}
"""What may change at rest, and up to where: a lock, a segment, and the spares that there happen to be; and threads
that event loops keep for their next call into one."""
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class NotAtRest(Exception):
    """Something is still held without any load."""


@dataclass(frozen=True, slots=True)
class Census:
    """Of a gateway at rest."""

    figures: Mapping[str, int]
    """``fds`` beside ``spool files``, ``tasks``, ``timers``, ``threads``, ``objects``."""
    kinds: Mapping[str, int]
    """The objects by their classes."""
    in_cycles: int = 0
    """Objects of ours that were dead, and waited for the collector."""


def metrics(gateway: GatewayProcess) -> dict[str, float]:
    """The sum over the labels, by name. Raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=ANSWER_SECS)
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def held(gateway: GatewayProcess) -> dict[str, int]:
    """By the names in HELD."""
    found = metrics(gateway)
    # A provider that was never connected to has no sample of its own.
    return {name: int(found.get(metric, 0.0)) for name, metric in HELD.items()}


def wait_for_rest(gateway: GatewayProcess) -> None:
    """Until nothing is held any more. Raises NotAtRest."""
    deadline = time.monotonic() + REST_SECS
    while any((left := held(gateway)).values()):
        if time.monotonic() > deadline:
            still = ", ".join(f"{count} {name}" for name, count in left.items() if count)
            raise NotAtRest(f"still there {REST_SECS:.0f} seconds after the load: {still}")
        time.sleep(POLL_SECS)


def take(gateway: GatewayProcess) -> Census:
    """Once. Raises NotAtRest where the process does not answer."""
    file = gateway.census_file
    file.unlink(missing_ok=True)
    os.kill(gateway.pid, signal.SIGUSR1)
    deadline = time.monotonic() + ANSWER_SECS
    while not file.exists():
        if time.monotonic() > deadline:
            raise NotAtRest("the gateway does not count itself")
        time.sleep(POLL_SECS / 10)
    counted = json.loads(file.read_text())
    kinds, in_cycles = counted.pop("kinds"), counted.pop("in_cycles")
    files = proc.open_files(gateway.pid)
    spool = sum(path.startswith(str(gateway.spool)) for path in files)
    return Census({"fds": len(files) - spool, "spool files": spool, **counted}, kinds, in_cycles)


def settle(gateway: GatewayProcess, expected: Census | None = None) -> Census:
    """A census at rest: the one that does not exceed the expected one, else the last one of REST_SECS.

    Without one that is expected, the second of two that are alike. Raises NotAtRest.
    """
    wait_for_rest(gateway)
    deadline = time.monotonic() + REST_SECS
    before: Census | None = None
    in_cycles = 0
    while True:
        now = take(gateway)
        # Each look leaves none behind.
        in_cycles += now.in_cycles
        if expected is not None:
            is_settled = not grown(expected, now)
        else:
            is_settled = before is not None and before.figures == now.figures
        if is_settled or time.monotonic() > deadline:
            return replace(now, in_cycles=in_cycles)
        before = now
        time.sleep(POLL_SECS)


def grown(before: Census, after: Census) -> list[str]:
    """What there is more of, in words; empty where nothing has leaked."""
    lines = [
        f"{name}: {before.figures[name]} before, {count} after"
        for name, count in after.figures.items()
        if count > max(before.figures[name], MAY_BE.get(name, 0))
    ]
    if any(line.startswith("objects") for line in lines):
        more = {kind: count - before.kinds.get(kind, 0) for kind, count in after.kinds.items()}
        lines += [f"  {kind}: {count} more" for kind, count in sorted(more.items()) if count > 0]
    return lines
