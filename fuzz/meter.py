"""Meter: relays the very bytes it was given, and what it says does not depend on how they were split."""

from __future__ import annotations

import gzip
import json
from typing import Final

from aigw_core.usage import Meter, MeterResult, usage_profile
from aigw_core.usage import document as document_module
from aigw_core.usage import meter as meter_module
from aigw_core.usage import sse as sse_module
from aigw_core.usage import strip as strip_module
from aigw_core.wires import Wire
from fuzz.inputs import Case, case_of, limits, split

TOKENS: Final = (
    b"data: ", b"\n\n", b"\r\n\r\n", b"[DONE]", b'"usage":{', b'"prompt_tokens":', b'"completion_tokens":',
    b'"total_tokens":', b'"choices":[]', b'"finish_reason":"stop"', b"event: ", b'"type":"message_delta"',
    b'"type":"message_stop"', b'"type":"response.completed"', b'"x_groq":{', b'"error":{', b'"input_tokens":',
    b'"output_tokens":', b"-1", b"1e400", b"99999999999999999999", b"null", b": OPENROUTER PROCESSING\n\n",
)  # fmt: skip
_WIRES: Final = (
    Wire.CHAT_COMPLETIONS,
    Wire.RESPONSES,
    Wire.MESSAGES,
    Wire.EMBEDDINGS,
    Wire.COMPLETIONS,
    Wire.COUNT_TOKENS,
    Wire.CHAT_COMPLETIONS,
    Wire.OPAQUE,
)
_PROVIDERS: Final = ("openai", "cerebras", "xai", "groq")
_ASKED_EVERY: Final = 16
_SMALL: Final = (
    (document_module, "DOCUMENT_MAX", 96),
    (sse_module, "LONG_EVENT", 64),
    (meter_module, "HELD_MAX", 48),
    (strip_module, "HELD_MAX", 48),
)


def check(data: bytes) -> None:
    """Option bits: 0-2 wire, 3-4 provider, 5 gzip, 6 small limits, 7 labelled as JSON."""
    case = case_of(data)
    if case.options & 64:
        with limits(*_SMALL):
            _check(case)
    else:
        _check(case)


def _check(case: Case) -> None:
    body, pieces = case.data, case.pieces
    if case.options & 32:
        body = gzip.compress(body, mtime=0)
        pieces = split(body, len(case.data) % 256)
    relayed, plain = _run(case.options, [body], strip=False)
    assert relayed == body, "bytes were altered"
    relayed, result = _run(case.options, pieces, strip=False)
    assert relayed == body, "the split alters bytes"
    assert result == plain, "the split alters the result"
    whole, stripped = _run(case.options, [body], strip=True)
    assert _run(case.options, pieces, strip=True) == (whole, stripped), "the split alters what is taken out"
    stripped.flags.discard("strip_overflow")
    assert stripped == plain, "stripping alters the result"
    assert len(whole) <= len(body)
    _sound(plain)


def _run(options: int, pieces: list[bytes], *, strip: bool) -> tuple[bytes, MeterResult]:
    meter = Meter(_WIRES[options & 7], usage_profile(_PROVIDERS[options >> 3 & 3]), strip_usage_event=strip)
    label = b"application/json" if options & 128 else b"text/event-stream"
    meter.response_head(200, label, b"gzip" if options & 32 else b"")
    relayed = b""
    for number, piece in enumerate(pieces):
        relayed += meter.feed(piece)
        if number % _ASKED_EVERY == 0:
            # Asking in between changes nothing, but decodes the document again.
            _sound(meter.result())
            assert meter.root_closed in (True, False)
    relayed += meter.finish(clean=True)
    return relayed, meter.result()


def _sound(result: MeterResult) -> None:
    json.dumps(result.usage, allow_nan=False)
    for name, count in result.tokens.items():
        assert type(count) is int, name
        assert count >= 0, name
