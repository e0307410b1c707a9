"""A real gateway with workers whose supervisor has less patience: ``TEST_TIMING`` holds its times as JSON."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import anyio

from aigw_anyio import logs
from aigw_anyio.dataplane import DataPlaneFactory
from aigw_anyio.lifecycle import Options, run_gateway
from aigw_anyio.notify import Notifier
from aigw_anyio.settings import Settings, load_settings
from aigw_anyio.workers.serve import run_workers
from aigw_anyio.workers.slot import SlotTiming
from aigw_asyncio import AsyncioDataPlane
from aigw_trio import TrioDataPlane
from aigw_trio.clock import MonotonicClock


def main() -> int:
    backend = os.environ["TEST_BACKEND"]
    factories: dict[str, DataPlaneFactory] = {"asyncio": AsyncioDataPlane, "trio": TrioDataPlane}
    more: dict[str, Any] = {"clock": MonotonicClock()} if backend == "trio" else {}
    load = partial(load_settings, config=None, environ=os.environ)
    settings, _ = load()
    logs.configure(settings.log_format, settings.log_level)

    def run(own: Settings, options: Options) -> int:
        return anyio.run(partial(run_gateway, own, factories[backend], options), backend=backend, backend_options=more)

    notifier = Notifier.from_environ(os.environ)
    options = Options(backend, reload=load, owns_process=True, notifier=notifier)
    return run_workers(run, settings, options, load, SlotTiming(**json.loads(os.environ["TEST_TIMING"])))


if __name__ == "__main__":
    raise SystemExit(main())
