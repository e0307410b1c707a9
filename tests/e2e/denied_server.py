"""A real frontend process whose deny-set holds the tenants of ``keys.DENIED_TENANTS``.

Nothing is replaced: the data plane is the frontend's own, made with a gateway to which entries were applied.
"""

from __future__ import annotations

import importlib
import os

from aigw_anyio.cli import frontend_main
from aigw_anyio.dataplane import DataPlane
from aigw_anyio.settings import Settings
from aigw_anyio.sinks import FactSink
from aigw_core.gateway import Gateway
from tests.e2e.keys import DENIED_TENANTS


def main() -> int:
    backend = os.environ["TEST_BACKEND"]
    frontend = importlib.import_module(f"aigw_{backend}")
    (plane,) = [value for name, value in vars(frontend).items() if name.endswith("DataPlane")]

    def factory(gateway: Gateway, sink: FactSink, settings: Settings) -> DataPlane:
        for revision, (reason, tenant) in enumerate(DENIED_TENANTS.items(), 1):
            gateway.deny.put(f"blackhole.{tenant}", reason.encode(), revision)
        made: DataPlane = plane(gateway, sink, settings)
        return made

    return frontend_main(factory, backend, [])


if __name__ == "__main__":
    raise SystemExit(main())
