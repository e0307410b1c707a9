"""A mock of the OpenAI API: chat completions, Responses, embeddings, models."""

from __future__ import annotations

import base64
import hashlib
import struct
import time
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
from aigw_core.secrets import Secret

MODELS: Final = ("gpt-5.4-mini", "gpt-5.5", "text-embedding-3-small")
SNAPSHOT: Final = "-2026-03-17"
"""What the answer's model ends in: providers resolve an alias to the dated one."""
DIMENSIONS: Final = 1536
DIMENSIONS_MAX: Final = 3072
INPUTS_MAX: Final = 2048
"""Inputs of one embeddings request, as documented by OpenAI."""
FINGERPRINT: Final = "fp_5e0f7a2b1c"


class OpenAIMock:
    """Answers whoever has the key. ``pause`` gives the seconds between two chunks of a stream."""

    def __init__(self, key: Secret, pause: Pause | None = None) -> None:
        self._key = key
        self._pause = pause or typing_pauses()

    async def handle(self, request: httpd.Request, responder: httpd.Responder) -> None:
        headers = _headers()
        if not has_key(request, self._key):
            error = _error("Incorrect API key provided.", "invalid_api_key")
            await responder.reply(401, headers, error)
            return
        try:
            await self._answer(request, responder, headers)
        except BadRequest as refusal:
            await responder.reply(400, headers, _error(str(refusal), None))

    async def _answer(self, request: httpd.Request, responder: httpd.Responder, headers: list[tuple[str, str]]) -> None:
        route = f"{'GET' if request.method == 'HEAD' else request.method} {request.path}"
        if route == "GET /v1/models":
            rows = [_model(name) for name in MODELS]
            await _reply_json(responder, headers, {"object": "list", "data": rows})
        elif route.startswith("GET /v1/models/"):
            await self._one_model(request.path.removeprefix("/v1/models/"), responder, headers)
        elif route == "POST /v1/chat/completions":
            await self._chat(json_body(request), responder, headers)
        elif route == "POST /v1/responses":
            await self._responses(json_body(request), responder, headers)
        elif route == "POST /v1/responses/input_tokens":
            count = tokens_of(json_body(request).get("input"))
            await _reply_json(responder, headers, {"object": "response.input_tokens", "input_tokens": count})
        elif route == "POST /v1/embeddings":
            await _reply_json(responder, headers, _embeddings(json_body(request)))
        else:
            text = f"Invalid URL ({request.method} {request.path})"
            await responder.reply(404, headers, _error(text, "unknown_url"))

    async def _one_model(self, name: str, responder: httpd.Responder, headers: list[tuple[str, str]]) -> None:
        if name in MODELS:
            await _reply_json(responder, headers, _model(name))
        else:
            error = _error(f"The model '{name}' does not exist", "model_not_found")
            await responder.reply(404, headers, error)

    async def _chat(self, body: Json, responder: httpd.Responder, headers: list[tuple[str, str]]) -> None:
        model = text_member(body, "model")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadRequest("Missing required parameter: 'messages'.")
        text = answer_text(last_text(messages))
        usage = _chat_usage(tokens_of(messages), tokens_of(text))
        if body.get("stream") is True:
            options = body.get("stream_options")
            wants_usage = isinstance(options, dict) and options.get("include_usage") is True
            events = _chat_events(model, text, usage if wants_usage else None)
            await stream_events(responder, headers, events, self._pause)
            return
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
        await think(self._pause)
        answer = {**_chat_base("chat.completion", model), "choices": [choice], "usage": usage}
        await _reply_json(responder, headers, answer)

    async def _responses(self, body: Json, responder: httpd.Responder, headers: list[tuple[str, str]]) -> None:
        model = text_member(body, "model")
        given = body.get("input")
        text = answer_text(last_text(given))
        usage = _responses_usage(tokens_of(given), tokens_of(text))
        response = _response(model, body)
        if body.get("stream") is True:
            await stream_events(responder, headers, _response_events(response, text, usage), self._pause)
            return
        await think(self._pause)
        message = _message(new_id("msg_"), text, "completed")
        answer = {**response, "status": "completed", "output": [message], "usage": usage}
        await _reply_json(responder, headers, answer)


async def _reply_json(responder: httpd.Responder, headers: list[tuple[str, str]], value: Json) -> None:
    await responder.reply(200, headers, dumps(value))


