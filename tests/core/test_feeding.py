"""What feeders promise: order, one input at a time, an answered sink, a paid ledger, and what a lost socket means."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import pytest

from aigw_core.connection import Connection
from aigw_core.effects import (
    Close,
    CloseDownstream,
    Connect,
    Effect,
    ExchangeEffect,
    ReleaseUpstream,
    SendDownstream,
    SendRequestHead,
    SendResponseBody,
    SendUpstream,
)
from aigw_core.exchange import Exchange
from aigw_core.feeding import ConnectionFeeder, Feeder
from aigw_core.headers import Headers
from aigw_core.messages import Length, RequestHead, ResponseHead
from aigw_core.testing import Ledger
from tests.core.driver import CHAT, COMPLETION, VIRTUAL_KEY, json_response, make_gateway, make_policy, request

ANSWER: Final = json_response(COMPLETION)
STREAM_BEGIN: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"


class Held:
    """A lock that says whether it is held."""

    def __init__(self) -> None:
        self.held = False

    def __enter__(self) -> None:
        assert not self.held, "a lock is not taken twice"
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False


class Sink(Ledger):
    """A ledger that must be called under the lock."""

    def __init__(self, lock: Held, answering: Any = "accept") -> None:
        super().__init__(answering)
        self._lock = lock

    def open(self, record: Any) -> bool | None:
        assert self._lock.held
        return super().open(record)

    def emit(self, fact: Any) -> None:
        assert self._lock.held
        super().emit(fact)

    def void(self, fact_id: str) -> None:
        assert self._lock.held
        super().void(fact_id)


class Driver:
    """Connects at once, answers when it is asked, and raises what it is told to raise."""

    def __init__(self, answering: Any = "accept", **policy: object) -> None:
        self.now = 0.0
        self.lock = Held()
        self.sink = Sink(self.lock, answering)
        self.machine = Connection(make_gateway(make_policy(**policy)), 0.0)
        self.feeder = ConnectionFeeder(self.machine, self.sink, self.carry_out, clock=self.clock, lock=self.lock)
        self.seen: list[type[Effect]] = []
        self.down = b""
        self.attempt = 0
        self.depth = 0
        self.raises: dict[type[Effect], Exception] = {}

    def clock(self) -> float:
        assert self.lock.held, "the time is that at which the machine is called"
        self.now += 0.001
        return self.now

    def carry_out(self, effect: Effect) -> None:
        assert not self.lock.held
        assert self.depth == 0, "one effect after the other"
        self.depth += 1
        try:
            self.seen.append(type(effect))
            if type(effect) in self.raises:
                raise self.raises[type(effect)]
            if isinstance(effect, Connect):
                self.attempt = effect.attempt
                self.feeder.feed(self.machine.upstream_connected, effect.attempt, False)
            elif isinstance(effect, SendDownstream):
                self.down += effect.data
        finally:
            self.depth -= 1

    def ask(self) -> None:
        self.feeder.received(None, request(CHAT))


def test_an_exchange() -> None:
    driver = Driver()
    driver.ask()
    assert driver.seen == [Connect, SendUpstream]
    driver.feeder.received(driver.attempt, ANSWER)
    assert driver.seen == [Connect, SendUpstream, ReleaseUpstream, SendDownstream]
    assert driver.down.endswith(COMPLETION)
    (fact,) = driver.sink.facts
    assert (fact.outcome, fact.usage_status) == ("complete", "final")
    driver.feeder.received(None, b"")
    driver.feeder.feed(driver.machine.tick)
    assert driver.machine.done


def test_what_is_fed_meanwhile_waits_for_the_other_effects() -> None:
    driver = Driver()
    order: list[str] = []

    def first(now: float) -> list[Effect]:
        order.append("first")
        return [SendDownstream(b"1"), SendDownstream(b"2")]

    def second(value: str, now: float, *, named: str) -> list[Effect]:
        order.append(value + named)
        return []

    feeder: Feeder[Effect]

    def carry_out(effect: Effect) -> None:
        assert isinstance(effect, SendDownstream)
        order.append(effect.data.decode())
        if effect.data == b"1":
            feeder.feed(second, "sec", named="ond")
            order.append("fed")

    feeder = Feeder(driver.machine, driver.sink, carry_out, clock=lambda: 0.0)
    feeder.feed(first)
    assert order == ["first", "1", "fed", "2", "second"]


def test_inputs_that_return_nothing_are_fed() -> None:
    driver = Driver()
    exchange = Exchange(make_gateway())
    Feeder[ExchangeEffect](exchange, driver.sink, _never, clock=lambda: 0.0).feed(exchange.downstream_blocked)


def _never(effect: object) -> None:
    raise AssertionError(effect)


@pytest.mark.parametrize(("accepted", "status"), [(True, b"200"), (False, b"503")])
def test_a_sink_may_answer_later_from_another_thread(accepted: bool, status: bytes) -> None:
    driver = Driver("hold")
    driver.ask()
    assert driver.seen == [Connect]
    answer = driver.machine.fact_opened if accepted else driver.machine.fact_refused
    with driver.lock:
        fact_id = driver.sink.answer(accepted)
    thread = threading.Thread(target=driver.feeder.later, args=(answer, fact_id))
    thread.start()
    thread.join()
    assert driver.seen == [Connect], "later is not now"
    driver.feeder.feed(driver.machine.tick)
    if accepted:
        driver.feeder.received(driver.attempt, ANSWER)
    assert driver.down.split(b" ")[1] == status
    driver.sink.check()


def test_a_sink_that_refuses_is_answered_for() -> None:
    driver = Driver("refuse")
    driver.ask()
    assert driver.down.startswith(b"HTTP/1.1 503 ")
    assert len(driver.sink.refused) == 1


def test_later_comes_before_what_is_fed_next() -> None:
    driver = Driver()
    driver.ask()
    driver.feeder.later(driver.machine.abandon)
    driver.feeder.received(None, b"")
    (fact,) = driver.sink.facts
    assert fact.outcome == "gateway_cut"


@pytest.mark.parametrize(("answering", "outcomes", "voids"), [("accept", ["gateway_cut"], 0), ("hold", [], 1)])
def test_it_ends_with_a_paid_ledger(answering: str, outcomes: list[str], voids: int) -> None:
    driver = Driver(answering)
    with driver.feeder:
        driver.ask()
    assert ([fact.outcome for fact in driver.sink.facts], len(driver.sink.voids)) == (outcomes, voids)
    assert driver.machine.done
    assert driver.seen[-1] is ReleaseUpstream


def test_a_fault_of_the_driver_comes_out_and_the_ledger_is_paid() -> None:
    driver = Driver()
    driver.raises[SendUpstream] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError), driver.feeder:
        driver.ask()
    assert [fact.outcome for fact in driver.sink.facts] == ["gateway_cut"]


# What a lost socket means


def test_a_provider_that_cannot_be_reached() -> None:
    driver = Driver()
    driver.raises[Connect] = ConnectionRefusedError()
    driver.ask()
    assert driver.seen.count(Connect) == 3
    assert driver.down.startswith(b"HTTP/1.1 502 ")
    (fact,) = driver.sink.facts
    assert (fact.outcome, fact.usage_status) == ("upstream_error", "none")


def test_a_provider_that_is_not_reached_in_time_is_the_timers_business() -> None:
    driver = Driver()
    driver.raises[Connect] = TimeoutError()
    driver.ask()
    assert (driver.seen, driver.down) == ([Connect], b"")
    driver.now = 60.0
    driver.feeder.feed(driver.machine.tick)
    assert driver.down.startswith(b"HTTP/1.1 504 ")


def test_a_provider_that_is_gone_when_it_is_sent_to() -> None:
    driver = Driver()
    driver.raises[SendUpstream] = BrokenPipeError()
    driver.ask()
    assert driver.down.startswith(b"HTTP/1.1 502 ")
    assert [fact.outcome for fact in driver.sink.facts] == ["upstream_abort"]


def test_a_caller_who_is_gone_when_he_is_sent_to() -> None:
    driver = Driver()
    driver.ask()
    driver.raises[SendDownstream] = TimeoutError()
    driver.feeder.received(driver.attempt, STREAM_BEGIN)
    assert [fact.outcome for fact in driver.sink.facts] == ["client_abort"]
    assert driver.machine.done


def test_a_caller_who_is_gone_when_the_connection_is_closed() -> None:
    driver = Driver()
    driver.raises[CloseDownstream] = ConnectionResetError()
    driver.feeder.received(None, b"nonsense\r\n\r\n")
    assert driver.down.startswith(b"HTTP/1.1 400 ")
    assert driver.machine.done


def test_a_connection_that_is_gone_before_it_is_released() -> None:
    driver = Driver()
    driver.raises[ReleaseUpstream] = OSError()
    driver.ask()
    driver.feeder.received(driver.attempt, ANSWER)
    assert driver.down.endswith(COMPLETION)
    assert [fact.outcome for fact in driver.sink.facts] == ["complete"]


@pytest.mark.parametrize(
    ("last", "outcome", "end"),
    [
        (lambda d: d.feeder.received(d.attempt, None), "upstream_abort", CloseDownstream),
        (lambda d: d.feeder.received(d.attempt, b""), "upstream_abort", CloseDownstream),
        (lambda d: d.feeder.received(None, None), "client_abort", ReleaseUpstream),
        (lambda d: d.feeder.received(None, b""), "client_abort", CloseDownstream),
    ],
    ids=["provider lost", "provider ends", "caller lost", "caller ends"],
)
def test_what_reads_give(last: Callable[[Driver], None], outcome: str, end: type[Effect]) -> None:
    driver = Driver()
    driver.ask()
    driver.feeder.received(driver.attempt, STREAM_BEGIN)
    last(driver)
    assert [fact.outcome for fact in driver.sink.facts] == [outcome]
    assert driver.seen[-1] is end


def test_a_lost_connection_is_no_orderly_end() -> None:
    """An answer that only the end of its connection ends is cut by a loss, and complete at an EOF."""
    for data, outcome in ((b"", "complete"), (None, "upstream_abort")):
        driver = Driver()
        driver.ask()
        driver.feeder.received(driver.attempt, b"HTTP/1.1 200 OK\r\n\r\n" + COMPLETION)
        driver.feeder.received(driver.attempt, data)
        assert [fact.outcome for fact in driver.sink.facts] == [outcome]


# Exchanges


def test_it_feeds_an_exchange_too() -> None:
    sink, effects, now = Ledger(), list[ExchangeEffect](), 0.0
    exchange = Exchange(make_gateway())

    def carry_out(effect: ExchangeEffect) -> None:
        effects.append(effect)
        if isinstance(effect, Connect):
            feeder.feed(exchange.upstream_connected, effect.attempt, False)
        elif isinstance(effect, SendRequestHead):
            head = ResponseHead(200, b"OK", Headers.of([(b"Content-Type", b"application/json")]), Length(10))
            feeder.feed(exchange.response_head, effect.attempt, head)

    feeder: Feeder[ExchangeEffect] = Feeder(exchange, sink, carry_out, clock=lambda: now)
    fields = [(b"Host", b"gateway"), (b"Authorization", b"Bearer " + VIRTUAL_KEY)]
    head = RequestHead(b"POST", b"/openai/v1/embeddings", Headers.of(fields), Length(2))
    with feeder:
        feeder.feed(exchange.request_head, head)
        feeder.feed(exchange.request_body, b"{}")
        feeder.feed(exchange.request_end)
        feeder.feed(exchange.response_body, 1, b'{"usage":{')
        assert isinstance(effects[-1], SendResponseBody)
        feeder.feed(exchange.upstream_lost, 1, answered=True)
    assert [fact.outcome for fact in sink.facts] == ["upstream_abort"]
    sink.check()


def test_an_exchange_leaves_errors_to_its_driver() -> None:
    """What its driver does goes through more than sockets, so OSError has no one meaning."""
    exchange = Exchange(make_gateway())

    def carry_out(effect: object) -> None:
        raise BrokenPipeError

    feeder: Feeder[ExchangeEffect] = Feeder(exchange, Ledger(), carry_out, clock=lambda: 0.0)
    head = RequestHead(b"GET", b"/nobody/v1/models", Headers.of([(b"Host", b"gateway")]), Length(0))
    with pytest.raises(BrokenPipeError):
        feeder.feed(exchange.request_head, head)


def test_closing_effects_have_two_forms() -> None:
    """The table of a ConnectionFeeder is by kind: both ends of a caller's connection mean the same loss."""
    for how in Close:
        driver = Driver()
        driver.raises[CloseDownstream] = OSError()
        driver.feeder.feed(lambda now, how=how: [CloseDownstream(how)])
        assert driver.machine.done
