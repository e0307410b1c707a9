"""A stated guess where the provider's numbers are missing; it never mixes with exact ones.

The parameters fit 112 recorded streams of the ten providers, whose final numbers are known. Reasoning
that the provider does not show cannot be seen here.
"""

from __future__ import annotations

from typing import Final

BYTES_PER_TOKEN: Final = 4
"""UTF-8 bytes of text a token: English and code; other scripts take about as many bytes a token."""

TOKENS_PER_TOOL_CALL: Final = 20
"""What a tool call costs beside its arguments: its name and markup (8 with some providers, 40 with others)."""

TEXT_ANSWER_MAX: Final = 256 * 1024
"""Bytes of a JSON answer that may be text; a longer one is mostly data, such as an image."""

STREAM_METHOD: Final = "text bytes/4 + 20 per tool call, at least 1 per delta"
BODY_METHOD: Final = "body bytes/4"
REQUEST_METHOD: Final = "request bytes/4"


def estimate_stream(request_bytes: int, text_bytes: int, tool_calls: int, deltas: int) -> dict[str, object]:
    """Tokens of an event stream so far: its text in UTF-8 bytes, tool calls begun, events with text."""
    output = max(_tokens(text_bytes) + TOKENS_PER_TOOL_CALL * tool_calls, deltas)
    return _with_input(request_bytes, output, STREAM_METHOD)


def estimate_body(request_bytes: int, body_bytes: int | None) -> dict[str, object] | None:
    """Tokens of a JSON answer so far, at most: its structure counts as text. None: its size says nothing."""
    if body_bytes is None and not request_bytes:
        return None
    if body_bytes is None:
        return _with_input(request_bytes, None, REQUEST_METHOD)
    return _with_input(request_bytes, _tokens(body_bytes), BODY_METHOD)


def _with_input(request_bytes: int, output: int | None, method: str) -> dict[str, object]:
    estimate: dict[str, object] = {}
    if request_bytes:
        estimate["input"] = _tokens(request_bytes)
    if output is not None:
        estimate["output"] = output
    estimate["method"] = method
    return estimate


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
