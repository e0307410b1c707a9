"""The metrics of several workers as those of one gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from aigw_anyio.metrics import families as f
from aigw_anyio.workers.readiness import DENY_WORST_FIRST

Series = tuple[str, tuple[tuple[str, str], ...]]
"""The name of a sample and its labels."""
Counted = dict[str, dict[Series, float]]
"""By family: what only grows."""
Gauged = dict[str, dict[Series, list[float]]]
"""By family: what each worker says of it now."""

_STARTED: Final = "process_start_time_seconds"
"""Tells the processes apart that follow one another in one place."""
_HOW: Final[Mapping[f.Merge, Callable[[Iterable[float]], float]]] = {
    f.Merge.SUM: sum,
    f.Merge.MAX: max,
    f.Merge.MIN: min,
}
_OWN: Final = frozenset(family.name.removesuffix("_total") for family in (f.WORKERS, f.WORKERS_UP, f.WORKER_RESTARTS))
"""What no worker knows of all."""
_PROCESS: Final = {"process_max_fds": f.Merge.MIN, _STARTED: f.Merge.MIN}
"""Gauges that are none of ours; of others, such as memory, the sum is meant."""


class Merger:
    """Adds up what workers count, and keeps what those counted that are gone: a sum that falls would look like a reset.

    What a worker counts between the last scrape and its death is lost.
    """

    def __init__(self, workers: int, restarts: Callable[[], int]) -> None:
        """``restarts``: how often one was started again, as the supervisor has counted."""
        self._restarts = restarts
        self._last: list[Counted] = [{} for _ in range(workers)]
        self._started: list[float | None] = [None] * workers
        self._gone: Counted = {}
        self._shapes: dict[str, tuple[str, str]] = {}
        """Of each family, what it is for and its type: counters stand there also while nobody answers."""

    def merge(self, texts: list[str | None]) -> Iterator[Metric]:
        """``texts``: by worker, what each exposes in text format 0.0.4; None of one that is silent."""
        gauges: Gauged = {}
        for worker, text in enumerate(texts):
            if text is not None:
                self._take(worker, text, gauges)
        totals: Counted = {}
        for counted in (self._gone, *self._last):
            _add(totals, counted)
        for name, (text, kind) in self._shapes.items():
            if name in _OWN:
                continue
            shape = Metric(name, text, kind)
            if kind == "gauge":
                yield _merged_gauge(shape, gauges.get(name, {}))
            else:
                yield _filled(shape, totals.get(name, {}))
        yield f.WORKERS.one(len(texts))
        yield f.WORKERS_UP.one(sum(text is not None for text in texts))
        yield f.WORKER_RESTARTS.one(self._restarts())

    def _take(self, worker: int, text: str, gauges: Gauged) -> None:
        counted: Counted = {}
        started = None
        for metric in text_string_to_metric_families(text):
            self._shapes.setdefault(metric.name, (metric.documentation, metric.type))
            for sample in metric.samples:
                series = sample.name, tuple(sample.labels.items())
                if metric.type != "gauge":
                    counted.setdefault(metric.name, {})[series] = sample.value
                    continue
                gauges.setdefault(metric.name, {}).setdefault(series, []).append(sample.value)
                if metric.name == _STARTED:
                    started = sample.value
        if started != self._started[worker]:
            if self._started[worker] is not None:
                _add(self._gone, self._last[worker])
            self._started[worker] = started
        self._last[worker] = counted


def _add(totals: Counted, more: Counted) -> None:
    for name, numbers in more.items():
        family = totals.setdefault(name, {})
        for series, number in numbers.items():
            family[series] = family.get(series, 0.0) + number


def _filled(shape: Metric, numbers: Mapping[Series, float]) -> Metric:
    for (name, labels), number in numbers.items():
        shape.add_sample(name, dict(labels), number)
    return shape


def _merged_gauge(shape: Metric, numbers: Mapping[Series, list[float]]) -> Metric:
    family = f.FAMILIES.get(shape.name)
    how = _HOW[family.merge if family is not None else _PROCESS.get(shape.name, f.Merge.SUM)]
    merged = _filled(shape, {series: how(each) for series, each in numbers.items()})
    return _worst(merged) if shape.name == f.DENY_STATE.name else merged


def _worst(states: Metric) -> Metric:
    """One state, as of one process: that of the worker which is worst off."""
    found = {sample.labels["state"] for sample in states.samples if sample.value}
    worst = next((state for state in DENY_WORST_FIRST if state in found), None)
    merged = Metric(states.name, states.documentation, states.type)
    for sample in states.samples:
        merged.add_sample(sample.name, sample.labels, float(sample.labels["state"] == worst))
    return merged
