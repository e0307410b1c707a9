"""The examples that drive the machine pass the kit, as far as they claim."""

from __future__ import annotations

import pytest

import aigw_core
from aigw_anyio.testing import SocketRig
from aigw_core.testing import Scenario, play, scenarios
from tests.examples.targets import ASGI_FEATURES, THREADS_FEATURES, AsgiTarget, ThreadsTarget


@pytest.mark.parametrize("scenario", scenarios(THREADS_FEATURES), ids=lambda s: s.name)
def test_threads_gateway_conforms(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = SocketRig(scenario, ThreadsTarget())
    monkeypatch.setattr(aigw_core, "Connection", rig.watch.connection_class)
    try:
        play(scenario, rig.ledger, rig.do)
    finally:
        rig.close()
    assert rig.watch.machines


@pytest.mark.parametrize("scenario", scenarios(ASGI_FEATURES), ids=lambda s: s.name)
def test_asgi_app_conforms(scenario: Scenario) -> None:
    rig = SocketRig(scenario, AsgiTarget())
    try:
        play(scenario, rig.ledger, rig.do)
    finally:
        rig.close()
