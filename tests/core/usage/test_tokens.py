"""Disjoint token classes: sums, saturation, consistency."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage import tokens
from aigw_core.usage.jsontext import storable
from aigw_core.usage.tokens import (
    COUNT_MAX,
    TOOL_COUNTERS_MAX,
    TokenClasses,
    anthropic_tokens,
    openai_tokens,
    server_tool_calls,
)

Usage = dict[str, object]

PROMPT_CLASSES = {"input", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "input_audio"}


def openai(usage: Usage, *, beside: bool = False) -> TokenClasses:
    """Whether the object is plain is told by a test of its own."""
    return openai_tokens(usage, reasoning_beside_completion=beside)._replace(plain=False)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}, {"input": 5, "output": 7}),
        ({"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}, {"input": 5, "output": 7}),
        ({"prompt_tokens": 8, "total_tokens": 8}, {"input": 8}),
        ({"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8}, {"input": 8, "output": 0}),
        (
            {
                "prompt_tokens": 1220,
                "completion_tokens": 100,
                "total_tokens": 1320,
                "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 1217, "audio_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 90, "audio_tokens": 3, "image_tokens": 4},
            },
            {
                "input": 0,
                "cache_read": 1,
                "cache_write": 1217,
                "input_audio": 2,
                "output": 3,
                "reasoning": 90,
                "output_audio": 3,
                "output_image": 4,
            },
        ),
        (
            {
                "input_tokens": 60,
                "input_tokens_details": {"cached_tokens": 20},
                "output_tokens": 33,
                "output_tokens_details": {"reasoning_tokens": 13},
                "total_tokens": 93,
            },
            {"input": 40, "cache_read": 20, "output": 20, "reasoning": 13},
        ),
        (
            {"prompt_tokens": 50, "completion_tokens": 4, "cached_tokens": 16},
            {"input": 34, "cache_read": 16, "output": 4},
        ),
        (
            {"prompt_tokens": 100, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
            {"input": 36, "cache_read": 64},
        ),
        ({"prompt_tokens": 10, "num_cached_tokens": 4}, {"input": 6, "cache_read": 4}),
        (
            {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 0}, "num_cached_tokens": 4},
            {"input": 10, "cache_read": 0},
        ),
        ({"prompt_tokens": 9, "prompt_tokens_details": None, "completion_tokens_details": None}, {"input": 9}),
        ({"prompt_tokens_details": {"cached_tokens": 3}}, {"cache_read": 3}),
        ({"prompt_tokens": None, "input_tokens": 3}, {"input": 3}),
        ({"cost_in_usd_ticks": 10**9}, {}),
    ],
)
def test_openai_classes(usage: Usage, counts: dict[str, int]) -> None:
    assert openai(usage) == TokenClasses(counts, saturated=False, inconsistent=False)


@pytest.mark.parametrize("beside", [True, False])
def test_the_total_says_where_reasoning_stands(beside: bool) -> None:
    inside: Usage = {
        "prompt_tokens": 11,
        "completion_tokens": 174,
        "total_tokens": 185,
        "completion_tokens_details": {"reasoning_tokens": 167},
    }
    expected = TokenClasses({"input": 11, "output": 7, "reasoning": 167}, saturated=False, inconsistent=False)
    assert openai(inside, beside=beside) == expected
    assert openai(inside | {"completion_tokens": 7}, beside=beside) == expected


def test_without_a_total_the_provider_decides_where_reasoning_stands() -> None:
    usage: Usage = {"completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 4}}
    assert openai(usage, beside=False).counts == {"output": 6, "reasoning": 4}
    assert openai(usage, beside=True).counts == {"output": 10, "reasoning": 4}


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        # OpenRouter: reasoning counted by another tokenizer than the completion.
        (
            {
                "prompt_tokens": 43,
                "completion_tokens": 10,
                "total_tokens": 53,
                "completion_tokens_details": {"reasoning_tokens": 11},
            },
            {"input": 43, "output": 0, "reasoning": 11},
        ),
        # Mistral: audio stands in the total and not in the prompt.
        (
            {
                "prompt_tokens": 11,
                "completion_tokens": 15,
                "total_tokens": 401,
                "prompt_tokens_details": {"audio_tokens": 375, "cached_tokens": 9},
            },
            {"input": 2, "cache_read": 9, "output": 15, "input_audio": 375},
        ),
        ({"prompt_tokens": 10, "num_cached_tokens": 64}, {"input": 0, "cache_read": 64}),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 4}, {"input": 1, "output": 2}),
        ({"prompt_tokens": 1.0, "completion_tokens": 2}, {"output": 2}),
        ({"prompt_tokens": "1", "completion_tokens": 2}, {"output": 2}),
        ({"prompt_tokens": True, "completion_tokens": 2}, {"output": 2}),
        ({"prompt_tokens": [1], "input_tokens": 1, "completion_tokens": 2}, {"input": 1, "output": 2}),
    ],
)
def test_numbers_that_do_not_fit_are_flagged(usage: Usage, counts: dict[str, int]) -> None:
    assert openai(usage) == TokenClasses(counts, saturated=False, inconsistent=True)


def test_a_negative_count_saturates_at_zero_and_is_flagged() -> None:
    usage: Usage = {"input_tokens": 0, "output_tokens": -9, "total_tokens": -9}
    assert openai(usage) == TokenClasses({"input": 0, "output": 0}, saturated=True, inconsistent=True)
    assert anthropic_tokens({"input_tokens": -1}) == TokenClasses({"input": 0}, saturated=True, inconsistent=True)


def test_an_absurd_count_saturates() -> None:
    assert openai({"prompt_tokens": COUNT_MAX}) == TokenClasses({"input": COUNT_MAX}, False, False)
    assert openai({"prompt_tokens": COUNT_MAX + 1}) == TokenClasses({"input": COUNT_MAX}, True, False)
    assert anthropic_tokens({"output_tokens": 10**300}) == TokenClasses({"output": COUNT_MAX}, True, False)


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"input_tokens": 9, "output_tokens": 21}, {"input": 9, "output": 21}),
        (
            {
                "input_tokens": 53,
                "cache_creation_input_tokens": 1157,
                "cache_read_input_tokens": 9,
                "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 157},
                "output_tokens": 261,
                "output_tokens_details": {"thinking_tokens": 61},
            },
            {
                "input": 53,
                "cache_read": 9,
                "cache_write_5m": 1000,
                "cache_write_1h": 157,
                "output": 200,
                "reasoning": 61,
            },
        ),
        # A message_delta raised the sum and left the split of message_start behind.
        (
            {
                "input_tokens": 6,
                "cache_creation_input_tokens": 3337,
                "cache_creation": {"ephemeral_5m_input_tokens": 3068, "ephemeral_1h_input_tokens": 0},
            },
            {"input": 6, "cache_write": 3337},
        ),
        ({"cache_creation_input_tokens": 5}, {"cache_write": 5}),
        ({"cache_creation_input_tokens": 5, "cache_creation": None}, {"cache_write": 5}),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 5}}, {"cache_write_5m": 5}),
        (
            {"cache_creation_input_tokens": 0, "cache_creation": {"ephemeral_1h_input_tokens": 0}},
            {"cache_write_1h": 0},
        ),
        (
            {"input_tokens": 1, "iterations": [{"type": "compaction", "input_tokens": 60_385}]},
            {"input": 1},
        ),
        ({"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}, {"input": 7, "output": 1}),
    ],
)
def test_anthropic_classes(usage: Usage, counts: dict[str, int]) -> None:
    assert anthropic_tokens(usage)._replace(plain=False) == TokenClasses(counts, saturated=False, inconsistent=False)


def test_anthropic_thinking_beyond_the_output_is_flagged() -> None:
    usage: Usage = {"output_tokens": 5, "output_tokens_details": {"thinking_tokens": 6}}
    assert anthropic_tokens(usage)._replace(plain=False) == TokenClasses({"output": 0, "reasoning": 6}, False, True)


counters = st.none() | st.integers(-5, 60) | st.sampled_from([2**53, 2**70, True, 1.5, "7", [], {}])
details = st.none() | st.dictionaries(
    st.sampled_from(
        [
            "cached_tokens",
            "cache_write_tokens",
            "audio_tokens",
            "image_tokens",
            "reasoning_tokens",
            "thinking_tokens",
            "ephemeral_5m_input_tokens",
            "ephemeral_1h_input_tokens",
        ]
    ),
    counters,
)
usages = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"], counters),
        **dict.fromkeys(["total_tokens", "cached_tokens", "num_cached_tokens"], counters),
        **dict.fromkeys(["cache_creation_input_tokens", "cache_read_input_tokens"], counters),
        **dict.fromkeys(["prompt_tokens_details", "completion_tokens_details", "input_tokens_details"], details),
        **dict.fromkeys(["output_tokens_details", "cache_creation"], details),
    },
)


@settings(deadline=None)
@given(usages, st.booleans())
def test_classes_sum_to_what_was_stated_or_say_that_they_do_not(usage: Usage, beside: bool) -> None:
    classes = openai(usage, beside=beside)
    assert all(type(count) is int and 0 <= count <= COUNT_MAX for count in classes.counts.values())
    if classes.saturated or classes.inconsistent:
        return
    prompt = usage.get("prompt_tokens")
    if prompt is None:
        prompt = usage.get("input_tokens")
    if prompt is not None:
        assert sum(count for name, count in classes.counts.items() if name in PROMPT_CLASSES) == prompt
    total = usage.get("total_tokens")
    if total is not None:
        assert sum(classes.counts.values()) == total


@settings(deadline=None)
@given(usages)
def test_anthropic_counts_are_counts(usage: Usage) -> None:
    classes = anthropic_tokens(usage)
    assert all(type(count) is int and 0 <= count <= COUNT_MAX for count in classes.counts.values())
    if not (classes.saturated or classes.inconsistent or "prompt_tokens" in usage):
        answer = sum(count for name, count in classes.counts.items() if name not in PROMPT_CLASSES)
        stated = usage.get("output_tokens")
        assert stated is None or answer == stated


@pytest.mark.parametrize(
    ("usage", "calls"),
    [
        (
            {"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0}},
            {"web_search_requests": 2, "web_fetch_requests": 0},
        ),
        ({"server_tool_use_details": {"web_search_requests": 1}}, {"web_search_requests": 1}),
        ({"server_side_tool_usage_details": {"x_search_calls": 3}}, {"x_search_calls": 3}),
        ({"server_tool_use": None}, None),
        ({"server_tool_use": {}}, None),
        ({"server_tool_use": {"note": "two", "web_search_requests": None}}, None),
        ({"server_tool_use": 4}, None),
        ({"server_tool_use": {"a": -1, "b": 2**60}}, {"a": 0, "b": COUNT_MAX}),
        ({}, None),
    ],
)
def test_server_tool_calls(usage: Usage, calls: dict[str, int] | None) -> None:
    assert server_tool_calls(usage) == calls


def test_server_tool_calls_are_bounded() -> None:
    def stated(number: int) -> Usage:
        return {"server_tool_use": {f"tool{index}": 1 for index in range(number)}}

    for number, kept in [(TOOL_COUNTERS_MAX, TOOL_COUNTERS_MAX), (TOOL_COUNTERS_MAX + 1, TOOL_COUNTERS_MAX)]:
        calls = server_tool_calls(stated(number))
        assert calls is not None
        assert len(calls) == kept


_PLAIN_COUNTS = st.integers(-2, 40) | st.sampled_from([None, True, 1.5, "3", 2**53, 2**53 + 1])
_PLAIN_DETAILS = st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "reasoning_tokens", "image_tokens", "cache_write_tokens"]),
    _PLAIN_COUNTS,
    max_size=3,
)
_PLAIN_USAGE = st.fixed_dictionaries(
    {"prompt_tokens": _PLAIN_COUNTS, "completion_tokens": _PLAIN_COUNTS},
    optional={
        "total_tokens": _PLAIN_COUNTS | st.just(-1),
        "prompt_tokens_details": _PLAIN_DETAILS | st.none(),
        "completion_tokens_details": _PLAIN_DETAILS | st.none(),
        "cached_tokens": _PLAIN_COUNTS,
        "input_tokens": _PLAIN_COUNTS,
    },
)


@given(_PLAIN_USAGE, st.booleans())
def test_the_short_way_gives_what_the_general_way_gives(usage: dict[str, object], beside: bool) -> None:
    prompt, answer = usage["prompt_tokens"], usage["completion_tokens"]
    if usage.get("total_tokens") == -1 and type(prompt) is int and type(answer) is int:
        usage["total_tokens"] = prompt + answer
    short = tokens._plain_openai_tokens(usage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_plain_openai_tokens", lambda _: None)
        general = tokens.openai_tokens(usage, reasoning_beside_completion=beside)
    if short is not None:
        assert (short.saturated, short.inconsistent) == (general.saturated, general.inconsistent)
        assert short.counts == general.counts
        assert short.plain
        assert not general.plain
        assert storable(usage) is usage
