"""Every provider's way of stating usage, by a small recording in its shape."""

from __future__ import annotations

import json

import pytest

from aigw_core.usage import UsageStatus
from aigw_core.usage.profile import DEFAULT_USAGE_PROFILE, USAGE_PROFILES
from aigw_core.usage.readers import NAME_MAX, ChatReader, MessagesReader, Reader, ResponsesReader, reader_for
from aigw_core.wires import Wire
from tests.core.usage.helpers import JSON, Run, byte_by_byte, recording


def run(name: str, provider: str, wire: Wire = Wire.CHAT_COMPLETIONS) -> Run:
    """The recording whole and byte by byte; both must relay it unharmed and agree."""
    body = recording(name)
    content_type = JSON if name.endswith(".json") else b"text/event-stream; charset=utf-8"
    whole = Run(body, wire=wire, provider=provider, content_type=content_type)
    split = Run(byte_by_byte(body), wire=wire, provider=provider, content_type=content_type)
    assert whole.relayed == split.relayed == body
    assert whole.result == split.result
    return whole


def stated(name: str, position: int = -1) -> dict[str, object]:
    """The usage object as it stands in a recording, by order of appearance of the member."""
    text = recording(name).decode().replace("\r\ndata:", "")
    found: list[dict[str, object]] = []
    at = -1
    while (at := text.find('"usage":', at + 1)) >= 0:
        value, _ = json.JSONDecoder().raw_decode(text[at + 8 :].lstrip())
        if value:
            found.append(value)
    return found[position]


def test_openai_usage_in_a_chunk_without_choices() -> None:
    answer = run("openai_chat.sse", "openai")
    assert answer.result.usage_status is UsageStatus.FINAL
    assert answer.result.usage == stated("openai_chat.sse")
    assert answer.result.tokens == {
        "input": 13,
        "cache_read": 8,
        "input_audio": 0,
        "output": 18,
        "reasoning": 12,
        "output_audio": 0,
    }
    assert (answer.result.model, answer.result.service_tier) == ("maple-7b-0125", "default")
    assert answer.result.flags == set()
    assert answer.result.estimate is None
    assert answer.meter.terminal is True


def test_groq_states_usage_three_times() -> None:
    answer = run("groq_triple.sse", "groq")
    assert answer.result.usage_status is UsageStatus.FINAL
    assert answer.result.usage == stated("groq_triple.sse")
    assert answer.result.tokens == {"input": 40, "output": 5, "reasoning": 4}
    assert answer.result.flags == set()


@pytest.mark.parametrize("provider", ["groq", "added"])
def test_groq_usage_in_x_groq_only(provider: str) -> None:
    answer = run("groq_x_groq_only.sse", provider)
    assert answer.result.usage_status is UsageStatus.FINAL
    assert answer.result.usage == stated("groq_x_groq_only.sse", 0)


def test_x_groq_is_a_decoy_at_other_providers() -> None:
    answer = run("groq_x_groq_only.sse", "openai")
    assert (answer.result.usage_status, answer.result.usage) == (UsageStatus.ABSENT, None)


def test_groq_usage_that_disagrees_with_x_groq_is_flagged() -> None:
    body = recording("groq_triple.sse").replace(b'"completion_tokens":9', b'"completion_tokens":8', 1)
    answer = Run(body, provider="groq")
    assert answer.result.usage == stated("groq_triple.sse")
    assert answer.result.flags == {"usage_conflict"}


def test_groq_x_groq_never_replaces_a_top_level_usage() -> None:
    later = b'data: {"choices":[],"x_groq":{"usage":{"prompt_tokens":1}}}\n\ndata: [DONE]\n\n'
    body = recording("groq_triple.sse").replace(b"data: [DONE]\n\n", later)
    assert Run(body, provider="groq").result.usage == stated("groq_triple.sse")


