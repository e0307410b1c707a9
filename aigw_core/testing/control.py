"""Scenarios: timers, a sink that takes its time, drain, cut, and cancellation at every stage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from aigw_core.denyset import DenyReason
from aigw_core.testing.commands import (
    AnswerFact,
    AwaitLedger,
    CallerConnect,
    CallerSend,
    Cut,
    Drain,
    Ended,
    ProviderAccept,
    ProviderSend,
    Script,
    Settle,
    Stop,
)
from aigw_core.testing.endings import MUCH, begin_stream
from aigw_core.testing.exchanges import has_fact
from aigw_core.testing.ledger import Ledger
from aigw_core.testing.scenario import (
    CHAT,
    COMPLETION,
    LAST_EVENTS,
    Feature,
    Scenario,
    chunk,
    request,
    response,
)
from aigw_core.testing.talk import caller, provider

SHORT: Final = 0.3
"""Seconds of a timer that is waited for: long against a turn of an event loop."""


# Timers


def head_is_late(ledger: Ledger) -> Script:
    """Half a request head: an answer, and an orderly end."""
    yield CallerConnect()
    yield CallerSend(b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: gat")
    down = caller()
    answer = yield from down.answer()
    assert (answer.status, answer.values(b"connection")) == (408, [b"close"])
    rest = yield from down.end()
    assert rest == (b"", Ended(True))
    assert ledger.opened == []


def nothing_is_asked(ledger: Ledger) -> Script:
    """A connection without a request ends without a word."""
    yield CallerConnect()
    rest = yield from caller().end()
    assert rest == (b"", Ended(True))
    assert ledger.opened == []


def next_request_is_late(ledger: Ledger) -> Script:
    """A kept connection ends without a word."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response())
    down = caller()
    yield from down.answer()
    rest = yield from down.end()
    assert rest == (b"", Ended(True))
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def body_is_late(ledger: Ledger) -> Script:
    """Half a request body."""
    yield CallerConnect()
    yield CallerSend(request(CHAT[:10], length=len(CHAT)))
    answer = yield from caller().answer()
    assert answer.status == 408
    yield AwaitLedger(1, 1)
    has_fact(ledger, "timeout", "none")


def answer_is_late(ledger: Ledger) -> Script:
    """A provider that does not answer."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    up = provider()
    yield from up.request()
    answer = yield from caller().answer()
    assert answer.status == 504
    yield from up.end()
    yield AwaitLedger(1, 1)
    has_fact(ledger, "timeout", "absent")


def stream_stalls(ledger: Ledger) -> Script:
    """A provider that falls silent in the middle."""
    down = caller()
    yield from begin_stream(down)
    piece = yield from down.chunk()
    assert piece is None, "the stream looks complete"
    yield from provider().end()
    yield AwaitLedger(1, 1)
    has_fact(ledger, "timeout", "absent")


def caller_reads_too_late(ledger: Ledger) -> Script:
    """A caller who does not read is cut; neither end is left waiting."""
    body = b'{"data":"' + b"0123456789" * (MUCH // 10) + b'"}'
    yield CallerConnect()
    yield CallerSend(request(target=b"/openai/v1/embeddings"))
    yield ProviderAccept()
    up = provider()
    yield from up.request()
    yield ProviderSend(0, response(body))
    yield AwaitLedger(1, 1)
    yield from up.end()
    answer = yield from caller().answer()
    assert not answer.complete
    has_fact(ledger, "timeout", "absent")


def connect_is_late(ledger: Ledger) -> Script:
    """A provider that cannot be reached."""
    yield CallerConnect()
    yield CallerSend(request())
    answer = yield from caller().answer()
    assert answer.status == 504
    yield AwaitLedger(1, 1)
    has_fact(ledger, "timeout", "none")


def sink_is_late(ledger: Ledger) -> Script:
    """A sink that never answers: no exchange, and the record is voided."""
    yield CallerConnect()
    yield CallerSend(request())
    answer = yield from caller().answer()
    assert answer.status == 503
    yield AwaitLedger(1, 1)
    assert (len(ledger.voids), ledger.facts) == (1, [])


# A sink that answers later


def sink_accepts(ledger: Ledger) -> Script:
    """Nothing goes upstream before the answer; then the exchange goes on."""
    yield CallerConnect()
    yield CallerSend(request())
    yield AwaitLedger(1, 0)
    yield AnswerFact(True)
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response())
    answer = yield from caller().answer()
    assert answer.body == COMPLETION
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def sink_declines(ledger: Ledger) -> Script:
    yield CallerConnect()
    yield CallerSend(request())
    yield AwaitLedger(1, 0)
    yield AnswerFact(False)
    answer = yield from caller().answer()
    assert answer.status == 503
    assert (len(ledger.refused), ledger.facts) == (1, [])


# Drain and cut


def drain_idle(ledger: Ledger) -> Script:
    """A connection that carries nothing is closed in order."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response())
    down = caller()
    yield from down.answer()
    yield AwaitLedger(1, 1)
    yield Drain()
    rest = yield from down.end()
    assert rest == (b"", Ended(True))
    has_fact(ledger, "complete", "final")


