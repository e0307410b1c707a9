"""The kit on the data planes, over real sockets."""

from __future__ import annotations

import pytest

import aigw_anyio.streams
import aigw_asyncio.downstream
from aigw_anyio.dataplane import DataPlaneFactory
from aigw_anyio.streamplane import StreamDataPlane
from aigw_anyio.testing import PlaneTarget, SocketRig
from aigw_asyncio import AsyncioDataPlane
from aigw_core.testing import SCENARIOS, Scenario, play
from aigw_trio import TrioDataPlane

PLANES = [(AsyncioDataPlane, "asyncio"), (StreamDataPlane, "asyncio"), (TrioDataPlane, "trio")]


@pytest.mark.parametrize(("plane", "backend"), PLANES, ids=["protocols", "streams on asyncio", "streams on trio"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_data_planes_conform(
    scenario: Scenario, plane: DataPlaneFactory, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = PlaneTarget(plane, backend)
    rig = SocketRig(scenario, target)
    monkeypatch.setattr(aigw_anyio.streams, "Connection", rig.watch.connection_class)
    monkeypatch.setattr(aigw_asyncio.downstream, "Connection", rig.watch.connection_class)
    try:
        play(scenario, rig.ledger, rig.do)
    finally:
        rig.close()
