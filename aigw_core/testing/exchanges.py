"""Scenarios: exchanges that go well, in every split of their bytes, and requests that are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from aigw_core.testing.commands import (
    AwaitLedger,
    CallerConnect,
    CallerEnd,
    CallerSend,
    Ended,
    ProviderAccept,
    ProviderEnd,
    ProviderSend,
    Script,
)
from aigw_core.testing.ledger import Ledger
from aigw_core.testing.scenario import (
    CHAT,
    COMPLETION,
    LAST_EVENTS,
    OTHER_KEY,
    POOL_KEY,
    STREAM_HEAD,
    STREAMED,
    Feature,
    Scenario,
    chunk,
    event,
    request,
    response,
)
from aigw_core.testing.talk import caller, provider

Split = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def linewise(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def oddly(data: bytes) -> list[bytes]:
    """Pieces of 7 bytes: no boundary of the protocol falls on theirs for long."""
    return [data[i : i + 7] for i in range(0, len(data), 7)]


SPLITS: Final[tuple[Split, ...]] = (whole, bytewise, linewise, oddly)


def has_fact(ledger: Ledger, outcome: str, usage_status: str | None = None) -> None:
    """The last fact says so, and there is one for each record that was not voided or refused."""
    assert ledger.owed == []
    assert ledger.facts, "there is no fact"
    fact = ledger.facts[-1]
    found = (fact.outcome.value, fact.usage_status if usage_status is not None else None)
    assert found == (outcome, usage_status), f"the fact says {found}"


def json_exchange(ledger: Ledger, *, asked: Split = whole, answered: Split = whole) -> Script:
    """A request whose body is collected, and an answer with its length."""
    yield CallerConnect()
    for piece in asked(request()):
        yield CallerSend(piece)
    yield ProviderAccept()
    head, body = yield from provider().request()
    assert b"\r\nauthorization: bearer " + POOL_KEY + b"\r\n" in head.lower()
    assert body == CHAT
    for piece in answered(response()):
        yield ProviderSend(0, piece)
    answer = yield from caller().answer()
    assert (answer.status, answer.body, answer.complete) == (200, COMPLETION, True)
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")
    assert ledger.facts[0].tokens == {"input": 9, "output": 3}


def streamed(ledger: Ledger, *, answered: Split = whole) -> Script:
    """Each event has reached the caller before the next one is sent."""
    yield CallerConnect()
    yield CallerSend(request(STREAMED))
    yield ProviderAccept()
    yield from provider().request()
    down = caller()
    for piece in answered(STREAM_HEAD):
        yield ProviderSend(0, piece)
    head = yield from down.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    for number in range(3):
        for piece in answered(chunk(event(number))):
            yield ProviderSend(0, piece)
        relayed = b""
        while len(relayed) < len(event(number)):
            relayed += (yield from down.chunk()) or b""
        assert relayed == event(number)
    for piece in answered(chunk(LAST_EVENTS) + chunk(b"")):
        yield ProviderSend(0, piece)
    rest = b""
    while data := (yield from down.chunk()):
        rest += data
    assert (rest, data) == (LAST_EVENTS, b"")
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def chunked_upload(ledger: Ledger, *, asked: Split = whole) -> Script:
    """A request body of unknown length, on a wire without a rule for bodies."""
    yield CallerConnect()
    body = chunk(CHAT[:20]) + chunk(CHAT[20:]) + chunk(b"")
    for piece in asked(request(b"", target=b"/mistral/v1/chat/completions", chunked=True) + body):
        yield CallerSend(piece)
    yield ProviderAccept()
    _, got = yield from provider().request()
    assert got == CHAT
    yield ProviderSend(0, response())
    answer = yield from caller().answer()
    assert (answer.status, answer.body) == (200, COMPLETION)
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def no_body(ledger: Ledger) -> Script:
    """An answer to HEAD has the length of a body that does not come."""
    yield CallerConnect()
    yield CallerSend(request(b"", target=b"/openai/v1/models", method=b"HEAD"))
    yield ProviderAccept()
    yield from provider().until(b"\r\n\r\n")
    yield ProviderSend(0, response(b"", length=5))
    answer = yield from caller().answer(head_only=True)
    assert answer.values(b"content-length") == [b"5"]
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "none")


def own_key(ledger: Ledger) -> Script:
    """A caller with the provider's own key leaves no fact."""
    yield CallerConnect()
    yield CallerSend(request(key=b"key-of-the-caller"))
    yield ProviderAccept()
    head, _ = yield from provider().request()
    assert b"\r\nauthorization: bearer key-of-the-caller\r\n" in head.lower()
    yield ProviderSend(0, response())
    answer = yield from caller().answer()
    assert answer.body == COMPLETION
    assert ledger.opened == []


