"""The stock openai SDK, sync and async, with only the base URL and the key changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.e2e import answers, keys
from tests.e2e.fleet import REQUEST_MAX
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received
from tests.e2e.sdk import async_openai_client, openai_client

MODEL: Final = "gpt-5.4-mini"
MESSAGES: Final[list[ChatCompletionMessageParam]] = [{"role": "user", "content": "Hello, world."}]
TOOLS: Final[list[ChatCompletionToolParam]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def test_a_completion_and_its_fact(gateway: Gateway) -> None:
    key = keys.virtual_key()
    with openai_client(gateway, key) as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
        completion = raw.parse()
    assert completion.choices[0].message.content == "Bonjour, monde."
    assert completion.usage is not None
    assert completion.usage.total_tokens == 21
    assert raw.headers["x-request-id"] == "req_upstream_1"
    fact = gateway.fact(raw.headers["x-aigw-request-id"])
    assert fact["outcome"] == "complete"
    assert fact["usage_status"] == "final"
    assert fact["usage"] == answers.CHAT_USAGE
    assert (fact["requested_model"], fact["model"]) == (MODEL, completion.model)
    assert fact["streaming"] is False


def test_a_stream_shows_no_usage_to_a_caller_who_did_not_ask(gateway: Gateway) -> None:
    with openai_client(gateway, keys.virtual_key()) as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, stream=True)
        chunks = list(raw.parse())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Bonjour, monde."
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    fact = gateway.fact(raw.headers["x-aigw-request-id"])
    assert fact["usage"] == answers.CHAT_USAGE
    assert fact["usage_status"] == "final"
    assert fact["streaming"] is True


def test_a_stream_shows_usage_to_a_caller_who_asked(gateway: Gateway) -> None:
    with openai_client(gateway, keys.virtual_key()) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(raw.parse())
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (9, 12)
    assert chunks[-1].choices == []
    assert gateway.fact(raw.headers["x-aigw-request-id"])["usage"] == answers.CHAT_USAGE


def test_tool_calls(gateway: Gateway) -> None:
    with openai_client(gateway, keys.virtual_key()) as client:
        whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=TOOLS)
        with client.chat.completions.stream(model=MODEL, messages=MESSAGES, tools=TOOLS) as stream:
            streamed = stream.get_final_completion()
    for choice in (whole.choices[0], streamed.choices[0]):
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        call = choice.message.tool_calls[0]
        assert call.type == "function"
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_responses(gateway: Gateway) -> None:
    with openai_client(gateway, keys.virtual_key()) as client:
        whole = client.responses.create(model=MODEL, input="Hello")
        with client.responses.create(model=MODEL, input="Hello", stream=True) as events:
            kinds = [event.type for event in events]
    assert whole.output_text == "Bonjour, monde."
    assert kinds == ["response.created", *["response.output_text.delta"] * 3, "response.completed"]


def test_async(gateway: Gateway) -> None:
    async def talk() -> tuple[str | None, list[str], list[str | None]]:
        async with async_openai_client(gateway, keys.virtual_key()) as client:
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
            many = await asyncio.gather(
                *[client.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(20)]
            )
            return whole.choices[0].message.content, pieces, [each.choices[0].message.content for each in many]

    whole, pieces, many = asyncio.run(talk())
    assert whole == "".join(pieces) == "Bonjour, monde."
    assert many == [whole] * 20


def test_the_callers_own_key_passes_through(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    with openai_client(gateway, keys.BYO_KEY, case) as client:
        completion = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert completion.choices[0].message.content == "Bonjour, monde."
    (received,) = case.received
    assert received.values(b"authorization") == [b"Bearer " + keys.BYO_KEY.encode()]


def test_only_the_pool_key_reaches_the_provider(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    key = keys.virtual_key()
    with openai_client(gateway, key, case) as client:
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    (received,) = case.received
    assert received.values(b"authorization") == [b"Bearer " + keys.pool_key("openai").encode()]
    assert key.encode() not in received.head + received.raw_body


# Errors of the provider


def test_a_providers_400_is_raised_as_it_is(gateway: Gateway, provider: Provider) -> None:
    error = {"error": {"message": "Unknown model.", "type": "invalid_request_error", "param": "model", "code": "m1"}}
    case = provider.case(answers.json_answer(error, "400 Bad Request"))
    with openai_client(gateway, keys.virtual_key(), case) as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="nope", messages=MESSAGES)
    assert "Unknown model." in caught.value.message
    assert (caught.value.code, caught.value.param) == ("m1", "model")
    assert caught.value.request_id == "req_upstream_1"
    fact = gateway.fact(caught.value.response.headers["x-aigw-request-id"])
    assert (fact["outcome"], fact["usage_status"], fact["status"]) == ("upstream_error", "none", 400)
    assert len(case.received) == 1


def test_a_providers_429_is_retried_as_its_headers_say(gateway: Gateway, provider: Provider) -> None:
    refusal = answers.json_answer(
        {"error": {"message": "Slow down.", "type": "requests", "param": None, "code": "rate_limit_exceeded"}},
        "429 Too Many Requests",
        ("retry-after", "30"),
        ("retry-after-ms", "1"),
    )

    def first_refuse(received: Received) -> None:
        if len(case.received) == 1:
            received.read()
            received.connection.send(refusal)
        else:
            answers.by_path(received)

    case = provider.case(first_refuse)
    with openai_client(gateway, keys.virtual_key(), case) as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    assert raw.parse().choices[0].message.content == "Bonjour, monde."
    assert len(case.received) == 2

    always = provider.case(refusal)
    with (
        openai_client(gateway, keys.virtual_key(), always, retries=0) as client,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert caught.value.response.headers["retry-after"] == "30"
    assert "Slow down." in caught.value.message
    fact = gateway.fact(caught.value.response.headers["x-aigw-request-id"])
    assert (fact["outcome"], fact["upstream_status"]) == ("upstream_error", 429)


def test_an_error_event_in_a_stream_is_raised(gateway: Gateway, provider: Provider) -> None:
    broken = answers.event({"error": {"message": "The model is overloaded.", "type": "server_error", "code": "503"}})
    case = provider.case(answers.stream_answer([broken]))
    with openai_client(gateway, keys.virtual_key(), case) as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="overloaded"):
            list(raw.parse())
    assert gateway.fact(raw.headers["x-aigw-request-id"])["outcome"] == "upstream_error"


# Refusals of our own

Call = Callable[[openai.OpenAI], Any]


def _list_files(client: openai.OpenAI) -> Any:
    return client.files.list()


def _ask(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model=MODEL, messages=MESSAGES)


def _ask_too_much(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * (REQUEST_MAX + 1)}])


def _ask_until_refused(client: openai.OpenAI) -> None:
    for _ in range(50):
        _ask(client)


def check_refusal(
    server: Gateway, provider: Provider, key: str, base: str, call: Call, reason: str
) -> openai.APIStatusError:
    """The SDK raises, with a readable text and our id, after one request; the provider heard nothing."""
    case = provider.case(answers.by_path)
    counter = f'aigw_rejections_total{{reason="{reason}"}}'
    before = server.metric(counter)
    with openai_client(server, key, case, base=base) as client, pytest.raises(openai.APIStatusError) as caught:
        call(client)
    error = caught.value
    assert server.metric(counter) == before + 1, "the SDK tried again, or the reason is another one"
    assert case.received == []
    assert error.request_id == error.response.headers["x-aigw-request-id"]
    body = error.response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"] in str(error)
    assert error.response.headers["content-type"] == "application/json"
    return error


def test_401(gateway: Gateway, provider: Provider) -> None:
    for key in (keys.forged_key(), "bai_v1.nonsense", "bai_v9.1.AA.AA"):
        error = check_refusal(gateway, provider, key, "openai/v1", _ask, "bad_key")
        assert type(error) is openai.AuthenticationError
        assert error.code == "invalid_api_key"
        assert "Incorrect API key" in str(error)
        assert key not in str(error)


def test_402(denied: Gateway, provider: Provider) -> None:
    key = keys.virtual_key(keys.DENIED_TENANTS["spend"])
    error = check_refusal(denied, provider, key, "openai/v1", _ask, "denied_spend")
    assert error.status_code == 402
    assert error.type == "insufficient_quota"
    assert "spend limit" in str(error)


def test_403(denied: Gateway, provider: Provider) -> None:
    key = keys.virtual_key(keys.DENIED_TENANTS["fraud"])
    error = check_refusal(denied, provider, key, "openai/v1", _ask, "denied")
    assert type(error) is openai.PermissionDeniedError
    assert "cut off" in str(error)


def test_other_tenants_are_served_beside_denied_ones(denied: Gateway) -> None:
    with openai_client(denied, keys.virtual_key()) as client:
        assert client.chat.completions.create(model=MODEL, messages=MESSAGES).choices[0].finish_reason == "stop"


def test_404(gateway: Gateway, provider: Provider) -> None:
    key = keys.virtual_key()
    error = check_refusal(gateway, provider, key, "opanai/v1", _ask, "unknown_route")
    assert type(error) is openai.NotFoundError
    assert "/openai/v1" in str(error), "the text names the usual base URLs"
    error = check_refusal(gateway, provider, key, "openai/v1", _list_files, "out_of_scope")
    assert type(error) is openai.NotFoundError
    assert error.code == "endpoint_not_allowed"


def test_413(limited: Gateway, provider: Provider) -> None:
    error = check_refusal(limited, provider, keys.virtual_key(), "openai/v1", _ask_too_much, "too_large")
    assert error.status_code == 413
    assert str(REQUEST_MAX) in str(error)


def test_429(limited: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    key = keys.virtual_key()
    with openai_client(limited, key, case, retries=0) as client, pytest.raises(openai.RateLimitError) as caught:
        _ask_until_refused(client)
    assert len(case.received) >= 2, "the rate allows two a second"
    error = caught.value
    assert error.request_id == error.response.headers["x-aigw-request-id"]
    assert error.code == "rate_limit_exceeded"
    assert 1 <= int(error.response.headers["retry-after"]) <= 2
    assert "Too many requests" in str(error)


def test_async_refusals(gateway: Gateway) -> None:
    async def refused() -> openai.AuthenticationError:
        async with async_openai_client(gateway, keys.forged_key()) as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            return caught.value

    assert "Incorrect API key" in str(asyncio.run(refused()))
