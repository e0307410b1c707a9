"""Scenarios: every order in which the two ends leave, and what does not move."""

from __future__ import annotations

from functools import partial
from typing import Final

from aigw_core.testing.commands import (
    AwaitLedger,
    CallerConnect,
    CallerEnd,
    CallerReset,
    CallerSend,
    Command,
    Ended,
    ProviderAccept,
    ProviderEnd,
    ProviderReset,
    ProviderSend,
    Script,
    Settle,
)
from aigw_core.testing.exchanges import has_fact
from aigw_core.testing.ledger import Ledger
from aigw_core.testing.scenario import (
    COMPLETION,
    STREAM_HEAD,
    STREAMED,
    Feature,
    Scenario,
    chunk,
    event,
    request,
    response,
)
from aigw_core.testing.talk import Side, caller, provider


def begin_stream(down: Side) -> Script:
    """Up to the first event, which has reached the caller."""
    yield CallerConnect()
    yield CallerSend(request(STREAMED))
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, STREAM_HEAD + chunk(event(0)))
    yield from down.until(b"\r\n\r\n")
    first = yield from down.chunk()
    assert first == event(0)


def caller_leaves_waiting(ledger: Ledger, *, how: Command) -> Script:
    """Before the answer: the provider stops working for nobody."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    up = provider()
    yield from up.request()
    yield how
    yield from up.end()
    yield AwaitLedger(1, 1)
    has_fact(ledger, "client_abort", "absent")


def caller_leaves_streaming(ledger: Ledger, *, how: Command) -> Script:
    """In the middle of the answer."""
    yield from begin_stream(caller())
    yield how
    yield from provider().end()
    yield AwaitLedger(1, 1)
    has_fact(ledger, "client_abort", "absent")


def caller_leaves_idle(ledger: Ledger) -> Script:
    """After the answer: nothing is owed, and the connection ends in order."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response())
    down = caller()
    yield from down.answer()
    yield CallerEnd()
    rest = yield from down.end()
    assert rest == (b"", Ended(True))
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def provider_leaves_waiting(ledger: Ledger, *, how: Command) -> Script:
    """Before its answer: a POST is not tried again."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield how
    answer = yield from caller().answer()
    assert (answer.status, answer.complete) == (502, True)
    yield AwaitLedger(1, 1)
    has_fact(ledger, "upstream_abort", "absent")


def provider_leaves_streaming(ledger: Ledger, *, how: Command) -> Script:
    """In the middle of its answer: the caller must not take it for a whole one."""
    down = caller()
    yield from begin_stream(down)
    yield how
    piece = yield from down.chunk()
    assert piece is None, "the stream looks complete"
    yield AwaitLedger(1, 1)
    has_fact(ledger, "upstream_abort", "absent")


def cut_length(ledger: Ledger) -> Script:
    """An answer shorter than its length says."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response(COMPLETION[:40], length=len(COMPLETION)))
    yield ProviderEnd(0)
    answer = yield from caller().answer()
    assert not answer.complete
    yield AwaitLedger(1, 1)
    has_fact(ledger, "upstream_abort", "absent")


def cut_shows_as_reset(ledger: Ledger) -> Script:
    """An answer that only the connection ends must not end in order when it was cut."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + COMPLETION[:40])
    down = caller()
    yield from down.until(b"\r\n\r\n")
    yield ProviderReset(0)
    _, how = yield from down.end()
    assert how == Ended(False)
    yield AwaitLedger(1, 1)
    has_fact(ledger, "upstream_abort", "absent")


def until_close(ledger: Ledger) -> Script:
    """An answer whose end is the end of its connection."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + COMPLETION)
    yield ProviderEnd(0)
    answer = yield from caller().answer()
    assert (answer.body, answer.complete) == (COMPLETION, True)
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def provider_closes_behind(ledger: Ledger) -> Script:
    """Answer and end at once: the answer counts, the next exchange gets a connection of its own."""
    yield CallerConnect()
    down = caller()
    for number in range(2):
        yield CallerSend(request())
        yield ProviderAccept()
        yield from provider(number).request()
        yield ProviderSend(number, response(COMPLETION, b"Connection: close"))
        yield ProviderEnd(number)
        answer = yield from down.answer()
        assert (answer.status, answer.body) == (200, COMPLETION)
        yield AwaitLedger(number + 1, number + 1)
    has_fact(ledger, "complete", "final")


