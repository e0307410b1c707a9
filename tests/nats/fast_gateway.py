"""A real gateway process whose deny feed runs on faster clocks: seconds become tenths.

``TEST_RECONCILE_SECS`` sets the reconcile, empty for none. Everything else is configured as usual.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Final

import anyio

from aigw_anyio import logs
from aigw_anyio.deny.control import DenySource
from aigw_anyio.deny.nats import NatsDenySource
from aigw_anyio.deny.sources import MakeHost, nats_options
from aigw_anyio.lifecycle import Options, run_gateway
from aigw_anyio.nats.connection import Pace
from aigw_anyio.nats.hosting import LoopHost
from aigw_anyio.settings import Settings, load_settings
from aigw_asyncio import AsyncioDataPlane
from aigw_core.denystates import FeedTiming

HEARTBEAT_SECS: Final = 0.2
PACE: Final = Pace(connect=2.0, probe=0.4, close=0.5, backoff_first=0.05, backoff_longest=0.5, settled=2.0)


def timing(reconcile: float | None) -> FeedTiming:
    return FeedTiming(
        poll=0.25,
        answer=0.6,
        silence=0.7,
        agree=1.0,
        again=0.03,
        absent=0.25,
        retry_first=0.05,
        retry_longest=0.4,
        settled=2.0,
        verify=0.2,
        reconcile=reconcile,
    )


def fast_source(settings: Settings, make_host: MakeHost | None) -> DenySource:
    wanted = os.environ["TEST_RECONCILE_SECS"]
    return NatsDenySource(
        nats_options(settings),
        settings.nats_bucket,
        LoopHost(),
        timing=timing(float(wanted) if wanted else None),
        pace=PACE,
        heartbeat_secs=HEARTBEAT_SECS,
    )


def main() -> int:
    settings, _ = load_settings(config=None, environ=os.environ)
    logs.configure(settings.log_format, settings.log_level)
    options = Options("asyncio", make_deny_source=fast_source)
    return anyio.run(partial(run_gateway, settings, AsyncioDataPlane, options), backend="asyncio")


if __name__ == "__main__":
    raise SystemExit(main())
