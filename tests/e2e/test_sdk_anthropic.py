"""The stock anthropic SDK, sync and async, with only the base URL and the key changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.e2e import answers, keys
from tests.e2e.fleet import REQUEST_MAX
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received
from tests.e2e.sdk import anthropic_client, async_anthropic_client

MODEL: Final = "claude-sonnet-5-5"
MESSAGES: Final[list[MessageParam]] = [{"role": "user", "content": "Hello, world."}]
TOOLS: Final[list[ToolParam]] = [
    {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
]


def test_a_message_and_its_fact(gateway: Gateway) -> None:
    with anthropic_client(gateway, keys.virtual_key()) as client:
        raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=64, messages=MESSAGES)
        message = raw.parse()
    assert message.content[0].type == "text"
    assert message.content[0].text == "Bonjour, monde."
    assert message.usage.output_tokens == answers.MESSAGES_USAGE["output_tokens"]
    fact = gateway.fact(raw.headers["x-aigw-request-id"])
    assert (fact["outcome"], fact["usage_status"], fact["wire"]) == ("complete", "final", "messages")
    assert fact["usage"] == answers.MESSAGES_USAGE
    assert fact["tokens"]["input"] == 25
    assert fact["tokens"]["cache_read"] == 3


def test_a_stream(gateway: Gateway) -> None:
    with (
        anthropic_client(gateway, keys.virtual_key()) as client,
        client.messages.stream(model=MODEL, max_tokens=64, messages=MESSAGES) as stream,
    ):
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
        request_id = stream.response.headers["x-aigw-request-id"]
    assert pieces == ["Bonjour", ", monde", "."]
    assert final.stop_reason == "end_turn"
    fact = gateway.fact(request_id)
    assert fact["usage"] == answers.MESSAGES_USAGE
    assert (fact["outcome"], fact["usage_status"], fact["streaming"]) == ("complete", "final", True)
    assert (fact["requested_model"], fact["model"]) == (MODEL, MODEL)


def test_tool_calls(gateway: Gateway) -> None:
    with anthropic_client(gateway, keys.virtual_key()) as client:
        whole = client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES, tools=TOOLS)
        with client.messages.stream(model=MODEL, max_tokens=64, messages=MESSAGES, tools=TOOLS) as stream:
            streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        block = message.content[0]
        assert block.type == "tool_use"
        assert (block.name, block.input) == ("get_weather", {"city": "Paris"})


def test_async(gateway: Gateway) -> None:
    async def talk() -> tuple[str, list[str | None]]:
        async with async_anthropic_client(gateway, keys.virtual_key()) as client:
            async with client.messages.stream(model=MODEL, max_tokens=64, messages=MESSAGES) as stream:
                text = await stream.get_final_text()
            many = await asyncio.gather(
                *[client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES) for _ in range(20)]
            )
            return text, [each.stop_reason for each in many]

    assert asyncio.run(talk()) == ("Bonjour, monde.", ["end_turn"] * 20)


def test_other_providers_speak_messages_as_well(gateway: Gateway) -> None:
    for base in ("openrouter/api", "fireworks/inference", "deepseek/anthropic", "together"):
        with anthropic_client(gateway, keys.virtual_key(), base=base) as client:
            raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=64, messages=MESSAGES)
        fact = gateway.fact(raw.headers["x-aigw-request-id"])
        assert (fact["wire"], fact["usage"]) == ("messages", answers.MESSAGES_USAGE)


def test_the_callers_own_key_passes_through(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    with anthropic_client(gateway, keys.BYO_KEY, case) as client:
        client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES)
    (received,) = case.received
    sent = received.values(b"x-api-key") + received.values(b"authorization")
    assert [value.removeprefix(b"Bearer ") for value in sent] == [keys.BYO_KEY.encode()]


def test_only_the_pool_key_reaches_the_provider(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    key = keys.virtual_key()
    with anthropic_client(gateway, key, case) as client:
        client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES)
    (received,) = case.received
    assert received.values(b"x-api-key") == [keys.pool_key("anthropic").encode()]
    assert received.values(b"authorization") == []
    assert key.encode() not in received.head + received.raw_body


# Errors of the provider


def _error(kind: str, text: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_body_1"}


def test_a_providers_400_is_raised_as_it_is(gateway: Gateway, provider: Provider) -> None:
    answer = answers.json_answer(
        _error("invalid_request_error", "max_tokens: too large"), "400 Bad Request", ("request-id", "req_anthropic_1")
    )
    case = provider.case(answer)
    with (
        anthropic_client(gateway, keys.virtual_key(), case) as client,
        pytest.raises(anthropic.BadRequestError, match="too large") as caught,
    ):
        client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES)
    assert caught.value.request_id == "req_anthropic_1"
    assert len(case.received) == 1
    assert gateway.fact(caught.value.response.headers["x-aigw-request-id"])["outcome"] == "upstream_error"


def test_a_providers_429_is_retried_as_its_headers_say(gateway: Gateway, provider: Provider) -> None:
    refusal = answers.json_answer(
        _error("rate_limit_error", "Slow down."), "429 Too Many Requests", ("retry-after-ms", "1")
    )

    def first_refuse(received: Received) -> None:
        if len(case.received) == 1:
            received.read()
            received.connection.send(refusal)
        else:
            answers.by_path(received)

    case = provider.case(first_refuse)
    with anthropic_client(gateway, keys.virtual_key(), case) as client:
        client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES)
    assert len(case.received) == 2

    always = provider.case(refusal)
    with (
        anthropic_client(gateway, keys.virtual_key(), always, retries=0) as client,
        pytest.raises(anthropic.RateLimitError, match=r"Slow down\."),
    ):
        client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES)


def test_an_error_event_in_a_stream_is_raised(gateway: Gateway, provider: Provider) -> None:
    broken = answers.event(_error("overloaded_error", "Overloaded"), "error")
    case = provider.case(answers.stream_answer([broken]))
    with anthropic_client(gateway, keys.virtual_key(), case) as client:
        raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=64, messages=MESSAGES, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            list(raw.parse())
    assert gateway.fact(raw.headers["x-aigw-request-id"])["outcome"] == "upstream_error"


# Refusals of our own

Call = Callable[[anthropic.Anthropic], Any]


def _ask(client: anthropic.Anthropic) -> Any:
    return client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES)


def _list_batches(client: anthropic.Anthropic) -> Any:
    return client.messages.batches.list()


def _ask_too_much(client: anthropic.Anthropic) -> Any:
    content = "x" * (REQUEST_MAX + 1)
    return client.messages.create(model=MODEL, max_tokens=64, messages=[{"role": "user", "content": content}])


def _ask_until_refused(client: anthropic.Anthropic) -> None:
    for _ in range(50):
        _ask(client)


def check_refusal(
    server: Gateway, provider: Provider, key: str, base: str, call: Call, reason: str
) -> anthropic.APIStatusError:
    """The SDK raises, with a readable text and our id, after one request; the provider heard nothing."""
    case = provider.case(answers.by_path)
    counter = f'aigw_rejections_total{{reason="{reason}"}}'
    before = server.metric(counter)
    with anthropic_client(server, key, case, base=base) as client, pytest.raises(anthropic.APIStatusError) as caught:
        call(client)
    error = caught.value
    assert server.metric(counter) == before + 1, "the SDK tried again, or the reason is another one"
    assert case.received == []
    assert error.request_id == error.response.headers["x-aigw-request-id"]
    body = error.response.json()
    assert set(body) == {"type", "error", "request_id"}
    assert body["request_id"] == error.request_id
    assert body["error"]["message"] in str(error)
    return error


def test_401(gateway: Gateway, provider: Provider) -> None:
    key = keys.forged_key()
    error = check_refusal(gateway, provider, key, "anthropic", _ask, "bad_key")
    assert type(error) is anthropic.AuthenticationError
    assert "Incorrect API key" in str(error)
    assert key not in str(error)


def test_402(denied: Gateway, provider: Provider) -> None:
    key = keys.virtual_key(keys.DENIED_TENANTS["spend"])
    error = check_refusal(denied, provider, key, "anthropic", _ask, "denied_spend")
    assert type(error).__name__ == "PaymentRequiredError"
    assert error.status_code == 402
    assert "spend limit" in str(error)


def test_403(denied: Gateway, provider: Provider) -> None:
    key = keys.virtual_key(keys.DENIED_TENANTS["fraud"])
    error = check_refusal(denied, provider, key, "anthropic", _ask, "denied")
    assert type(error) is anthropic.PermissionDeniedError


def test_404(gateway: Gateway, provider: Provider) -> None:
    error = check_refusal(gateway, provider, keys.virtual_key(), "antropic", _ask, "unknown_route")
    assert type(error) is anthropic.NotFoundError
    assert "/anthropic" in str(error), "the text names the usual base URLs"
    error = check_refusal(gateway, provider, keys.virtual_key(), "anthropic", _list_batches, "out_of_scope")
    assert type(error) is anthropic.NotFoundError


def test_413(limited: Gateway, provider: Provider) -> None:
    error = check_refusal(limited, provider, keys.virtual_key(), "anthropic", _ask_too_much, "too_large")
    assert type(error).__name__ in ("ContentTooLargeError", "RequestTooLargeError")
    assert str(REQUEST_MAX) in str(error)


def test_429(limited: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    with (
        anthropic_client(limited, keys.virtual_key(), case, retries=0) as client,
        pytest.raises(anthropic.RateLimitError, match="Too many requests") as caught,
    ):
        _ask_until_refused(client)
    assert len(case.received) >= 2, "the rate allows two a second"
    assert caught.value.request_id == caught.value.response.headers["x-aigw-request-id"]
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 2


def test_async_refusals(gateway: Gateway) -> None:
    async def refused() -> anthropic.AuthenticationError:
        async with async_anthropic_client(gateway, keys.forged_key()) as client:
            with pytest.raises(anthropic.AuthenticationError) as caught:
                await client.messages.create(model=MODEL, max_tokens=64, messages=MESSAGES)
            return caught.value

    assert "Incorrect API key" in str(asyncio.run(refused()))