def garbage(ledger: Ledger) -> Script:
    """A provider that does not speak HTTP."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, b"220 mail.test ESMTP\r\n\r\n")
    answer = yield from caller().answer()
    assert answer.status == 502
    yield AwaitLedger(1, 1)
    has_fact(ledger, "upstream_abort", "absent")


def refuses_connections(ledger: Ledger) -> Script:
    """Nobody listens at the provider's address."""
    yield CallerConnect()
    yield CallerSend(request())
    answer = yield from caller().answer()
    assert answer.status == 502
    yield AwaitLedger(1, 1)
    has_fact(ledger, "upstream_error", "none")


MUCH: Final = 12_000_000
"""More than kernels, queues and read-ahead hold together."""


def caller_does_not_read(ledger: Ledger) -> Script:
    """The provider is held back; later everything arrives, in order."""
    body = b'{"data":"' + b"0123456789" * (MUCH // 10) + b'"}'
    yield CallerConnect()
    yield CallerSend(request(target=b"/openai/v1/embeddings"))
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response(body))
    yield Settle()
    assert ledger.owed, "all of it was taken although the caller did not read"
    answer = yield from caller().answer()
    assert answer.complete
    assert answer.body == body
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "absent")


def provider_does_not_read(ledger: Ledger) -> Script:
    """The caller is held back; later everything arrives, in order."""
    body = b'{"input":"' + b"0123456789" * (MUCH // 10) + b'"}'
    yield CallerConnect()
    yield CallerSend(request(body, target=b"/mistral/v1/embeddings"))
    yield ProviderAccept()
    yield Settle()
    _, got = yield from provider().request()
    assert got == body
    yield ProviderSend(0, response(b'{"usage":{"prompt_tokens":4,"total_tokens":4}}'))
    answer = yield from caller().answer()
    assert answer.status == 200
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def caller_leaves_blocked(ledger: Ledger) -> Script:
    """A caller who did not read, and then is gone."""
    body = b'{"data":"' + b"0123456789" * (MUCH // 10) + b'"}'
    yield CallerConnect()
    yield CallerSend(request(target=b"/openai/v1/embeddings"))
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response(body))
    yield Settle()
    yield CallerReset()
    yield from provider().end()
    yield AwaitLedger(1, 1)
    has_fact(ledger, "client_abort", "absent")


_LEAVING: Final = frozenset({Feature.LEAVING})
_FLOW: Final = frozenset({Feature.FLOW})

SCENARIOS: Final = (
    Scenario("caller ends, waiting", partial(caller_leaves_waiting, how=CallerEnd()), _LEAVING | {Feature.BYTES}),
    Scenario("caller resets, waiting", partial(caller_leaves_waiting, how=CallerReset()), _LEAVING),
    Scenario("caller ends, streaming", partial(caller_leaves_streaming, how=CallerEnd()), _LEAVING | {Feature.BYTES}),
    Scenario("caller resets, streaming", partial(caller_leaves_streaming, how=CallerReset()), _LEAVING),
    Scenario("caller ends, idle", caller_leaves_idle),
    Scenario("provider ends, waiting", partial(provider_leaves_waiting, how=ProviderEnd(0))),
    Scenario("provider resets, waiting", partial(provider_leaves_waiting, how=ProviderReset(0))),
    Scenario("provider ends, streaming", partial(provider_leaves_streaming, how=ProviderEnd(0))),
    Scenario("provider resets, streaming", partial(provider_leaves_streaming, how=ProviderReset(0))),
    Scenario("provider ends before the length", cut_length),
    Scenario("cut shows as reset", cut_shows_as_reset, frozenset({Feature.RESET, Feature.BYTES})),
    Scenario("until close", until_close),
    Scenario("provider closes behind its answer", provider_closes_behind),
    Scenario("provider sends garbage", garbage),
    Scenario("provider refuses connections", refuses_connections, provider="refusing"),
    Scenario("caller does not read", caller_does_not_read, _FLOW),
    Scenario("provider does not read", provider_does_not_read, _FLOW),
    Scenario("caller resets, blocked", caller_leaves_blocked, _FLOW | _LEAVING),
)
