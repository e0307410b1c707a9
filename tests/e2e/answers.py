"""Answers in the providers' own shapes, and the HTTP around them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.e2e.provider import Received

Json = dict[str, Any]

CHAT_USAGE: Final[Json] = {
    "prompt_tokens": 9,
    "completion_tokens": 12,
    "total_tokens": 21,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
CHAT_TOKENS: Final = {"input": 5, "cache_read": 4, "output": 7, "reasoning": 5}
"""The same, as disjoint classes."""
RESPONSES_USAGE: Final[Json] = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 7},
    "total_tokens": 123,
}
MESSAGES_USAGE: Final[Json] = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 3,
    "output_tokens": 15,
}


def head(status: str, *fields: tuple[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1")


def plain(status: str, body: bytes, *fields: tuple[str, str], content_type: str = "application/json") -> bytes:
    """A whole answer with a Content-Length."""
    return head(status, ("Content-Type", content_type), *fields, ("Content-Length", str(len(body)))) + body


def json_answer(document: object, status: str = "200 OK", *fields: tuple[str, str]) -> bytes:
    return plain(status, json.dumps(document).encode(), ("x-request-id", "req_upstream_1"), *fields)


STREAM_HEAD: Final = head(
    "200 OK",
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("x-request-id", "req_upstream_1"),
    ("Transfer-Encoding", "chunked"),
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"


def event(document: object, name: str | None = None) -> bytes:
    prefix = f"event: {name}\n" if name is not None else ""
    return f"{prefix}data: {json.dumps(document)}\n\n".encode()


def stream_answer(events: Iterable[bytes]) -> bytes:
    """A whole chunked stream, one event a chunk."""
    return STREAM_HEAD + b"".join(chunk(data) for data in events) + LAST_CHUNK


# Chat completions


def chat_chunk(choices: list[Json], **members: object) -> Json:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-5.4-mini-2026-03-01",
        "choices": choices,
        **members,
    }


TOOL_CALL: Final[Json] = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
}


def chat_completion(request: Mapping[str, Any]) -> Json:
    message: Json = {"role": "assistant", "content": "Bonjour, monde.", "refusal": None}
    finish = "stop"
    if request.get("tools"):
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [TOOL_CALL]}
        finish = "tool_calls"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-5.4-mini-2026-03-01",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": CHAT_USAGE,
        "service_tier": "default",
    }


def chat_events(request: Mapping[str, Any]) -> list[bytes]:
    """A stream; the event that states usage is sent only to a request that asks for it, as OpenAI does."""
    asked = bool((request.get("stream_options") or {}).get("include_usage"))
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    finish = "stop"
    if request.get("tools"):
        call: Json = {"index": 0, **TOOL_CALL, "function": {"name": "get_weather", "arguments": ""}}
        deltas[0] = {"role": "assistant", "content": None, "tool_calls": [call]}
        deltas += [
            {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in ('{"city": ', '"Paris"}')
        ]
        finish = "tool_calls"
    else:
        deltas += [{"content": piece} for piece in ("Bonjour", ", monde", ".")]
    extra: Json = {"usage": None} if asked else {}
    choices: list[Json] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    events = [event(chat_chunk([choice], **extra)) for choice in choices]
    if asked:
        events.append(event(chat_chunk([], usage=CHAT_USAGE)))
    return [*events, b"data: [DONE]\n\n"]


# Responses


def response_object(*, done: bool) -> Json:
    text = {"type": "output_text", "text": "Bonjour, monde.", "annotations": []}
    message = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [text]}
    output: list[Json] = [message] if done else []
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed" if done else "in_progress",
        "model": "gpt-5.4-mini-2026-03-01",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": RESPONSES_USAGE if done else None,
    }


def response_events() -> list[bytes]:
    where: Json = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    rows: list[Json] = [{"type": "response.created", "response": response_object(done=False)}]
    rows += [
        {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
        for piece in ("Bonjour", ", monde", ".")
    ]
    rows.append({"type": "response.completed", "response": response_object(done=True)})
    return [event({**row, "sequence_number": number}, row["type"]) for number, row in enumerate(rows)]


# Messages


def message(request: Mapping[str, Any]) -> Json:
    content: list[Json] = [{"type": "text", "text": "Bonjour, monde."}]
    if request.get("tools"):
        content = [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": content,
        "stop_reason": "tool_use" if request.get("tools") else "end_turn",
        "stop_sequence": None,
        "usage": MESSAGES_USAGE,
    }


def message_events(request: Mapping[str, Any]) -> list[bytes]:
    start = {**message(request), "content": [], "stop_reason": None, "usage": {**MESSAGES_USAGE, "output_tokens": 1}}
    rows: list[Json] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    if request.get("tools"):
        block: Json = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
        deltas: list[Json] = [{"type": "input_json_delta", "partial_json": p} for p in ('{"city": ', '"Paris"}')]
    else:
        block = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in ("Bonjour", ", monde", ".")]
    rows.append({"type": "content_block_start", "index": 0, "content_block": block})
    rows += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
    rows.append({"type": "content_block_stop", "index": 0})
    stop = "tool_use" if request.get("tools") else "end_turn"
    rows.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": {"output_tokens": MESSAGES_USAGE["output_tokens"]},
        }
    )
    rows.append({"type": "message_stop"})
    return [event(row, row["type"]) for row in rows]


def by_path(received: Received) -> None:
    """What a request gets that names no case: a proper answer of the endpoint that it asks."""
    path = received.target.partition("?")[0]
    body = received.read()
    request: Json = json.loads(body) if body.lstrip().startswith(b"{") else {}
    streaming = bool(request.get("stream"))
    if path.endswith("/chat/completions"):
        answer = stream_answer(chat_events(request)) if streaming else json_answer(chat_completion(request))
    elif path.endswith("/responses"):
        answer = stream_answer(response_events()) if streaming else json_answer(response_object(done=True))
    elif path.endswith("/messages"):
        answer = stream_answer(message_events(request)) if streaming else json_answer(message(request))
    elif path.endswith("/models"):
        answer = json_answer(
            {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]}
        )
    else:
        answer = json_answer(
            {"error": {"message": f"no {path} here", "type": "invalid_request_error"}}, "404 Not Found"
        )
    received.connection.send(answer)