def _headers() -> list[tuple[str, str]]:
    return [
        ("content-type", "application/json"),
        ("x-request-id", new_id("req_")),
        ("openai-version", "2020-10-01"),
        ("openai-organization", "org-mock"),
        ("openai-processing-ms", "142"),
        ("x-ratelimit-limit-requests", "10000"),
        ("x-ratelimit-remaining-requests", "9999"),
        ("x-ratelimit-reset-requests", "6ms"),
        ("x-ratelimit-limit-tokens", "200000"),
        ("x-ratelimit-remaining-tokens", "199958"),
        ("x-ratelimit-reset-tokens", "12ms"),
    ]


def _error(message: str, code: str | None) -> bytes:
    return dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}})


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": 1_767_225_600, "owned_by": "system"}


def _resolved(model: str) -> str:
    return model if model.endswith(SNAPSHOT) else model + SNAPSHOT


def _chat_base(kind: str, model: str) -> dict[str, object]:
    return {
        "id": new_id("chatcmpl-"),
        "object": kind,
        "created": int(time.time()),
        "model": _resolved(model),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _chat_usage(prompt: int, completion: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _chat_events(model: str, text: str, usage: Json | None) -> Iterator[bytes]:
    """The chunks of a stream; the usage chunk and the null members stand only where usage was asked for."""
    base = _chat_base("chat.completion.chunk", model)
    rest: dict[str, object] = {} if usage is None else {"usage": None}

    def chunk(delta: Json, finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**base, "choices": [choice], **rest})

    yield chunk({"role": "assistant", "content": "", "refusal": None}, None)
    for piece in pieces(text):
        yield chunk({"content": piece}, None)
    yield chunk({}, "stop")
    if usage is not None:
        yield _data({**base, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _data(value: Json) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


def _responses_usage(given: int, output: int) -> Json:
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": given + output,
    }


def _response(model: str, body: Json) -> dict[str, object]:
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": _resolved(model),
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


def _part(text: str) -> Json:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _message(item_id: str, text: str | None, status: str) -> Json:
    content = [] if text is None else [_part(text)]
    return {"id": item_id, "type": "message", "status": status, "content": content, "role": "assistant"}


def _response_events(response: dict[str, object], text: str, usage: Json) -> Iterator[bytes]:
    sequence = 0

    def event(kind: str, **members: object) -> bytes:
        nonlocal sequence
        row = {"type": kind, "sequence_number": sequence, **members}
        sequence += 1
        return b"event: " + kind.encode() + b"\n" + _data(row)

    item_id = new_id("msg_")
    place: dict[str, object] = {"item_id": item_id, "output_index": 0, "content_index": 0}
    done = _message(item_id, text, "completed")
    yield event("response.created", response=response)
    yield event("response.in_progress", response=response)
    yield event("response.output_item.added", output_index=0, item=_message(item_id, None, "in_progress"))
    yield event("response.content_part.added", **place, part=_part(""))
    for piece in pieces(text):
        yield event("response.output_text.delta", **place, delta=piece, logprobs=[])
    yield event("response.output_text.done", **place, text=text, logprobs=[])
    yield event("response.content_part.done", **place, part=_part(text))
    yield event("response.output_item.done", output_index=0, item=done)
    final = {**response, "status": "completed", "output": [done], "usage": usage}
    yield event("response.completed", response=final)


def _embeddings(body: Json) -> Json:
    model = text_member(body, "model")
    given = body.get("input")
    # One text, a list of texts, one list of tokens, or a list of those.
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    wanted = body.get("dimensions", DIMENSIONS)
    if not given or len(inputs) > INPUTS_MAX:
        raise BadRequest("'input' is empty, or has too many entries.")
    if type(wanted) is not int or not 1 <= wanted <= DIMENSIONS_MAX:
        raise BadRequest("Invalid value for 'dimensions'.")
    is_base64 = body.get("encoding_format") == "base64"
    rows = []
    for index, entry in enumerate(inputs):
        vector = _vector(dumps(entry), wanted)
        encoded: object = list(vector)
        if is_base64:
            encoded = base64.b64encode(struct.pack(f"<{wanted}f", *vector)).decode()
        rows.append({"object": "embedding", "index": index, "embedding": encoded})
    prompt = tokens_of(given)
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"object": "list", "data": rows, "model": model, "usage": usage}


def _vector(text: bytes, size: int) -> list[float]:
    """Numbers from -1 to 1 that only the text decides."""
    stream = hashlib.shake_128(text).digest(2 * size)
    return [(value - 32_768) / 32_768 for value in struct.unpack(f"<{size}H", stream)]
