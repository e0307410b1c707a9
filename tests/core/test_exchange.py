"""An Exchange driven by parsed HTTP, as an embedder on ASGI or h11 would."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aigw_core.denyset import DenyReason
from aigw_core.effects import (
    Connect,
    ConnectFailure,
    CutResponse,
    EmitFact,
    ExchangeEffect,
    OpenFact,
    ReleaseUpstream,
    SendInformational,
    SendRequestBody,
    SendRequestEnd,
    SendRequestHead,
    SendResponseBody,
    SendResponseEnd,
    SendResponseHead,
    VoidFact,
)
from aigw_core.errors import LocalProtocolError, RemoteProtocolError
from aigw_core.exchange import Exchange
from aigw_core.facts import Outcome
from aigw_core.gateway import Gateway
from aigw_core.headers import Headers, make_field
from aigw_core.messages import CHUNKED, NO_BODY, Length, RequestHead, ResponseHead
from aigw_core.states import ExchangeState
from aigw_core.strangers import REFUSALS_MAX
from aigw_core.timers import Timer
from tests.core.driver import BYO_KEY, CHAT, COMPLETION, POOL_KEY, VIRTUAL_KEY, make_gateway


def request_head(body: bytes = CHAT, *, key: bytes = VIRTUAL_KEY, path: bytes = b"chat/completions") -> RequestHead:
    headers = Headers.of([(b"Host", b"embedder"), (b"Authorization", b"Bearer " + key)])
    return RequestHead(b"POST", b"/openai/v1/" + path, headers, Length(len(body)))


OK = ResponseHead(200, b"OK", Headers.of([(b"content-type", b"application/json")]), Length(len(COMPLETION)))


def kinds(effects: list[ExchangeEffect]) -> list[type]:
    return [type(effect) for effect in effects]


def opened(exchange: Exchange, effects: list[ExchangeEffect]) -> int:
    """Answers the open record; returns the attempt that was asked for."""
    record, connect = effects[0], effects[1]
    assert isinstance(record, OpenFact)
    assert isinstance(connect, Connect)
    assert exchange.fact_opened(record.record.id, 0.0) == []
    return connect.attempt


def test_a_managed_exchange_from_head_to_fact() -> None:
    exchange = Exchange(make_gateway())
    effects = exchange.request(request_head(), CHAT, 0.0)
    assert kinds(effects) == [OpenFact, Connect]
    attempt = opened(exchange, effects)
    sent = exchange.upstream_connected(attempt, False, 0.5)
    assert kinds(sent) == [SendRequestHead, SendRequestBody, SendRequestEnd]
    head = sent[0]
    assert isinstance(head, SendRequestHead)
    assert head.head.headers.get(b"authorization") == b"Bearer " + POOL_KEY
    assert head.head.framing == Length(len(CHAT))
    relayed = exchange.response(attempt, OK, COMPLETION, 1.0, reusable=True)
    assert kinds(relayed) == [EmitFact, SendResponseHead, SendResponseBody, SendResponseEnd, ReleaseUpstream]
    fact = relayed[0]
    assert isinstance(fact, EmitFact)
    assert (fact.fact.outcome, fact.fact.duration_ms, fact.fact.ttft_ms) == (Outcome.COMPLETE, 1000, 1000)
    assert exchange.ended
    assert exchange.deadline is None


def test_pieces_give_what_the_whole_gives() -> None:
    whole, pieces = Exchange(make_gateway()), Exchange(make_gateway())
    one = whole.request(request_head(), CHAT, 0.0)
    many = pieces.request_head(request_head(), 0.0)
    for at in range(len(CHAT)):
        many += pieces.request_body(CHAT[at : at + 1], 0.0)
    many += pieces.request_end(0.0)
    assert kinds(one) == kinds(many)
    attempts = opened(whole, one), opened(pieces, many)
    assert whole.upstream_connected(attempts[0], False, 0.0) == pieces.upstream_connected(attempts[1], False, 0.0)


def test_byo_is_admitted_at_once() -> None:
    exchange = Exchange(make_gateway())
    effects = exchange.request(request_head(key=BYO_KEY), CHAT, 0.0)
    assert kinds(effects) == [Connect]
    assert exchange.state is ExchangeState.ADMITTED


def test_a_refusal_is_an_answer_without_anything_else() -> None:
    exchange = Exchange(make_gateway())
    effects = exchange.request(request_head(key=b"bai_v1.nonsense"), CHAT, 0.0)
    assert kinds(effects) == [SendResponseHead, SendResponseBody, SendResponseEnd]
    assert isinstance(effects[0], SendResponseHead)
    assert effects[0].head.status == 401


def test_misuse_is_the_drivers_fault() -> None:
    exchange = Exchange(make_gateway())
    with pytest.raises(LocalProtocolError):
        exchange.request_body(b"x", 0.0)
    with pytest.raises(LocalProtocolError):
        exchange.request_end(0.0)
    exchange.request(request_head(), CHAT, 0.0)
    with pytest.raises(LocalProtocolError):
        exchange.request_head(request_head(), 0.0)
    with pytest.raises(LocalProtocolError):
        exchange.request_end(0.0)


def test_inputs_of_another_attempt_are_ignored() -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    assert exchange.upstream_connected(attempt + 1, False, 0.0) == []
    exchange.upstream_connected(attempt, False, 0.0)
    assert exchange.response_head(attempt - 1, OK, 0.0) == []
    assert exchange.response_body(attempt + 1, b"x", 0.0) == []
    assert exchange.response_end(attempt + 1, 0.0, reusable=True) == []
    assert exchange.upstream_lost(attempt + 1, 0.0) == []


def test_answers_for_another_record_are_ignored() -> None:
    exchange = Exchange(make_gateway())
    exchange.request(request_head(), CHAT, 0.0)
    assert exchange.fact_opened("0" * 32, 0.0) == []
    assert exchange.fact_refused("0" * 32, 0.0) == []
    assert exchange.state is ExchangeState.OPENING


def test_an_unanswered_record_is_voided_by_its_timer() -> None:
    exchange = Exchange(make_gateway())
    exchange.request(request_head(), CHAT, 0.0)
    assert exchange.deadline == (5.0, Timer.OPENING)
    assert exchange.tick(4.9) == []
    effects = exchange.tick(5.0)
    assert kinds(effects)[:2] == [VoidFact, ReleaseUpstream]
    assert isinstance(effects[2], SendResponseHead)
    assert effects[2].head.status == 503


def test_a_cut_in_the_middle_of_an_answer_is_visible() -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    exchange.upstream_connected(attempt, False, 0.0)
    exchange.response_head(attempt, OK, 0.0)
    exchange.response_body(attempt, COMPLETION[:10], 0.0)
    effects = exchange.cut(DenyReason.FRAUD, 1.0)
    assert kinds(effects) == [EmitFact, CutResponse, ReleaseUpstream]
    assert exchange.must_close


def test_abandon_is_idempotent() -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    exchange.upstream_connected(attempt, False, 0.0)
    assert kinds(exchange.abandon(1.0)) == [EmitFact, ReleaseUpstream]
    assert exchange.abandon(1.0) == []


def test_expect_is_answered_once_admitted() -> None:
    head = request_head()
    head.headers.fields.append(make_field(b"Expect", b"100-continue"))
    exchange = Exchange(make_gateway())
    effects = exchange.request_head(head, 0.0)
    assert SendInformational not in kinds(effects)
    record = effects[0]
    assert isinstance(record, OpenFact)
    assert SendInformational in kinds(exchange.fact_opened(record.record.id, 0.0))


def test_a_response_of_unknown_length_is_relayed_as_one() -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    exchange.upstream_connected(attempt, False, 0.0)
    effects = exchange.response_head(attempt, ResponseHead(200, b"OK", Headers.of([]), CHUNKED), 0.0)
    assert isinstance(effects[0], SendResponseHead)
    assert effects[0].head.framing == CHUNKED
    end = exchange.response_end(attempt, 0.0, reusable=False, by_close=True)
    assert CutResponse in kinds(end), "no terminal event and no closed root: it never looks complete"


def test_a_head_request_has_no_body_either_way() -> None:
    headers = Headers.of([(b"Host", b"e"), (b"x-api-key", VIRTUAL_KEY)])
    exchange = Exchange(make_gateway())
    effects = exchange.request(RequestHead(b"HEAD", b"/openai/v1/models", headers, NO_BODY), b"", 0.0)
    attempt = opened(exchange, effects)
    assert kinds(exchange.upstream_connected(attempt, False, 0.0)) == [SendRequestHead, SendRequestEnd]
    relayed = exchange.response(attempt, ResponseHead(200, b"OK", Headers.of([]), NO_BODY), b"", 0.0, reusable=True)
    assert kinds(relayed) == [EmitFact, SendResponseHead, SendResponseEnd, ReleaseUpstream]


def test_a_broken_request_body_is_refused_and_closes() -> None:
    exchange = Exchange(make_gateway())
    head = RequestHead(b"POST", b"/mistral/v1/chat/completions", request_head().headers, CHUNKED)
    attempt = opened(exchange, exchange.request_head(head, 0.0))
    assert kinds(exchange.upstream_connected(attempt, False, 0.0)) == [SendRequestHead]
    assert kinds(exchange.request_body(b"{}", 0.0)) != []
    effects = exchange.request_broken(RemoteProtocolError("A chunk is malformed."), 1.0)
    own_answer = [SendResponseHead, SendResponseBody, SendResponseEnd]
    assert kinds(effects) == [EmitFact, *own_answer, ReleaseUpstream]
    fact = next(effect.fact for effect in effects if isinstance(effect, EmitFact))
    assert (fact.outcome, fact.status, fact.usage_status) == (Outcome.REFUSED, 400, "none")
    answer = next(effect for effect in effects if isinstance(effect, SendResponseHead))
    assert answer.close, "nothing behind it can be read"


def reading(exchange: Exchange) -> bool:
    """A function, so that checkers do not narrow the property."""
    return exchange.wants_request_body


def test_a_provider_that_does_not_read_stops_the_caller() -> None:
    exchange = Exchange(make_gateway())
    head = RequestHead(b"POST", b"/mistral/v1/chat/completions", request_head().headers, Length(100_000))
    attempt = opened(exchange, exchange.request_head(head, 0.0))
    exchange.upstream_connected(attempt, False, 0.0)
    assert reading(exchange)
    assert exchange.deadline == (60.0, Timer.CLIENT_BODY)
    exchange.upstream_blocked(attempt, 10.0)
    assert not reading(exchange)
    assert exchange.deadline == (70.0, Timer.UPSTREAM_WRITE), "the caller's silence is our own doing"
    exchange.upstream_writable(attempt, 20.0)
    assert reading(exchange)
    assert exchange.deadline == (80.0, Timer.CLIENT_BODY)
    exchange.upstream_blocked(attempt, 30.0)
    effects = exchange.tick(90.0)
    fact = next(effect.fact for effect in effects if isinstance(effect, EmitFact))
    assert (fact.outcome, fact.status) == (Outcome.TIMEOUT, 504)


def due(exchange: Exchange) -> tuple[float, Timer] | None:
    return exchange.deadline


def test_a_caller_who_does_not_read_stops_the_clock_of_the_provider() -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    exchange.upstream_connected(attempt, False, 0.0)
    exchange.response_head(attempt, OK, 1.0)
    assert due(exchange) == (601.0, Timer.STREAM_IDLE)
    exchange.downstream_blocked(2.0)
    assert due(exchange) is None
    exchange.downstream_writable(50.0)
    assert due(exchange) == (650.0, Timer.STREAM_IDLE)
    effects = exchange.on_timer(Timer.STREAM_IDLE, 650.0)
    assert CutResponse in kinds(effects)
    assert exchange.state is ExchangeState.ENDED


def test_what_a_driver_reads_of_it() -> None:
    exchange = Exchange(make_gateway(), last_attempt=4)
    assert (exchange.id, exchange.attempt, exchange.deadline) == ("", 4, None)
    assert not reading(exchange)
    effects = exchange.request(request_head(), CHAT, 0.0)
    record = effects[0]
    assert isinstance(record, OpenFact)
    assert (exchange.id, exchange.attempt) == (record.record.id, 5)


def test_a_head_that_is_none_is_answered_without_a_fact() -> None:
    exchange = Exchange(make_gateway())
    effects = exchange.request_malformed(RemoteProtocolError("The request line is malformed."), 0.0)
    assert kinds(effects) == [SendResponseHead, SendResponseBody, SendResponseEnd]
    head = effects[0]
    assert isinstance(head, SendResponseHead)
    assert head.head.status == 400
    assert exchange.ended


def test_no_connection_is_tried_again_and_then_told() -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    effects: list[ExchangeEffect] = []
    for _ in range(3):
        effects = exchange.upstream_failed(attempt, ConnectFailure.CONNECT, 0.1)
        if not isinstance(effects[-1], Connect):
            break
        attempt = effects[-1].attempt
    fact, head = effects[0], effects[1]
    assert isinstance(fact, EmitFact)
    assert isinstance(head, SendResponseHead)
    assert (fact.fact.outcome, fact.fact.usage_status, head.head.status) == (Outcome.UPSTREAM_ERROR, "none", 502)
    assert exchange.ended


def test_a_provider_that_speaks_no_http_is_told() -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    exchange.upstream_connected(attempt, False, 0.1)
    fact, _, head, *_ = exchange.upstream_broken(attempt, 0.2)
    assert isinstance(fact, EmitFact)
    assert isinstance(head, SendResponseHead)
    assert (fact.fact.outcome, head.head.status) == (Outcome.UPSTREAM_ABORT, 502)
    assert exchange.ended


def test_a_caller_who_leaves_gets_a_fact_and_no_answer() -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    exchange.upstream_connected(attempt, False, 0.1)
    effects = exchange.downstream_lost(0.2)
    assert kinds(effects) == [EmitFact, ReleaseUpstream]
    fact = effects[0]
    assert isinstance(fact, EmitFact)
    assert fact.fact.outcome is Outcome.CLIENT_ABORT


@pytest.mark.parametrize("status", [101, 103])
def test_an_informational_head_with_a_body_is_no_answer(status: int) -> None:
    exchange = Exchange(make_gateway())
    attempt = opened(exchange, exchange.request(request_head(), CHAT, 0.0))
    exchange.upstream_connected(attempt, False, 0.0)
    odd = ResponseHead(status, b"x", OK.headers, OK.framing)
    effects = exchange.response(attempt, odd, COMPLETION, 1.0, reusable=True)
    assert not exchange.ended or next(e.fact.outcome for e in effects if isinstance(e, EmitFact)) != Outcome.COMPLETE
    assert not any(isinstance(effect, ReleaseUpstream) and effect.reusable for effect in effects)


def answered(
    gateway: Gateway, status: int, body: bytes, *, method: bytes = b"POST", key: bytes = BYO_KEY, now: float = 0.0
) -> None:
    """One exchange whose answer's body comes behind its head."""
    exchange = Exchange(gateway, peer="192.0.2.1")
    sent = b"" if method == b"GET" else CHAT
    path = b"models" if method == b"GET" else b"chat/completions"
    effects = exchange.request(replace(request_head(sent, key=key, path=path), method=method), sent, now)
    attempt = exchange.attempt if key is BYO_KEY else opened(exchange, effects)
    exchange.upstream_connected(attempt, False, now)
    exchange.response_head(attempt, ResponseHead(status, b"", Headers.of([]), Length(len(body))), now)
    for at in range(0, len(body), 30):
        exchange.response_body(attempt, body[at : at + 30], now)
    exchange.response_end(attempt, now, reusable=True)
    assert exchange.ended


