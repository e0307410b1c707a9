"""Every recorded answer of the ten providers on a metered wire, against what an independent reader found.

The corpus is not part of the repository: AIGW_CORPUS names its directory. AIGW_CORPUS_SPLITS sets the
random splits of each case (30 unless told; 200 is the acceptance run).
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from aigw_core.usage import MeterResult, UsageStatus, document, sse
from aigw_core.wires import Wire
from tests.core.usage.helpers import Run, byte_by_byte, split_at

CORPUS = os.environ.get("AIGW_CORPUS")
RANDOM_SPLITS = int(os.environ.get("AIGW_CORPUS_SPLITS", "30"))
CUTS_MAX = 12
BYTE_BY_BYTE_MAX = 20_000
"""Bytes of a case that is also fed byte by byte: most cases, in a fraction of the time of the rest."""

pytestmark = pytest.mark.skipif(CORPUS is None, reason="AIGW_CORPUS is not set: the recorded answers are not here")

FLAGGED = {
    "anthropic/messages/thropic-programmatic-tool-calling-1-chunks-0-be11e744": (
        "usage_conflict",
        "fifteen messages in one stream; the numbers of the last one count",
    ),
    "mistral/chat_completions/stream-reasoning-model-1-1-0-131d10b7": (
        "tokens_inconsistent",
        "more cached tokens than prompt tokens",
    ),
    "mistral/chat_completions/streaming-agent-sends-audio-0-cee979f1": (
        "tokens_inconsistent",
        "audio in the total, not in the prompt",
    ),
    "openrouter/chat_completions/test-openrouter-stream-error-0-baafd4cb": (
        "tokens_inconsistent",
        "more reasoning than completion tokens",
    ),
}

UNPARSED = {
    "cerebras/chat_completions/test-tapes-315-4c7b155a": "the recorder left a quote behind the usage event",
    "openai/responses/openai-responses-streaming-0-f34cd4a9": "a stub whose events are not separated",
}

ERROR_ONLY = {
    "groq/chat_completions/object-streaming-0-44af79c7",
    "openai/responses/openai-error-1-chunks-0-ce62faea",
    "openrouter/chat_completions/object-streaming-0-e4377db4",
}


@dataclass(frozen=True)
class Case:
    id: str
    provider: str
    wire: Wire
    status: int
    content_type: bytes
    body: bytes
    expected: dict[str, object]

    def run(self, pieces: list[bytes]) -> Run:
        return Run(pieces, wire=self.wire, provider=self.provider, status=self.status, content_type=self.content_type)


@cache
def cases() -> dict[str, Case]:
    assert CORPUS is not None
    root = Path(CORPUS)
    wires = {wire.value for wire in Wire} - {Wire.MODELS.value}
    found: dict[str, Case] = {}
    for entry in json.loads((root / "INDEX.json").read_text()):
        if entry["api"] in wires:
            found[entry["id"]] = Case(
                id=entry["id"],
                provider=entry["provider"],
                wire=Wire(entry["api"]),
                status=entry["status"],
                content_type=(entry["content_type"] or "").encode(),
                body=(root / entry["body"]).read_bytes(),
                expected=json.loads((root / f"{entry['id']}.json").read_text())["expected"],
            )
    return found


def check_usage(case: Case, result: MeterResult) -> None:
    expected = case.expected
    if not case.wire.billable:
        assert result == MeterResult(UsageStatus.NONE)
        return
    assert result.usage == expected.get("usage")
    assert result.model == expected["model"]
    tier = expected.get("service_tier") or expected.get("top_level_service_tier")
    assert tier in (None, result.service_tier)
    if expected["usage_present"]:
        assert result.usage_status is UsageStatus.FINAL
        assert result.estimate is None
    elif case.status >= 400 or case.id in ERROR_ONLY:
        assert result.usage_status is UsageStatus.NONE
    elif case.id in UNPARSED:
        assert result.usage_status is UsageStatus.UNPARSED
    else:
        assert result.usage_status is UsageStatus.ABSENT
    flag, _ = FLAGGED.get(case.id, (None, ""))
    assert result.flags == ({flag} if flag else set())


def check_tokens(case: Case, result: MeterResult) -> None:
    """The classes sum to the provider's own totals, by the literal numbers of the corpus."""
    expected, tokens = case.expected, dict(result.tokens)
    if "tokens_inconsistent" in result.flags or not expected["usage_present"] or not case.wire.billable:
        return
    prompt = sum(
        tokens.pop(name, 0)
        for name in ("input", "cache_read", "cache_write", "cache_write_5m", "cache_write_1h", "input_audio")
    )
    answer = sum(tokens.values())

    def stated(name: str) -> int:
        value = expected.get(name)
        return value if isinstance(value, int) else 0

    if case.wire is Wire.MESSAGES:
        cached = stated("cached_input_tokens") + stated("cache_creation_input_tokens")
        assert prompt == stated("input_tokens") + cached
        assert answer == stated("output_tokens")
    else:
        assert prompt == stated("input_tokens")
        beside = case.provider == "xai" and case.wire is Wire.CHAT_COMPLETIONS
        assert answer == stated("output_tokens") + (stated("reasoning_tokens") if beside else 0)
        if "total_tokens" in expected:
            assert prompt + answer == stated("total_tokens")
    assert tokens.get("reasoning", 0) == stated("reasoning_tokens")


