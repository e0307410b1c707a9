"""Runs a frontend that counts what it holds at SIGUSR1: ``python -m bench.watched FILE MODULE ARGUMENT...``.

For the soak: tasks, timers and objects cannot be seen from outside, and are no business of ``/metrics``. The handler
runs between two instructions of the event loop's thread, and the product has no part in it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import runpy
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any


def census() -> dict[str, object]:
    """What is alive in this process; called in the thread of the event loop, while it runs."""
    reachable_or_not = _kinds().total()
    gc.collect()
    kinds = _kinds()
    tasks, timers = _trio() if "trio" in sys.modules and _trio_runner() is not None else _asyncio()
    return {
        "tasks": tasks,
        "timers": timers,
        "threads": threading.active_count(),
        # Of the gateway's own classes, made since the start: the server freezes what was there before.
        "objects": kinds.total(),
        "kinds": dict(kinds),
        # No leak, since the collector finds them; but it looks rarely, and memory grows until then.
        "in_cycles": reachable_or_not - kinds.total(),
    }


def _kinds() -> Counter[str]:
    """Objects of the gateway's own classes."""
    kinds = (type(thing) for thing in gc.get_objects())
    # Some classes have no text there.
    ours = (kind for kind in kinds if str(kind.__module__).startswith("aigw_"))
    return Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in ours)


def _asyncio() -> tuple[int, int]:
    loop: Any = asyncio.get_running_loop()
    return len(asyncio.all_tasks(loop)), sum(not handle.cancelled() for handle in loop._scheduled)


def _trio() -> tuple[int, int]:
    runner = _trio_runner()
    return len(runner.tasks), runner.deadlines._active


def _trio_runner() -> Any:
    from trio._core import _run

    run: Any = _run
    return getattr(run.GLOBAL_RUN_CONTEXT, "runner", None)


def main() -> None:
    """Does not return before the frontend does."""
    file, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]

    def answer(*_: object) -> None:
        # Renamed, so that whoever waits for the file finds all of it.
        written = file.with_suffix(".new")
        written.write_text(json.dumps(census()))
        os.replace(written, file)

    signal.signal(signal.SIGUSR1, answer)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
