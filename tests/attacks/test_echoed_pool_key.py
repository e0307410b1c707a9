"""A provider echoes the pool key: as it is, escaped, percent-encoded, in base64 or hex, compressed or under a wrong
label, in a body of any status, in a header or the name of one, as the model of an answer.

Whoever has a virtual key would have the operator's own key then. It must not reach the caller, nor a fact, a log line
or a metric: it is overwritten by as many stars, and where that cannot be done, in a compressed body, the caller gets
an error of ours, or an answer that is visibly cut.
"""

from __future__ import annotations

import binascii
import gzip
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

import pytest

from tests.codings import CODINGS
from tests.core.keyspellings import in_base64, spelled
from tests.e2e import DEADLINE, answers, keys
from tests.e2e.calls import BODY, CHAT, JSON_TYPE, MESSAGES, STREAMED, ask
from tests.e2e.client import Answer, Client, bearer, request
from tests.e2e.gateway import Fact, Gateway
from tests.e2e.provider import Provider, Received, Script

KEY: Final = keys.pool_key("openai").encode()
SPELLINGS: Final = {**dict(spelled(KEY)), **dict(in_base64(KEY))}
HEX: Final = {"hex": KEY.hex().encode(), "hex in capitals": KEY.hex().upper().encode()}
"""Looked for in errors."""
PIECES: Final = {"in one piece": 1 << 20, "in pieces of 7 bytes": 7, "byte by byte": 1}


# What a clever reader makes of bytes


