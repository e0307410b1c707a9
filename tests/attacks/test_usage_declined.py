"""Streams for which the caller says that it wants no usage, or that no reader thought of.

`"stream_options": {"include_usage": false}` switches the numbers off at providers that send them unasked, and a
streamed `/completions` has none unless it is asked for. On every wire that has the option it must be made true, the
event that it causes be taken out again, and the fact be exact.
"""

from __future__ import annotations

import json
from typing import Final

import pytest

from tests.e2e import answers
from tests.e2e.calls import call
from tests.e2e.client import Client
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received

CHATS: Final = ("/openai/v1/chat/completions", "/groq/openai/v1/chat/completions", "/mistral/v1/chat/completions")
COMPLETIONS: Final = ("/openai/v1/completions", "/fireworks/inference/v1/completions", "/together/v1/completions")
TOKENS: Final = {**answers.CHAT_TOKENS, "input_audio": 0}
DECLINED: Final = {"include_usage": False}


def asked(received: Received) -> None:
    """A stream that states usage only where the request asks for it."""
    request = received.json()
    events = [answers.event(answers.chat_chunk([{"index": 0, "text": "So", "delta": {"content": "So"}}]))]
    if (request.get("stream_options") or {}).get("include_usage") is True:
        events.append(answers.event(answers.chat_chunk([], usage=answers.CHAT_USAGE)))
    received.connection.send(answers.stream_answer([*events, b"data: [DONE]\n\n"]))


@pytest.mark.parametrize("size", [10, 100_000], ids=["short", "long"])
@pytest.mark.parametrize(
    ("target", "options"), [*((wire, DECLINED) for wire in CHATS + COMPLETIONS), (COMPLETIONS[0], None)]
)
def test_the_numbers_come_and_the_caller_sees_none(
    gateway: Gateway, provider: Provider, target: str, options: dict[str, object] | None, size: int
) -> None:
    body: dict[str, object] = {"model": "m", "stream": True, "prompt": "x" * size, "messages": []}
    if options is not None:
        body["stream_options"] = options
    with Client(gateway) as client:
        client.send(call(provider.case(asked), target=target, body=json.dumps(body).encode()))
        answer = client.read_answer()
    assert answer.status == 200
    assert b"usage" not in answer.body
    assert answer.body.endswith(b"data: [DONE]\n\n")
    fact = gateway.fact(answer.request_id)
    assert (fact["usage_status"], fact["tokens"]) == ("final", TOKENS)


def test_who_asks_sees_them(gateway: Gateway, provider: Provider) -> None:
    body = {"model": "m", "stream": True, "prompt": "x", "stream_options": {"include_usage": True}}
    with Client(gateway) as client:
        client.send(call(provider.case(asked), target=COMPLETIONS[0], body=json.dumps(body).encode()))
        answer = client.read_answer()
    assert b'"usage"' in answer.body
    assert gateway.fact(answer.request_id)["tokens"] == TOKENS
