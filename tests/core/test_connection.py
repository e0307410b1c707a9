"""Scripted exchanges through a whole Connection, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from aigw_core.connection import Connection
from aigw_core.connection_base import REFUSED_MAX
from aigw_core.denyset import DenyReason
from aigw_core.effects import Close, ConnectFailure, Effect, SendDownstream
from aigw_core.errors import Reason, Rejection
from aigw_core.facts import Outcome
from aigw_core.keys import KeyRing
from aigw_core.origin import parse_origin
from aigw_core.policy import OnClientAbort, Policy, Timeouts
from aigw_core.secrets import Secret
from aigw_core.states import ConnectionState
from aigw_core.timers import Timer
from tests.core.driver import (
    BYO_KEY,
    CHAT,
    CHAT_STREAM,
    COMPLETION,
    POOL_KEY,
    VIRTUAL_KEY,
    VIRTUAL_KEY_V2,
    MemoryDriver,
    json_response,
    make_gateway,
    make_policy,
    request,
)

CHUNKED_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"c","model":"m-1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
USAGE_EVENT = (
    b'data: {"id":"c","model":"m-1","choices":[],'
    b'"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def with_provider(**changes: object) -> Policy:
    base = make_policy()
    openai = replace(base.providers["openai"], **changes)  # type: ignore[arg-type]  # checked by the class
    return make_policy(providers={**base.providers, "openai": openai})


class TestAnswers:
    def test_json_is_relayed_and_metered(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        assert driver.sent_upstream.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: openai.test\r\n")
        assert driver.sent_upstream.endswith(b"\r\n\r\n" + CHAT)
        assert VIRTUAL_KEY not in driver.sent_upstream
        assert b"Authorization: Bearer " + POOL_KEY + b"\r\n" in driver.sent_upstream
        driver.upstream(json_response(COMPLETION))
        head, _, body = driver.down.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ")
        assert b"x-aigw-request-id: " + driver.ledger.facts[0].id.encode() in head
        assert body == COMPLETION
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status, fact.tokens) == (Outcome.COMPLETE, "final", {"input": 9, "output": 3})
        assert (fact.requested_model, fact.model) == ("gpt-4o-mini", "gpt-4o-mini-2024-07-18")
        assert (fact.request_bytes, fact.response_bytes) == (len(CHAT), len(COMPLETION))
        assert driver.released == {1: True}
        assert driver.machine.state is ConnectionState.IDLE
        driver.ledger.check()

    def test_byo_reaches_the_provider_untouched_and_leaves_no_fact(self) -> None:
        driver = MemoryDriver().receive(request(CHAT, key=BYO_KEY, headers=b"Cookie: a=b\r\nAccept-Encoding: gzip\r\n"))
        assert b"Authorization: Bearer " + BYO_KEY + b"\r\n" in driver.sent_upstream
        assert b"Cookie: a=b\r\nAccept-Encoding: gzip\r\n" in driver.sent_upstream
        driver.upstream(json_response(COMPLETION))
        assert driver.down.endswith(COMPLETION)
        assert driver.ledger.opened == []
        assert driver.gateway.active == 0

    def test_stream_is_relayed_event_by_event_without_the_injected_one(self) -> None:
        driver = MemoryDriver().receive(request(CHAT_STREAM))
        assert b'"stream_options":{"include_usage":true}' in driver.sent_upstream
        driver.upstream(CHUNKED_SSE)
        for event in (EVENT, EVENT):
            before = len(driver.down)
            driver.upstream(chunk(event))
            assert driver.down[before:] == chunk(event)
        driver.upstream(chunk(USAGE_EVENT) + chunk(DONE) + b"0\r\n\r\n")
        assert b"prompt_tokens" not in driver.down
        assert driver.down.endswith(chunk(DONE) + b"0\r\n\r\n")
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.tokens, fact.streaming) == (Outcome.COMPLETE, {"input": 4, "output": 2}, True)

    def test_close_delimited_answer_is_complete_with_a_closed_root(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        driver.upstream(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + COMPLETION).upstream(b"")
        assert driver.down.endswith(chunk(COMPLETION) + b"0\r\n\r\n")
        assert driver.ledger.facts[0].outcome is Outcome.COMPLETE
        assert driver.released == {1: False}

    def test_close_delimited_answer_that_stops_early_never_looks_complete(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        driver.upstream(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + COMPLETION[:-9]).upstream(b"")
        assert driver.closed is Close.ABORT
        assert not driver.down.endswith(b"0\r\n\r\n")
        assert driver.ledger.facts[0].outcome is Outcome.UPSTREAM_ABORT

    @pytest.mark.parametrize(("status", "method"), [(b"204 No Content", b"POST"), (b"304 Not Modified", b"GET")])
    def test_answers_without_a_body_end_at_once(self, status: bytes, method: bytes) -> None:
        driver = MemoryDriver().receive(request(method=method, key=BYO_KEY, length=False, target=b"/openai/v1/x"))
        driver.upstream(b"HTTP/1.1 %b\r\nContent-Length: 7\r\n\r\n" % status)
        assert driver.machine.state is ConnectionState.IDLE
        assert driver.released == {1: True}
        assert (b"Content-Length: 7" in driver.down) is (b"304" in status)

    def test_head_keeps_its_length_and_has_no_body(self) -> None:
        driver = MemoryDriver().receive(request(method=b"HEAD", target=b"/openai/v1/models", length=False))
        driver.upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        assert b"Content-Length: 500\r\n" in driver.down
        assert driver.machine.state is ConnectionState.IDLE
        assert (driver.ledger.facts[0].outcome, driver.ledger.facts[0].usage_status) == (Outcome.COMPLETE, "none")

    def test_informational_heads_are_relayed_and_101_is_refused(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        driver.upstream(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        assert driver.down == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        driver.upstream(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        assert b"HTTP/1.1 502 Bad Gateway" in driver.down
        assert driver.ledger.facts[0].outcome is Outcome.UPSTREAM_ABORT

    def test_endless_informational_heads_are_cut(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        driver.upstream(b"HTTP/1.1 102 Processing\r\n\r\n" * 16)
        assert driver.down.count(b"102 Processing") == 16
        driver.upstream(b"HTTP/1.1 102 Processing\r\n\r\n")
        assert b"HTTP/1.1 502 Bad Gateway" in driver.down

    def test_pool_key_is_masked_in_errors_and_headers(self) -> None:
        body = b'{"error":{"message":"Incorrect API key provided: ' + POOL_KEY + b'"}}'
        driver = MemoryDriver().receive(request(CHAT))
        wire = json_response(body, status=b"401 Unauthorized", headers=b"x-echo: key " + POOL_KEY + b"\r\n")
        for at in range(0, len(wire), 7):
            driver.upstream(wire[at : at + 7])
        assert POOL_KEY not in driver.down
        assert driver.down.endswith(body.replace(POOL_KEY, b"*" * len(POOL_KEY)))
        assert b"x-echo: key " + b"*" * len(POOL_KEY) in driver.down
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status, fact.upstream_status) == (Outcome.UPSTREAM_ERROR, "none", 401)


class TestConnectionLife:
    def test_keep_alive_serves_one_exchange_after_the_other(self) -> None:
        driver = MemoryDriver()
        for number in range(1, 4):
            driver.receive(request(CHAT)).upstream(json_response(COMPLETION))
            assert len(driver.ledger.facts) == number
        assert [connect.attempt for connect in driver.connects] == [1, 2, 3]
        assert driver.down.count(b"HTTP/1.1 200 OK") == 3
        assert driver.closed is None

    def test_pipelined_requests_wait_their_turn(self) -> None:
        driver = MemoryDriver().receive(request(CHAT) + request(b"{}", key=b"bai_v1.bad") + request(CHAT, key=BYO_KEY))
        assert len(driver.connects) == 1
        driver.upstream(json_response(COMPLETION))
        assert driver.down.count(b"HTTP/1.1 401 Unauthorized") == 1
        assert len(driver.connects) == 2
        driver.upstream(json_response(COMPLETION))
        assert driver.down.count(b"HTTP/1.1 200 OK") == 2

    def test_two_pipelined_rejections_are_both_answered(self) -> None:
        driver = MemoryDriver().receive(request(b"{}", key=b"") * 2)
        assert driver.down.count(b"HTTP/1.1 401 Unauthorized") == 2
        assert driver.machine.state is ConnectionState.IDLE

    def test_pipelined_bytes_beyond_the_bound_stop_the_reading(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        driver.receive(b"x" * 65_535)
        assert driver.reading()
        driver.receive(b"x")
        assert not driver.reading()

    def test_connection_close_is_obeyed(self) -> None:
        driver = MemoryDriver().receive(request(CHAT, headers=b"Connection: close\r\n") + request(CHAT))
        driver.upstream(json_response(COMPLETION))
        assert b"Connection: close\r\n" in driver.down
        assert driver.down.count(b"HTTP/1.1") == 1
        assert driver.closed is Close.LINGER
        driver.receive(b"")
        driver.advance(0)
        assert driver.done()

    def test_http_1_0_gets_a_close_delimited_answer(self) -> None:
        driver = MemoryDriver().receive(request(CHAT, version=b"HTTP/1.0"))
        driver.upstream(CHUNKED_SSE + chunk(EVENT) + b"0\r\n\r\n")
        head, _, body = driver.down.partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert b"Connection: close" in head
        assert body == EVENT
        assert driver.closed is Close.LINGER

    def test_lingering_ends_by_time_by_eof_and_by_bytes(self) -> None:
        for end in ("time", "eof", "bytes"):
            driver = MemoryDriver().receive(b"BROKEN\r\n\r\n")
            assert driver.closed is Close.LINGER
            assert driver.machine.deadline == (2.0, Timer.LINGER)
            if end == "time":
                driver.advance(1.9)
                assert not driver.done()
                driver.advance(0.2)
            elif end == "eof":
                driver.receive(b"").advance(0)
            else:
                driver.receive(b"x" * 1_048_576)
                assert not driver.done()
                driver.receive(b"x")
            assert driver.done()

    def test_linger_waits_for_a_slow_reader(self) -> None:
        driver = MemoryDriver().receive(b"BROKEN\r\n\r\n")
        driver.run(driver.machine.downstream_blocked(driver.now))
        driver.advance(30)
        assert not driver.done()
        driver.run(driver.machine.downstream_writable(driver.now))
        driver.advance(2)
        assert driver.done()

    def test_nothing_is_begun_for_a_caller_who_does_not_read(self) -> None:
        driver = MemoryDriver()
        driver.run(driver.machine.downstream_blocked(driver.now))
        assert not driver.machine.wants_downstream
        # What the driver had read already is kept, and the first of it may begin.
        driver.receive(b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n" * 3)
        assert driver.down.count(b"HTTP/1.1 404") == 1
        driver.run(driver.machine.downstream_writable(driver.now))
        assert driver.down.count(b"HTTP/1.1 404") == 3
        assert driver.machine.wants_downstream

    @pytest.mark.parametrize("end", ["resumed", "lost", "eof", "drained"])
    def test_many_refusals_are_given_in_turns(self, end: str) -> None:
        gateway = make_gateway()
        machine = Connection(gateway, 0.0)
        refused = b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n"

        def answers(effects: list[Effect]) -> int:
            return sum(effect.data.count(b"HTTP/1.1 404") for effect in effects if isinstance(effect, SendDownstream))

        assert answers(machine.receive_downstream(refused * REFUSED_MAX, 0.0)) == REFUSED_MAX
        assert gateway.work.waiting == 0
        # The first is no pipelined one.
        assert answers(machine.receive_downstream(refused * (2 * REFUSED_MAX + 1), 0.0)) == 1 + REFUSED_MAX
        assert (machine.wants_resume, machine.wants_downstream, gateway.work.waiting) == (True, False, 1)
        assert answers(machine.receive_downstream(refused, 0.0)) == 0
        if end == "resumed":
            assert gateway.work.turn() == [machine]
            assert answers(machine.resume(0.0)) == REFUSED_MAX
            assert gateway.work.turn() == [machine]
            assert answers(machine.resume(0.0)) == 1
        elif end == "lost":
            machine.downstream_lost(0.0)
        elif end == "eof":
            machine.receive_downstream(b"", 0.0)
        else:
            machine.drain(0.0)
        assert (machine.wants_resume, gateway.work.waiting) == (False, 0)

    def test_idle_connection_is_closed_after_the_keepalive(self) -> None:
        driver = MemoryDriver().receive(request(CHAT)).upstream(json_response(COMPLETION))
        driver.advance(74.9)
        assert driver.closed is None
        driver.advance(0.2)
        assert driver.closed is Close.LINGER

    def test_slow_head_is_answered_408(self) -> None:
        driver = MemoryDriver().receive(b"POST /openai")
        driver.advance(29.9)
        assert driver.down == b""
        driver.advance(0.2)
        assert driver.down.startswith(b"HTTP/1.1 408 Request Timeout")
        assert driver.closed is Close.LINGER

    def test_head_timer_starts_anew_for_each_head(self) -> None:
        driver = MemoryDriver().receive(request(CHAT)).upstream(json_response(COMPLETION))
        driver.advance(20).receive(b"POST")
        driver.advance(29.9)
        assert b"408" not in driver.down
        driver.advance(0.2)
        assert b"HTTP/1.1 408" in driver.down

    def test_drain_closes_idle_ones_and_lets_others_finish(self) -> None:
        idle = MemoryDriver()
        idle.run(idle.machine.drain(idle.now))
        assert idle.closed is Close.LINGER
        driver = MemoryDriver().receive(request(CHAT))
        driver.run(driver.machine.drain(driver.now)).upstream(json_response(COMPLETION))
        assert b"Connection: close\r\n" in driver.down
        assert driver.closed is Close.LINGER
        assert driver.ledger.facts[0].outcome is Outcome.COMPLETE


class TestBodies:
    def test_refused_request_keeps_the_connection_for_a_small_rest(self) -> None:
        whole = request(b"x" * 262_144, key=b"bai_v1.bad")
        driver = MemoryDriver().receive(whole[:-262_144])
        assert driver.down.startswith(b"HTTP/1.1 401")
        assert b"Connection: close" not in driver.down
        driver.receive(whole[-262_144:])
        driver.receive(request(CHAT)).upstream(json_response(COMPLETION))
        assert driver.down.count(b"HTTP/1.1 200 OK") == 1

    def test_refused_request_closes_where_more_is_coming(self) -> None:
        driver = MemoryDriver().receive(request(b"x" * 262_145, key=b"bai_v1.bad")[:-262_145])
        assert b"Connection: close\r\n" in driver.down
        assert driver.closed is Close.LINGER

    def test_refused_request_that_waits_for_100_closes(self) -> None:
        head = request(CHAT, key=b"bai_v1.bad", headers=b"Expect: 100-continue\r\n")[: -len(CHAT)]
        driver = MemoryDriver().receive(head)
        assert driver.down.startswith(b"HTTP/1.1 401")
        assert driver.closed is Close.LINGER

    def test_100_continue_is_sent_once_admitted_and_never_forwarded(self) -> None:
        head = request(CHAT, headers=b"Expect: 100-continue\r\n")[: -len(CHAT)]
        driver = MemoryDriver(sink="hold").receive(head)
        assert driver.down == b""
        driver.fact_opened()
        assert driver.down == b"HTTP/1.1 100 Continue\r\n\r\n"
        driver.receive(CHAT)
        assert b"Expect" not in driver.sent_upstream
        assert driver.sent_upstream.endswith(CHAT)

    def test_early_answer_stops_the_upload_and_closes_both(self) -> None:
        whole = request(b"x" * 200_000, key=BYO_KEY)
        driver = MemoryDriver().receive(whole[:-100_000])
        driver.upstream(json_response(b"{}", status=b"413 Content Too Large"))
        assert b"Connection: close\r\n" in driver.down
        assert driver.down.endswith(b"{}")
        assert driver.closed is Close.LINGER
        assert driver.released == {1: False}

    def test_streamed_cap_holds_for_chunked_bodies(self) -> None:
        driver = MemoryDriver(make_gateway(make_policy(max_request_bytes=1000)))
        head = request(headers=b"Transfer-Encoding: chunked\r\n", length=False, target=b"/openai/v1/embeddings")
        driver.receive(head + chunk(b"x" * 1000))
        assert b"413" not in driver.down
        driver.receive(chunk(b"x"))
        assert b"HTTP/1.1 413 Content Too Large" in driver.down
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status, fact.status) == (Outcome.REFUSED, "none", 413)
        assert not driver.sent_upstream.endswith(b"0\r\n\r\n")

    def test_broken_chunk_framing_is_refused_after_admission(self) -> None:
        driver = MemoryDriver().receive(
            request(headers=b"Transfer-Encoding: chunked\r\n", length=False) + b"5\r\nhello\r\nZZ\r\n"
        )
        assert b"HTTP/1.1 400 Bad Request" in driver.down
        assert driver.closed is Close.LINGER
        assert driver.ledger.facts[0].outcome is Outcome.REFUSED

    def test_silent_upload_times_out_with_408(self) -> None:
        driver = MemoryDriver().receive(request(b"x" * 100_000, key=BYO_KEY)[:-1])
        driver.advance(60)
        assert b"HTTP/1.1 408" in driver.down

    def test_held_body_stops_the_reading(self) -> None:
        driver = MemoryDriver(sink="hold").receive(request(b"x" * 100_000, target=b"/openai/v1/embeddings")[:-35_000])
        assert driver.reading()
        driver.receive(b"x" * 10_000)
        assert not driver.reading()
        driver.fact_opened()
        assert driver.reading()


class TestLongBodies:
    @pytest.mark.parametrize("size", [65_536, 65_537])
    def test_only_a_short_body_is_kept_until_it_is_whole(self, size: int) -> None:
        body = CHAT[:-1] + b" " * (size - len(CHAT)) + b"}"
        driver = MemoryDriver().receive(request(body)[:-1])
        assert bool(driver.sent_upstream) == (size > 65_536)
        driver.receive(b"}")
        assert driver.sent_upstream.partition(b"\r\n\r\n")[2].rstrip(b" ") == body
        driver.upstream(json_response(COMPLETION))
        assert driver.ledger.facts[-1].requested_model == "gpt-4o-mini"


class TestEnds:
    def test_client_leaves_mid_stream(self) -> None:
        driver = MemoryDriver().receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT))
        driver.receive(b"")
        assert driver.released == {1: False}
        assert driver.closed is Close.ABORT
        assert driver.done()
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status) == (Outcome.CLIENT_ABORT, "absent")
        assert fact.estimate is not None

    def test_client_leaves_right_after_the_terminal_event(self) -> None:
        driver = MemoryDriver().receive(request(CHAT_STREAM))
        driver.upstream(CHUNKED_SSE + chunk(EVENT) + chunk(USAGE_EVENT) + chunk(DONE)).lost()
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status) == (Outcome.COMPLETE, "final")

    def test_client_leaves_before_anything_was_sent(self) -> None:
        driver = MemoryDriver(connect="manual").receive(request(CHAT)).lost()
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status, fact.status) == (Outcome.CLIENT_ABORT, "none", None)
        assert driver.up == {}

    def test_drain_reads_on_for_the_usage(self) -> None:
        driver = MemoryDriver(make_gateway(with_provider(on_client_abort=OnClientAbort.DRAIN)))
        driver.receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT)).lost()
        assert not driver.done()
        assert driver.machine.wants_upstream
        down = driver.down
        driver.upstream(chunk(EVENT) + chunk(USAGE_EVENT) + chunk(DONE) + b"0\r\n\r\n")
        assert driver.down == down
        assert driver.done()
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status) == (Outcome.COMPLETE, "final")
        assert fact.response_bytes == len(EVENT), "what is read for its usage alone is not relayed"

    def test_a_drain_before_the_answer_relays_nothing(self) -> None:
        driver = MemoryDriver(make_gateway(with_provider(on_client_abort=OnClientAbort.DRAIN)))
        driver.receive(request(CHAT)).lost().upstream(json_response(COMPLETION))
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status, fact.status) == (Outcome.COMPLETE, "final", None)
        assert (fact.upstream_status, fact.response_bytes) == (200, 0)

    def test_drain_is_bounded_in_bytes_that_came_after_the_caller_left(self) -> None:
        policy = replace(with_provider(on_client_abort=OnClientAbort.DRAIN), usage_drain_max_bytes=len(EVENT))
        driver = MemoryDriver(make_gateway(policy))
        driver.receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT) + chunk(EVENT)).lost()
        driver.upstream(chunk(EVENT))
        assert not driver.done()
        driver.upstream(chunk(b"\n"))
        assert driver.done()
        assert driver.ledger.facts[0].outcome is Outcome.CLIENT_ABORT

    def test_drain_is_bounded_in_time(self) -> None:
        driver = MemoryDriver(make_gateway(with_provider(on_client_abort=OnClientAbort.DRAIN)))
        driver.receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT)).lost()
        driver.advance(60)
        assert driver.done()
        assert driver.ledger.facts[0].outcome is Outcome.CLIENT_ABORT

    def test_provider_dies_mid_stream(self) -> None:
        driver = MemoryDriver().receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT)).upstream_lost()
        assert driver.closed is Close.ABORT
        assert not driver.down.endswith(b"0\r\n\r\n")
        assert driver.ledger.facts[0].outcome is Outcome.UPSTREAM_ABORT

    def test_provider_answers_garbage(self) -> None:
        driver = MemoryDriver().receive(request(CHAT)).upstream(b"SSH-2.0-OpenSSH\r\n\r\n")
        assert driver.down.startswith(b"HTTP/1.1 502")
        assert driver.released == {1: False}
        assert driver.machine.state is ConnectionState.IDLE

    def test_provider_never_answers(self) -> None:
        driver = MemoryDriver().receive(request(CHAT)).advance(600)
        assert driver.down.startswith(b"HTTP/1.1 504")
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status) == (Outcome.TIMEOUT, "absent")

    def test_provider_stalls(self) -> None:
        driver = MemoryDriver().receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT))
        driver.advance(599)
        driver.upstream(chunk(EVENT))
        driver.advance(599)
        assert not driver.done()
        driver.advance(1)
        assert driver.closed is Close.ABORT
        assert driver.ledger.facts[0].outcome is Outcome.TIMEOUT

    def test_caller_that_does_not_read_is_cut(self) -> None:
        driver = MemoryDriver().receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT))
        driver.run(driver.machine.downstream_blocked(driver.now))
        assert not driver.machine.wants_upstream
        driver.advance(60)
        assert driver.closed is Close.ABORT
        assert driver.ledger.facts[0].outcome is Outcome.TIMEOUT

    @pytest.mark.parametrize("headers", [b"", b"Connection: close\r\n"])
    def test_caller_that_does_not_read_is_cut_before_the_answer_began(self, headers: bytes) -> None:
        driver = MemoryDriver().receive(request(CHAT, headers=headers))
        driver.run(driver.machine.downstream_blocked(driver.now))
        driver.advance(60)
        assert (driver.down, driver.closed, driver.done()) == (b"", Close.ABORT, True)
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.status) == (Outcome.TIMEOUT, None), "nothing went downstream"

    def test_caller_that_does_not_read_is_cut_while_a_record_is_unanswered(self) -> None:
        driver = MemoryDriver().receive(request(CHAT)).upstream(json_response(COMPLETION))
        before = driver.down
        driver.ledger.answer = "hold"
        driver.run(driver.machine.downstream_blocked(driver.now))
        driver.advance(57).receive(request(CHAT))
        driver.advance(3)
        assert (driver.down, driver.closed, driver.done()) == (before, Close.ABORT, True)
        assert len(driver.ledger.voids) == 1
        driver.ledger.check()

    def test_cut_by_deny_before_the_head_and_within_the_stream(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        driver.run(driver.machine.cut(DenyReason.SPEND, driver.now))
        assert driver.down.startswith(b"HTTP/1.1 402")
        assert driver.ledger.facts[0].outcome is Outcome.GATEWAY_CUT
        driver = MemoryDriver().receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT))
        driver.run(driver.machine.cut(DenyReason.FRAUD, driver.now))
        assert driver.closed is Close.ABORT
        assert driver.ledger.facts[0].outcome is Outcome.GATEWAY_CUT

    def test_bytes_beyond_the_answer_spoil_the_connection(self) -> None:
        driver = MemoryDriver().receive(request(CHAT)).upstream(json_response(COMPLETION) + b"HTTP/1.1 200 OK\r\n\r\n")
        assert driver.released == {1: False}
        assert driver.down.count(b"HTTP/1.1") == 1

    def test_unasked_bytes_before_the_request_spoil_the_connection(self) -> None:
        driver = MemoryDriver(sink="hold").receive(request(CHAT))
        driver.upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert driver.released == {1: False}
        assert driver.connects[-1].fresh
        driver.fact_opened().upstream(json_response(COMPLETION))
        assert driver.down.endswith(COMPLETION)


class TestConnecting:
    def test_refused_addresses_are_tried_in_turn(self) -> None:
        driver = MemoryDriver(connect="manual").receive(request(CHAT))
        driver.connect_failed().connect_failed()
        assert [connect.tries for connect in driver.connects] == [0, 1, 2]
        driver.connect_failed()
        assert driver.down.startswith(b"HTTP/1.1 502")
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status, fact.upstream_status) == (Outcome.UPSTREAM_ERROR, "none", None)

    @pytest.mark.parametrize("failure", [ConnectFailure.DNS, ConnectFailure.TLS])
    def test_what_no_retry_can_mend_fails_at_once(self, failure: ConnectFailure) -> None:
        driver = MemoryDriver(connect="manual").receive(request(CHAT)).connect_failed(failure)
        assert len(driver.connects) == 1
        assert failure.value.encode() in driver.down

    def test_connecting_has_one_deadline_for_all_tries(self) -> None:
        driver = MemoryDriver(connect="manual").receive(request(CHAT))
        driver.advance(6).connect_failed().advance(3.9)
        assert driver.down == b""
        driver.advance(0.2)
        assert driver.down.startswith(b"HTTP/1.1 504")
        assert driver.ledger.facts[0].outcome is Outcome.TIMEOUT
        assert driver.released[2] is False

    def test_stale_connection_is_replaced_for_a_get_only(self) -> None:
        driver = MemoryDriver(connect="reuse").receive(
            request(method=b"GET", target=b"/openai/v1/models", length=False)
        )
        driver.upstream_lost()
        assert driver.connects[-1].fresh
        driver.upstream(json_response(b'{"object":"list","data":[]}'))
        assert driver.down.startswith(b"HTTP/1.1 200")
        driver = MemoryDriver(connect="reuse").receive(request(CHAT)).upstream_lost()
        assert driver.down.startswith(b"HTTP/1.1 502")

    def test_late_input_of_an_old_attempt_changes_nothing(self) -> None:
        driver = MemoryDriver().receive(request(CHAT)).upstream(json_response(COMPLETION)).receive(request(CHAT))
        before = driver.down
        driver.upstream(json_response(b'{"stale":1}'), attempt=1).upstream_lost(attempt=1)
        assert driver.down == before
        driver.upstream(json_response(COMPLETION))
        assert driver.down == before + before[: len(driver.down) - len(before)].replace(
            driver.ledger.facts[0].id.encode(), driver.ledger.facts[1].id.encode()
        )

    def test_keep_alive_of_the_provider_bounds_the_idle_time(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        effects = driver.machine.receive_upstream(
            1, json_response(COMPLETION, headers=b"Keep-Alive: timeout=5\r\n"), 0.0
        )
        assert [effect.idle_timeout for effect in effects if hasattr(effect, "idle_timeout")] == [4.0]


Situation = Callable[[MemoryDriver], MemoryDriver]
SITUATIONS: dict[str, Situation] = {
    "a whole request": lambda driver: driver.receive(request(CHAT)),
    "a stream": lambda driver: driver.receive(request(CHAT_STREAM)),
    "half of a request": lambda driver: driver.receive(request(CHAT)[:-20]),
    "a request and the next": lambda driver: driver.receive(request(CHAT) + request(CHAT_STREAM)),
    "a request that strikes a rule": lambda driver: driver.receive(request(CHAT_STREAM[:-1])),
    "a rule is struck, and the next": lambda driver: driver.receive(request(CHAT_STREAM[:-1]) + request(CHAT)),
    "a caller that waits for 100": lambda driver: driver.receive(
        request(CHAT, headers=b"Expect: 100-continue\r\n")[: -len(CHAT)]
    ),
    "no body": lambda driver: driver.receive(request(method=b"GET", target=b"/openai/v1/models", length=False)),
    "connected before": lambda driver: driver.receive(request(CHAT)).connected(reused=True),
    "opened before": lambda driver: driver.receive(request(CHAT)).fact_opened(),
    "failed before": lambda driver: driver.receive(request(CHAT)).connect_failed(ConnectFailure.TLS),
    "denied since": lambda driver: deny(driver.receive(request(CHAT))),
    "cut before": lambda driver: driver.receive(request(CHAT)).run(driver.machine.cut(DenyReason.FRAUD, 0.0)),
    "the caller left": lambda driver: driver.receive(request(CHAT)).lost(),
}


def deny(driver: MemoryDriver) -> MemoryDriver:
    driver.gateway.deny.put("blackhole.1", b"spend", 1)
    return driver


class TestBothAnswersInOne:
    @pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
    @pytest.mark.parametrize("right", ["both", "id", "attempt"])
    def test_it_is_what_both_do_one_after_the_other(self, situation: Situation, right: str) -> None:
        ends = []
        for in_one in (False, True):
            driver = situation(MemoryDriver(make_gateway(), connect="manual", sink="hold"))
            machine, fact_id, attempt = driver.machine, driver.ledger.opened[-1].id, driver.attempt
            driver.ledger.answered.add(fact_id)
            fact_id = fact_id if right != "attempt" else "another"
            attempt = attempt if right != "id" else attempt + 7
            if in_one:
                driver.run(machine.opened_and_connected(fact_id, attempt, 1.0))
            else:
                driver.run(machine.upstream_connected(attempt, True, 1.0))
                driver.run(machine.fact_opened(fact_id, 1.0))
            seen = (driver.down, driver.up, driver.released, driver.connects, driver.closed, driver.ledger)
            ends.append((*seen, machine.state, machine.timers.at, driver.gateway.active, driver.gateway.stats.connects))
        assert ends[0] == ends[1]


class TestAdmission:
    def test_refused_record_is_503_without_a_fact(self) -> None:
        driver = MemoryDriver(sink="refuse").receive(request(CHAT))
        assert driver.down.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1\r\n" in driver.down
        assert driver.ledger.facts == []
        assert driver.released == {1: False}
        driver.ledger.check()

    def test_silent_sink_is_503_after_five_seconds_and_voids(self) -> None:
        driver = MemoryDriver(sink="hold").receive(request(CHAT))
        driver.advance(4.9)
        assert driver.down == b""
        driver.advance(0.2)
        assert driver.down.startswith(b"HTTP/1.1 503")
        assert len(driver.ledger.voids) == 1
        driver.ledger.check()

    def test_denied_between_admission_and_the_first_byte(self) -> None:
        driver = MemoryDriver(connect="manual").receive(request(CHAT))
        driver.gateway.deny.put("blackhole.1", b"spend", 1)
        driver.connected()
        assert driver.down.startswith(b"HTTP/1.1 402")
        assert driver.up == {}
        fact = driver.ledger.facts[0]
        assert (fact.outcome, fact.usage_status, fact.status) == (Outcome.GATEWAY_CUT, "none", 402)

    def test_running_exchanges_are_found_by_tenant_and_key(self) -> None:
        gateway = make_gateway()
        one = MemoryDriver(gateway).receive(request(CHAT))
        two = MemoryDriver(gateway).receive(request(CHAT, key=VIRTUAL_KEY_V2))
        change = gateway.deny.put("blackhole.key.9", b"fraud", 1)
        assert change is not None
        assert gateway.apply_deny([change]) == [(two.machine, DenyReason.FRAUD)]
        change = gateway.deny.put("blackhole.1", b"fraud", 2)
        assert change is not None
        assert {owner for owner, _ in gateway.apply_deny([change])} == {one.machine, two.machine}
        one.upstream(json_response(COMPLETION))
        assert [owner for owner, _ in gateway.apply_deny(None)] == [two.machine]
        two.upstream(json_response(COMPLETION))
        assert gateway.apply_deny(None) == []

    def test_spend_lets_running_exchanges_finish(self) -> None:
        driver = MemoryDriver().receive(request(CHAT))
        change = driver.gateway.deny.put("blackhole.1", b"spend", 1)
        assert change is not None
        assert driver.gateway.apply_deny([change]) == []

    def test_hook_refuses_with_its_own_rejection(self) -> None:
        policy = make_policy(on_admission=lambda caller, route: Rejection(Reason.HOOK, "Not on Sundays."))
        driver = MemoryDriver(make_gateway(policy)).receive(request(CHAT))
        assert driver.down.startswith(b"HTTP/1.1 403")
        assert b"Not on Sundays." in driver.down
        assert driver.ledger.opened == []

    def test_model_hook_strikes_before_the_provider_holds_the_body(self) -> None:
        policy = make_policy(on_model=lambda caller, route, model: Rejection(Reason.HOOK, f"No {model}."))
        driver = MemoryDriver(make_gateway(policy)).receive(request(CHAT))
        assert b"No gpt-4o-mini." in driver.down
        assert driver.up == {}
        assert driver.ledger.facts[0].outcome is Outcome.REFUSED

    def test_abandon_pays_what_is_owed_once(self) -> None:
        opening = MemoryDriver(sink="hold").receive(request(CHAT))
        opening.run(opening.machine.abandon(opening.now))
        assert len(opening.ledger.voids) == 1
        running = MemoryDriver().receive(request(CHAT_STREAM)).upstream(CHUNKED_SSE + chunk(EVENT))
        running.run(running.machine.abandon(running.now))
        running.run(running.machine.abandon(running.now))
        assert running.ledger.facts[0].outcome is Outcome.GATEWAY_CUT
        assert running.released == {1: False}
        assert running.done()
        opening.ledger.check()
        running.ledger.check()

    def test_timeouts_come_from_the_policy(self) -> None:
        policy = make_policy(timeouts=Timeouts(read=3.0))
        driver = MemoryDriver(make_gateway(policy)).receive(request(CHAT)).advance(3.0)
        assert driver.down.startswith(b"HTTP/1.1 504")


class TestRepeatedHeads:
    def test_reload_denies_and_limits_hold_for_a_repeated_head(self) -> None:
        driver = MemoryDriver()
        driver.receive(request(CHAT)).upstream(json_response(COMPLETION))
        driver.gateway.deny.put("blackhole.1", b"spend", 1)
        driver.receive(request(CHAT))
        assert driver.down.count(b"HTTP/1.1 402") == 1
        driver.gateway.deny.remove("blackhole.1", 2)
        driver.gateway.reload(make_policy(keyring=KeyRing({})))
        driver.receive(request(CHAT))
        assert driver.down.count(b"HTTP/1.1 401") == 1
        driver.gateway.reload(with_provider(origin=parse_origin("http://other.test"), pool_key=Secret(b"sk-new")))
        driver.receive(request(CHAT))
        assert b"Host: other.test\r\n" in driver.sent_upstream
        assert b"Authorization: Bearer sk-new\r\n" in driver.sent_upstream

    @pytest.mark.parametrize("reads", [1, 2])
    def test_a_rate_limit_counts_a_repeated_head(self, reads: int) -> None:
        driver = MemoryDriver(make_gateway(make_policy(rate_limit_rps=2)))
        for _ in range(3):
            whole = request(CHAT)
            for piece in [whole] if reads == 1 else [whole[:-20], whole[-20:]]:
                driver.receive(piece)
            if len(driver.connects) > driver.down.count(b"HTTP/1.1 200"):
                driver.upstream(json_response(COMPLETION))
        assert (driver.down.count(b"HTTP/1.1 200"), driver.down.count(b"HTTP/1.1 429")) == (2, 1)
        driver.advance(1.0)
        driver.receive(request(CHAT)).upstream(json_response(COMPLETION))
        assert driver.down.count(b"HTTP/1.1 200") == 3

    def test_a_body_too_large_under_the_same_head_is_refused(self) -> None:
        driver = MemoryDriver(make_gateway(make_policy(max_request_bytes=len(CHAT))))
        driver.receive(request(CHAT)).upstream(json_response(COMPLETION))
        driver.receive(request(CHAT.replace(b"hi", b"hi!")))
        assert driver.down.count(b"HTTP/1.1 413") == 1
        assert len(driver.connects) == 1

    def test_a_hook_is_asked_about_a_repeated_head(self) -> None:
        asked: list[object] = []

        def hook(caller: object, _: object) -> Rejection | None:
            asked.append(caller)
            return Rejection(Reason.OUT_OF_SCOPE) if len(asked) == 2 else None

        driver = MemoryDriver(make_gateway(make_policy(on_admission=hook)))
        driver.receive(request(CHAT)).upstream(json_response(COMPLETION))
        driver.receive(request(CHAT))
        assert (len(asked), len(driver.connects), driver.down.count(b"HTTP/1.1 200")) == (2, 1, 1)

    def test_a_gateway_without_its_deny_set_refuses_a_repeated_head(self) -> None:
        driver = MemoryDriver(make_gateway(make_policy(deny_fail_closed=True)))
        driver.receive(request(CHAT)).upstream(json_response(COMPLETION))
        driver.gateway.deny_state = "cold"
        driver.receive(request(CHAT))
        assert driver.down.count(b"HTTP/1.1 503") == 1

    def test_a_longer_body_under_the_same_head_has_its_own_length(self) -> None:
        driver = MemoryDriver().receive(request(CHAT)).upstream(json_response(COMPLETION))
        longer = CHAT.replace(b"hi", b"hi" * 50)
        driver.receive(request(longer))
        assert b"Content-Length: %d\r\n" % len(longer) in driver.sent_upstream
        assert driver.sent_upstream.endswith(longer)