@pytest.mark.parametrize(
    ("status", "body", "method", "known"),
    [
        (200, b"{}", b"POST", (1, 0)),
        (200, b"{}", b"GET", (0, 0)),
        (401, b"{}", b"POST", (0, 2)),
        (401, b"{}", b"GET", (0, 2)),
        (403, b'{"error": "this API key is blocked"}', b"POST", (0, 2)),
        (403, b'{"error": "not in your country"}', b"POST", (0, 0)),
        (403, b"", b"POST", (0, 0)),
        (400, b"api key", b"POST", (0, 0)),
        (500, b"{}", b"POST", (0, 0)),
    ],
)
def test_what_is_learned_of_a_callers_own_key(status: int, body: bytes, method: bytes, known: tuple[int, int]) -> None:
    gateway = make_gateway()
    answered(gateway, status, body, method=method)
    assert gateway.strangers.known == known


def test_nothing_is_learned_of_virtual_keys() -> None:
    gateway = make_gateway()
    for status in (200, 401, 403):
        answered(gateway, status, b"api key", method=b"GET", key=VIRTUAL_KEY)
    assert gateway.strangers.known == (0, 0)


def test_a_key_that_keeps_being_refused_waits_until_its_time_is_over() -> None:
    gateway = make_gateway()
    for number in range(REFUSALS_MAX + 1):
        answered(gateway, 401, b"", now=float(number))
    exchange = Exchange(gateway, peer="192.0.2.1")
    (head, *_) = exchange.request(request_head(key=BYO_KEY), CHAT, 4.25)
    assert isinstance(head, SendResponseHead)
    assert (head.head.status, head.head.headers.get(b"retry-after")) == (429, b"1")
    assert kinds(Exchange(gateway).request(request_head(key=BYO_KEY), CHAT, 5.0)) == [Connect]


