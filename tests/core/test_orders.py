"""Every order of what can happen around an admission, run on the machine one after the other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest

from aigw_core.denyset import DenyReason
from aigw_core.effects import ConnectFailure
from aigw_core.facts import Outcome
from aigw_core.gateway import Gateway
from tests.core.driver import CHAT, COMPLETION, MemoryDriver, json_response, make_gateway, request

WHOLE = request(CHAT)
Step = Callable[[MemoryDriver], object]


def _refuse(driver: MemoryDriver) -> None:
    """As a sink would: only what is still owed can be refused."""
    record = driver.ledger.opened[-1]
    if record.id in driver.ledger.owed and record.id not in driver.ledger.answered:
        driver.ledger.answered.add(record.id)
        driver.ledger.refused.append(record.id)
        driver.run(driver.machine.fact_refused(record.id, driver.now))


def _answer_of_another_exchange(driver: MemoryDriver) -> None:
    driver.run(driver.machine.fact_opened("00" * 16, driver.now))


def _open(driver: MemoryDriver) -> None:
    if driver.ledger.opened[-1].id not in driver.ledger.refused:
        driver.fact_opened()


def _upstream_answers(driver: MemoryDriver) -> None:
    if driver.sent_upstream:
        driver.upstream(json_response(COMPLETION))


STEPS: dict[str, Step] = {
    "sink accepts": _open,
    "sink refuses": _refuse,
    "sink answers for another": _answer_of_another_exchange,
    "5 s pass": lambda driver: driver.advance(5.0),
    "connected": lambda driver: driver.connected(),
    "connect fails": lambda driver: driver.connect_failed(ConnectFailure.DNS),
    "rest of the body": lambda driver: driver.receive(WHOLE[-20:]),
    "next request": lambda driver: driver.receive(request(CHAT)),
    "caller lost": lambda driver: driver.lost(),
    "caller EOF": lambda driver: driver.receive(b""),
    "cut": lambda driver: driver.run(driver.machine.cut(DenyReason.FRAUD, driver.now)),
    "provider answers": _upstream_answers,
}
_BODY_FIRST = "rest of the body"


def _run(order: tuple[str, ...], gateway: Gateway) -> MemoryDriver:
    driver = MemoryDriver(gateway, connect="manual", sink="hold")
    driver.receive(WHOLE[:-20])
    for name in order:
        STEPS[name](driver)
    return driver


def _allowed(order: tuple[str, ...]) -> bool:
    """A further request can only follow the rest of the one before it."""
    return "next request" not in order or (
        _BODY_FIRST in order and order.index(_BODY_FIRST) < order.index("next request")
    )


@pytest.mark.parametrize("first", STEPS)
def test_every_order_keeps_the_ledger_and_the_gate(first: str) -> None:
    """The driver asserts at every effect: no byte upstream before its own open record, no second end."""
    gateway = make_gateway()
    others = [name for name in STEPS if name != first]
    for rest in permutations(others, 4):
        order = (first, *rest)
        if not _allowed(order):
            continue
        driver = _run(order, gateway)
        driver.run(driver.machine.abandon(driver.now))
        driver.ledger.check()
        assert driver.machine.done, order
    assert gateway.active == 0
    assert gateway.apply_deny(None) == []


def test_orders_reach_every_end() -> None:
    """The exploration above is worth something only if it gets everywhere."""
    gateway = make_gateway()
    outcomes = set()
    voids = refusals = 0
    for order in permutations(STEPS, 4):
        if _allowed(order):
            driver = _run(order, gateway)
            outcomes |= {fact.outcome for fact in driver.ledger.facts}
            voids += len(driver.ledger.voids)
            refusals += len(driver.ledger.refused)
    assert outcomes == {
        Outcome.COMPLETE,
        Outcome.CLIENT_ABORT,
        Outcome.GATEWAY_CUT,
        Outcome.UPSTREAM_ERROR,
    }
    assert voids > 100
    assert refusals > 100
