"""A real gateway with workers that take their time: each admission costs ``TEST_ADMISSION_SECS`` of the event loop.

So some tens of requests that arrive at once make a turn of the loop as long as a test needs it, on any machine.
Otherwise as :mod:`tests.e2e.quick_workers`.
"""

from __future__ import annotations

import dataclasses
import os
import time

from aigw_anyio.settings import Settings
from aigw_core.errors import Rejection
from aigw_core.keys import VirtualKey
from aigw_core.policy import Policy
from aigw_core.routing import Route
from tests.e2e import quick_workers

ADMISSION_SECS = float(os.environ.get("TEST_ADMISSION_SECS", "0"))


def take_time(caller: VirtualKey | None, route: Route) -> Rejection | None:  # what a hook is given
    time.sleep(ADMISSION_SECS)
    return None


def main() -> int:
    build = Settings.build_policy

    def build_slow(settings: Settings, generation: int = 0) -> Policy:
        return dataclasses.replace(build(settings, generation), on_admission=take_time)

    setattr(Settings, "build_policy", build_slow)  # noqa: B010  # a method, which cannot be assigned to
    return quick_workers.main()


if __name__ == "__main__":
    raise SystemExit(main())
