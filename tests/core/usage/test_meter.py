"""The Meter as the exchange drives it: statuses, lying labels, codings, stripping, bad input, any split."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage import Meter, MeterResult, UsageStatus, document, sse, usage_profile
from aigw_core.usage.document import DOCUMENT_MAX
from aigw_core.usage.sse import EVENT_MAX, LONG_EVENT
from aigw_core.usage.strip import HELD_MAX
from aigw_core.wires import Wire
from tests import zstd
from tests.core.usage.helpers import JSON, SSE, Run, byte_by_byte, recording, split_at

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
CONTENT = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"text"}}],"usage":null}\n\n'
USAGE_EVENT = b'data: {"model":"m","choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n"
DONE = b"data: [DONE]\n\n"
STREAM = CONTENT * 2 + USAGE_EVENT + DONE
DOCUMENT = b'{"model":"m","choices":[{"message":{"content":"x"}}],"usage":' + json.dumps(USAGE).encode() + b"}"


class TestStatus:
    def test_a_whole_stream_is_final(self) -> None:
        answer = Run(STREAM)
        assert answer.result == MeterResult(
            UsageStatus.FINAL, usage=dict(USAGE), tokens={"input": 3, "output": 4}, model="m"
        )

    def test_a_stream_is_final_at_its_terminal_event_though_it_never_ended(self) -> None:
        assert Run(STREAM, clean=None).result.usage_status is UsageStatus.FINAL
        assert Run(STREAM, clean=False).result.usage_status is UsageStatus.FINAL

    def test_a_stream_that_ended_properly_without_its_terminal_event_is_final(self) -> None:
        assert Run(CONTENT + USAGE_EVENT).result.usage_status is UsageStatus.FINAL

    @pytest.mark.parametrize("clean", [None, False])
    def test_numbers_of_a_cut_stream_are_partial(self, clean: bool | None) -> None:
        result = Run(CONTENT + USAGE_EVENT, clean=clean, request_bytes=40).result
        assert result.usage_status is UsageStatus.PARTIAL
        assert result.usage == USAGE
        assert result.estimate is not None
        assert result.estimate["input"] == 10
        assert result.estimate["output"] == 1

    @pytest.mark.parametrize("clean", [None, False, True])
    def test_a_stream_without_numbers_is_absent(self, clean: bool | None) -> None:
        result = Run(CONTENT * 2, clean=clean).result
        assert (result.usage_status, result.usage, result.tokens) == (UsageStatus.ABSENT, None, {})
        assert result.estimate is not None
        assert result.estimate["output"] == 2

    def test_a_document_is_final_once_its_root_has_closed(self) -> None:
        for clean in (True, False, None):
            answer = Run(DOCUMENT, content_type=JSON, clean=clean)
            assert answer.meter.root_closed is True
            assert answer.result.usage_status is UsageStatus.FINAL
            assert answer.result.usage == USAGE

    def test_a_cut_document_is_absent_or_partial(self) -> None:
        for clean in (False, None):
            cut = Run(DOCUMENT[:30], content_type=JSON, clean=clean)
            assert (cut.meter.root_closed, cut.result.usage_status) == (False, UsageStatus.ABSENT)
            assert cut.result.estimate == {"output": 8, "method": "body bytes/4"}
            cut = Run(DOCUMENT[:-1] + b',"more":', content_type=JSON, clean=clean)
            assert (cut.meter.root_closed, cut.result.usage_status) == (False, UsageStatus.PARTIAL)
            assert cut.result.usage == USAGE

    def test_a_document_that_ends_properly_and_is_not_whole_is_unparsed(self) -> None:
        assert Run(DOCUMENT[:30], content_type=JSON).result.usage_status is UsageStatus.UNPARSED
        assert Run(DOCUMENT[:-1], content_type=JSON).result.usage_status is UsageStatus.PARTIAL

    def test_a_document_without_numbers_is_absent(self) -> None:
        result = Run(b'{"model":"m","choices":[1]}', content_type=JSON).result
        assert (result.usage_status, result.model) == (UsageStatus.ABSENT, "m")

    @pytest.mark.parametrize("content_type", [JSON, SSE, b""])
    def test_an_empty_answer_is_absent(self, content_type: bytes) -> None:
        assert Run(b"", content_type=content_type).result.usage_status is UsageStatus.ABSENT
        assert Run(b" \r\n", content_type=content_type).result.usage_status is UsageStatus.ABSENT

    def test_nothing_received_is_absent(self) -> None:
        meter = Meter(Wire.CHAT_COMPLETIONS, usage_profile("openai"))
        meter.request_bytes_hint = 9
        assert meter.result() == MeterResult(UsageStatus.ABSENT, estimate={"input": 3, "method": "request bytes/4"})

    @pytest.mark.parametrize("status", [301, 400, 429, 500])
    def test_errors_are_not_billed_unless_they_state_numbers(self, status: int) -> None:
        for body in (b'{"error":{"message":"no"}}', b"<html>", b"", b'{"error":'):
            assert Run(body, status=status, content_type=JSON).result == MeterResult(UsageStatus.NONE)
        assert Run(DOCUMENT, status=status, content_type=JSON).result.usage_status is UsageStatus.FINAL

    def test_a_document_that_is_only_an_error_is_not_billed(self) -> None:
        answer = Run(b'{"error":{"code":502}}', content_type=JSON)
        assert answer.meter.error_only is True
        assert answer.result.usage_status is UsageStatus.NONE
        answer = Run(b'{"error":{"code":502},"choices":[{"index":0}]}', content_type=JSON)
        assert answer.meter.error_only is False
        assert answer.result.usage_status is UsageStatus.ABSENT
        answer = Run(b'{"error":null,"status":"completed"}', content_type=JSON)
        assert answer.meter.error_only is False

    @pytest.mark.parametrize("wire", [wire for wire in Wire if not wire.billable])
    def test_wires_that_are_not_billable(self, wire: Wire) -> None:
        answer = Run(DOCUMENT, wire=wire, content_type=JSON)
        assert answer.result == MeterResult(UsageStatus.NONE)
        assert answer.meter.root_closed is (wire is not Wire.OPAQUE)

    def test_results_on_the_way_do_not_spoil_the_end(self) -> None:
        again = DOCUMENT[:-1] + b',"model":"n","service_tier":null,"usage":null}'
        for body, content_type in [(STREAM, SSE), (DOCUMENT, JSON), (again, JSON)]:
            meter = Meter(Wire.CHAT_COMPLETIONS, usage_profile("openai"))
            meter.response_head(200, content_type, b"")
            for piece in byte_by_byte(body):
                meter.feed(piece)
                meter.result()
            meter.finish(True)
            assert meter.result() == Run(body, content_type=content_type).result

    def test_finish_is_idempotent_and_its_first_word_counts(self) -> None:
        answer = Run(CONTENT + USAGE_EVENT, clean=False)
        assert answer.meter.finish(True) == b""
        assert answer.meter.result().usage_status is UsageStatus.PARTIAL
        assert answer.meter.feed(b"late") == b"late"


class TestRelay:
    @pytest.mark.parametrize("wire", list(Wire))
    @pytest.mark.parametrize("content_type", [SSE, JSON])
    def test_the_same_object_comes_back(self, wire: Wire, content_type: bytes) -> None:
        meter = Meter(wire, usage_profile("openai"))
        assert meter.feed(CONTENT) is CONTENT
        meter.response_head(200, content_type, b"")
        for piece in (b" ", CONTENT, CONTENT[:20], CONTENT[20:], DONE):
            assert meter.feed(piece) is piece

    def test_stripping_returns_the_same_object_for_whole_events(self) -> None:
        meter = Meter(Wire.CHAT_COMPLETIONS, usage_profile("openai"), strip_usage_event=True)
        meter.response_head(200, SSE, b"")
        for piece in (b"\n", CONTENT, CONTENT * 3, DONE):
            assert meter.feed(piece) is piece


class TestLabels:
    """Content types lie: the first bytes decide where they are clear."""

    @pytest.mark.parametrize("content_type", [JSON, b"", b"text/plain", b"application/octet-stream", SSE])
    @pytest.mark.parametrize("lead", [b"", b"\n\n", b"\xef\xbb\xbf", b": hello\n\n", b"event: x\n", b"id: 1\n"])
    def test_an_event_stream_under_any_label(self, content_type: bytes, lead: bytes) -> None:
        for pieces in ([lead + STREAM], byte_by_byte(lead + STREAM)):
            answer = Run(pieces, content_type=content_type)
            assert answer.meter.event_stream is True
            assert answer.result.usage_status is UsageStatus.FINAL

    @pytest.mark.parametrize("content_type", [JSON, b"", b"text/plain", b"Text/Event-Stream ; charset=utf-8"])
    @pytest.mark.parametrize("lead", [b"", b"\n  \n" * 40, b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n"])
    def test_a_document_under_any_label(self, content_type: bytes, lead: bytes) -> None:
        for pieces in ([lead + DOCUMENT], byte_by_byte(lead + DOCUMENT)):
            answer = Run(pieces, content_type=content_type)
            assert answer.meter.event_stream is False
            assert answer.result.usage_status is UsageStatus.FINAL

    def test_the_label_decides_where_the_bytes_do_not(self) -> None:
        odd = b"x-field: 1\n\n" + STREAM
        assert Run(odd, content_type=SSE).result.usage_status is UsageStatus.FINAL
        assert Run(odd, content_type=JSON).result.usage_status is UsageStatus.UNPARSED


class TestEncoded:
    @pytest.mark.parametrize(
        ("coding", "encode"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"zstd", zstd.compress)]
    )
    @pytest.mark.parametrize(("body", "content_type"), [(STREAM, SSE), (DOCUMENT, JSON)])
    def test_encoded_answers_are_read_aside(
        self, coding: bytes, encode: type[bytes], body: bytes, content_type: bytes
    ) -> None:
        encoded = encode(body)
        for pieces in ([encoded], byte_by_byte(encoded)):
            answer = Run(pieces, content_type=content_type, content_encoding=coding, strip=True)
            assert answer.relayed == encoded
            assert answer.result.usage == USAGE
            assert answer.result.usage_status is UsageStatus.FINAL
            assert answer.result.flags == {"response_encoded"}

    def test_identity_is_no_coding(self) -> None:
        assert Run(STREAM, content_encoding=b"identity").result.flags == set()

    @pytest.mark.parametrize("coding", [b"gzip, br", b"compress"])
    def test_an_unknown_coding_is_unparsed(self, coding: bytes) -> None:
        answer = Run(STREAM, content_encoding=coding, strip=True)
        assert answer.relayed == STREAM
        assert answer.result.usage_status is UsageStatus.UNPARSED
        assert answer.result.flags == {"response_encoded"}
        assert Run(STREAM, content_encoding=coding, clean=False).result.usage_status is UsageStatus.ABSENT

    def test_a_cut_encoded_answer(self) -> None:
        encoded = gzip.compress(CONTENT * 200 + STREAM)
        assert Run(encoded[:60], content_encoding=b"gzip").result.usage_status is UsageStatus.UNPARSED
        assert Run(encoded[:60], content_encoding=b"gzip", clean=False).result.usage_status is UsageStatus.ABSENT
        deflater = zlib.compressobj(wbits=31)
        flushed = deflater.compress(CONTENT) + deflater.flush(zlib.Z_SYNC_FLUSH)
        assert Run(flushed, content_encoding=b"gzip").result.usage_status is UsageStatus.UNPARSED
        whole = Run(flushed + deflater.flush(), content_encoding=b"gzip")
        assert whole.result.usage_status is UsageStatus.ABSENT
        without_trailer = Run(encoded[:-8], content_encoding=b"gzip")
        assert without_trailer.result.usage_status is UsageStatus.FINAL

    def test_a_damaged_encoded_answer(self) -> None:
        encoded = gzip.compress(random.Random(3).randbytes(500))
        damaged = encoded[:20] + b"\xff" * 40 + encoded[60:]
        answer = Run([damaged[:30], damaged[30:], b"more"], content_encoding=b"gzip")
        assert answer.relayed == damaged + b"more"
        assert answer.result.usage_status is UsageStatus.UNPARSED

    def test_a_bomb_is_unparsed_in_bounded_memory(self) -> None:
        bomb = gzip.compress(b"data: " + b"x" * (32 * 1024 * 1024))
        tracemalloc.start()
        try:
            answer = Run([bomb[at : at + 4096] for at in range(0, len(bomb), 4096)], content_encoding=b"gzip")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert answer.relayed == bomb
        assert answer.result.usage_status is UsageStatus.UNPARSED
        assert peak < 8 * EVENT_MAX


class TestStrip:
    @pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
    def test_the_injected_event_is_taken_out(self, line_end: bytes) -> None:
        stream = (b": c\n\n" + STREAM).replace(b"\n", line_end)
        event = USAGE_EVENT.replace(b"\n", line_end)
        for pieces in ([stream], byte_by_byte(stream), split_at(stream, [50, 190, 230, 300])):
            answer = Run(pieces, strip=True)
            assert answer.relayed == stream.replace(event, b"")
            assert answer.result.usage == USAGE
            assert answer.result.usage_status is UsageStatus.FINAL
            assert answer.result.flags == set()

    @pytest.mark.parametrize(
        "event",
        [
            CONTENT,
            CONTENT.replace(b"null", b'{"prompt_tokens":1}'),
            b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
            b'data: {"choices":[],"usage":null}\n\n',
            b'data: {"usage":{"prompt_tokens":1}}\n\n',
            b'data: {"choices":null,"usage":{"prompt_tokens":1}}\n\n',
            b'data: {"choices":[],"usage":{"prompt_tokens":1},"error":{"code":502}}\n\n',
            b'data: {"choices":[],"usage":{"prompt_tokens":1}\n\n',
            DONE + USAGE_EVENT,
        ],
    )
    def test_no_other_event_is(self, event: bytes) -> None:
        assert Run(byte_by_byte(CONTENT + event), strip=True).relayed == CONTENT + event

    def test_errors_and_documents_pass(self) -> None:
        assert Run(STREAM, strip=True, status=400).relayed == STREAM
        assert Run(byte_by_byte(DOCUMENT), strip=True).relayed == DOCUMENT

    def test_held_bytes_come_out_at_the_end(self) -> None:
        for clean in (True, False):
            answer = Run([CONTENT, USAGE_EVENT[:-1]], strip=True, clean=None)
            assert answer.relayed == CONTENT
            assert answer.meter.finish(clean) == USAGE_EVENT[:-1]

    def test_an_event_at_the_limit_is_taken_out(self) -> None:
        pad = HELD_MAX - len(USAGE_EVENT)
        long = USAGE_EVENT.replace(b'"model":"m"', b'"model":"m' + b"m" * pad + b'"')
        assert len(long) == HELD_MAX
        for pieces in ([CONTENT + long], split_at(CONTENT + long, [100, 30_000, HELD_MAX])):
            answer = Run(pieces, strip=True)
            assert answer.relayed == CONTENT
            assert answer.result.flags == set()
        answer = Run(CONTENT + long.replace(b"mm", b"mmm", 1), strip=True)
        assert answer.result.flags == {"strip_overflow"}

    def test_an_event_beyond_the_limit_is_relayed_and_flagged(self) -> None:
        long = USAGE_EVENT.replace(b'"model":"m"', b'"model":"' + b"m" * HELD_MAX + b'"')
        for pieces in ([CONTENT + long], split_at(CONTENT + long, [100, 30_000, HELD_MAX])):
            answer = Run(pieces, strip=True)
            assert answer.relayed == CONTENT + long
            assert answer.result.usage == USAGE
            assert answer.result.flags == {"strip_overflow"}


class TestBadInput:
    """Whatever comes, it is relayed as it is and memory stays bounded."""

    @pytest.mark.parametrize(
        "body",
        [
            b'{"a":' * 60_000,
            b'{"choices":["\xff\xfe"],"usage":{"prompt_tokens":1}}',
            b'{"choices":[1],"usage":{"prompt_tokens":' + b"9" * 5_000 + b"}}",
            '{"choices":[1],"usage":{"prompt_tokens":1}}'.encode("utf-16"),
            b"[1]",
            b"null",
            b"<html>busy</html>",
            b'{"choices":[1],"usage":{"prompt_tokens":1}}}',
        ],
    )
    def test_documents_that_cannot_be_read(self, body: bytes) -> None:
        for pieces in ([body], split_at(body, [1, 17, 40_000])):
            answer = Run(pieces, content_type=JSON)
            assert answer.relayed == body
            assert answer.result.usage_status is UsageStatus.UNPARSED
            assert answer.result.usage is None

    @pytest.mark.parametrize(
        "data",
        [
            b'{"choices":["\xff"],"usage":{"prompt_tokens":1}}',
            b'{"choices":[' + b"[" * 100_000,
            b'{"usage":{"prompt_tokens":' + b"9" * 5_000 + b"}}",
            b'{"usage":{"prompt_tokens":1}',
        ],
    )
    def test_events_that_cannot_be_read(self, data: bytes) -> None:
        stream = CONTENT + b"data: " + data + b"\n\n"
        answer = Run(stream)
        assert answer.relayed == stream
        assert answer.result.usage_status is UsageStatus.UNPARSED
        assert Run(stream + USAGE_EVENT).result.usage_status is UsageStatus.FINAL
        assert Run(stream, clean=False).result.usage_status is UsageStatus.ABSENT

    def test_lone_surrogates_pass(self) -> None:
        body = b'{"model":"\\ud800","choices":["\\udfff"],"usage":{"prompt_tokens":1,"x":"\\ud800"}}'
        result = Run(body, content_type=JSON).result
        assert result.usage_status is UsageStatus.FINAL
        assert result.usage == {"prompt_tokens": 1, "x": "\ud800"}
        assert result.model == "\ud800"

    def test_numbers_beyond_every_encoder_are_saturated_and_flagged(self) -> None:
        body = b'{"choices":[1],"usage":{"prompt_tokens":1,"cost":1e999,"n":99999999999999999999}}'
        result = Run(body, content_type=JSON).result
        assert result.usage == {"prompt_tokens": 1, "cost": 1.7976931348623157e308, "n": 99999999999999999999}
        assert result.flags == {"usage_truncated"}
        body = b'{"choices":[1],"usage":{"prompt_tokens":99999999999999999999}}'
        result = Run(body, content_type=JSON).result
        assert result.usage == {"prompt_tokens": 99999999999999999999}
        assert result.tokens == {"input": 2**53}
        assert result.flags == {"tokens_saturated"}

    @pytest.mark.parametrize("size", [LONG_EVENT, EVENT_MAX + 1, 3 * EVENT_MAX])
    def test_an_event_of_any_length_is_read(self, size: int) -> None:
        head, tail = b'data: {"choices":[],"pad":"', b'","usage":{"prompt_tokens":1}}'
        stream = CONTENT + head + b"p" * (size - len(head) - len(tail) - 1) + tail + b"\n\n"
        for pieces in ([stream], split_at(stream, [300_000, 700_000])):
            result = Run(pieces).result
            assert (result.usage_status, result.tokens, result.flags) == (UsageStatus.FINAL, {"input": 1}, set())

    @pytest.mark.parametrize("depth", [996, 5_000, 100_000])
    def test_nesting_of_any_depth_is_skipped(self, depth: int) -> None:
        deep = b"[" * depth + b"]" * depth
        body = b'{"choices":' + deep + b',"usage":{"prompt_tokens":1}}'
        echo = b'data: {"type":"response.completed","response":{"x":' + deep + b',"usage":{"input_tokens":1}}}\n\n'
        for pieces, wire, label in ((body, Wire.CHAT_COMPLETIONS, JSON), (echo, Wire.RESPONSES, SSE)):
            for split in ([pieces], split_at(pieces, [100, 700, 1_500])):
                result = Run(split, wire=wire, content_type=label).result
                assert (result.usage_status, result.tokens) == (UsageStatus.FINAL, {"input": 1})

    @pytest.mark.parametrize("strip", [True, False])
    @pytest.mark.parametrize("start", [b"data: ", b'{"data":"', b'{"data":', b": ", b" "])
    def test_memory_is_bounded_for_an_endless_body(self, start: bytes, strip: bool) -> None:
        piece = (b"\n" if start == b" " else b"1") * 65_536
        meter = Meter(Wire.CHAT_COMPLETIONS, usage_profile("openai"), strip_usage_event=strip)
        meter.response_head(200, SSE, b"")
        tracemalloc.start()
        try:
            relayed = len(meter.feed(start))
            for _ in range(160):
                relayed += len(meter.feed(piece))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert relayed + len(meter.finish(True)) == len(start) + 160 * len(piece)
        assert peak < 4 * EVENT_MAX

    def test_a_stream_of_single_bytes_costs_no_memory_for_each(self) -> None:
        body = DOCUMENT[:-1] + b" " * (DOCUMENT_MAX - len(DOCUMENT)) + b"}"
        meter = Meter(Wire.CHAT_COMPLETIONS, usage_profile("openai"))
        meter.response_head(200, JSON, b"")
        tracemalloc.start()
        try:
            for at in range(len(body)):
                meter.feed(body[at : at + 1])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 4 * DOCUMENT_MAX
        assert meter.result().usage == USAGE


RECORDED = [
    ("openai_chat.sse", Wire.CHAT_COMPLETIONS),
    ("groq_triple.sse", Wire.CHAT_COMPLETIONS),
    ("groq_error_only.sse", Wire.CHAT_COMPLETIONS),
    ("cerebras_no_done.sse", Wire.CHAT_COMPLETIONS),
    ("openrouter_error_then_usage.sse", Wire.CHAT_COMPLETIONS),
    ("openrouter_leading_blanks.json", Wire.CHAT_COMPLETIONS),
    ("anthropic_cumulative.sse", Wire.MESSAGES),
    ("anthropic_error_mid_stream.sse", Wire.MESSAGES),
    ("responses_completed.sse", Wire.RESPONSES),
    ("usage_over_data_lines.sse", Wire.CHAT_COMPLETIONS),
    ("together.json", Wire.CHAT_COMPLETIONS),
]


@pytest.mark.parametrize(("name", "wire"), RECORDED)
def test_what_is_too_long_to_be_decoded_at_once_states_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str, wire: Wire
) -> None:
    content_type = JSON if name.endswith(".json") else SSE

    def stated() -> dict[str, object]:
        answer = Run(recording(name), wire=wire, provider=name.partition("_")[0], content_type=content_type)
        assert answer.relayed == recording(name)
        meter, result = answer.meter, answer.result
        ends = {"terminal": meter.terminal, "closed": meter.root_closed, "error_only": meter.error_only}
        return {**ends, "result": (result.usage_status, result.usage, result.tokens, result.model, result.flags)}

    usual = stated()
    monkeypatch.setattr(sse, "LONG_EVENT", 16)
    monkeypatch.setattr(document, "DOCUMENT_MAX", 16)
    assert stated() == usual


LONG = "x" * LONG_EVENT


@pytest.mark.parametrize(
    ("wire", "event"),
    [
        (Wire.CHAT_COMPLETIONS, {"model": "m", "choices": [{"delta": {"content": LONG}}], "usage": USAGE}),
        (Wire.CHAT_COMPLETIONS, {"model": "m", "choices": [], "usage": USAGE, "pad": LONG}),
        (
            Wire.RESPONSES,
            {"type": "response.completed", "response": {"instructions": LONG, "model": "m", "usage": USAGE}},
        ),
        (Wire.MESSAGES, {"type": "message_start", "message": {"model": "m", "pad": LONG, "usage": USAGE}}),
    ],
)
@pytest.mark.parametrize("twice", [False, True])
def test_a_long_event_is_read_as_it_comes(wire: Wire, event: dict[str, object], twice: bool) -> None:
    text = json.dumps(event)
    if twice:
        text = text.replace('"usage"', '"usage": {"prompt_tokens": 1}, "usage"', 1)
    body = b"data: " + text.encode() + b"\n\n"
    if wire is Wire.MESSAGES:
        body += b'data: {"type":"message_stop"}\n\n'
    for pieces in ([body], split_at(body, [7, 100_000, 200_000, LONG_EVENT, LONG_EVENT + 9])):
        answer = Run(pieces, wire=wire)
        assert answer.result.usage == USAGE
        assert answer.result.model == "m"
        assert answer.result.usage_status is UsageStatus.FINAL
        assert answer.result.flags == ({"usage_conflict"} if twice else set())


def test_a_long_usage_event_is_taken_out_where_it_can_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONG_EVENT", 64)
    monkeypatch.setattr(document, "DOCUMENT_MAX", 16)
    for pieces in ([STREAM], byte_by_byte(STREAM)):
        answer = Run(pieces, strip=True)
        assert answer.relayed == CONTENT * 2 + DONE
        assert answer.result.usage == USAGE


@pytest.mark.parametrize("text", [b'{"a":' + b"1" * 300_000 + b"x}", b"[" + b"1," * 150_000 + b"1]"])
def test_a_long_event_that_is_no_object_is_unparsed(text: bytes) -> None:
    assert Run(b"data: " + text + b"\n\n").result.usage_status is UsageStatus.UNPARSED


damage = st.lists(
    st.tuples(
        st.integers(0, 2_000), st.integers(0, 3), st.sampled_from([b"", b"\n", b"\r", b'"', b"\xff", b"data: ", b"{"])
    ),
    max_size=3,
)


@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(RECORDED),
    damage,
    st.lists(st.integers(0, 2_000), max_size=8),
    st.booleans(),
    st.booleans(),
    st.sampled_from([True, False, None]),
    st.sampled_from([b"", b"gzip"]),
)
def test_any_split_of_anything_relays_and_states_the_same(
    case: tuple[str, Wire],
    damages: list[tuple[int, int, bytes]],
    cuts: list[int],
    strip: bool,
    long: bool,
    clean: bool | None,
    coding: bytes,
) -> None:
    name, wire = case
    body = recording(name)
    for at, length, replacement in damages:
        at %= len(body)
        body = body[:at] + replacement + body[at + length :]
    if coding:
        body = gzip.compress(body)

    def run(pieces: list[bytes]) -> Run:
        return Run(
            pieces, wire=wire, provider=name.partition("_")[0], strip=strip, clean=clean, content_encoding=coding
        )

    with pytest.MonkeyPatch.context() as patch:
        if long:
            patch.setattr(sse, "LONG_EVENT", 100)
            patch.setattr(document, "DOCUMENT_MAX", 60)
        whole, split = run([body]), run(split_at(body, cuts))
    assert split.result == whole.result
    assert split.meter.terminal == whole.meter.terminal
    assert split.meter.root_closed == whole.meter.root_closed
    assert split.meter.error_only == whole.meter.error_only
    if clean is not None:
        assert split.relayed == whole.relayed
        if not strip or coding:
            assert whole.relayed == body


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6), st.sampled_from([SSE, JSON, b""]))
def test_any_bytes_are_relayed_and_never_final(body: bytes, cuts: list[int], content_type: bytes) -> None:
    answer = Run(split_at(body, cuts), content_type=content_type, strip=True)
    assert answer.relayed == body
    assert answer.result.usage_status in (UsageStatus.ABSENT, UsageStatus.UNPARSED, UsageStatus.NONE)


@pytest.mark.parametrize("cut", [65_538, 65_600, None])
def test_strip_overflow_is_about_events_not_about_reads(cut: int | None) -> None:
    """A block without data that outgrows the hold is no event, however the reads fall."""
    body = (
        b"id: "
        + b"x" * 65_536
        + b"\n\n"
        + b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
        + b"data: [DONE]\n\n"
    )
    meter = Meter(Wire.CHAT_COMPLETIONS, usage_profile("openai"), strip_usage_event=True)
    meter.response_head(200, b"text/event-stream", b"")
    for piece in [body] if cut is None else [body[:cut], body[cut:]]:
        meter.feed(piece)
    meter.finish(True)
    assert meter.result().flags == set()