def test_groq_x_groq_alone_is_replaced_for_good() -> None:
    def chunk(usage: str) -> bytes:
        return b'data: {"choices":[],' + usage.encode() + b"}\n\n"

    only_groq = [chunk(f'"x_groq":{{"usage":{{"prompt_tokens":{count}}}}}') for count in (1, 2, 3)]
    top_level = chunk('"usage":{"prompt_tokens":9}')
    assert Run(only_groq[:2], provider="groq").result.usage == {"prompt_tokens": 2}
    assert Run([*only_groq[:2], top_level, only_groq[2]], provider="groq").result.usage == {"prompt_tokens": 9}


def test_groq_error_in_mid_stream() -> None:
    answer = run("groq_error_mid_stream.sse", "groq")
    assert (answer.result.usage_status, answer.result.usage) == (UsageStatus.ABSENT, None)
    assert answer.result.estimate == {
        "output": 2,
        "method": "text bytes/4 + 20 per tool call, at least 1 per delta",
    }
    assert answer.meter.error_only is False
    assert answer.meter.terminal is False


@pytest.mark.parametrize("name", ["groq_error_only.sse", "openrouter_error_only.sse"])
def test_a_stream_with_nothing_but_an_error(name: str) -> None:
    answer = run(name, name.partition("_")[0])
    assert answer.meter.error_only is True
    assert answer.result.usage_status is UsageStatus.NONE
    assert answer.result.estimate is None


def test_cerebras_ends_without_done() -> None:
    answer = run("cerebras_no_done.sse", "cerebras")
    assert answer.result.usage == stated("cerebras_no_done.sse")
    assert answer.meter.terminal is True
    left = Run(recording("cerebras_no_done.sse"), provider="cerebras", clean=None)
    assert left.result.usage_status is UsageStatus.FINAL
    elsewhere = Run(recording("cerebras_no_done.sse"), provider="openai", clean=None)
    assert elsewhere.meter.terminal is False
    assert elsewhere.result.usage_status is UsageStatus.PARTIAL


def test_xai_reasoning_stands_beside_the_completion() -> None:
    answer = run("xai_reasoning.sse", "xai")
    assert answer.result.tokens == {
        "input": 6,
        "cache_read": 5,
        "input_audio": 0,
        "output": 7,
        "output_audio": 0,
        "reasoning": 167,
    }
    assert sum(answer.result.tokens.values()) == 185
    assert answer.result.flags == set()


def test_xai_without_a_total_is_known_from_the_profile() -> None:
    body = recording("xai_reasoning.sse").replace(b'"total_tokens":185,', b"")
    assert Run(body, provider="xai").result.tokens["output"] == 7
    assert Run(body, provider="openai").result.flags == {"tokens_inconsistent"}


def test_openrouter_comments_between_events() -> None:
    answer = run("openrouter_comments.sse", "openrouter")
    assert answer.result.usage == stated("openrouter_comments.sse")
    assert answer.result.tokens == {"input": 20, "cache_read": 0, "cache_write": 10, "output": 10, "reasoning": 2}
    assert answer.result.server_tool_calls == {"web_search_requests": 1}


def test_openrouter_blanks_before_json() -> None:
    answer = run("openrouter_leading_blanks.json", "openrouter")
    assert answer.result.usage == stated("openrouter_leading_blanks.json")
    assert answer.result.model == "sample/maple-7b"
    assert answer.meter.root_closed is True


def test_openrouter_usage_after_a_mid_stream_error() -> None:
    answer = run("openrouter_error_then_usage.sse", "openrouter")
    assert answer.result.usage_status is UsageStatus.FINAL
    assert answer.result.usage == stated("openrouter_error_then_usage.sse")
    assert answer.result.tokens == {"input": 3, "output": 0, "reasoning": 11}
    assert answer.result.flags == {"tokens_inconsistent"}
    assert answer.meter.error_only is False


def test_deepseek_usage_on_the_finish_chunk() -> None:
    answer = run("deepseek_finish_chunk.sse", "deepseek")
    assert answer.result.tokens == {"input": 36, "cache_read": 64, "output": 5, "reasoning": 15}


def test_together_integers_beyond_64_bits_and_cached_tokens_beside_the_details() -> None:
    answer = run("together.json", "together")
    assert answer.result.tokens == {"input": 34, "cache_read": 16, "output": 4}