def expect_continue(ledger: Ledger) -> Script:
    """The caller waits for 100 before it sends its body."""
    yield CallerConnect()
    yield CallerSend(request(b"", b"Expect: 100-continue", length=len(CHAT)))
    down = caller()
    interim = yield from down.answer()
    assert interim.status == 100
    yield CallerSend(CHAT)
    yield ProviderAccept()
    _, body = yield from provider().request()
    assert body == CHAT
    yield ProviderSend(0, response())
    answer = yield from down.answer()
    assert answer.status == 200
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def keep_alive(ledger: Ledger) -> Script:
    """Three exchanges on one connection of the caller, and one of the provider."""
    yield CallerConnect()
    yield CallerSend(request())
    yield ProviderAccept()
    up, down = provider(), caller()
    for number in range(1, 4):
        if number > 1:
            yield CallerSend(request())
        yield from up.request()
        yield ProviderSend(0, response())
        answer = yield from down.answer()
        assert answer.body == COMPLETION
        yield AwaitLedger(number, number)
    has_fact(ledger, "complete", "final")


def stale_connection(ledger: Ledger) -> Script:
    """An idle connection that the provider has closed is not used again."""
    yield CallerConnect()
    down = caller()
    for number in range(2):
        yield CallerSend(request())
        yield ProviderAccept()
        yield from provider(number).request()
        yield ProviderSend(number, response())
        answer = yield from down.answer()
        assert answer.body == COMPLETION
        yield AwaitLedger(number + 1, number + 1)
        yield ProviderEnd(number)
        yield from provider(number).end()
    has_fact(ledger, "complete", "final")


def pipelined(ledger: Ledger) -> Script:
    """Requests that come at once are answered one after the other."""
    yield CallerConnect()
    yield CallerSend(request() * 3)
    yield ProviderAccept()
    up, down = provider(), caller()
    for _ in range(3):
        yield from up.request()
        yield ProviderSend(0, response())
        answer = yield from down.answer()
        assert answer.body == COMPLETION
    yield AwaitLedger(3, 3)
    has_fact(ledger, "complete", "final")


def refused_and_kept(ledger: Ledger) -> Script:
    """A refusal keeps the connection; the next request on it is served."""
    yield CallerConnect()
    yield CallerSend(request(key=OTHER_KEY))
    down = caller()
    refusal = yield from down.answer()
    assert (refusal.status, refusal.complete) == (401, True)
    yield CallerSend(request())
    yield ProviderAccept()
    yield from provider().request()
    yield ProviderSend(0, response())
    answer = yield from down.answer()
    assert answer.status == 200
    yield AwaitLedger(1, 1)
    has_fact(ledger, "complete", "final")


def malformed(ledger: Ledger) -> Script:
    """What is not HTTP gets an answer, then the connection ends in order although the caller stays."""
    yield CallerConnect()
    yield CallerSend(b"GET / HTTP/1.1\r\nHost : gateway\r\n\r\n")
    down = caller()
    answer = yield from down.answer()
    assert (answer.status, answer.values(b"connection"), answer.complete) == (400, [b"close"], True)
    rest = yield from down.end()
    assert rest == (b"", Ended(True))
    yield CallerEnd()
    assert ledger.opened == []


def too_large(ledger: Ledger) -> Script:
    """A caller who goes on sending a body that was refused gets to read why."""
    yield CallerConnect()
    yield CallerSend(request(b"", length=3_000_000))
    yield CallerSend(bytes(500_000))
    down = caller()
    answer = yield from down.answer()
    assert (answer.status, answer.complete) == (413, True)
    rest = yield from down.end()
    assert rest == (b"", Ended(True))
    assert ledger.opened == []


def no_room(ledger: Ledger) -> Script:
    """A sink that refuses the record: nobody is served."""
    yield CallerConnect()
    yield CallerSend(request())
    answer = yield from caller().answer()
    assert answer.status == 503
    yield AwaitLedger(1, 1)
    assert (len(ledger.refused), ledger.facts, ledger.voids) == (1, [], [])


_B: Final = frozenset({Feature.BYTES})

SCENARIOS: Final = (
    *(Scenario(f"json, request {s.__name__}", partial(json_exchange, asked=s)) for s in SPLITS),
    *(Scenario(f"json, response {s.__name__}", partial(json_exchange, answered=s)) for s in SPLITS[1:]),
    *(Scenario(f"stream, response {s.__name__}", partial(streamed, answered=s)) for s in SPLITS),
    *(Scenario(f"chunked upload {s.__name__}", partial(chunked_upload, asked=s)) for s in SPLITS),
    Scenario("no body", no_body),
    Scenario("own key", own_key),
    Scenario("expect continue", expect_continue),
    Scenario("keep-alive", keep_alive, frozenset({Feature.POOL})),
    Scenario("stale connection", stale_connection, frozenset({Feature.POOL})),
    Scenario("pipelined", pipelined, frozenset({Feature.POOL, Feature.BYTES})),
    Scenario("refused and kept", refused_and_kept),
    Scenario("malformed", malformed, _B),
    Scenario("too large", too_large, _B, policy={"max_request_bytes": 1_000_000}),
    Scenario("no room", no_room, answering="refuse"),
)
