"""Playing a scenario on a rig, blocking or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aigw_core.testing import control, endings, exchanges
from aigw_core.testing.commands import Command
from aigw_core.testing.ledger import Ledger
from aigw_core.testing.scenario import Feature, Scenario

SCENARIOS: Final = (*exchanges.SCENARIOS, *endings.SCENARIOS, *control.SCENARIOS)


def scenarios(features: frozenset[Feature]) -> list[Scenario]:
    """Those for a driver with these features."""
    return [scenario for scenario in SCENARIOS if scenario.needs <= features]


def play(scenario: Scenario, ledger: Ledger, do: Callable[[Command], Any]) -> None:
    """Raises AssertionError where the driver does not do what the scenario says."""
    script = scenario.script(ledger)
    answer: Any = None
    while True:
        try:
            command = script.send(answer)
        except StopIteration:
            return
        answer = do(command)


async def play_async(scenario: Scenario, ledger: Ledger, do: Callable[[Command], Awaitable[Any]]) -> None:
    """The same for a rig that waits."""
    script = scenario.script(ledger)
    answer: Any = None
    while True:
        try:
            command = script.send(answer)
        except StopIteration:
            return
        answer = await do(command)
