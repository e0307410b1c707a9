"""The work that every target gets: requests and answers in the shapes that SDKs and providers send."""

from __future__ import annotations

import json
import re
from typing import Final

MODEL: Final = "gpt-4o-mini"
"""Peers that route by model have to know this one."""
ANSWER_SIZE: Final = 593
EVENT_SIZE: Final = 230

_SYSTEM: Final = (
    "You help the readers of a public library. Answer in the language of the question, in five sentences at"
    " most, and name the shelf where a book stands if the catalogue says so. Loans last four weeks and can be"
    " prolonged twice unless somebody has reserved the book. A late return costs twenty cents a day, children"
    " pay nothing. Never guess a date or an amount: if the record does not show it, say that the front desk"
    " knows, give its hours (ten to seven, Saturdays until two) and offer to leave a note there. Recommend"
    " other books only when asked, three at most, each with one sentence that says why it fits. Magazines do not"
    " leave the house, but the two copying machines next to the stairs are free for up to thirty pages a day."
    " Rooms for groups are booked at the front desk, at the earliest two weeks before, by card holders only."
)
_TURNS: Final = (
    ("user", "Hello! I have borrowed a book on growing tomatoes, and it is due this Friday. Can I keep it longer?"),
    (
        "assistant",
        "Yes: you have not prolonged it yet, and nobody is waiting for it. Shall I add four weeks, so that it is"
        " due on the twelfth of next month?",
    ),
    (
        "user",
        "Please do. My daughter also wants to read about bees now, she is nine years old. Is there something"
        " with good pictures that is not too heavy to carry home on a bicycle, and on which shelf is it?",
    ),
)


def chat_request(*, stream: bool = False, padding: int = 0, max_tokens: int = 300) -> bytes:
    """A chat completions request of some 1.5 KB; ``padding`` more bytes stand in as an inline image."""
    messages: list[dict[str, object]] = [{"role": "system", "content": _SYSTEM}]
    messages += [{"role": role, "content": text} for role, text in _TURNS]
    if padding:
        image = {"url": "data:image/png;base64," + _base64_text(padding)}
        messages[-1]["content"] = [{"type": "text", "text": _TURNS[-1][1]}, {"type": "image_url", "image_url": image}]
    body: dict[str, object] = {"model": MODEL, "messages": messages, "temperature": 0.3, "max_tokens": max_tokens}
    if stream:
        body["stream"] = True
    return json.dumps(body, separators=(",", ":")).encode()


_USAGE: Final = (
    '"usage":{"prompt_tokens":311,"completion_tokens":18,"total_tokens":329,'
    '"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,'
    '"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)


def chat_answer(size: int = ANSWER_SIZE, *, logprobs: str = "null") -> bytes:
    """A chat completion of exactly ``size`` bytes, at least one byte of text; ``logprobs`` is JSON text."""
    before = (
        '{"id":"chatcmpl-0000bench","object":"chat.completion","created":1763900000,'
        f'"model":"{MODEL}-2024-07-18","choices":[{{"index":0,"message":{{"role":"assistant","content":"'
    )
    after = f'","refusal":null}},"logprobs":{logprobs},"finish_reason":"stop"}}],{_USAGE}}}'
    room = size - len(before) - len(after)
    return (before + _base64_text(max(1, room)) + after).encode()


def dense_logprobs(tokens: int) -> str:
    """JSON text of what ``logprobs: true, top_logprobs: 5`` adds: some 350 bytes of small values a token."""
    alternatives = [{"token": f" w{n}", "logprob": -0.125 * n - 0.0315, "bytes": [32, 119, 48 + n]} for n in range(5)]
    one = {"token": " word", "logprob": -0.0315, "bytes": [32, 119, 111, 114, 100], "top_logprobs": alternatives}
    return json.dumps({"content": [one] * tokens, "refusal": None}, separators=(",", ":"))


def _base64_text(size: int) -> str:
    row = "iVBORw0KGgoAAAANSUhEUgAAAZAAAAGQCAMAAAC3Ycb+AAAAGXRFWHRTb2Z0d2FyZQ"
    return (row * (size // len(row) + 1))[:size]


_EVENT_HEAD: Final = (
    b'data: {"id":"chatcmpl-0000bench","object":"chat.completion.chunk","created":1763900000,'
    b'"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{"content":"'
)
_EVENT_TAIL: Final = b'"},"finish_reason":null}]}\n\n'
_MARK: Final = b"@%05d:%019d;"
_FILLING: Final = b" " * (EVENT_SIZE - len(_EVENT_HEAD) - len(_EVENT_TAIL) - len(_MARK % (0, 0)))
_EVENT: Final = _EVENT_HEAD + _MARK + _FILLING + _EVENT_TAIL

MARK_PATTERN: Final = re.compile(rb"@(\d{5}):(\d{19});")
"""Finds number and time stamp of each event, also in one that a gateway built anew."""

STREAM_END: Final = (
    b'data: {"id":"chatcmpl-0000bench","object":"chat.completion.chunk","created":1763900000,'
    b'"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"chatcmpl-0000bench","object":"chat.completion.chunk","created":1763900000,'
    b'"model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":311,"completion_tokens":200,'
    b'"total_tokens":511}}\n\n'
    b"data: [DONE]\n\n"
)


def event(index: int, stamp_ns: int) -> bytes:
    """One event of EVENT_SIZE bytes that says its number and when it was sent (ns since the epoch)."""
    return _EVENT % (index, stamp_ns)


def sdk_request(
    body: bytes, *, path: str, host: str, headers: tuple[tuple[str, str], ...], accept: str = "application/json"
) -> bytes:
    """A whole POST with the fields that the openai SDK for Python sends."""
    fields = [
        ("Host", host),
        ("Accept-Encoding", "gzip, deflate"),
        ("Connection", "keep-alive"),
        ("Accept", accept),
        ("Content-Type", "application/json"),
        ("User-Agent", "OpenAI/Python 2.8.1"),
        ("X-Stainless-Lang", "python"),
        ("X-Stainless-Package-Version", "2.8.1"),
        ("X-Stainless-OS", "Linux"),
        ("X-Stainless-Arch", "x64"),
        ("X-Stainless-Runtime", "CPython"),
        ("X-Stainless-Runtime-Version", "3.11.7"),
        ("X-Stainless-Async", "false"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-read-timeout", "600"),
        *headers,
        ("Content-Length", str(len(body))),
    ]
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def provider_head(content_type: str, length: int | None, serial: int = 0) -> bytes:
    """The head of a provider's 200; chunked without a length. ``serial`` is what differs between two answers."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        "HTTP/1.1 200 OK\r\n"
        "Date: Mon, 24 Nov 2025 10:00:00 GMT\r\n"
        f"Content-Type: {content_type}\r\n"
        f"{framing}\r\n"
        "Connection: keep-alive\r\n"
        "openai-organization: bench\r\n"
        f"openai-processing-ms: {400 + serial}\r\n"
        "openai-version: 2020-10-01\r\n"
        "x-ratelimit-limit-requests: 10000\r\n"
        f"x-ratelimit-remaining-requests: {9999 - serial}\r\n"
        f"x-request-id: req_0123456789abcdef{serial:016x}\r\n"
        "Server: bench\r\n"
        "\r\n"
    ).encode()


def chunked(data: bytes) -> bytes:
    """``data`` as one chunk of the chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK: Final = b"0\r\n\r\n"
