"""The short way for the usual answer says what the Meter says, or nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage import UsageStatus, usage_profile
from aigw_core.usage.answer import read_answer
from aigw_core.usage.document import DOCUMENT_MAX
from aigw_core.wires import Wire
from tests.core.usage.helpers import JSON, RECORDINGS, Run, recording
from tests.core.usage.json_texts import Members, documents

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
DOCUMENT = b'{"model":"m","choices":[{"message":{"content":"x"}}],"usage":' + json.dumps(USAGE).encode() + b"}"
SHORT_JSON = sorted(path.name for path in RECORDINGS.glob("*.json") if path.stat().st_size <= DOCUMENT_MAX)

members = st.lists(
    st.tuples(
        st.sampled_from(["usage", "model", "service_tier", "error", "choices", "x"]),
        st.sampled_from(
            [
                None, "", "m", 0, 1, [], [1],
                Members(), Members([("prompt_tokens", 1)]), Members([("input_tokens", -1)]),
                Members([("prompt_tokens", 1), ("completion_tokens", 2), ("total_tokens", 3)]),
                Members([("prompt_tokens", 1), ("total_tokens", 9), ("service_tier", "t")]),
                Members([("input_tokens", 5), ("server_tool_use", Members([("web_search", 2)]))]),
                Members([("prompt_tokens", 1e999), ("usage", Members([("prompt_tokens", 1)]))]),
            ]
        ),
    ),
    max_size=5,
).map(Members)  # fmt: skip


def agrees(wire: Wire, provider: str, body: bytes) -> bool:
    """Whether the short way was taken; it agrees with the Meter."""
    short = read_answer(wire, usage_profile(provider), body)
    if short is None:
        return False
    slow = Run(body, wire=wire, provider=provider, content_type=JSON)
    assert short == slow.result
    assert not slow.meter.error_only
    return True


@settings(max_examples=300, deadline=None)
@given(
    documents(members), st.sampled_from(list(Wire)), st.sampled_from(["openai", "xai", "groq", "anthropic", "mistral"])
)
def test_it_says_what_the_meter_says(body: bytes, wire: Wire, provider: str) -> None:
    agrees(wire, provider, body)


@pytest.mark.parametrize("wire", [wire for wire in Wire if wire.billable])
def test_the_usual_answer_takes_it(wire: Wire) -> None:
    assert agrees(wire, "openai", DOCUMENT)


@pytest.mark.parametrize("name", SHORT_JSON)
def test_recorded_answers(name: str) -> None:
    provider = name.removesuffix(".json").partition("_")[0]
    for wire in (Wire.CHAT_COMPLETIONS, Wire.RESPONSES, Wire.MESSAGES, Wire.EMBEDDINGS):
        agrees(wire, provider, recording(name))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" " + DOCUMENT,
        DOCUMENT[:-1],
        DOCUMENT + b"x",
        DOCUMENT.replace(b'"m"', b'"\xff"'),
        DOCUMENT[:-1] + b" " * DOCUMENT_MAX + b"}",
        b'{"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2}}',
        b'{"usage":{"prompt_tokens":1},"\\u0075sage":{"prompt_tokens":2}}',
        b'{"usage":{}}',
        b'{"usage":null}',
        b'{"usage":{"prompt_tokens":1},"error":{"message":"busy"}}',
        b"{" * 5_000,
        b"[1]",
    ],
)
def test_anything_else_is_left_to_the_meter(body: bytes) -> None:
    assert read_answer(Wire.CHAT_COMPLETIONS, usage_profile("openai"), body) is None


@pytest.mark.parametrize("wire", [wire for wire in Wire if not wire.billable])
def test_so_are_wires_that_are_not_billed(wire: Wire) -> None:
    assert read_answer(wire, usage_profile("openai"), DOCUMENT) is None


def test_what_is_wrong_with_numbers_is_flagged() -> None:
    result = read_answer(Wire.CHAT_COMPLETIONS, usage_profile("openai"), b'{"usage":{"prompt_tokens":-1}}')
    assert result is not None
    assert result.usage_status is UsageStatus.FINAL
    assert result.flags == {"tokens_saturated", "tokens_inconsistent"}
