from __future__ import annotations

import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.errors import Reason, Rejection
from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.stats import (
    BUCKETS_MS,
    BYO,
    FAILURES_KEPT,
    LIMITS,
    MANAGED,
    UNCOUNTED_MAX,
    ExchangeLog,
    Histogram,
    Stats,
)


def fact(
    outcome: Outcome = Outcome.COMPLETE,
    tokens: dict[str, int] | None = None,
    *,
    status: int | None = 200,
    duration_ms: int | None = None,
    ttft_ms: int | None = None,
    wire: str = "messages",
    usage_status: str = "final",
    flags: set[str] | None = None,
) -> UsageFact:
    record = OpenRecord("id", "t", 1, 2, None, 1, "openai", wire, "/v1/messages", None, None)
    return UsageFact(
        record,
        outcome,
        usage_status,
        status=status,
        tokens=tokens,
        duration_ms=duration_ms,
        ttft_ms=ttft_ms,
        flags=flags,
    )


def test_facts_are_counted_by_what_configuration_bounds() -> None:
    stats = Stats()
    stats.count_fact(fact(tokens={"input": 3, "output": 1}))
    stats.count_fact(fact(tokens={"input": 4}, wire="responses"))
    stats.count_fact(fact(status=201))
    stats.count_fact(fact(Outcome.TIMEOUT, status=None, usage_status="absent"))
    assert stats.requests == {
        ("openai", "messages", MANAGED, "2xx", "complete"): 2,
        ("openai", "responses", MANAGED, "2xx", "complete"): 1,
        ("openai", "messages", MANAGED, "none", "timeout"): 1,
    }
    assert stats.tokens == {("openai", "input"): 7, ("openai", "output"): 1}
    assert stats.usage == {
        ("openai", "messages", "final"): 2,
        ("openai", "responses", "final"): 1,
        ("openai", "messages", "absent"): 1,
    }
    assert {type(part) for key in [*stats.requests, *stats.usage] for part in key} == {str}


class Tokens(dict[str, int]):
    """A dict that can be referred to weakly."""


@pytest.mark.parametrize("number", [1, UNCOUNTED_MAX - 1, UNCOUNTED_MAX, UNCOUNTED_MAX + 1, 3 * UNCOUNTED_MAX + 5])
def test_every_fact_is_counted_once_and_few_are_kept(number: int) -> None:
    stats = Stats()
    seen: list[weakref.ref[Tokens]] = []
    for n in range(number):
        tokens = Tokens(input=n)
        seen.append(weakref.ref(tokens))
        stats.count_fact(fact(tokens=tokens, flags={"strip_overflow"}, wire=("messages", "responses")[n % 2]))
        del tokens
    assert sum(ref() is not None for ref in seen) == number % UNCOUNTED_MAX
    for _ in range(2):
        assert sum(stats.requests.values()) == number
        assert stats.tokens == {("openai", "input"): sum(range(number))}
        assert stats.flags == {"strip_overflow": number}


def test_byo_is_counted_beside_it_and_has_no_usage() -> None:
    stats = Stats()
    for status in (200, 204, 429, None, 503):
        stats.count_byo("groq", "opaque", status, "complete", 30, None if status is None else 20)
    stats.count_fact(fact())
    assert stats.requests == {
        ("groq", "opaque", BYO, "2xx", "complete"): 2,
        ("groq", "opaque", BYO, "4xx", "complete"): 1,
        ("groq", "opaque", BYO, "none", "complete"): 1,
        ("groq", "opaque", BYO, "5xx", "complete"): 1,
        ("openai", "messages", MANAGED, "2xx", "complete"): 1,
    }
    assert list(stats.usage) == [("openai", "messages", "final")]
    series = stats.series["groq", "opaque", BYO]
    assert (series.durations.cumulative[-1], series.durations.sum_ms) == (5, 150)
    assert (series.ttfts.cumulative[-1], series.ttfts.sum_ms) == (4, 80)


def test_refusals_are_counted_by_reason_and_limit() -> None:
    stats = Stats()
    for reason in (Reason.DENIED, Reason.BAD_KEY, Reason.DENIED):
        stats.count_rejection(Rejection(reason))
    for detail in (*LIMITS, "byo", "a hook's own word"):
        stats.count_rejection(Rejection(Reason.RATE_LIMITED, detail=detail))
    assert stats.rejections == {"denied": 2, "bad_key": 1, "rate_limited": 5}
    assert stats.limited == {"key": 1, "byo": 2, "unverified": 1}


def test_flags_are_counted() -> None:
    stats = Stats()
    stats.count_fact(fact(flags={"tokens_inconsistent", "strip_overflow"}))
    stats.count_fact(fact(flags={"tokens_inconsistent"}))
    stats.count_fact(fact(flags=set()))
    assert stats.flags == {"tokens_inconsistent": 2, "strip_overflow": 1}


def test_the_log_of_failures_is_bounded() -> None:
    stats = Stats()
    for number in range(FAILURES_KEPT + 1):
        stats.failures.append(ExchangeLog(str(number), None, None, "denied", 403, None, 0))
    assert len(stats.failures) == FAILURES_KEPT
    assert stats.failures[0].id == "1"


@pytest.mark.parametrize(
    ("ms", "bound"), [(0, 10), (10, 10), (11, 25), (1_000, 1_000), (1_001, 2_500), (600_000, 600_000)]
)
def test_a_bound_is_inclusive(ms: int, bound: int) -> None:
    histogram = Histogram()
    histogram.add(ms)
    at = BUCKETS_MS.index(bound)
    assert histogram.cumulative == [0] * at + [1] * (len(BUCKETS_MS) + 1 - at)


def test_what_exceeds_every_bound_is_counted() -> None:
    histogram = Histogram()
    histogram.add(BUCKETS_MS[-1] + 1)
    assert histogram.cumulative == [0] * len(BUCKETS_MS) + [1]


@given(st.lists(st.tuples(st.none() | st.integers(0, 10**7), st.none() | st.integers(0, 10**7))))
def test_the_histograms_of_facts_are_those_of_their_durations(pairs: list[tuple[int | None, int | None]]) -> None:
    stats = Stats()
    expected = Histogram(), Histogram()
    for pair in pairs:
        stats.count_fact(fact(duration_ms=pair[0], ttft_ms=pair[1]))
        for histogram, ms in zip(expected, pair, strict=True):
            if ms is not None:
                histogram.add(ms)
    if pairs:
        series = stats.series["openai", "messages", MANAGED]
        for histogram, found in zip(expected, (series.durations, series.ttfts), strict=True):
            assert (found.counts, found.sum_ms) == (histogram.counts, histogram.sum_ms)


def test_sets_of_token_classes_are_counted_together_with_others() -> None:
    stats = Stats()
    for tokens in (
        {"input": 1, "output": 2},
        {"output": 4},
        None,
        {"input": 8, "cache_read": 16},
        {"input": 1, "output": 2},
    ):
        stats.count_fact(fact(tokens=tokens))
    totals = {("openai", "input"): 10, ("openai", "output"): 8, ("openai", "cache_read"): 16}
    assert stats.tokens == totals
    stats.count_fact(fact(tokens={"output": 1}))
    assert stats.tokens == totals | {("openai", "output"): 9}