def readings(data: bytes) -> Iterator[bytes]:
    """The bytes, and what they say once each way of writing is undone."""
    unescaped = re.sub(rb"\\u00([0-9A-Fa-f]{2})", lambda found: bytes.fromhex(found[1].decode()), data)
    for text in (data, unescaped.replace(b"\\/", b"/"), unquote_to_bytes(data), unquote_to_bytes(unescaped)):
        yield text
        yield text.lower()
        for run in re.findall(rb"[A-Za-z0-9+/_-]{8,}", text):
            as_standard = run.translate(bytes.maketrans(b"-_", b"+/"))
            for start in range(4):
                part = as_standard[start:]
                yield binascii.a2b_base64(part[: len(part) // 4 * 4])
        for run in re.findall(rb"[0-9A-Fa-f]{8,}", text):
            yield bytes.fromhex(run[: len(run) // 2 * 2].decode())


def assert_unreadable(where: str, data: bytes) -> None:
    """No more than two bytes at either end of the key can be read: base64 mixes those with what stands next to it."""
    for text in readings(data):
        if KEY[2:-2] in text or KEY[2:-2].lower() in text:
            pytest.fail(f"{where} shows the pool key")


def test_the_reader_of_these_tests_reads() -> None:
    for text in (*SPELLINGS.values(), *HEX.values(), KEY.upper()):
        with pytest.raises(pytest.fail.Exception):
            assert_unreadable("this", b'{"a":"' + text + b'"}')


# The provider


def in_pieces(answer: bytes, size: int) -> Script:
    """Sends the answer in writes of this many bytes; the body in chunks of as many, so that each is read alone."""

    def script(received: Received) -> None:
        received.read()
        for at in range(0, len(answer), size):
            received.connection.send(answer[at : at + size])

    return script


def chunked(status: str, body: bytes, size: int, *fields: tuple[str, str]) -> bytes:
    head = answers.head(status, *fields, ("Transfer-Encoding", "chunked"))
    return head + b"".join(answers.chunk(body[i : i + size]) for i in range(0, len(body), size)) + answers.LAST_CHUNK


def seen(
    gateway: Gateway, provider: Provider, answer: bytes | Script, *, target: str = CHAT, body: bytes = BODY
) -> tuple[Answer, Fact]:
    """What the caller got, 1xx answers and framing included, and the fact; both are checked to hold no key."""
    transcript = bytearray()
    with Client(gateway, transcript=transcript) as client:
        case = provider.case(answer)
        client.send(request(target, body, bearer(keys.virtual_key()), JSON_TYPE, case.header))
        while (got := client.read_answer()).status < 200:
            pass
    assert_unreadable("the answer", bytes(transcript))
    assert_unreadable("the body", got.body)
    fact = gateway.fact(got.request_id)
    assert_unreadable("the fact", json.dumps(fact).encode())
    return got, fact


@pytest.fixture(autouse=True)
def _nothing_else_shows_it(gateway: Gateway) -> Iterator[None]:
    """Neither facts as they were written, nor logs, nor metrics."""
    before = len(gateway.stdout), len(gateway.stderr)
    yield
    assert_unreadable("a fact", "\n".join(gateway.stdout[before[0] :]).encode())
    assert_unreadable("the log", "\n".join(gateway.stderr[before[1] :]).encode())
    assert_unreadable("the metrics", gateway.admin("/metrics")[1].encode())


# In bodies


def bodies(text: bytes) -> Iterable[bytes]:
    yield b'{"error":{"message":"Incorrect API key provided: ' + text + b'.","code":"invalid_api_key"}}'
    yield b"<html>" + text + b"</html>"
    yield text


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "500 Oops"])
def test_in_a_body_of_any_status(gateway: Gateway, provider: Provider, status: str) -> None:
    for body in itertools.chain.from_iterable(map(bodies, SPELLINGS.values())):
        got, _ = seen(gateway, provider, answers.plain(status, body))
        assert len(got.body) == len(body)
        assert b"*" * (len(KEY) - 2) in got.body
        assert got.head.startswith(b"HTTP/1.1 " + status.encode())


def test_in_hex_in_an_error(gateway: Gateway, provider: Provider) -> None:
    for text in HEX.values():
        for body in bodies(text):
            got, _ = seen(gateway, provider, answers.plain("403 Forbidden", body))
            assert got.body == body.replace(text, b"*" * len(text))


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("status", ["200 OK", "429 Too Many Requests"])
def test_in_a_stream_however_it_comes(gateway: Gateway, provider: Provider, pieces: str, status: str) -> None:
    for text in SPELLINGS.values():
        size = PIECES[pieces]
        events = b'data: {"choices":[{"delta":{"content":"' + text + b'"}}]}\n\n' * 2 + b"data: [DONE]\n\n"
        answer = chunked(status, events, min(size, 7), ("Content-Type", "text/event-stream"))
        got, fact = seen(gateway, provider, in_pieces(answer, size), body=STREAMED)
        assert len(got.body) == len(events)
        assert got.complete
        assert fact["outcome"] == ("complete" if status.startswith("200") else "upstream_error")


def test_under_the_label_of_a_coding(gateway: Gateway, provider: Provider) -> None:
    """Plain text that says it is compressed: a client may show it all the same."""
    for text in SPELLINGS.values():
        # Not the bare spelling: some text in base64 is good brotli.
        for body in list(bodies(text))[:2]:
            for coding in (*CODINGS, "compress", "gzip, br"):
                label = ("Content-Encoding", coding)
                got, fact = seen(gateway, provider, answers.plain("200 OK", body, label))
                assert got.status == 200
                assert b"*" * (len(KEY) - 2) in got.body
                got, fact = seen(gateway, provider, answers.plain("401 Unauthorized", body, label))
                assert_is_ours(got, fact, upstream_status=401)


# In heads


@pytest.mark.parametrize("status", ["200", "401"])
def test_in_a_head(gateway: Gateway, provider: Provider, status: str) -> None:
    body = b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
    # Heads of a kind that was seen before are read in another way.
    spellings = [spelling.decode() for spelling in SPELLINGS.values()]
    for text, reason in [*zip(spellings, spellings, strict=True), *((text, "Well") for text in spellings)]:
        early = answers.head(f"103 {text}", ("Link", f"<https://a.test/?key={text}>"))
        fields = ("X-Echo", f"Bearer {text}"), ("x-request-id", text), ("Via", "x")
        got, fact = seen(gateway, provider, early + answers.plain(f"{status} {reason}", body, *fields))
        assert got.head.startswith(f"HTTP/1.1 {status} ".encode())
        assert got.values(b"via") == [b"x"]
        assert b"*" * (len(KEY) - 2) in got.values(b"x-echo")[0]
        assert fact["upstream_request_id"] is None


@pytest.mark.parametrize("change", [bytes, bytes.upper, bytes.title])
@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized"])
def test_in_the_name_of_a_header(
    gateway: Gateway, provider: Provider, change: Callable[[bytes], bytes], status: str
) -> None:
    for spelling in ("plain", "every byte of it percent-encoded"):
        name = change(SPELLINGS[spelling])
        answer = answers.plain(status, b'{"choices":[]}', (f"X-{name.decode()}", "1"), ("Via", "x"))
        for _ in range(6):
            got, _ = seen(gateway, provider, answer)
            assert got.values(b"x-" + b"*" * len(name)) == [b"1"]
            assert got.values(b"via") == [b"x"]


def test_in_trailers(gateway: Gateway, provider: Provider) -> None:
    answer = chunked("200 OK", b"{}", 2, ("Trailer", "X-Echo")).removesuffix(b"\r\n") + b"X-Echo: %b\r\n\r\n" % KEY
    got, _ = seen(gateway, provider, answer)
    assert got.body == b"{}"


# In facts


@pytest.mark.parametrize("pieces", PIECES)
@pytest.mark.parametrize("streamed", [True, False])
def test_as_what_a_fact_records(gateway: Gateway, provider: Provider, pieces: str, streamed: bool) -> None:
    for spelling in SPELLINGS.values():
        text, size = spelling.decode(), PIECES[pieces]
        usage = (
            f'{{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,"service_tier":"{text}","{text}":["{text}"]}}'
        )
        document = f'{{"model":"{text}","service_tier":"{text}","choices":[],"usage":{usage}}}'.encode()
        if streamed:
            body = b"data: " + document + b"\n\ndata: [DONE]\n\n"
            answer = chunked("200 OK", body, min(size, 9), ("Content-Type", "text/event-stream"))
            asked = json.dumps({**json.loads(STREAMED), "stream_options": {"include_usage": True}}).encode()
            got, fact = seen(gateway, provider, in_pieces(answer, size), body=asked)
        else:
            body = document
            got, fact = seen(gateway, provider, in_pieces(answers.plain("200 OK", body), size))
        assert len(got.body) == len(body)
        assert fact["usage_status"] == "final"
        assert fact["tokens"] == {"input": 3, "output": 4}
        assert "*" * (len(KEY) - 2) in fact["model"]
        assert "*" * (len(KEY) - 2) in fact["service_tier"]


def test_as_the_name_of_a_tool_of_the_provider(gateway: Gateway, provider: Provider) -> None:
    for spelling in SPELLINGS.values():
        text = spelling.decode()
        usage = f'{{"prompt_tokens":3,"completion_tokens":4,"server_tool_use":{{"{text}":2}}}}'
        body = f'{{"model":"m","choices":[],"usage":{usage}}}'.encode()
        _, fact = seen(gateway, provider, answers.plain("200 OK", body))
        ((name, count),) = fact["server_tool_calls"].items()
        assert "*" * (len(KEY) - 2) in name
        assert count == 2


# Compressed


def assert_is_ours(got: Answer, fact: Fact, *, upstream_status: int) -> None:
    assert got.status == 502
    assert got.complete
    assert not got.values(b"content-encoding")
    assert got.json()["error"]["code"] == "upstream_withheld"
    assert (fact["status"], fact["upstream_status"], fact["outcome"]) == (502, upstream_status, "upstream_error")
    assert (fact["usage_status"], fact["response_bytes"]) == ("none", 0)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("pieces", PIECES)
def test_a_compressed_error_that_holds_it_is_replaced(
    gateway: Gateway, provider: Provider, coding: str, pieces: str
) -> None:
    size = PIECES[pieces]
    for text in (*SPELLINGS.values(), *HEX.values()) if size > 7 else (KEY,):
        for body in bodies(text):
            packed = CODINGS[coding](body)
            label = ("Content-Encoding", coding)
            answer = in_pieces(answers.plain("401 Unauthorized", packed, label, ("X-Theirs", "1")), size)
            got, fact = seen(gateway, provider, answer)
            assert_is_ours(got, fact, upstream_status=401)
            assert not got.values(b"x-theirs")
    got, fact = seen(gateway, provider, in_pieces(chunked("400 Bad Request", packed, 5, label), size))
    assert_is_ours(got, fact, upstream_status=400)


def test_it_is_replaced_in_the_dialect_of_the_caller(gateway: Gateway, provider: Provider) -> None:
    key = keys.pool_key("anthropic").encode()
    answer = answers.plain("401 Unauthorized", gzip.compress(key), ("Content-Encoding", "gzip"))
    got, _ = seen(gateway, provider, answer, target=MESSAGES)
    assert (got.status, got.json()["type"], got.json()["error"]["type"]) == (502, "error", "api_error")


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("pieces", PIECES)
def test_a_compressed_error_without_it_passes(gateway: Gateway, provider: Provider, coding: str, pieces: str) -> None:
    packed = CODINGS[coding](b'{"error":{"message":"no such model"}}')
    answer = answers.plain("404 Not Found", packed, ("Content-Encoding", coding))
    got, fact = seen(gateway, provider, in_pieces(answer, PIECES[pieces]))
    assert (got.status, got.body, got.values(b"content-encoding")) == (404, packed, [coding.encode()])
    assert (fact["status"], fact["upstream_status"], fact["outcome"]) == (404, 404, "upstream_error")


@pytest.mark.parametrize("coding", CODINGS)
def test_a_compressed_answer_is_cut_before_it(gateway: Gateway, provider: Provider, coding: str) -> None:
    """Its head went out long before; what is there of the body holds no byte of the key, and does not look complete."""
    packed = CODINGS[coding](b'{"model":"' + KEY + b'","choices":[]}')
    answer = chunked("200 OK", packed, 3, ("Content-Type", "application/json"), ("Content-Encoding", coding))
    body_at = answer.index(b"\r\n\r\n") + 4
    head_is_there = threading.Event()

    def script(received: Received) -> None:
        received.read()
        received.connection.send(answer[:body_at])
        assert head_is_there.wait(DEADLINE)
        received.connection.send(answer[body_at:])

    case = provider.case(script)
    with Client(gateway) as client:
        client.send(request(CHAT, BODY, bearer(keys.virtual_key()), JSON_TYPE, case.header))
        head = client.read_head()
        head_is_there.set()
        rest, ended = client.read_end()
    assert (head.status, ended) == (200, "reset")
    assert not rest.endswith(answers.LAST_CHUNK)
    assert_unreadable("what there is of the body", rest)
    fact = gateway.fact(head.request_id)
    assert (fact["status"], fact["upstream_status"], fact["outcome"]) == (200, 200, "upstream_abort")
    assert fact["model"] is None


@pytest.mark.parametrize("coding", CODINGS)
def test_a_compressed_answer_that_is_there_at_once_is_replaced(
    gateway: Gateway, provider: Provider, coding: str
) -> None:
    packed = CODINGS[coding](b'{"model":"' + KEY + b'","choices":[]}')
    got, fact = seen(gateway, provider, answers.plain("200 OK", packed, ("Content-Encoding", coding)))
    assert (got.status, got.json()["error"]["code"]) == (502, "upstream_withheld")
    assert (fact["status"], fact["upstream_status"], fact["outcome"]) == (502, 200, "upstream_abort")
    assert fact["model"] is None


# Who brings a key of his own


def test_the_key_of_a_caller_is_the_callers(gateway: Gateway, provider: Provider) -> None:
    """Without a virtual key nothing is masked: what such a caller reads it has sent itself."""
    case = provider.case(answers.plain("401 Unauthorized", keys.BYO_KEY.encode() + b" " + KEY))
    assert ask(gateway, case, key=keys.BYO_KEY).body == keys.BYO_KEY.encode() + b" " + KEY
