"""Many exchanges through one process with a spool: ``python -m bench.soak --exchanges 1000000``.

Prints resident memory and disk as they go, and at the end whether memory stayed where it was and whether the
spool has the size that its records add up to.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from aigw_anyio.sinks.spool.follow import Follower
from aigw_anyio.sinks.spool.layout import segments, spools
from aigw_anyio.sinks.spool.verify import verify
from aigw_core.spool import HEADER_SIZE, Kind, SegmentScan
from bench import work
from bench.load import ClosedLoop
from bench.servers import VIRTUAL_KEY, Cores, GatewayProcess, ProviderProcess

WINDOW_SECS: Final = 5.0
"""Between two lines of the table."""
WARM_SHARE: Final = 0.1
"""Of the exchanges: caches and the allocator have their size then, and growth counts from there."""
GROWTH_MAX_MB: Final = 10.0
"""On top of ten per cent."""


def resident_mb(pid: int) -> float:
    """Of one process, from /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


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


def soak(exchanges: int, connections: int, window: float) -> int:
    cores = Cores.choose(0, 1)
    rows: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="aigw-bench-") as name:
        provider = ProviderProcess(Path(name), cores.load, port=0)
        gateway = GatewayProcess(cores.gateway, provider.url, spool=True)
        try:
            target = gateway.target("aigw", VIRTUAL_KEY)
            request = target.request(work.chat_request())
            done = 0
            print("| exchanges | seconds | RSS MB | spool MB |\n|---:|---:|---:|---:|")
            begin = time.monotonic()
            while done < exchanges:
                result = ClosedLoop(target, request, connections=connections).run(window)
                if result.errors:
                    raise RuntimeError(f"{result.errors} requests failed")
                done += result.sent
                rows.append((done, resident_mb(gateway.pid)))
                used = spool_mb(gateway.spool)
                print(f"| {done} | {time.monotonic() - begin:.0f} | {rows[-1][1]:.1f} | {used:.1f} |", flush=True)
            gateway.end()
            return _judge(gateway.spool, rows)
        finally:
            gateway.stop()
            provider.stop()


def _judge(directory: Path, rows: list[tuple[int, float]]) -> int:
    total = rows[-1][0]
    warm = next(rss for done, rss in rows if done >= WARM_SHARE * total)
    highest = max(rss for done, rss in rows if done >= WARM_SHARE * total)
    is_flat = highest <= 1.1 * warm + GROWTH_MAX_MB
    computed, facts = computed_bytes(directory)
    actual = sum(segment.path.stat().st_size for spool in spools(directory) for segment in segments(spool))
    problems = verify(directory).problems
    print(f"\nRSS: {warm:.1f} MB after a tenth, {highest:.1f} MB at most since: {'flat' if is_flat else 'GROWS'}")
    print(f"spool: {actual} bytes, {computed} computed; {facts} facts of {total} exchanges, {len(problems)} problems")
    follower = Follower(spools(directory)[0])
    sizes = [len(record.payload) for record in follower.read() if record.kind == Kind.FACT]
    print(f"a fact has {sum(sizes) / max(1, len(sizes)):.0f} bytes, an exchange {actual / max(1, facts):.0f} on disk")
    print(json.dumps({"exchanges": total, "facts": facts, "rss_mb": [rss for _, rss in rows], "spool_bytes": actual}))
    return 0 if is_flat and actual == computed and facts >= total and not problems else 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--window", type=float, default=WINDOW_SECS, help="seconds between two lines")
    arguments = parser.parse_args(argv)
    try:
        return soak(arguments.exchanges, arguments.connections, arguments.window)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
