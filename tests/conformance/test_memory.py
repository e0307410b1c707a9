"""The kit on the driver without I/O."""

from __future__ import annotations

import pytest

from aigw_core.testing import SCENARIOS, MemoryRig, Scenario, play


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_reference_driver_conforms(scenario: Scenario) -> None:
    rig = MemoryRig(scenario)
    play(scenario, rig.ledger, rig.do)
    rig.close()
