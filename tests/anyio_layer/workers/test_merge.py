from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from aigw_anyio.metrics.families import FAMILIES
from aigw_anyio.workers.merge import Merger

Numbers = dict[str, float]


def text(started: float, exchanges: float, **others: float) -> str:
    """What a worker exposes, in short."""
    lines = [
        "# TYPE process_start_time_seconds gauge",
        f"process_start_time_seconds {started}",
        "# TYPE aigw_requests_total counter",
        f'aigw_requests_total{{provider="openai"}} {exchanges}',
    ]
    for name, value in others.items():
        lines += [f"# TYPE {name} {FAMILIES[name].kind.value if name in FAMILIES else 'gauge'}", f"{name} {value}"]
    return "\n".join([*lines, ""])


def merged(merger: Merger, *texts: str | None) -> Numbers:
    """By name and labels as exposed: what a scraper gets."""

    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return merger.merge(list(texts))

    page = generate_latest(Once()).decode()
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


COUNT = "aigw_requests_total[openai]"


def test_counters_are_added_up() -> None:
    found = merged(Merger(2, lambda: 5), text(1.0, 3), text(2.0, 4))
    assert found[COUNT] == 7
    assert (found["aigw_workers"], found["aigw_workers_up"], found["aigw_worker_restarts_total"]) == (2, 2, 5)


def test_what_the_dead_have_counted_stays() -> None:
    merger = Merger(2, int)
    assert merged(merger, text(1.0, 3), text(2.0, 4))[COUNT] == 7
    found = merged(merger, None, text(2.0, 5))
    assert (found[COUNT], found["aigw_workers_up"]) == (8, 1)
    found = merged(merger, text(9.0, 1), text(2.0, 5))
    assert found[COUNT] == 9
    found = merged(merger, text(9.0, 2), text(2.0, 5))
    assert found[COUNT] == 10
    found = merged(merger, text(30.0, 0), text(31.0, 0))
    assert found[COUNT] == 10


def test_counters_stand_while_nobody_answers_and_gauges_do_not() -> None:
    merger = Merger(1, int)
    merged(merger, text(1.0, 3, aigw_exchanges=2))
    found = merged(merger, None)
    assert (found[COUNT], found["aigw_workers_up"]) == (3, 0)
    assert "aigw_exchanges" not in found


def test_a_series_that_only_one_has_is_there() -> None:
    other = text(2.0, 4).replace("openai", "anthropic")
    found = merged(Merger(2, int), text(1.0, 3), other)
    assert (found[COUNT], found["aigw_requests_total[anthropic]"]) == (3, 4)


def test_gauges_by_what_they_mean() -> None:
    found = merged(
        Merger(2, int),
        text(5.0, 0, aigw_exchanges=2, aigw_rate_limit_rps=9, aigw_deny_revision=7, aigw_draining=1),
        text(4.0, 0, aigw_exchanges=3, aigw_rate_limit_rps=9, aigw_deny_revision=5, aigw_draining=0),
    )
    names = ("aigw_exchanges", "aigw_rate_limit_rps", "aigw_deny_revision", "aigw_draining")
    assert [found[name] for name in names] == [5, 9, 5, 0]
    assert found["process_start_time_seconds"] == 4.0


def test_memory_is_added_up_and_the_limit_of_files_is_not() -> None:
    one = text(1.0, 0, process_resident_memory_bytes=100, process_max_fds=1024)
    found = merged(Merger(2, int), one, one)
    assert (found["process_resident_memory_bytes"], found["process_max_fds"]) == (200, 1024)


def test_histograms_are_added_up() -> None:
    def histogram(low: int, all_: int, total: float) -> str:
        return (
            text(float(all_), 0) + "# TYPE aigw_ttft_seconds histogram\n"
            f'aigw_ttft_seconds_bucket{{le="1.0"}} {low}\naigw_ttft_seconds_bucket{{le="+Inf"}} {all_}\n'
            f"aigw_ttft_seconds_count {all_}\naigw_ttft_seconds_sum {total}\n"
        )

    found = merged(Merger(2, int), histogram(1, 2, 3.5), histogram(4, 8, 1.0))
    names = ("_bucket[1.0]", "_bucket[+Inf]", "_count", "_sum")
    assert [found[f"aigw_ttft_seconds{name}"] for name in names] == [5, 10, 10, 4.5]


def test_the_state_of_the_feed_is_one_state() -> None:
    def state(now: str) -> str:
        rows = [f'aigw_deny_state{{state="{each}"}} {float(each == now)}' for each in ("cold", "live", "reconnecting")]
        return "\n".join([text(1.0, 0) + "# TYPE aigw_deny_state gauge", *rows, ""])

    found = merged(Merger(3, int), state("live"), state("reconnecting"), state("live"))
    assert {name: value for name, value in found.items() if name.startswith("aigw_deny_state")} == {
        "aigw_deny_state[cold]": 0,
        "aigw_deny_state[live]": 0,
        "aigw_deny_state[reconnecting]": 1,
    }