def drain_running(ledger: Ledger) -> Script:
    """What runs is finished, then the connection is closed in order."""
    down = caller()
    yield from begin_stream(down)
    yield Drain()
    yield ProviderSend(0, chunk(LAST_EVENTS) + chunk(b""))
    rest = b""
    while data := (yield from down.chunk()):
        rest += data
    assert (rest, data) == (LAST_EVENTS, b"")
    end = yield from down.end()
    assert end == (b"", Ended(True))
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def cut_streaming(ledger: Ledger, *, reason: DenyReason | None) -> Script:
    """An exchange that must end now looks cut to the caller, and ends at the provider."""
    down = caller()
    yield from begin_stream(down)
    yield Cut(reason)
    piece = yield from down.chunk()
    assert piece is None, "the stream looks complete"
    yield from provider().end()
    yield AwaitLedger(1, 1)
    has_fact(ledger, "gateway_cut", "absent")


# Cancellation. Each stage brings the exchange to a point and leaves it there.


def _nothing_sent() -> Script:
    yield CallerConnect()
    yield Settle()


def _half_a_body() -> Script:
    yield CallerConnect()
    yield CallerSend(request(CHAT[:10], length=len(CHAT)))
    yield AwaitLedger(1, 0)


def _asked() -> Script:
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()


def _streaming() -> Script:
    yield from begin_stream(caller())


def _blocked() -> Script:
    yield CallerConnect()
    yield CallerSend(request(target=b"/openai/v1/embeddings"))
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response(b'{"data":"' + b"0123456789" * (MUCH // 10) + b'"}'))
    yield Settle()


def _idle() -> Script:
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response())
    yield from caller().answer()
    yield AwaitLedger(1, 1)


def _opening() -> Script:
    yield CallerConnect()
    yield CallerSend(request())
    yield AwaitLedger(1, 0)


def stopped(ledger: Ledger, *, stage: Callable[[], Script], outcome: str | None) -> Script:
    """Whatever a cancelled driver leaves, the ledger is paid and both ends are let go."""
    yield from stage()
    provided = ledger.facts or any(stage is other for other in (_asked, _streaming, _blocked))
    yield Stop()
    yield from caller().end()
    if provided:
        yield from provider().end()
    ledger.check()
    if outcome is None:
        assert ledger.facts == []
    else:
        assert [fact.outcome.value for fact in ledger.facts] == [outcome]


_STAGES: Final = (
    (_nothing_sent, None, "accept"),
    (_half_a_body, "gateway_cut", "accept"),
    (_asked, "gateway_cut", "accept"),
    (_streaming, "gateway_cut", "accept"),
    (_blocked, "gateway_cut", "accept"),
    (_idle, "complete", "accept"),
    (_opening, None, "hold"),
)

_TIMERS: Final = frozenset({Feature.TIMERS})
_CONTROL: Final = frozenset({Feature.CONTROL})
_HOLD: Final = frozenset({Feature.HOLD})
_EDGES: Final = frozenset({Feature.FLOW, Feature.EDGES})

SCENARIOS: Final = (
    Scenario("head is late", head_is_late, _TIMERS, {"client_head": SHORT}),
    Scenario("nothing is asked", nothing_is_asked, _TIMERS, {"client_head": SHORT}),
    Scenario("next request is late", next_request_is_late, _TIMERS, {"keepalive": SHORT}),
    Scenario("body is late", body_is_late, _TIMERS, {"client_body": SHORT}),
    Scenario("answer is late", answer_is_late, frozenset(), {"read": SHORT}),
    Scenario("stream stalls", stream_stalls, frozenset(), {"stream_idle": SHORT}),
    Scenario(
        "caller reads too late", caller_reads_too_late, _TIMERS | {Feature.FLOW, Feature.EDGES}, {"client_write": SHORT}
    ),
    Scenario("connect is late", connect_is_late, frozenset(), {"connect": SHORT}, provider="silent"),
    Scenario("sink is late", sink_is_late, _HOLD, {"opening": SHORT}, answering="hold"),
    Scenario("sink accepts", sink_accepts, _HOLD, answering="hold"),
    Scenario("sink declines", sink_declines, _HOLD, answering="hold"),
    Scenario("drain, idle", drain_idle, _CONTROL),
    Scenario("drain, running", drain_running, _CONTROL),
    Scenario("cut for fraud", partial(cut_streaming, reason=DenyReason.FRAUD), _CONTROL),
    Scenario("cut at the end of the grace", partial(cut_streaming, reason=None), _CONTROL),
    *(
        Scenario(
            f"stopped, {stage.__name__[1:].replace('_', ' ')}",
            partial(stopped, stage=stage, outcome=outcome),
            frozenset({Feature.STOP}) | (_HOLD if answering == "hold" else frozenset()),
            answering="hold" if answering == "hold" else "accept",
        )
        for stage, outcome, answering in _STAGES
    ),
)