def test_mistral_audio_stands_in_the_total_only() -> None:
    answer = run("mistral_audio.sse", "mistral")
    assert answer.result.tokens == {"input": 4, "cache_read": 6, "output": 20, "input_audio": 300}
    assert answer.result.flags == {"tokens_inconsistent"}
    assert answer.result.service_tier == "standard"


def test_fireworks_states_usage_with_each_choice_and_the_last_counts() -> None:
    answer = run("fireworks_two_choices.sse", "fireworks")
    assert answer.result.tokens == {"input": 9, "output": 11}
    assert answer.result.flags == set()


def test_completions() -> None:
    answer = run("completions.sse", "openai", Wire.COMPLETIONS)
    assert answer.result.tokens == {"input": 4, "output": 1}
    assert answer.result.model == "maple-instruct"


def test_anthropic_deltas_are_cumulative_and_padded() -> None:
    answer = run("anthropic_cumulative.sse", "anthropic", Wire.MESSAGES)
    assert b"         }\n" in recording("anthropic_cumulative.sse")
    assert answer.result.usage_status is UsageStatus.FINAL
    assert answer.result.usage == {
        "input_tokens": 1591,
        "cache_creation_input_tokens": 3068,
        "cache_read_input_tokens": 50,
        "cache_creation": {"ephemeral_5m_input_tokens": 3068, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 261,
        "service_tier": "standard",
        "inference_geo": "global",
        "output_tokens_details": {"thinking_tokens": 61},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    }
    assert answer.result.tokens == {
        "input": 1591,
        "cache_read": 50,
        "cache_write_5m": 3068,
        "cache_write_1h": 0,
        "output": 200,
        "reasoning": 61,
    }
    assert answer.result.server_tool_calls == {"web_search_requests": 2, "web_fetch_requests": 0}
    assert answer.result.service_tier == "standard"
    assert answer.result.model == "oak-4-20250901"
    assert answer.meter.terminal is True


def test_anthropic_null_members_of_a_delta_override_nothing() -> None:
    body = recording("anthropic_refusal.sse").replace(
        b'"usage":{"input_tokens":18,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":5}',
        b'"usage":{"input_tokens":null,"speed":null,"output_tokens":5}',
    )
    answer = Run(body, wire=Wire.MESSAGES, provider="anthropic")
    assert answer.result.usage == {
        "input_tokens": 18,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 5,
    }


def test_anthropic_split_of_cache_writes_that_the_delta_left_behind() -> None:
    answer = run("anthropic_stale_split.sse", "anthropic", Wire.MESSAGES)
    assert answer.result.tokens == {"input": 702, "cache_read": 6289, "cache_write": 3337, "output": 198}
    assert answer.result.flags == set()


def test_anthropic_refusal_has_no_content_and_is_billed() -> None:
    answer = run("anthropic_refusal.sse", "anthropic", Wire.MESSAGES)
    assert answer.result.usage_status is UsageStatus.FINAL
    assert answer.result.tokens == {"input": 18, "cache_read": 0, "cache_write": 0, "output": 5}


def test_anthropic_without_a_delta_the_start_is_the_last_word() -> None:
    whole = recording("anthropic_refusal.sse")
    at, end = whole.index(b"event: message_delta"), whole.index(b"event: message_stop")
    start_and_stop = Run(whole[:at] + whole[end:], wire=Wire.MESSAGES, provider="anthropic")
    assert start_and_stop.result.usage_status is UsageStatus.FINAL
    assert start_and_stop.result.tokens["output"] == 1
    start_only = Run(whole[:at], wire=Wire.MESSAGES, provider="anthropic")
    assert start_only.result.usage_status is UsageStatus.PARTIAL
    without_stop = Run(whole[:end], wire=Wire.MESSAGES, provider="anthropic")
    assert without_stop.result.usage_status is UsageStatus.FINAL


def test_anthropic_error_in_mid_stream_leaves_interim_numbers() -> None:
    answer = run("anthropic_error_mid_stream.sse", "anthropic", Wire.MESSAGES)
    assert answer.result.usage_status is UsageStatus.PARTIAL
    assert answer.result.tokens["input"] == 702
    assert answer.result.estimate == {
        "output": 5,
        "method": "text bytes/4 + 20 per tool call, at least 1 per delta",
    }
    assert answer.meter.error_only is False


def test_anthropic_json_with_iterations_beside_the_numbers() -> None:
    answer = run("anthropic.json", "anthropic", Wire.MESSAGES)
    assert answer.result.usage == stated("anthropic.json")
    assert answer.result.tokens == {
        "input": 53,
        "cache_read": 9,
        "cache_write_5m": 1000,
        "cache_write_1h": 157,
        "output": 14,
    }
    assert answer.result.service_tier == "priority"


def test_anthropic_second_message_in_one_stream_counts_and_is_flagged() -> None:
    body = recording("anthropic_cumulative.sse") + recording("anthropic_refusal.sse")
    answer = Run(body, wire=Wire.MESSAGES, provider="anthropic")
    assert answer.result.tokens == {"input": 18, "cache_read": 0, "cache_write": 0, "output": 5}
    assert answer.result.flags == {"usage_conflict"}


@pytest.mark.parametrize("end", ["completed", "incomplete"])
def test_responses_end_with_usage(end: str) -> None:
    answer = run(f"responses_{end}.sse", "openai", Wire.RESPONSES)
    assert answer.meter.terminal is True
    assert answer.result.usage_status is UsageStatus.FINAL
    assert answer.result.usage == stated(f"responses_{end}.sse")
    assert answer.result.tokens == {"input": 40, "cache_read": 20, "output": 20, "reasoning": 13}
    assert (answer.result.model, answer.result.service_tier) == ("maple-7b-2025-01-25", "default")


def test_responses_usage_before_the_end_is_interim() -> None:
    body = recording("responses_completed.sse").replace(b"response.completed", b"response.in_progress")
    answer = Run(body, wire=Wire.RESPONSES)
    assert answer.meter.terminal is False
    assert (answer.result.usage_status, answer.result.usage) == (
        UsageStatus.PARTIAL,
        stated("responses_completed.sse"),
    )


def test_responses_types_come_from_the_event_line_where_the_data_has_none() -> None:
    body = recording("responses_completed.sse").replace(b'"type":"response.completed",', b"")
    answer = Run(body, wire=Wire.RESPONSES)
    assert answer.meter.terminal is True
    assert answer.result.usage_status is UsageStatus.FINAL


def test_responses_that_failed_before_content_are_errors() -> None:
    answer = run("responses_failed.sse", "openai", Wire.RESPONSES)
    assert answer.meter.terminal is True
    assert answer.meter.error_only is True
    assert answer.result.usage_status is UsageStatus.NONE
    delta = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n'
    body = recording("responses_failed.sse").replace(b"event: error", delta + b"event: error")
    after_content = Run(body, wire=Wire.RESPONSES)
    assert after_content.meter.error_only is False
    assert after_content.result.usage_status is UsageStatus.ABSENT


@pytest.mark.parametrize("wire", [Wire.RESPONSES, Wire.RESPONSES_COMPACT])
def test_responses_json_uses_the_other_names_under_the_openai_dialect(wire: Wire) -> None:
    answer = run("responses.json", "openai", wire)
    assert answer.result.tokens == {"input": 40, "cache_read": 20, "output": 20, "reasoning": 13}


def test_responses_with_chat_names() -> None:
    body = recording("responses.json").replace(b'"input_tokens":', b'"prompt_tokens":')
    body = body.replace(b'"output_tokens":', b'"completion_tokens":')
    answer = Run(body, wire=Wire.RESPONSES, provider="fireworks", content_type=JSON)
    assert answer.result.tokens == {"input": 40, "cache_read": 20, "output": 20, "reasoning": 13}


def test_input_tokens_are_an_estimate_and_no_consumption() -> None:
    answer = run("responses_input_tokens.json", "openai", Wire.RESPONSES_INPUT_TOKENS)
    assert (answer.result.usage_status, answer.result.usage) == (UsageStatus.NONE, None)
    assert answer.meter.root_closed is True


def test_embeddings() -> None:
    answer = run("embeddings.json", "openai", Wire.EMBEDDINGS)
    assert answer.result.tokens == {"input": 8}
    assert answer.result.model == "maple-embed"


def test_usage_over_several_data_lines() -> None:
    answer = run("usage_over_data_lines.sse", "openai")
    assert answer.result.usage == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert answer.result.usage_status is UsageStatus.FINAL


def test_escaped_keys_count_and_text_that_looks_like_usage_does_not() -> None:
    answer = run("escaped_key.sse", "openai")
    assert answer.result.usage == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert answer.result.flags == set()


def test_usage_in_an_event_without_its_blank_line() -> None:
    answer = run("no_final_blank_line.sse", "openai")
    assert answer.result.usage_status is UsageStatus.FINAL
    assert answer.result.tokens == {"input": 9, "output": 1}
    died = Run(recording("no_final_blank_line.sse"), clean=False)
    assert died.result.usage_status is UsageStatus.PARTIAL
    assert died.result.tokens == {"input": 9, "output": 1}


def test_duplicate_usage_members_take_the_last_and_are_flagged() -> None:
    for body, content_type in [
        (b'data: {"choices":[],"usage":{"prompt_tokens":1},"usage":{"prompt_tokens":2}}\n\n', b"text/event-stream"),
        (b'{"choices":[1],"usage":{"prompt_tokens":1},"us\\u0061ge":{"prompt_tokens":2}}', JSON),
    ]:
        answer = Run(body, content_type=content_type)
        assert answer.result.usage == {"prompt_tokens": 2}
        assert answer.result.flags == {"usage_conflict"}


def test_empty_and_null_usage_is_none() -> None:
    body = b'data: {"choices":[1],"usage":{"prompt_tokens":1}}\n\ndata: {"choices":[],"usage":{}}\n\n'
    body += b'data: {"choices":[],"usage":null}\n\ndata: {"choices":[],"usage":[1]}\n\n'
    assert Run(body).result.usage == {"prompt_tokens": 1}
    assert Run(b'{"choices":[1],"usage":{}}', content_type=JSON).result.usage_status is UsageStatus.ABSENT


def test_generated_text_is_counted_wherever_a_delta_carries_it() -> None:
    def chat(delta: object) -> bytes:
        return b"data: " + json.dumps({"choices": [{"delta": delta}]}, ensure_ascii=False).encode() + b"\n\n"

    reader = ChatReader(DEFAULT_USAGE_PROFILE)
    for delta, text_bytes, deltas, tool_calls in [
        ({"role": "assistant", "content": ""}, 0, 0, 0),
        ({"content": "four"}, 4, 1, 0),
        ({"content": "日本"}, 6, 1, 0),
        ({"content": None, "reasoning": "ab", "reasoning_details": [{"text": "ab"}]}, 2, 1, 0),
        ({"reasoning_content": "abc"}, 3, 1, 0),
        ({"content": "", "refusal": "no"}, 2, 1, 0),
        ({"content": [{"type": "text", "text": "ab"}, {"type": "thinking", "thinking": [{"text": "c"}]}]}, 3, 1, 0),
        ({"tool_calls": [{"function": {"name": "search", "arguments": ""}}]}, 0, 0, 1),
        ({"tool_calls": [{"function": {"arguments": '{"q":1}'}}]}, 7, 1, 0),
        ({"tool_calls": ["odd", {"function": None}], "content": 3}, 0, 0, 0),
    ]:
        before = (reader.text_bytes, reader.deltas, reader.tool_calls)
        assert reader.event(b"", chat(delta)[6:-2]) is False
        seen = (reader.text_bytes - before[0], reader.deltas - before[1], reader.tool_calls - before[2])
        assert seen == (text_bytes, deltas, tool_calls), delta


@pytest.mark.parametrize(
    ("data", "text_bytes", "tool_calls"),
    [
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "abc"}}, 3, 0),
        ({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "abc"}}, 3, 0),
        ({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": '{"a"'}}, 4, 0),
        ({"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "Zm9v"}}, 0, 0),
        ({"type": "content_block_delta", "delta": None}, 0, 0),
        ({"type": "content_block_start", "content_block": {"type": "tool_use", "name": "search"}}, 0, 1),
        ({"type": "content_block_start", "content_block": {"type": "text", "text": ""}}, 0, 0),
    ],
)
def test_generated_text_of_messages(data: object, text_bytes: int, tool_calls: int) -> None:
    reader = MessagesReader(DEFAULT_USAGE_PROFILE)
    reader.event(b"", json.dumps(data).encode())
    assert (reader.text_bytes, reader.tool_calls, reader.content) == (text_bytes, tool_calls, True)


@pytest.mark.parametrize(
    ("data", "text_bytes", "tool_calls", "content"),
    [
        ({"type": "response.output_text.delta", "delta": "abc"}, 3, 0, True),
        ({"type": "response.function_call_arguments.delta", "delta": '{"'}, 2, 0, True),
        ({"type": "response.audio.delta", "delta": "UklGRg=="}, 0, 0, True),
        ({"type": "response.output_item.added", "item": {"type": "function_call"}}, 0, 1, True),
        ({"type": "response.output_item.added", "item": {"type": "message"}}, 0, 0, True),
        ({"type": "response.output_text.done", "text": "abc"}, 0, 0, True),
        ({"type": "response.created", "response": {"model": "m"}}, 0, 0, False),
        ({"type": "\ud800"}, 0, 0, True),
    ],
)
def test_generated_text_of_responses(data: object, text_bytes: int, tool_calls: int, content: bool) -> None:
    reader = ResponsesReader(DEFAULT_USAGE_PROFILE)
    reader.event(b"", json.dumps(data).encode())
    assert (reader.text_bytes, reader.tool_calls, reader.content) == (text_bytes, tool_calls, content)


def test_names_are_text_and_bounded() -> None:
    reader = ChatReader(DEFAULT_USAGE_PROFILE)
    for model in (None, "", 5, "m" * (NAME_MAX + 1), "later"):
        reader.event(b"", json.dumps({"model": model, "service_tier": model}).encode())
    assert reader.model == "m" * NAME_MAX
    assert reader.service_tier == "later"


@pytest.mark.parametrize("name", ["response.completed", "response.incomplete", "response.failed"])
def test_an_overlong_terminal_event_is_still_terminal(name: str) -> None:
    reader = ResponsesReader(DEFAULT_USAGE_PROFILE)
    reader.event(b"response.output_item.done", None)
    assert reader.terminal is False
    reader.event(name.encode(), None)
    assert reader.terminal is True


def test_nothing_after_the_terminal_event_counts() -> None:
    extra = b'data: {"model":"x","choices":[],"usage":{"prompt_tokens":77}}\n\ndata: junk\n\n'
    for name, wire in [("openai_chat.sse", Wire.CHAT_COMPLETIONS), ("responses_completed.sse", Wire.RESPONSES)]:
        plain = Run(recording(name), wire=wire)
        assert Run(recording(name) + extra, wire=wire).result == plain.result
    pings = recording("anthropic_cumulative.sse") + b'event: ping\ndata: {"type":"ping"}\n\ndata: [DONE]\n\n'
    plain = Run(recording("anthropic_cumulative.sse"), wire=Wire.MESSAGES)
    assert Run(pings, wire=Wire.MESSAGES).result == plain.result


def test_readers_by_wire() -> None:
    profile = USAGE_PROFILES["openai"]
    kinds = {wire: type(reader_for(wire, profile)) for wire in Wire if wire.billable}
    assert kinds == {
        Wire.CHAT_COMPLETIONS: ChatReader,
        Wire.COMPLETIONS: ChatReader,
        Wire.RESPONSES: ResponsesReader,
        Wire.RESPONSES_COMPACT: ResponsesReader,
        Wire.MESSAGES: MessagesReader,
        Wire.EMBEDDINGS: Reader,
    }