def check(case: Case, pieces: list[bytes]) -> Run:
    answer = case.run(pieces)
    assert answer.relayed == case.body
    check_usage(case, answer.result)
    check_tokens(case, answer.result)
    return answer


def test_the_corpus_is_all_there() -> None:
    found = cases()
    assert len(found) > 450
    named = {*FLAGGED, *UNPARSED, *ERROR_ONLY}
    assert named <= set(found)
    billable = [case for case in found.values() if case.wire.billable]
    assert sum(bool(case.expected["usage_present"]) for case in billable) > 400
    assert {case.provider for case in billable} == {name.partition("/")[0] for name in found}


def test_whole_answers() -> None:
    for case in cases().values():
        answer = check(case, [case.body])
        assert answer.meter.error_only is (case.id in ERROR_ONLY), case.id
        assert answer.meter.event_stream is (case.expected["kind"] == "sse"), case.id


def test_answers_that_are_all_too_long_to_be_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONG_EVENT", 16)
    monkeypatch.setattr(document, "DOCUMENT_MAX", 16)
    for case in cases().values():
        cuts = random.Random(case.id)
        check(case, [case.body])
        check(case, split_at(case.body, [cuts.randrange(2**30) for _ in range(CUTS_MAX)]))


def test_without_labels() -> None:
    for case in cases().values():
        for content_type in (b"", b"application/json", b"text/event-stream"):
            answer = Run(
                case.body,
                wire=case.wire,
                provider=case.provider,
                status=case.status,
                content_type=content_type,
            )
            check_usage(case, answer.result)


def test_byte_by_byte() -> None:
    short = [case for case in cases().values() if len(case.body) <= BYTE_BY_BYTE_MAX]
    assert len(short) > 400
    for case in short:
        check(case, byte_by_byte(case.body))


def test_random_splits() -> None:
    for case in cases().values():
        cuts = random.Random(case.id)
        whole = case.run([case.body]).result
        for _ in range(RANDOM_SPLITS):
            pieces = split_at(case.body, [cuts.randrange(2**30) for _ in range(cuts.randrange(1, CUTS_MAX))])
            answer = case.run(pieces)
            assert answer.relayed == case.body, case.id
            assert answer.result == whole, case.id


def test_stripping_takes_out_the_usage_event_and_no_other_byte() -> None:
    """As where the option was injected: the events that are left are the recorded ones, in order."""
    stripped = 0
    for case in cases().values():
        if case.wire is not Wire.CHAT_COMPLETIONS or case.expected["kind"] != "sse":
            continue
        cuts = random.Random(case.id)
        pieces = split_at(case.body, [cuts.randrange(2**30) for _ in range(8)])
        for fed in ([case.body], pieces):
            answer = Run(fed, wire=case.wire, provider=case.provider, content_type=case.content_type, strip=True)
            assert answer.result.usage == case.expected.get("usage"), case.id
            rest = answer.relayed
            if rest == case.body:
                continue
            start = next(at for at in range(len(case.body)) if case.body[at : at + 1] != rest[at : at + 1])
            removed = len(case.body) - len(rest)
            at = case.body.rindex(b"data:", 0, start + len(b'data: {"'))
            event = case.body[at : at + removed]
            assert case.body[:at] + case.body[at + removed :] == rest, case.id
            data = json.loads(event.removeprefix(b"data:"))
            assert (data["choices"], data["usage"]) == ([], case.expected["usage"]), case.id
            stripped += 1
    assert stripped > 20


def output_estimates(cut: float) -> list[tuple[float, float]]:
    """Estimated and likely tokens of every stream that shows all it generated, cut after a part of its bytes.

    Likely: the provider's final number, in the proportion of the text that had come.
    """
    pairs: list[tuple[float, float]] = []
    for case in cases().values():
        if case.expected["kind"] != "sse" or not case.wire.billable or case.id in FLAGGED:
            continue
        whole = case.run([case.body])
        tokens, shown = whole.result.tokens, whole.meter._reader.text_bytes
        output = tokens.get("output", 0)
        if output < 20 or not shown or tokens.get("reasoning"):
            continue
        end = case.body[: int(len(case.body) * cut)]
        left = Run(end, wire=case.wire, provider=case.provider, content_type=case.content_type, clean=None)
        assert left.result.usage_status in (UsageStatus.PARTIAL, UsageStatus.ABSENT, UsageStatus.FINAL)
        if left.result.estimate is not None:
            estimated = left.result.estimate["output"]
            assert isinstance(estimated, int)
            pairs.append((estimated, output * left.meter._reader.text_bytes / shown))
    return pairs


def test_error_of_the_estimate_on_cut_streams() -> None:
    early = output_estimates(0.01)
    assert len(early) > 70
    assert sum(abs(estimated - likely) > 20 for estimated, likely in early) <= 2
    for cut in (0.5, 0.99):
        errors = sorted(abs(estimated - likely) / likely for estimated, likely in output_estimates(cut) if likely >= 20)
        assert len(errors) > 50
        assert errors[len(errors) // 2] < 0.25
        assert errors[len(errors) * 9 // 10] < 0.6
