"""What a gateway counts: plain numbers under label sets that configuration bounds, never callers.

Whoever exposes them reads them as they are; nothing here knows a format. Facts are counted together with others
of their :class:`Series`, at the latest when somebody looks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from aigw_core.errors import Reason, Rejection

if TYPE_CHECKING:
    from aigw_core.facts import UsageFact

FAILURES_KEPT: Final = 1_024
"""Ended exchanges whose log record waits for the driver; it drains them every turn, so only a flood drops some."""
UNCOUNTED_MAX: Final = 32
"""Facts that wait to be counted: some tens of microseconds of work, and little memory."""
BUCKETS_MS: Final = (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)
"""Upper bounds of the histograms, inclusive: from an embedding out of a cache to a model that thinks for minutes."""

MANAGED: Final = "managed"
BYO: Final = "byo"
LIMITS: Final = ("key", "byo", "unverified")
"""The rate limits, by the detail of their refusals: of a credential, of all BYO callers, of keys not yet verified."""


@dataclass(slots=True)
class ExchangeLog:
    """One exchange as data for the log; free of secrets: ids, names of ours, numbers."""

    id: str
    provider: str | None
    wire: str | None
    reason: str
    """The name of a refusal, or the outcome."""
    status: int | None
    upstream_status: int | None
    duration_ms: int
    detail: str = ""
    caller: str | None = None
    """``managed`` or ``byo``; None where nobody was authorized."""
    ttft_ms: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    trace_id: str | None = None

    @property
    def is_complete(self) -> bool:
        """Nothing is wrong with it; there is a record of it where ``Stats.logs_all`` is set."""
        return self.reason == "complete"


_bucket_of: Final = partial(bisect_left, BUCKETS_MS)


class Histogram:
    """Durations in milliseconds, each counted in one bucket."""

    __slots__ = ("counts", "sum_ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_MS) + 1)
        """Not cumulative; the last one is what exceeds every bound."""
        self.sum_ms = 0

    def add(self, ms: int) -> None:
        self.counts[bisect_left(BUCKETS_MS, ms)] += 1
        self.sum_ms += ms

    def add_all(self, durations: list[int]) -> None:
        counts = self.counts
        for bucket in map(_bucket_of, durations):
            counts[bucket] += 1
        self.sum_ms += sum(durations)

    @property
    def cumulative(self) -> list[int]:
        """How many were at most the bound of the same place; the last one is how many there were."""
        total, out = 0, []
        for count in self.counts:
            total += count
            out.append(total)
        return out


Ending = tuple[int, str, str]
"""(hundreds of the status that the caller got, 0 for none; outcome; usage status, ``""`` for BYO)."""


class Series:
    """The exchanges of one kind of caller with one provider over one wire."""

    __slots__ = ("durations", "ends", "tokens", "ttfts")

    def __init__(self) -> None:
        self.ends: dict[Ending, int] = {}
        self.durations = Histogram()
        self.ttfts = Histogram()
        self.tokens: dict[str, int] = {}

    def count(self, facts: list[UsageFact]) -> None:
        """Facts of this kind together: a third of the steps that one by one takes."""
        ends, tokens = self.ends, self.tokens
        for (status, outcome, usage), number in Counter(
            [(fact.status, fact.outcome, fact.usage_status) for fact in facts]
        ).items():
            ending = (0 if status is None else status // 100, outcome, usage)
            ends[ending] = ends.get(ending, 0) + number
        self.durations.add_all([fact.duration_ms for fact in facts if fact.duration_ms is not None])
        self.ttfts.add_all([fact.ttft_ms for fact in facts if fact.ttft_ms is not None])
        counts: dict[tuple[str, ...], list[Iterable[int]]] = {}
        for fact in facts:
            if fact.tokens:
                counts.setdefault(tuple(fact.tokens), []).append(fact.tokens.values())
        for classes, rows in counts.items():
            for token_class, number in zip(classes, map(sum, zip(*rows, strict=True)), strict=True):
                tokens[token_class] = tokens.get(token_class, 0) + number


SeriesKey = tuple[str, str, str]
"""(provider, wire, ``managed`` or ``byo``)."""


@dataclass(slots=True)
class Stats:
    """Counters since the process started."""

    _series: dict[SeriesKey, Series] = field(default_factory=dict)
    _uncounted: list[UsageFact] = field(default_factory=list)
    rejections: Counter[str] = field(default_factory=Counter)
    """Answers of our own, by the reason in lower case: before admission and after it."""
    _flags: Counter[str] = field(default_factory=Counter)
    connects: Counter[str] = field(default_factory=Counter)
    """New connections that carried an exchange, by provider."""
    connect_failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By provider and what failed."""
    retries: Counter[str] = field(default_factory=Counter)
    """By provider."""
    limited: Counter[str] = field(default_factory=Counter)
    """Requests that a rate limit refused, by the name in LIMITS."""
    connections_total: int = 0
    failures: deque[ExchangeLog] = field(default_factory=lambda: deque(maxlen=FAILURES_KEPT))
    """What the driver is to log."""
    logs_all: bool = False
    """Whether exchanges that completed are logged as well."""

    @property
    def series(self) -> dict[SeriesKey, Series]:
        """Exchanges that ended."""
        if self._uncounted:
            self._count()
        return self._series

    @property
    def flags(self) -> Counter[str]:
        """Flags of facts: what the Meter could not take at face value."""
        if self._uncounted:
            self._count()
        return self._flags

    def count_fact(self, fact: UsageFact) -> None:
        """A managed exchange that ended. Counted together with others, or when somebody looks."""
        uncounted = self._uncounted
        uncounted.append(fact)
        if len(uncounted) >= UNCOUNTED_MAX:
            self._count()

    def _count(self) -> None:
        alike: dict[tuple[str, str], list[UsageFact]] = {}
        for fact in self._uncounted:
            opened = fact.opened
            key = (opened.provider, opened.wire)
            if key in alike:
                alike[key].append(fact)
            else:
                alike[key] = [fact]
        for (provider, wire), facts in alike.items():
            self._series.setdefault((provider, wire, MANAGED), Series()).count(facts)
            for fact in facts:
                if fact.flags:
                    self._flags.update(fact.flags)
        self._uncounted.clear()

    def count_byo(
        self, provider: str, wire: str, status: int | None, outcome: str, duration_ms: int, ttft_ms: int | None
    ) -> None:
        """An exchange with the caller's own key that ended."""
        series = self._series.setdefault((provider, wire, BYO), Series())
        ending = (0 if status is None else status // 100, outcome, "")
        series.ends[ending] = series.ends.get(ending, 0) + 1
        series.durations.add(duration_ms)
        if ttft_ms is not None:
            series.ttfts.add(ttft_ms)

    def count_rejection(self, rejection: Rejection) -> None:
        """An answer of our own."""
        self.rejections[rejection.reason.name.lower()] += 1
        # An embedder's hook may say so for reasons of its own.
        if rejection.reason is Reason.RATE_LIMITED and rejection.detail in LIMITS:
            self.limited[rejection.detail] += 1

    @property
    def requests(self) -> dict[tuple[str, str, str, str, str], int]:
        """Exchanges that ended, by provider, wire, kind of caller, class of status (``2xx``, ``none``) and outcome."""
        counted: Counter[tuple[str, str, str, str, str]] = Counter()
        for (provider, wire, caller), (hundreds, outcome, _), number in self._ends():
            counted[provider, wire, caller, status_class(hundreds), str(outcome)] += number
        return dict(counted)

    @property
    def usage(self) -> dict[tuple[str, str, str], int]:
        """Facts by provider, wire and usage status."""
        counted: Counter[tuple[str, str, str]] = Counter()
        for (provider, wire, caller), (_, _, usage_status), number in self._ends():
            if caller == MANAGED:
                counted[provider, wire, str(usage_status)] += number
        return dict(counted)

    @property
    def tokens(self) -> dict[tuple[str, str], int]:
        """Tokens by provider and class."""
        counted: Counter[tuple[str, str]] = Counter()
        for (provider, _, _), series in self.series.items():
            for token_class, number in series.tokens.items():
                counted[provider, token_class] += number
        return dict(counted)

    def _ends(self) -> Iterator[tuple[SeriesKey, Ending, int]]:
        for key, series in self.series.items():
            for ending, number in series.ends.items():
                yield key, ending, number


def status_class(hundreds: int) -> str:
    """``2xx`` and the like; ``none`` where the caller got no status."""
    return f"{hundreds}xx" if hundreds else "none"
