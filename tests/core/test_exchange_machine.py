"""The machine below Exchange and Connection: what an input causes is at the port before it returns."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import replace

import pytest

from aigw_core.effects import (
    CutResponse,
    EmitFact,
    OpenFact,
    ReleaseUpstream,
    SendResponseBody,
    SendResponseEnd,
    SendResponseHead,
)
from aigw_core.encodedanswer import ECHOED, ERROR_HELD_MAX
from aigw_core.errors import LocalProtocolError
from aigw_core.exchange_machine import ExchangeMachine
from aigw_core.facts import Outcome
from aigw_core.headers import Headers
from aigw_core.messages import CHUNKED, NO_BODY, Framing, HeadNotes, Length, RequestHead, ResponseHead
from aigw_core.port import EffectPort
from aigw_core.timers import Timer, Timers
from tests.core.driver import CHAT, CHAT_STREAM, POOL_KEY, VIRTUAL_KEY, make_gateway

HEAD = RequestHead(
    b"POST",
    b"/openai/v1/chat/completions",
    Headers.of([(b"Host", b"a"), (b"Authorization", b"Bearer " + VIRTUAL_KEY)]),
    Length(len(CHAT)),
)


def responding() -> tuple[ExchangeMachine, EffectPort]:
    port = EffectPort()
    machine = ExchangeMachine(make_gateway(), port, owner=None, timers=Timers(), last_attempt=6)
    machine.request(HEAD, CHAT, 0.0)
    opened = port.take()[0]
    assert isinstance(opened, OpenFact)
    machine.fact_opened(opened.record.id, 0.0)
    machine.upstream_connected(7, False, 0.0)
    machine.response_head(7, ResponseHead(200, b"OK", Headers([]), CHUNKED), 0.0)
    port.take()
    return machine, port


def test_attempts_count_on_from_the_last_one_of_the_connection() -> None:
    machine, _ = responding()
    assert machine.attempt == 7


def test_pieces_of_a_body_reach_the_port_one_by_one() -> None:
    machine, port = responding()
    machine.response_body(7, b"a", 1.0)
    machine.response_body(6, b"late", 1.0)
    machine.response_body(7, b"b", 1.0)
    assert port.take() == [SendResponseBody(b"a"), SendResponseBody(b"b")]


def test_the_fact_of_a_cut_answer_stands_in_front_of_the_cut() -> None:
    machine, port = responding()
    machine.upstream_lost(7, 1.0)
    fact, *rest = port.take()
    assert isinstance(fact, EmitFact)
    assert fact.fact.outcome is Outcome.UPSTREAM_ABORT
    assert rest == [ReleaseUpstream(7, False), CutResponse()]
    assert machine.ended


def test_a_second_head_is_the_drivers_fault() -> None:
    machine, _ = responding()
    with pytest.raises(LocalProtocolError):
        machine.request_head(HEAD, 2.0)


@pytest.mark.parametrize("label", [b"text/event-stream", b"application/json"])
@pytest.mark.parametrize("framing", [CHUNKED, Length(0)])
def test_a_whole_answer_of_which_nothing_is_left_ends_properly(framing: Framing, label: bytes) -> None:
    """The one event was asked for here and is taken out, whatever its label; an empty chunk would end it twice."""
    port = EffectPort()
    machine = ExchangeMachine(make_gateway(), port, owner=None, timers=Timers(), last_attempt=0)
    head = RequestHead(HEAD.method, HEAD.target, HEAD.headers, Length(len(CHAT_STREAM)))
    machine.request(head, CHAT_STREAM, 0.0)
    opened = port.take()[0]
    assert isinstance(opened, OpenFact)
    machine.fact_opened(opened.record.id, 0.0)
    machine.upstream_connected(1, False, 0.0)
    port.take()
    answer = ResponseHead(200, b"OK", Headers.of([(b"content-type", label)]), framing)
    event = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
    machine.response(1, answer, event if framing == CHUNKED else b"", 1.0, reusable=True)
    effects = port.take()
    assert [type(effect) for effect in effects] == [EmitFact, SendResponseHead, SendResponseEnd, ReleaseUpstream]


def test_the_log_of_a_refusal_says_what_was_answered() -> None:
    gateway, port = make_gateway(), EffectPort()
    machine = ExchangeMachine(gateway, port, owner=None, timers=Timers(), last_attempt=0)
    unknown = RequestHead(b"POST", b"/nobody/v1/x", HEAD.headers, Length(0))
    machine.request(unknown, b"", 0.0)
    (logged,) = gateway.stats.failures
    assert (logged.reason, logged.status, logged.upstream_status) == ("unknown_route", 404, None)
    assert (logged.provider, logged.wire, logged.caller) == (None, None, None)


@pytest.mark.parametrize(
    ("target", "headers", "reason", "provider", "wire"),
    [
        (b"/openai/v1/embeddings", [], "no_credential", "openai", "embeddings"),
        (b"/groq/openai/v1/files", [(b"x-api-key", VIRTUAL_KEY)], "out_of_scope", "groq", "opaque"),
        (b"/anthropic/v1/messages", [(b"x-api-key", b"bai_v1.1.x.y")], "bad_key", "anthropic", "messages"),
        (
            b"/xai/v1/responses",
            [(b"x-api-key", VIRTUAL_KEY), (b"api-key", VIRTUAL_KEY + b"A")],
            "conflicting_keys",
            "xai",
            "responses",
        ),
    ],
)
def test_the_log_of_a_refusal_says_where_the_request_was_to_go(
    target: bytes, headers: list[tuple[bytes, bytes]], reason: str, provider: str, wire: str
) -> None:
    gateway = make_gateway()
    head = RequestHead(b"POST", target, Headers.of(headers), Length(0))
    head.notes = HeadNotes(False)
    # Twice: what a repeated head said is remembered.
    for _ in range(2):
        machine = ExchangeMachine(gateway, EffectPort(), owner=None, timers=Timers(), last_attempt=0)
        machine.request(head, b"", 0.0)
    assert [(logged.reason, logged.provider, logged.wire, logged.caller) for logged in gateway.stats.failures] == [
        (reason, provider, wire, None)
    ] * 2


# Answers that hold the pool key where it cannot be overwritten

GZIP = (b"Content-Encoding", b"gzip")
ECHO = gzip.compress(b'{"error":{"message":"Incorrect API key: ' + POOL_KEY + b'"}}')
CLEAN = gzip.compress(b'{"error":{"message":"no such model"}}')


def requested(*, done: bool = True) -> tuple[ExchangeMachine, EffectPort]:
    """The whole request, or its head, has gone upstream."""
    port = EffectPort()
    machine = ExchangeMachine(make_gateway(), port, owner=None, timers=Timers(), last_attempt=6)
    if done:
        machine.request(HEAD, CHAT, 0.0)
    else:
        machine.request_head(replace(HEAD, target=b"/openai/v1/embeddings"), 0.0)
    opened = port.take()[0]
    assert isinstance(opened, OpenFact)
    machine.fact_opened(opened.record.id, 0.0)
    machine.upstream_connected(7, True, 0.0)
    port.take()
    return machine, port


def coded(status: int = 401) -> ResponseHead:
    return ResponseHead(status, b"", Headers.of([GZIP, (b"X-Theirs", b"1")]), CHUNKED)


def only(port: EffectPort) -> tuple[EmitFact, ResponseHead, bytes]:
    """The fact, and an answer of ours that is complete."""
    effects = port.take()
    facts = [effect for effect in effects if isinstance(effect, EmitFact)]
    heads = [effect for effect in effects if isinstance(effect, SendResponseHead)]
    bodies = [effect for effect in effects if isinstance(effect, SendResponseBody)]
    assert (len(facts), len(heads), len(bodies), effects[-1] in facts) == (1, 1, 1, False)
    assert effects[0] is facts[0]
    assert sum(isinstance(effect, SendResponseEnd) for effect in effects) == 1
    assert not any(isinstance(effect, CutResponse) for effect in effects)
    return facts[0], heads[0].head, bodies[0].data


@pytest.mark.parametrize("how", ["whole", "in pieces", "byte by byte"])
def test_a_coded_error_that_holds_the_key_is_replaced(how: str) -> None:
    machine, port = requested()
    if how == "whole":
        machine.response(7, coded(), ECHO, 1.0, reusable=True)
    else:
        machine.response_head(7, coded(), 1.0)
        assert port.take() == []
        for piece in [ECHO[i : i + 1] for i in range(len(ECHO))] if how == "byte by byte" else [ECHO[:20], ECHO[20:]]:
            machine.response_body(7, piece, 1.0)
        machine.response_end(7, 2.0, reusable=True)
    effect, head, body = only(port)
    assert head.status == 502
    assert b"x-theirs" not in head.headers
    assert json.loads(body)["error"]["code"] == "upstream_withheld"
    fact = effect.fact
    assert (fact.outcome, fact.status, fact.upstream_status) == (Outcome.UPSTREAM_ERROR, 502, 401)
    assert (fact.usage_status, fact.response_bytes) == ("none", 0)
    assert machine.ended
    log = machine.gateway.stats.failures[-1]
    assert log.detail == f"upstream_withheld: {ECHOED}"


def test_a_coded_error_without_the_key_goes_as_it_is_once_it_is_over() -> None:
    machine, port = requested()
    machine.response_head(7, coded(429), 1.0)
    machine.response_body(7, CLEAN[:9], 1.0)
    machine.response_body(7, CLEAN[9:], 1.0)
    assert port.take() == []
    machine.response_end(7, 2.0, reusable=True)
    emitted, head, body, end, released = port.take()
    assert isinstance(emitted, EmitFact)
    assert isinstance(head, SendResponseHead)
    assert head.head.status == 429
    assert (body, end) == (SendResponseBody(CLEAN), SendResponseEnd())
    assert isinstance(released, ReleaseUpstream)
    assert released.reusable
    fact = emitted.fact
    assert (fact.outcome, fact.status, fact.upstream_status) == (Outcome.UPSTREAM_ERROR, 429, 429)
    assert fact.response_bytes == len(CLEAN)


def test_a_long_coded_error_goes_on_without_being_held() -> None:
    noise = gzip.compress(bytes(range(256)) * 300, compresslevel=0)
    machine, port = requested()
    machine.response_head(7, coded(), 1.0)
    machine.response_body(7, noise[:ERROR_HELD_MAX], 1.0)
    head, body = port.take()
    assert isinstance(head, SendResponseHead)
    assert body == SendResponseBody(noise[:ERROR_HELD_MAX])
    machine.response_body(7, noise[ERROR_HELD_MAX:], 1.0)
    assert port.take() == [SendResponseBody(noise[ERROR_HELD_MAX:])]


def test_a_coded_answer_is_cut_where_the_key_would_be_complete() -> None:
    coder = zlib.compressobj(wbits=31)
    first = coder.compress(b'data: {"a":1}\n\n') + coder.flush(zlib.Z_SYNC_FLUSH)
    second = coder.compress(b'data: {"model":"' + POOL_KEY + b'"}\n\n') + coder.flush(zlib.Z_SYNC_FLUSH)
    machine, port = requested()
    machine.response_head(7, coded(200), 1.0)
    machine.response_body(7, first, 1.0)
    head, body = port.take()
    assert isinstance(head, SendResponseHead)
    assert body == SendResponseBody(first)
    machine.response_body(7, second, 1.0)
    emitted, released, cut = port.take()
    assert isinstance(emitted, EmitFact)
    assert isinstance(released, ReleaseUpstream)
    assert isinstance(cut, CutResponse)
    fact = emitted.fact
    assert (fact.outcome, fact.status, fact.upstream_status, fact.model) == (Outcome.UPSTREAM_ABORT, 200, 200, None)
    assert fact.response_bytes == len(first)
    assert machine.must_close


def test_a_coded_answer_that_is_there_whole_is_replaced() -> None:
    machine, port = requested()
    machine.response(7, coded(200), gzip.compress(b'{"model":"' + POOL_KEY + b'"}'), 1.0, reusable=True)
    effect, head, _ = only(port)
    assert head.status == 502
    fact = effect.fact
    assert (fact.outcome, fact.status, fact.upstream_status, fact.model) == (Outcome.UPSTREAM_ABORT, 502, 200, None)


@pytest.mark.parametrize("by", ["lost", "timer", "cut"])
def test_while_an_error_is_held_its_end_is_answered_by_us(by: str) -> None:
    machine, port = requested()
    machine.response_head(7, coded(), 1.0)
    machine.response_body(7, ECHO[:20], 1.0)
    if by == "lost":
        machine.upstream_lost(7, 1.0)
    elif by == "timer":
        machine.on_timer(Timer.STREAM_IDLE, 700.0)
    else:
        machine.cut(None, 1.0)
    _, head, _ = only(port)
    assert head.status == {"lost": 502, "timer": 504, "cut": 503}[by]
    assert machine.ended


def test_a_get_whose_error_is_held_is_not_sent_again() -> None:
    """The connection was used before and broke, but its answer had begun."""
    port = EffectPort()
    machine = ExchangeMachine(make_gateway(), port, owner=None, timers=Timers(), last_attempt=6)
    machine.request_head(RequestHead(b"GET", b"/openai/v1/models", HEAD.headers, NO_BODY), 0.0)
    machine.request_end(0.0)
    opened = port.take()[0]
    assert isinstance(opened, OpenFact)
    machine.fact_opened(opened.record.id, 0.0)
    machine.upstream_connected(7, True, 0.0)
    machine.response_head(7, coded(), 1.0)
    port.take()
    machine.upstream_lost(7, 1.0)
    assert only(port)[1].status == 502


def test_a_caller_who_leaves_a_held_error_leaves_nothing_behind() -> None:
    machine, port = requested()
    machine.response_head(7, coded(), 1.0)
    machine.downstream_lost(1.0)
    (effect,) = [effect for effect in port.take() if isinstance(effect, EmitFact)]
    assert (effect.fact.outcome, effect.fact.upstream_status) == (Outcome.CLIENT_ABORT, 401)


def test_an_early_error_that_is_held_ends_the_request() -> None:
    machine, port = requested(done=False)
    machine.response_head(7, coded(), 1.0)
    machine.request_body(b"more", 1.0)
    assert port.take() == []
    assert machine.must_close
    machine.response_body(7, ECHO, 1.0)
    assert only(port)[1].status == 502
