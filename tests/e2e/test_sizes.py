"""Sizes and speeds: early answers to large requests, bodies of any size in flat memory, flow control both ways."""

from __future__ import annotations

import contextlib
import json
import zlib
from pathlib import Path
from typing import Final

import anthropic
import openai
import pytest

from tests.e2e import answers, keys
from tests.e2e.calls import CHAT, JSON_TYPE, MESSAGES, UNRULED, begun, call
from tests.e2e.client import Answer, Client, Field, bearer, request
from tests.e2e.fleet import REQUEST_MAX
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider, Received, offer
from tests.e2e.sdk import anthropic_client, openai_client

MIB: Final = 1024 * 1024
LARGE: Final = 40 * MIB
FLAT: Final = 16 * MIB
"""What memory may grow by while a body passes: far below the body, far above the buffers on its way."""
OFFERED: Final = 200 * MIB
PIECE: Final = bytes(range(256)) * 4096

has_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")


def large_json(size: int) -> bytes:
    """A request of about this many bytes, as chats with images are."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * size}]}).encode()


def crc_of(total: int) -> int:
    """Of so many bytes of PIECE after PIECE."""
    crc = 0
    for start in range(0, total, len(PIECE)):
        crc = zlib.crc32(PIECE[: total - start], crc)
    return crc


# Early answers


class _Huge:
    """A request whose body never ends within the test."""

    def __init__(self, key: str, target: str = CHAT, *fields: Field) -> None:
        self.head = request(
            target, b"", bearer(key), JSON_TYPE, *fields, (b"Content-Length", b"%d" % LARGE), length=False
        )

    def send_and_read(self, gateway: Gateway) -> Answer:
        """Sends on without looking, as simple clients do, until that fails; then reads."""
        with Client(gateway) as client:
            client.send(self.head)
            with contextlib.suppress(ConnectionError):
                offer(client.sock, LARGE, bytes(MIB))
            return client.read_answer()


def test_a_refusal_is_read_although_a_large_body_is_still_coming(
    gateway: Gateway, limited: Gateway, denied: Gateway
) -> None:
    used_up = keys.virtual_key()
    with Client(limited) as client:
        while True:
            client.send(call(key=used_up))
            if client.read_answer().status == 429:
                break
    cases = [
        (gateway, _Huge(keys.forged_key()), 401),
        (denied, _Huge(keys.virtual_key(keys.DENIED_TENANTS["spend"])), 402),
        (denied, _Huge(keys.virtual_key(keys.DENIED_TENANTS["fraud"]), MESSAGES), 403),
        (gateway, _Huge(keys.virtual_key(), "/openai/v1/files"), 404),
        (limited, _Huge(keys.virtual_key()), 413),
        (limited, _Huge(used_up), 429),
    ]
    for server, huge, status in cases:
        answer = huge.send_and_read(server)
        # A window of the limiter may have passed: then the size is what is refused.
        assert answer.status == status or (status == 429 and answer.status == 413)
        assert answer.complete
        assert answer.json()["error"]["message"]


def test_a_refused_declared_body_of_moderate_size_keeps_the_connection(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    for size, kept in ((262_144, True), (262_145, False)):
        with Client(gateway) as client:
            client.send(request(CHAT, b"", bearer(keys.forged_key()), (b"Content-Length", b"%d" % size), length=False))
            answer = client.read_answer()
            assert answer.status == 401
            assert (answer.values(b"connection") == []) is kept
            if kept:
                client.send(bytes(size) + call(case))
                assert client.read_answer().status == 200
            else:
                client.send(bytes(size) + call(case))
                assert client.read_end() == (b"", "orderly")
    assert len(case.received) == 1


def test_sdks_read_refusals_of_large_requests(gateway: Gateway, limited: Gateway, denied: Gateway) -> None:
    content = "x" * LARGE
    spend = keys.virtual_key(keys.DENIED_TENANTS["spend"])
    expected: list[tuple[Gateway, str, int]] = [(gateway, keys.forged_key(), 401), (denied, spend, 402)]
    expected.append((limited, keys.virtual_key(), 413))
    for server, key, status in expected:
        with openai_client(server, key, retries=0) as client, pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])
        assert caught.value.status_code == status
        with anthropic_client(server, key, retries=0) as talker, pytest.raises(anthropic.APIStatusError) as refused:
            talker.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": content}])
        assert refused.value.status_code == status


def test_an_early_answer_of_the_provider_is_read(gateway: Gateway, provider: Provider) -> None:
    error = {"error": {"message": "Too large for us.", "type": "invalid_request_error"}}
    whole = answers.json_answer(error, "413 Payload Too Large")

    def script(received: Received) -> None:
        received.read_some()
        received.connection.send(whole)
        received.connection.wait_closed()

    case = provider.case(script)
    body = large_json(LARGE)
    with Client(gateway) as client:
        client.send(
            request(
                MESSAGES,
                b"",
                bearer(keys.virtual_key()),
                JSON_TYPE,
                case.header,
                (b"Content-Length", b"%d" % len(body)),
            )
        )
        with contextlib.suppress(ConnectionError):
            client.send(body)
        answer = client.read_answer()
    assert answer.status == 413
    assert answer.json() == error
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["status"]) == ("upstream_error", 413)
    assert fact["request_bytes"] < len(body)

    case = provider.case(script)
    with anthropic_client(gateway, keys.virtual_key(), case, retries=0) as talker:
        with pytest.raises(anthropic.APIStatusError, match="Too large for us") as refused:
            talker.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x" * LARGE}])
        assert refused.value.status_code == 413


def test_a_body_that_grows_beyond_the_cap_is_cut(limited: Gateway, provider: Provider) -> None:
    """Nobody declared its length, so what has come decides."""
    chunk = answers.chunk(b" " * 50_000)
    chunked = (b"Transfer-Encoding", b"chunked")
    for key, target in ((keys.BYO_KEY, UNRULED), (keys.virtual_key(), UNRULED), (keys.virtual_key(), CHAT)):
        case = provider.case(answers.by_path)
        with Client(limited) as client:
            client.send(call(case, chunked, target=target, key=key, body=b""))
            with contextlib.suppress(ConnectionError):
                client.send(chunk * (REQUEST_MAX // 50_000) + answers.chunk(b"x") + answers.LAST_CHUNK)
            answer = client.read_answer()
        assert answer.status == 413
        assert not any(received.complete for received in case.received)
        if key != keys.BYO_KEY:
            fact = limited.fact(answer.request_id)
            assert (fact["outcome"], fact["usage_status"], fact["status"]) == ("refused", "none", 413)
    case = provider.case(answers.json_answer({}))
    with Client(limited) as client:
        client.send(call(case, chunked, target=UNRULED, body=b""))
        client.send(chunk * (REQUEST_MAX // 50_000) + answers.LAST_CHUNK)
        assert client.read_answer().status == 200, "the cap itself is allowed"


# Sizes


@pytest.mark.parametrize("size", [0, 1, MIB, LARGE], ids=["0", "1", "1MiB", "40MiB"])
@pytest.mark.parametrize("own_key", [True, False], ids=["byo", "managed"])
@has_proc
def test_bodies_of_any_size_both_ways_in_flat_memory(
    gateway: Gateway, provider: Provider, size: int, own_key: bool
) -> None:
    """Any bytes to a wire without a rule, and the same bytes back."""
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]

    def echo(received: Received) -> None:
        data = received.read()
        received.connection.send(answers.plain("200 OK", data, content_type="application/octet-stream"))

    case = provider.case(echo)
    key = keys.BYO_KEY if own_key else keys.virtual_key()
    before = gateway.reset_peak_memory()
    with Client(gateway) as client:
        client.send(request(UNRULED, body, bearer(key), case.header))
        answer = client.read_answer()
    assert answer.status == 200
    assert answer.body == body
    assert case.received[0].body == body
    assert gateway.peak_memory() - before < FLAT
    if not own_key:
        fact = gateway.fact(answer.request_id)
        assert (fact["request_bytes"], fact["response_bytes"]) == (size, size)


@has_proc
def test_a_large_json_request_is_judged_and_spliced_in_flat_memory(gateway: Gateway, provider: Provider) -> None:
    document = {"model": "m", "messages": [{"role": "user", "content": "é" * (LARGE // 6)}], "stream": True}
    body = json.dumps(document).encode()
    assert len(body) > LARGE * 0.9
    case = provider.case(answers.by_path)
    before = gateway.reset_peak_memory()
    with Client(gateway) as client:
        client.send(call(case, body=body))
        answer = client.read_answer()
    assert gateway.peak_memory() - before < FLAT
    assert answer.status == 200
    assert case.received[0].json() == {**document, "stream_options": {"include_usage": True}}
    assert gateway.fact(answer.request_id)["usage"] == answers.CHAT_USAGE


@has_proc
def test_a_large_json_answer_is_metered_in_flat_memory(gateway: Gateway, provider: Provider) -> None:
    document = answers.chat_completion({})
    document["choices"][0]["message"]["content"] = "x" * LARGE
    case = provider.case(answers.json_answer(document))
    before = gateway.reset_peak_memory()
    with Client(gateway) as client:
        client.send(call(case))
        answer = client.read_answer()
    assert gateway.peak_memory() - before < FLAT
    assert answer.json() == document
    fact = gateway.fact(answer.request_id)
    assert (fact["usage"], fact["usage_status"]) == (answers.CHAT_USAGE, "final")


# Flow control


@pytest.mark.parametrize("own_key", [True, False], ids=["byo", "managed"])
@has_proc
def test_a_caller_who_does_not_read_stops_the_provider(gateway: Gateway, provider: Provider, own_key: bool) -> None:
    taken: list[int] = []
    may_go_on: list[bool] = []

    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.head("200 OK", ("Content-Length", str(OFFERED)), ("Content-Type", "x/y")))
        taken.append(offer(received.connection.sock, OFFERED, PIECE))
        wait_until(lambda: may_go_on != [], "the test has looked")
        rest = OFFERED - taken[0]
        received.connection.send((PIECE[taken[0] % len(PIECE) :] + PIECE * (rest // len(PIECE) + 1))[:rest])

    case = provider.case(script)
    before = gateway.reset_peak_memory()
    with Client(gateway, receive_buffer=65_536) as client:
        client.send(
            request(
                UNRULED,
                b"{}",
                bearer(keys.BYO_KEY if own_key else keys.virtual_key()),
                case.header,
            )
        )
        wait_until(lambda: taken != [], "the provider has stalled, or sent everything")
        assert taken[0] < OFFERED // 2, "the gateway reads on although nobody takes it"
        assert gateway.peak_memory() - before < FLAT
        may_go_on.append(True)
        head = client.read_head()
        crc = received = 0
        while received < OFFERED:
            data = client.read_exactly(min(MIB, OFFERED - received))
            crc, received = zlib.crc32(data, crc), received + len(data)
    assert crc == crc_of(OFFERED)
    assert gateway.peak_memory() - before < FLAT
    if not own_key:
        assert gateway.fact(head.request_id)["response_bytes"] == OFFERED


@has_proc
@pytest.mark.parametrize("own_key", [True, False], ids=["byo", "managed"])
def test_a_provider_that_does_not_read_stops_the_caller(gateway: Gateway, provider: Provider, own_key: bool) -> None:
    total = 60 * MIB
    may_go_on: list[bool] = []

    def script(received: Received) -> None:
        wait_until(lambda: may_go_on != [], "the test has looked")
        received.read()
        received.connection.send(answers.json_answer({}))

    case = provider.case(script)
    before = gateway.reset_peak_memory()
    with Client(gateway) as client:
        key = keys.BYO_KEY if own_key else keys.virtual_key()
        client.send(request(UNRULED, b"", bearer(key), case.header, (b"Content-Length", b"%d" % total)))
        taken = offer(client.sock, total, PIECE)
        assert taken < total // 2, "the gateway reads on although the provider does not"
        assert gateway.peak_memory() - before < FLAT
        may_go_on.append(True)
        client.send((PIECE[taken % len(PIECE) :] + PIECE * (total // len(PIECE)))[: total - taken])
        assert client.read_answer().status == 200
    assert zlib.crc32(case.received[0].body) == crc_of(total)
    assert gateway.peak_memory() - before < FLAT


def test_a_caller_who_never_reads_is_cut(hurried: Gateway, provider: Provider) -> None:
    """And the provider's silence meanwhile, which is our own doing, is not what ends it."""
    endings: list[str] = []

    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.head("200 OK", ("Content-Length", str(OFFERED))))
        offer(received.connection.sock, OFFERED, PIECE)
        endings.append(received.connection.wait_closed())

    case = provider.case(script)
    with Client(hurried, receive_buffer=65_536) as client:
        client.send(request(UNRULED, b"{}", bearer(keys.virtual_key()), case.header))
        wait_until(lambda: endings != [], "the provider is let go")
        data, how = client.read_end()
    assert how == "reset"
    assert len(data) < OFFERED
    request_id = data.partition(b"x-aigw-request-id: ")[2].partition(b"\r\n")[0].decode()
    fact = hurried.fact(request_id)
    assert (fact["outcome"], fact["status"]) == ("timeout", 200)
    assert fact["duration_ms"] >= 1000, "ended by the write timeout, not by the shorter silence of the stream"


