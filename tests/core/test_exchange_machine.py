"""The machine below Exchange and Connection: what an input causes is at the port before it returns."""

from __future__ import annotations

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
from aigw_core.errors import LocalProtocolError
from aigw_core.exchange_machine import ExchangeMachine
from aigw_core.facts import Outcome
from aigw_core.headers import Headers
from aigw_core.messages import CHUNKED, Framing, HeadNotes, Length, RequestHead, ResponseHead
from aigw_core.port import EffectPort
from aigw_core.timers import Timers
from tests.core.driver import CHAT, CHAT_STREAM, VIRTUAL_KEY, make_gateway

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
