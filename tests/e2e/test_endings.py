"""Exchanges that do not end well: the caller leaves, the provider dies, a timer fires. Each leaves its one fact."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

import anthropic
import httpx2
import openai
import pytest

from tests.e2e import answers, keys
from tests.e2e.calls import BODY, MESSAGES, STREAMED, ask, begun, call
from tests.e2e.client import Client
from tests.e2e.fleet import HURRY_SECS
from tests.e2e.gateway import Fact, Gateway, wait_until
from tests.e2e.provider import PeerClosed, Provider, Received, Script
from tests.e2e.sdk import anthropic_client, openai_client


def _await(condition: Callable[[], bool]) -> None:
    wait_until(condition, "the provider's side of it")


def check_fact(fact: Fact, **expected: Any) -> None:
    assert {name: fact[name] for name in expected} == expected


# The caller leaves


def _begin_stream(received: Received) -> None:
    received.read()
    received.connection.send(answers.STREAM_HEAD)
    for data in answers.chat_events({"stream_options": {"include_usage": True}})[:3]:
        received.connection.send(answers.chunk(data))


def _stream_until_closed(endings: list[str]) -> Script:
    def script(received: Received) -> None:
        try:
            _begin_stream(received)
            endings.append(received.connection.wait_closed())
        except PeerClosed as how:
            # The caller left on the second event, and the third was not sent yet.
            endings.append(str(how))
        received.connection.close()

    return script


@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
def test_a_caller_who_leaves_a_stream_ends_it_upstream_at_once(gateway: Gateway, provider: Provider, way: str) -> None:
    endings: list[str] = []
    case = provider.case(_stream_until_closed(endings))
    with Client(gateway) as client:
        client.send(call(case, body=STREAMED))
        head = client.read_head()
        client.read_stream_until(b"Bonjour")
        if way == "half_close":
            client.half_close()
            client.read_end()
        elif way == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    fact = gateway.fact(head.request_id)
    assert (fact["outcome"], fact["status"], fact["upstream_status"]) == ("client_abort", 200, 200)
    assert fact["usage_status"] == "absent"
    assert fact["estimate"]["output"] > 0
    _await(lambda: endings != [])


def test_an_sdk_that_closes_its_stream(gateway: Gateway, provider: Provider) -> None:
    endings: list[str] = []
    case = provider.case(_stream_until_closed(endings))
    with openai_client(gateway, keys.virtual_key(), case) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        stream = raw.parse()
        next(iter(stream))
        stream.close()
        fact = gateway.fact(raw.headers["x-aigw-request-id"])
    assert fact["outcome"] == "client_abort"
    _await(lambda: endings != [])


def test_interim_numbers_of_a_message_that_was_left_are_partial(gateway: Gateway, provider: Provider) -> None:
    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.STREAM_HEAD)
        for data in answers.message_events({})[:4]:
            received.connection.send(answers.chunk(data))
        received.connection.wait_closed()

    case = provider.case(script)
    with Client(gateway) as client:
        client.send(call(case, target=MESSAGES, body=STREAMED))
        head = client.read_head()
        client.read_stream_until(b"content_block_delta")
    fact = gateway.fact(head.request_id)
    assert (fact["outcome"], fact["usage_status"]) == ("client_abort", "partial")
    assert fact["usage"]["input_tokens"] == answers.MESSAGES_USAGE["input_tokens"]
    assert fact["estimate"]["output"] > 0


def test_a_caller_who_leaves_before_the_answer(gateway: Gateway, provider: Provider) -> None:
    endings: list[str] = []

    def script(received: Received) -> None:
        received.read()
        endings.append(received.connection.wait_closed())

    case = provider.case(script)
    number = keys.number()
    with Client(gateway) as client:
        client.send(call(case, key=keys.virtual_key(key_id=number)))
        case.wait()
    _await(lambda: endings != [])
    fact = gateway.fact_by("key_id", str(number))
    check_fact(fact, outcome="client_abort", usage_status="absent", status=None, upstream_status=None)


def test_a_caller_who_leaves_in_the_middle_of_the_request(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    number = keys.number()
    with Client(gateway) as client:
        client.send(begun(case, len(BODY), BODY[:-5], key=keys.virtual_key(key_id=number)))
    check_fact(gateway.fact_by("key_id", str(number)), outcome="client_abort", usage_status="none", status=None)
    assert case.received == []


def test_a_caller_who_leaves_right_behind_the_last_event_has_the_whole_answer(
    gateway: Gateway, provider: Provider
) -> None:
    def script(received: Received) -> None:
        request_body = received.json()
        received.connection.send(answers.STREAM_HEAD)
        for data in answers.chat_events(request_body):
            received.connection.send(answers.chunk(data))
        received.connection.wait_closed()

    case = provider.case(script)
    with Client(gateway) as client:
        client.send(call(case, body=STREAMED))
        head = client.read_head()
        client.read_stream_until(b"[DONE]\n\n")
    fact = gateway.fact(head.request_id)
    assert (fact["outcome"], fact["usage_status"]) == ("complete", "final")
    assert fact["usage"] == answers.CHAT_USAGE


def test_draining_reads_on_for_the_usage(draining: Gateway, provider: Provider) -> None:
    left: list[bool] = []

    def script(received: Received) -> None:
        request_body = received.json()
        events = answers.chat_events(request_body)
        received.connection.send(answers.STREAM_HEAD + answers.chunk(events[0]))
        _await(lambda: left != [])
        received.connection.send(b"".join(answers.chunk(data) for data in events[1:]) + answers.LAST_CHUNK)

    case = provider.case(script)
    with Client(draining) as client:
        client.send(call(case, body=STREAMED))
        head = client.read_head()
        client.read_chunk()
    left.append(True)
    fact = draining.fact(head.request_id)
    assert (fact["outcome"], fact["usage_status"], fact["usage"]) == ("complete", "final", answers.CHAT_USAGE)


# The provider leaves


def _die_mid_chunk(received: Received) -> None:
    _begin_stream(received)
    received.connection.send(b"40\r\ndata: {")
    received.connection.close()


def _die_between_chunks(received: Received) -> None:
    _begin_stream(received)
    received.connection.close()


def _reset(received: Received) -> None:
    _begin_stream(received)
    received.connection.send(b"40\r\ndata: {")
    received.connection.reset()


def _garbage(received: Received) -> None:
    _begin_stream(received)
    received.connection.send(b"this is no chunk\r\n")
    received.connection.wait_closed()


def _garbage_at_once(received: Received) -> None:
    """The same in one write, so that it most likely is one read."""
    received.read()
    data = b"".join(answers.chunk(data) for data in answers.chat_events({})[:3])
    received.connection.send(answers.STREAM_HEAD + data + b"this is no chunk\r\n")
    received.connection.wait_closed()


BREAKS: Final = [_die_mid_chunk, _die_between_chunks, _reset, _garbage, _garbage_at_once]


@pytest.mark.parametrize("script", BREAKS, ids=lambda script: script.__name__.strip("_"))
def test_a_provider_that_dies_in_a_stream(gateway: Gateway, provider: Provider, script: Script) -> None:
    case = provider.case(script)
    answer = ask(gateway, case, STREAMED)
    assert answer.status == 200
    assert not answer.complete, "a cut answer must never look complete"
    assert answer.ended == "reset"
    if script is not _reset:
        assert b"Bonjour" in answer.body, "what came before the end is relayed"
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage_status"], fact["status"]) == ("upstream_abort", "absent", 200)

    case = provider.case(script)
    with openai_client(gateway, keys.virtual_key(), case) as client, pytest.raises(openai.APIConnectionError):
        list(client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True))
    case = provider.case(script)
    with anthropic_client(gateway, keys.virtual_key(), case) as talker, pytest.raises(httpx2.TransportError):
        list(talker.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}], stream=True))


@pytest.mark.parametrize(("missing", "usage_status"), [(2, "partial"), (300, "absent")])
def test_a_short_body_is_cut(gateway: Gateway, provider: Provider, missing: int, usage_status: str) -> None:
    whole = answers.json_answer(answers.chat_completion({}))

    def script(received: Received) -> None:
        received.read()
        received.connection.send(whole[:-missing])
        received.connection.close()

    answer = ask(gateway, provider.case(script))
    assert not answer.complete
    assert answer.body == whole.partition(b"\r\n\r\n")[2][:-missing]
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage_status"]) == ("upstream_abort", usage_status)
    assert fact["response_bytes"] == len(answer.body)


def test_a_close_delimited_answer_is_complete_only_where_its_end_shows(gateway: Gateway, provider: Provider) -> None:
    document = json.dumps(answers.chat_completion({})).encode()
    head = answers.head("200 OK", ("Content-Type", "application/json"))

    def closing(body: bytes) -> Script:
        def script(received: Received) -> None:
            received.read()
            received.connection.send(head + body)
            received.connection.close()

        return script

    answer = ask(gateway, provider.case(closing(document)))
    assert answer.complete
    assert answer.body == document
    assert gateway.fact(answer.request_id)["outcome"] == "complete"

    answer = ask(gateway, provider.case(closing(document[:-3])))
    assert not answer.complete
    assert gateway.fact(answer.request_id)["outcome"] == "upstream_abort"


def _ok(*lines: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\nhello"


GARBAGE: Final = {
    "nothing": b"",
    "zeros": b"\x00\x00\x00",
    "half-a-head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "status": b"HTTP/1.1 two hundred\r\n\r\n",
    "version": b"HTTP/2.0 200 OK\r\n\r\n",
    "icy": b"ICY 200 OK\r\n\r\n",
    "bare-lf": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "two-lengths": _ok(b"Content-Length: 5", b"Content-Length: 6"),
    "list-of-lengths": _ok(b"Content-Length: 5, 5"),
    "signed-length": _ok(b"Content-Length: +5"),
    "length-beside-chunked": _ok(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "unknown-coding": _ok(b"Transfer-Encoding: gzip, chunked"),
    "fold": _ok(b"Content-Length: 5", b"X-A: 1", b" 2"),
    "nul": _ok(b"Content-Length: 5", b"X-A: \x00"),
    "blank-before-colon": _ok(b"Content-Length : 5"),
    "large-head": _ok(b"Content-Length: 5", b"X-A: " + b"a" * 70_000),
    "many-fields": _ok(b"Content-Length: 5", *[b"X-A: 1"] * 128),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_a_provider_that_does_not_answer_in_http(gateway: Gateway, provider: Provider, garbage: bytes) -> None:
    def script(received: Received) -> None:
        received.read()
        received.connection.send(garbage)
        received.connection.close()

    case = provider.case(script)
    answer = ask(gateway, case)
    assert (answer.status, answer.complete) == (502, True)
    assert answer.json()["error"]["code"] == "upstream_broken"
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage_status"], fact["status"]) == ("upstream_abort", "absent", 502)
    assert len(case.received) == 1, "a POST is never repeated"


def test_nobody_listens(gateway: Gateway) -> None:
    answer = ask(gateway, target="/refusing/v1/chat/completions")
    assert answer.status == 502
    assert "could not be reached" in answer.json()["error"]["message"]
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage_status"]) == ("upstream_error", "none")
    assert (fact["status"], fact["upstream_status"], fact["request_bytes"]) == (502, None, 0)
    with (
        openai_client(gateway, keys.virtual_key(), base="refusing/v1", retries=0) as client,
        pytest.raises(openai.InternalServerError, match="could not be reached"),
    ):
        client.models.list()


# Timers


def _stall(endings: list[str]) -> Script:
    def script(received: Received) -> None:
        received.read()
        endings.append(received.connection.wait_closed())

    return script


def test_a_provider_that_cannot_be_connected_to_in_time(hurried: Gateway) -> None:
    answer = ask(hurried, target="/silent/v1/chat/completions")
    assert answer.status == 504
    check_fact(
        hurried.fact(answer.request_id), outcome="timeout", usage_status="none", status=504, upstream_status=None
    )


def test_a_provider_that_does_not_answer_in_time(hurried: Gateway, provider: Provider) -> None:
    endings: list[str] = []
    answer = ask(hurried, provider.case(_stall(endings)))
    assert answer.status == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"
    check_fact(
        hurried.fact(answer.request_id), outcome="timeout", usage_status="absent", status=504, upstream_status=None
    )
    _await(lambda: endings != [])
    with (
        anthropic_client(hurried, keys.virtual_key(), provider.case(_stall(endings)), retries=0) as client,
        pytest.raises(anthropic.InternalServerError, match="in time"),
    ):
        client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])


def test_a_stream_that_stalls(hurried: Gateway, provider: Provider) -> None:
    endings: list[str] = []
    answer = ask(hurried, provider.case(_stream_until_closed(endings)), STREAMED)
    assert (answer.complete, answer.ended) == (False, "reset")
    assert b"Bonjour" in answer.body
    check_fact(hurried.fact(answer.request_id), outcome="timeout", usage_status="absent", status=200)
    _await(lambda: endings != [])


def test_a_stream_may_take_longer_than_its_idle_time(hurried: Gateway, provider: Provider) -> None:
    def script(received: Received) -> None:
        """Says something now and then, for more than twice the idle time, and never for long nothing."""
        events = answers.chat_events(received.json())
        received.connection.send(answers.STREAM_HEAD)
        end = time.monotonic() + 2.5 * HURRY_SECS
        while time.monotonic() < end:
            received.connection.send(answers.chunk(events[1]))
            sent[0] += 1
            _await(lambda: seen == sent)
        received.connection.send(b"".join(map(answers.chunk, events[-3:])) + answers.LAST_CHUNK)

    sent, seen = [0], [0]
    with Client(hurried) as client:
        client.send(call(provider.case(script), body=STREAMED))
        head = client.read_head()
        while b"[DONE]" not in (data := client.read_chunk()):
            seen[0] += data.count(b"Bonjour")
        assert client.read_chunk() == b""
    check_fact(hurried.fact(head.request_id), outcome="complete", usage_status="final")


def test_a_caller_who_stops_in_the_middle_of_the_request(hurried: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    with Client(hurried) as client:
        client.send(begun(case, len(BODY), BODY[:-5]))
        answer = client.read_answer()
        assert client.read_end() == (b"", "orderly")
    assert answer.status == 408
    check_fact(hurried.fact(answer.request_id), outcome="timeout", usage_status="none", status=408)
    assert case.received == []