@pytest.mark.parametrize(
    ("method", "body", "is_reused"),
    [
        *[(method, b"x", True) for method in (b"POST", b"PUT", b"PATCH")],
        *[(method, b"x", False) for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND")],
        *[(method, b"", True) for method in (b"GET", b"DELETE", b"POST")],
    ],
)
def test_a_connection_that_carried_a_body_that_may_stay_unread_is_not_used_again(
    method: bytes, body: bytes, is_reused: bool
) -> None:
    for whole in (True, False):
        exchange = Exchange(make_gateway())
        exchange.request(replace(request_head(body, key=BYO_KEY), method=method), body, 0.0)
        exchange.upstream_connected(exchange.attempt, False, 0.0)
        head = ResponseHead(204, b"", Headers.of([]), NO_BODY)
        if whole:
            effects = exchange.response(exchange.attempt, head, b"", 0.0, reusable=True)
        else:
            exchange.response_head(exchange.attempt, head, 0.0)
            effects = exchange.response_end(exchange.attempt, 0.0, reusable=True)
        (release,) = [effect for effect in effects if isinstance(effect, ReleaseUpstream)]
        assert release.reusable is is_reused


def test_a_connection_that_never_carried_the_body_is_as_good_as_before() -> None:
    exchange = Exchange(make_gateway())
    head = replace(request_head(b"x", key=BYO_KEY), method=b"GET")
    exchange.request_head(head, 0.0)
    exchange.upstream_connected(exchange.attempt, False, 0.0)
    assert exchange.state is ExchangeState.REQUESTING
    assert [e.reusable for e in exchange.downstream_lost(0.0) if isinstance(e, ReleaseUpstream)] == [False]
    managed = Exchange(make_gateway())
    record, _ = managed.request(request_head(), CHAT, 0.0)
    assert isinstance(record, OpenFact)
    managed.upstream_connected(managed.attempt, True, 0.0)
    assert [e.reusable for e in managed.fact_refused(record.record.id, 0.0) if isinstance(e, ReleaseUpstream)] == [True]