def test_draining_for_the_usage_goes_on_where_the_caller_did_not_read(draining: Gateway, provider: Provider) -> None:
    delta = {"index": 0, "delta": {"content": "x" * 65_536}, "finish_reason": None}
    padding = answers.chunk(answers.event(answers.chat_chunk([delta])))
    ending = answers.chat_events({"stream_options": {"include_usage": True}})[-3:]
    offered: list[int] = []
    left: list[bool] = []

    def script(received: Received) -> None:
        received.read()
        total = len(padding) * 180
        received.connection.send(answers.STREAM_HEAD)
        offered.append(offer(received.connection.sock, total, padding))
        wait_until(lambda: left != [], "the caller has left")
        rest = (padding * 180)[offered[0] :]
        received.connection.send(rest + b"".join(map(answers.chunk, ending)) + answers.LAST_CHUNK)

    case = provider.case(script)
    body = json.dumps(
        {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    ).encode()
    with Client(draining, receive_buffer=65_536) as client:
        client.send(call(case, body=body))
        head = client.read_head()
        wait_until(lambda: offered != [], "the provider has stalled, or sent everything")
    left.append(True)
    fact = draining.fact(head.request_id)
    assert (fact["outcome"], fact["usage_status"], fact["usage"]) == ("complete", "final", answers.CHAT_USAGE)


def test_a_provider_that_never_reads_is_given_up(hurried: Gateway, provider: Provider) -> None:
    endings: list[str] = []

    def script(received: Received) -> None:
        wait_until(lambda: answered != [], "the caller has its answer")
        endings.append(received.connection.wait_closed())

    answered: list[Answer] = []
    case = provider.case(script)
    with Client(hurried) as client:
        client.send(begun(case, LARGE, target=UNRULED))
        with contextlib.suppress(ConnectionError):
            offer(client.sock, LARGE, PIECE)
        answered.append(client.read_answer())
    assert answered[0].status == 504
    wait_until(lambda: endings != [], "the provider's connection is closed")
    assert hurried.fact(answered[0].request_id)["outcome"] == "timeout"
