from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anthropic
import anyio
import openai
import pytest

from aigw_anyio import httpd
from aigw_anyio.mock import AnthropicMock, Mock, OpenAIMock, serve_mock
from aigw_anyio.mock.server import typing_pauses
from aigw_core.secrets import Secret
from tests.anyio_layer.conftest import exchange, request_bytes

pytestmark = pytest.mark.anyio
KEY = Secret("mock-key")
T = TypeVar("T")
HELLO: list[dict[str, str]] = [{"role": "user", "content": "Hello"}]


def no_pause() -> float:
    return 0.0


@asynccontextmanager
async def serving(mock: Mock) -> AsyncIterator[int]:
    listener = await httpd.listen("127.0.0.1", 0)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_mock, listener, mock)
            yield httpd.bound_address(listener)[1]
            tasks.cancel_scope.cancel()


async def with_openai(call: Callable[[openai.OpenAI], T], key: str = "mock-key") -> T:
    """What the stock SDK makes of the mock."""

    def run(port: int) -> T:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
            return call(client)

    return await in_thread(OpenAIMock(KEY, no_pause), run)


async def with_anthropic(call: Callable[[anthropic.Anthropic], T], key: str = "mock-key") -> T:
    def run(port: int) -> T:
        with anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}", api_key=key, max_retries=0) as client:
            return call(client)

    return await in_thread(AnthropicMock(KEY, no_pause), run)


async def in_thread(mock: Mock, run: Callable[[int], T]) -> T:
    """Runs a blocking client while the mock is served; its error comes out bare, not in a group."""
    outcome: T | Exception
    async with serving(mock) as port:
        try:
            outcome = await anyio.to_thread.run_sync(run, port)
        except (openai.OpenAIError, anthropic.AnthropicError) as error:
            outcome = error
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def test_pauses_are_believable() -> None:
    pause = typing_pauses()
    pauses = [pause() for _ in range(20)]
    assert all(0.02 <= seconds <= 0.06 for seconds in pauses)
    assert len(set(pauses)) > 3


async def test_chat() -> None:
    answer = await with_openai(
        lambda c: c.chat.completions.create(model="gpt-5.4-mini", messages=[{"role": "user", "content": "Hello"}])
    )
    assert answer.model == "gpt-5.4-mini-2026-03-17"
    assert answer.choices[0].finish_reason == "stop"
    assert 'You said: "Hello"' in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_chat_stream_has_usage_only_when_asked(wants_usage: bool) -> None:
    body = {"model": "m", "messages": HELLO, "stream": True, "stream_options": {"include_usage": wants_usage}}
    async with serving(OpenAIMock(KEY, no_pause)) as port:
        request = request_bytes(
            "POST", "/v1/chat/completions", {"Authorization": "Bearer mock-key"}, json.dumps(body).encode()
        )
        status, headers, raw = await exchange(port, request)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-request-id"].startswith("req_")
    events = raw.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert 'You said: "Hello"' in text
    if wants_usage:
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] > 10
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
    else:
        assert all("usage" not in chunk for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_responses() -> None:
    answer = await with_openai(lambda c: c.responses.create(model="gpt-5.4-mini", input="Hello"))
    assert answer.status == "completed"
    assert 'You said: "Hello"' in answer.output_text
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens


async def test_responses_stream() -> None:
    events = await with_openai(
        lambda c: list(c.responses.create(model="gpt-5.4-mini", input=[{"role": "user", "content": "Hi"}], stream=True))
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert deltas == last.response.output_text
    assert last.response.usage is not None


async def test_embeddings_and_models() -> None:
    def call(client: openai.OpenAI) -> tuple[list[int], list[str], str]:
        made = client.embeddings.create(model="text-embedding-3-small", input=["a", "b", "a"], dimensions=8)
        vectors = [row.embedding for row in made.data]
        assert vectors[0] == vectors[2] != vectors[1]
        assert all(-1 <= value <= 1 for vector in vectors for value in vector)
        floats = client.embeddings.create(model="m", input="a", dimensions=8, encoding_format="float")
        assert floats.data[0].embedding == pytest.approx(vectors[0])
        names = [model.id for model in client.models.list()]
        return [len(vector) for vector in vectors], names, client.models.retrieve("gpt-5.4-mini").id

    lengths, names, one = await with_openai(call)
    assert lengths == [8, 8, 8]
    assert "gpt-5.4-mini" in names
    assert one == "gpt-5.4-mini"


async def test_openai_errors() -> None:
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        await with_openai(lambda c: c.models.list(), key="wrong")
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await with_openai(lambda c: c.models.retrieve("nope"))
    with pytest.raises(openai.BadRequestError, match="messages"):
        await with_openai(lambda c: c.chat.completions.create(model="m", messages=[]))
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        await with_openai(lambda c: c.moderations.create(input="x"))


async def test_messages() -> None:
    answer = await with_anthropic(
        lambda c: c.messages.create(
            model="claude-sonnet-5-5", max_tokens=9, messages=[{"role": "user", "content": "Hello"}]
        )
    )
    assert (answer.stop_reason, answer.model) == ("end_turn", "claude-sonnet-5-5")
    assert answer.content[0].type == "text"
    assert 'You said: "Hello"' in answer.content[0].text
    assert answer.usage.output_tokens > 10


async def test_messages_stream() -> None:
    def call(client: anthropic.Anthropic) -> tuple[str, anthropic.types.Message]:
        with client.messages.stream(
            model="claude-haiku-5-5", max_tokens=9, messages=[{"role": "user", "content": "Hello"}]
        ) as stream:
            return "".join(stream.text_stream), stream.get_final_message()

    text, message = await with_anthropic(call)
    assert 'You said: "Hello"' in text
    assert message.content[0].type == "text"
    assert message.content[0].text == text
    assert message.usage.output_tokens > 10
    assert message.usage.input_tokens > 0


async def test_count_tokens_and_models() -> None:
    def call(client: anthropic.Anthropic) -> tuple[int, list[str], str]:
        count = client.messages.count_tokens(model="m", messages=[{"role": "user", "content": "Hello"}])
        names = [model.id for model in client.models.list()]
        return count.input_tokens, names, client.models.retrieve("claude-haiku-5-5").display_name

    count, names, shown = await with_anthropic(call)
    assert count > 5
    assert names == ["claude-sonnet-5-5", "claude-haiku-5-5"]
    assert shown == "Claude Haiku 5.5"


async def test_anthropic_errors() -> None:
    with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key") as caught:
        await with_anthropic(lambda c: c.models.list(), key="wrong")
    assert (caught.value.request_id or "").startswith("req_")
    with pytest.raises(anthropic.NotFoundError):
        await with_anthropic(lambda c: c.models.retrieve("nope"))
    async with serving(AnthropicMock(KEY, no_pause)) as port:
        status, _, body = await exchange(port, request_bytes("GET", "/v1/models", {"x-api-key": "mock-key"}))
    assert status == 400
    assert json.loads(body)["error"]["message"] == "anthropic-version: header is required"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b"\xff"])
async def test_bodies_that_are_no_object(body: bytes) -> None:
    headers = {"Authorization": "Bearer mock-key", "anthropic-version": "2023-06-01"}
    async with serving(OpenAIMock(KEY, no_pause)) as port:
        assert (await exchange(port, request_bytes("POST", "/v1/responses", headers, body)))[0] == 400
    async with serving(AnthropicMock(KEY, no_pause)) as port:
        assert (await exchange(port, request_bytes("POST", "/v1/messages", headers, body)))[0] == 400
