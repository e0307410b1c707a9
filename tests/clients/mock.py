"""What OpenAI and Anthropic answer to clients that look closely: whole event sequences, and a tool call first where
the client offers a tool that the mock knows."""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import dataclass
from typing import Any, Final

from tests import zstd
from tests.e2e import answers
from tests.e2e.provider import Received

Json = dict[str, Any]

TEXT: Final = "Bonjour, monde."
TOOLS: Final[dict[str, Json]] = {
    "get_weather": {"city": "Paris"},
    "exec_command": {"cmd": "cat note.txt"},
}
"""The tools that the mock calls, with what it passes; more are added by tests that know a path."""
_DECODERS: Final = {b"gzip": gzip.decompress, b"zstd": zstd.decompress}


@dataclass(frozen=True, slots=True)
class Call:
    """One request as it came."""

    method: str
    target: str
    coding: bytes
    body: bytes
    """As sent."""
    request: Json
    """Decoded."""


class Mock:
    """The script of a provider, and what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.tools = dict(TOOLS)
        self._lock = threading.Lock()

    def __call__(self, received: Received) -> None:
        body = received.read()
        coding = b"".join(received.values(b"content-encoding"))
        decoded = _DECODERS.get(coding, bytes)(body)
        request: Json = json.loads(decoded) if decoded.startswith(b"{") else {}
        method = received.request_line.split(b" ")[0].decode()
        with self._lock:
            self.calls.append(Call(method, received.target, coding, body, request))
        path = received.target.partition("?")[0]
        if path.endswith("/chat/completions"):
            answer = _chat(request, self._tool(request, [each.get("role") == "tool" for each in _items(request)]))
        elif path.endswith("/responses"):
            done = [each.get("type") == "function_call_output" for each in _items(request)]
            answer = _responses(request, self._tool(request, done))
        elif path.endswith("/messages"):
            answer = _messages(request, self._tool(request, ["tool_result" in json.dumps(request.get("messages"))]))
        elif path.endswith("/models"):
            answer = answers.json_answer({"object": "list", "data": [], "models": []})
        else:
            answer = answers.json_answer({"error": {"message": f"no {path} here"}}, "404 Not Found")
        received.connection.send(answer)

    def _tool(self, request: Json, done: list[bool]) -> tuple[str, Json] | None:
        """Name and arguments of the tool to call, where one is offered that was not called yet."""
        if any(done):
            return None
        offered = [each.get("name") or (each.get("function") or {}).get("name") for each in request.get("tools") or []]
        return next(((name, value) for name, value in self.tools.items() if name in offered), None)


def _items(request: Json) -> list[Json]:
    """The conversation so far."""
    given = request.get("messages") or request.get("input") or []
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []


def _chat(request: Json, tool: tuple[str, Json] | None) -> bytes:
    message: Json = {"role": "assistant", "content": TEXT, "refusal": None}
    finish = "stop"
    if tool is not None:
        function = {"name": tool[0], "arguments": json.dumps(tool[1])}
        message = {"role": "assistant", "content": None, "refusal": None}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
        finish = "tool_calls"
    if not request.get("stream"):
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        whole = answers.chat_chunk([choice], usage=answers.CHAT_USAGE)
        return answers.json_answer({**whole, "object": "chat.completion"})
    delta = {**message, "tool_calls": [{"index": 0, **each} for each in message.get("tool_calls", [])]}
    choices = [
        {"index": 0, "delta": {key: value for key, value in delta.items() if value}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": finish},
    ]
    events = [answers.event(answers.chat_chunk([choice])) for choice in choices]
    if (request.get("stream_options") or {}).get("include_usage"):
        events.append(answers.event(answers.chat_chunk([], usage=answers.CHAT_USAGE)))
    return answers.stream_answer([*events, b"data: [DONE]\n\n"])


def _responses(request: Json, tool: tuple[str, Json] | None) -> bytes:
    part = {"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}
    item: Json = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    if tool is not None:
        item = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1"}
        item |= {"name": tool[0], "arguments": json.dumps(tool[1])}
    whole = {**answers.response_object(done=True), "output": [item]}
    if not request.get("stream"):
        return answers.json_answer(whole)
    where = {"item_id": item["id"], "output_index": 0}
    begun = {**item, "status": "in_progress"}
    rows: list[Json] = [{"type": "response.created", "response": answers.response_object(done=False)}]
    if tool is not None:
        rows.append({"type": "response.output_item.added", "output_index": 0, "item": {**begun, "arguments": ""}})
        rows.append({"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]})
        rows.append({"type": "response.function_call_arguments.done", **where, "arguments": item["arguments"]})
    else:
        text = {**where, "content_index": 0}
        rows.append({"type": "response.output_item.added", "output_index": 0, "item": {**begun, "content": []}})
        rows.append({"type": "response.content_part.added", **text, "part": {**part, "text": ""}})
        pieces = [f"{word} " for word in TEXT.split()]
        rows += [{"type": "response.output_text.delta", **text, "delta": piece, "logprobs": []} for piece in pieces]
        rows.append({"type": "response.output_text.done", **text, "text": TEXT, "logprobs": []})
        rows.append({"type": "response.content_part.done", **text, "part": part})
    rows.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    rows.append({"type": "response.completed", "response": whole})
    return answers.stream_answer(
        answers.event({**row, "sequence_number": number}, row["type"]) for number, row in enumerate(rows)
    )


def _messages(request: Json, tool: tuple[str, Json] | None) -> bytes:
    if tool is None:
        plain = {**request, "tools": None}
        if request.get("stream"):
            return answers.stream_answer(answers.message_events(plain))
        return answers.json_answer(answers.message(plain))
    block = {"type": "tool_use", "id": "toolu_1", "name": tool[0], "input": tool[1]}
    whole = {**answers.message(request), "content": [block]}
    if not request.get("stream"):
        return answers.json_answer(whole)
    start = {**whole, "content": [], "stop_reason": None, "usage": {**answers.MESSAGES_USAGE, "output_tokens": 1}}
    delta = {"type": "input_json_delta", "partial_json": json.dumps(tool[1])}
    rows: list[Json] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {**block, "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": answers.MESSAGES_USAGE["output_tokens"]},
        },
        {"type": "message_stop"},
    ]
    return answers.stream_answer(answers.event(row, row["type"]) for row in rows)
