"""A mock of the Anthropic API: Messages, token counting, models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aigw_anyio import httpd
from aigw_anyio.mock.server import (
    BadRequest,
    Json,
    Pause,
    answer_text,
    dumps,
    has_key,
    json_body,
    last_text,
    new_id,
    pieces,
    stream_events,
    text_member,
    think,
    tokens_of,
    typing_pauses,
)
from aigw_core.clock import rfc3339
from aigw_core.secrets import Secret

MODELS: Final = (("claude-sonnet-5-5", "Claude Sonnet 5.5"), ("claude-haiku-5-5", "Claude Haiku 5.5"))
_CREATED: Final = rfc3339(1_767_225_600_000)


class AnthropicMock:
    """Answers whoever has the key. ``pause`` gives the seconds between two chunks of a stream."""

    def __init__(self, key: Secret, pause: Pause | None = None) -> None:
        self._key = key
        self._pause = pause or typing_pauses()

    async def handle(self, request: httpd.Request, responder: httpd.Responder) -> None:
        request_id = new_id("req_")
        headers = _headers(request_id)
        if not has_key(request, self._key):
            error = _error("authentication_error", "invalid x-api-key", request_id)
            await responder.reply(401, headers, error)
            return
        try:
            if "anthropic-version" not in request.headers:
                raise BadRequest("anthropic-version: header is required")
            await self._answer(request, responder, headers)
        except BadRequest as refusal:
            error = _error("invalid_request_error", str(refusal), request_id)
            await responder.reply(400, headers, error)
        except LookupError:
            error = _error("not_found_error", "Not found", request_id)
            await responder.reply(404, headers, error)

    async def _answer(self, request: httpd.Request, responder: httpd.Responder, headers: list[tuple[str, str]]) -> None:
        """Raises LookupError for what the provider does not have."""
        route = f"{'GET' if request.method == 'HEAD' else request.method} {request.path}"
        if route == "POST /v1/messages":
            await self._messages(json_body(request), responder, headers)
        elif route == "POST /v1/messages/count_tokens":
            count = {"input_tokens": _input_tokens(json_body(request))}
            await responder.reply(200, headers, dumps(count))
        elif route == "GET /v1/models":
            rows = [_model(name, shown) for name, shown in MODELS]
            page = {"data": rows, "has_more": False, "first_id": MODELS[0][0], "last_id": MODELS[-1][0]}
            await responder.reply(200, headers, dumps(page))
        elif route.startswith("GET /v1/models/"):
            name = request.path.removeprefix("/v1/models/")
            await responder.reply(200, headers, dumps(_model(name, dict(MODELS)[name])))
        else:
            raise LookupError(route)

    async def _messages(self, body: Json, responder: httpd.Responder, headers: list[tuple[str, str]]) -> None:
        model = text_member(body, "model")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadRequest("messages: at least one message is required")
        if type(body.get("max_tokens")) is not int:
            raise BadRequest("max_tokens: Field required")
        text = answer_text(last_text(messages))
        usage = _usage(_input_tokens(body), tokens_of(text))
        message: dict[str, object] = {
            "model": model,
            "id": new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
        if body.get("stream") is True:
            await stream_events(responder, headers, _events(message, text, usage), self._pause)
        else:
            await think(self._pause)
            await responder.reply(200, headers, dumps(message))


def _headers(request_id: str) -> list[tuple[str, str]]:
    headers = [
        ("content-type", "application/json"),
        ("request-id", request_id),
        ("anthropic-organization-id", "00000000-0000-4000-8000-000000000000"),
    ]
    for what, limit in (("requests", 4000), ("input-tokens", 400_000), ("output-tokens", 80_000)):
        headers += [
            (f"anthropic-ratelimit-{what}-limit", str(limit)),
            (f"anthropic-ratelimit-{what}-remaining", str(limit - 1)),
            (f"anthropic-ratelimit-{what}-reset", _CREATED),
        ]
    return headers


def _error(kind: str, message: str, request_id: str) -> bytes:
    return dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})


def _model(name: str, shown: str) -> Json:
    return {"type": "model", "id": name, "display_name": shown, "created_at": _CREATED}


def _input_tokens(body: Json) -> int:
    return tokens_of([body.get("system"), body.get("messages"), body.get("tools")])


def _usage(given: int, output: int) -> dict[str, object]:
    return {
        "input_tokens": given,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "service_tier": "standard",
    }


def _events(message: dict[str, object], text: str, usage: dict[str, object]) -> Iterator[bytes]:
    """The events of a stream; ``message_delta`` repeats the input and states the whole output."""
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield _event("message_start", message=begun)
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield _event("ping")
    for piece in pieces(text):
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    yield _event("content_block_stop", index=0)
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    yield _event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={name: usage[name] for name in names},
    )
    yield _event("message_stop")


def _event(kind: str, **members: object) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dumps({"type": kind, **members}) + b"\n\n"
