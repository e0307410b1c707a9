"""Answers that repeat a costly request in front of their usage.

A provider echoes instructions, tools and metadata in `response.completed`, ahead of the numbers. The tenant makes them
a megabyte long, or nested a thousand levels deep, so that a reader with a limit misses what is billed. Whatever the
length and the depth, the fact must be exact.
"""

from __future__ import annotations

import json
from typing import Final

import pytest

from tests.e2e import answers
from tests.e2e.calls import ask
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider

RESPONSES: Final = "/openai/v1/responses"
TOKENS: Final = {"input": 36, "cache_read": 0, "output": 80, "reasoning": 7}
STREAMED: Final = json.dumps({"model": "m", "input": "x", "stream": True}).encode()


def completed(echo: bytes) -> bytes:
    """The last event of a stream, with something echoed in front of its usage."""
    usage = json.dumps(answers.RESPONSES_USAGE).encode()
    response = b'{"id":"resp_1","model":"m-1","status":"completed",%b,"usage":%b}' % (echo, usage)
    return b'event: response.completed\ndata: {"type":"response.completed","response":%b}\n\n' % response


ECHOES: Final = {
    "a megabyte of instructions": b'"instructions":"%b"' % (b"Be brief. " * 115_000),
    "instructions full of escapes": b'"instructions":"%b"' % (rb"\"usage\":{\"input_tokens\":1}\n" * 40_000),
    "nested 996 levels deep": b'"metadata":%b%b' % (b"[" * 996, b"]" * 996),
    "nested 50,000 levels deep": b'"metadata":%b1%b' % (b'{"usage":[' * 25_000, b"]}" * 25_000),
    "a megabyte of narrow members": b'"tools":[%b1]' % (b'{"":[[[1]]]},' * 90_000),
    "a generated image": b'"output":[{"type":"image_generation_call","result":"%b"}]' % (b"iVBORw0KGgo" * 150_000),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_usage_behind_an_echo_is_exact_in_a_stream(gateway: Gateway, provider: Provider, echo: bytes) -> None:
    case = provider.case(answers.stream_answer([completed(echo)]))
    answer = ask(gateway, case, STREAMED, target=RESPONSES)
    assert answer.body == completed(echo)
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage_status"], fact["tokens"]) == ("complete", "final", TOKENS)
    assert fact["flags"] == []


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_usage_behind_an_echo_is_exact_in_a_document(gateway: Gateway, provider: Provider, echo: bytes) -> None:
    body = b'{"id":"resp_1","model":"m-1",%b,"usage":%b}' % (echo, json.dumps(answers.RESPONSES_USAGE).encode())
    answer = ask(gateway, provider.case(answers.plain("200 OK", body)), target=RESPONSES)
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage_status"], fact["tokens"]) == ("complete", "final", TOKENS)


def test_what_cannot_be_read_has_an_estimate(gateway: Gateway, provider: Provider) -> None:
    broken = b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":{"input\n\n'
    answer = ask(gateway, provider.case(answers.stream_answer([broken])), STREAMED, target=RESPONSES)
    fact = gateway.fact(answer.request_id)
    assert fact["usage_status"] == "unparsed"
    assert fact["estimate"]["input"] == -(-len(STREAMED) // 4)
