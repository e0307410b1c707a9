from __future__ import annotations

import os
import re

import anyio
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from aigw_anyio.deny.control import DenyStats
from aigw_anyio.metrics import GatewayCollector, Metrics, Sources
from aigw_anyio.metrics.families import FAMILIES, REQUESTS, Kind
from aigw_anyio.sinks import StdoutSink
from aigw_core.errors import Reason, Rejection
from aigw_core.facts import OpenRecord
from aigw_core.gateway import Gateway
from tests.anyio_layer.conftest import numbered

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


@pytest.fixture
def sources(gateway: Gateway) -> Sources:
    with open(os.devnull, "wb") as file:
        sink = StdoutSink(file.fileno())
    return Sources(gateway, sink, "trio", now=lambda: 100.0)


def expose(sources: Sources, accept: str = "") -> tuple[str, bytes]:
    return anyio.run(Metrics(sources).expose, accept)


def families(sources: Sources) -> dict[str, Metric]:
    """By the name of the table; the parser takes the suffix of counters off."""
    content_type, body = expose(sources)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    found = list(text_string_to_metric_families(body.decode()))
    assert len({metric.name for metric in found}) == len(found)
    return {f"{metric.name}_total" if metric.type == "counter" else metric.name: metric for metric in found}


def name_of(name: str, labels: dict[str, str]) -> str:
    written = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{written}}}" if written else name


def samples(sources: Sources) -> dict[str, float]:
    """Each sample as PromQL writes it, by its labels in the order of their names."""
    found: dict[str, float] = {}
    for metric in families(sources).values():
        for sample in metric.samples:
            name = name_of(sample.name, sample.labels)
            assert name not in found
            found[name] = sample.value
    return found


def fill(sources: Sources, record: OpenRecord) -> None:
    gateway = sources.gateway
    fact = numbered(record, 5)
    fact.duration_ms, fact.ttft_ms, fact.flags = 730, 25, {"tokens_inconsistent"}
    stats = gateway.stats
    stats.count_fact(fact)
    stats.count_fact(numbered(record, 6))
    stats.count_rejection(Rejection(Reason.RATE_LIMITED, detail="byo"))
    stats.count_byo("xai", "opaque", 429, "upstream_error", 3_000, 700_000)
    stats.connects["xai"] = 2
    stats.connect_failures["openai", "tls"] = 3
    stats.retries["openai"] = 4
    gateway.active = 2
    gateway.work.wait((1, "a"), "one")
    gateway.work.turn()
    gateway.work.wait((1, "a"), "two")
    gateway.pool.checkin(gateway.policy.providers["groq"].origin, "handle", 0.0, idle_timeout=30.0)
    sources.connections, sources.streams, sources.connections_max = lambda: 12, lambda: 1, 400
    facts = sources.sink.stats
    facts.written, facts.refused, facts.lost, facts.outstanding, facts.buffered_bytes = 7, 8, 9, 10, 11
    facts.refused_by_share, facts.ids_taken = 5, 6
    facts.unpublished, facts.unpublished_since, facts.connected = 13, 95.5, True


def test_metrics_say_what_happened(sources: Sources, record: OpenRecord) -> None:
    fill(sources, record)
    found = samples(sources)
    chat, byo = ("managed", "openai", "chat_completions"), ("byo", "xai", "opaque")

    def of(name: str, series: tuple[str, str, str], **more: str) -> str:
        labels = dict(zip(("caller", "provider", "wire"), series, strict=True)) | more
        return name_of(name, labels)

    expected = {
        of("aigw_requests_total", chat, status_class="2xx", outcome="complete"): 2,
        of("aigw_requests_total", byo, status_class="4xx", outcome="upstream_error"): 1,
        of("aigw_request_duration_seconds_bucket", chat, le="0.5"): 0,
        of("aigw_request_duration_seconds_bucket", chat, le="1"): 1,
        of("aigw_request_duration_seconds_sum", chat): 0.73,
        of("aigw_time_to_first_token_seconds_bucket", chat, le="0.025"): 1,
        of("aigw_time_to_first_token_seconds_count", chat): 1,
        of("aigw_time_to_first_token_seconds_bucket", byo, le="600"): 0,
        of("aigw_time_to_first_token_seconds_bucket", byo, le="+Inf"): 1,
        'aigw_tokens_total{class="input",provider="openai"}': 11,
        'aigw_usage_total{provider="openai",usage_status="final",wire="chat_completions"}': 2,
        'aigw_meter_flags_total{flag="tokens_inconsistent"}': 1,
        'aigw_rejections_total{reason="rate_limited"}': 1,
        'aigw_rejections_total{reason="bad_key"}': 0,
        'aigw_rate_limited_total{limit="byo"}': 1,
        'aigw_rate_limited_total{limit="key"}': 0,
        'aigw_rate_limit_rps{limit="byo"}': sources.gateway.policy.byo_rate_limit_rps,
        'aigw_upstream_connects_total{provider="xai"}': 2,
        'aigw_upstream_connect_failures_total{provider="openai",reason="tls"}': 3,
        'aigw_upstream_connect_failures_total{provider="openai",reason="timeout"}': 0,
        'aigw_upstream_retries_total{provider="openai"}': 4,
        'aigw_upstream_idle_connections{provider="groq"}': 1,
        'aigw_upstream_idle_connections{provider="openai"}': 0,
        "aigw_exchanges": 2,
        "aigw_streams": 1,
        "aigw_reading_connections": 1,
        "aigw_reading_resumes_total": 1,
        "aigw_connections": 12,
        "aigw_connections_max": 400,
        "aigw_draining": 0,
        "aigw_facts_written_total": 7,
        "aigw_facts_refused_total": 8,
        "aigw_facts_refused_by_share_total": 5,
        "aigw_facts_lost_total": 9,
        "aigw_facts_ids_taken_total": 6,
        "aigw_facts_outstanding": 10,
        "aigw_facts_buffered_bytes": 11,
        "aigw_facts_degraded": 0,
        "aigw_facts_publish_lag_seconds": 4.5,
        "aigw_facts_connected": 1,
        "aigw_spool_unpublished_records": 13,
        "aigw_deny_revision": 0,
        'aigw_deny_state{state="none"}': 1,
        'aigw_deny_state{state="live"}': 0,
    }
    assert {name: found[name] for name in expected} == expected


def test_a_deny_source_has_metrics_of_its_own(sources: Sources) -> None:
    assert "aigw_deny_staleness_seconds" not in samples(sources)
    sources.deny = lambda: DenyStats(connected=True, gaps=3)
    assert samples(sources)["aigw_deny_staleness_seconds"] == float("inf")
    sources.gateway.deny_confirmed_at = 98.0
    found = samples(sources)
    assert found["aigw_deny_staleness_seconds"] == 2
    assert (found["aigw_deny_connected"], found["aigw_deny_gaps_total"]) == (1, 3)


def test_nothing_waits_for_the_stream_once_all_is_published(sources: Sources) -> None:
    sources.sink.stats.unpublished_since = 1.0
    assert samples(sources)["aigw_facts_publish_lag_seconds"] == 0


def test_what_is_exposed_is_what_the_table_says(sources: Sources, record: OpenRecord) -> None:
    fill(sources, record)
    sources.deny = DenyStats
    exposed = {name: metric for name, metric in families(sources).items() if name.startswith("aigw_")}
    assert sorted(exposed) == sorted(FAMILIES)
    for name, metric in exposed.items():
        family = FAMILIES[name]
        assert (metric.type, metric.documentation) == (family.kind.value, family.text)
        for sample in metric.samples:
            assert {*sample.labels} - {"le"} == {*family.labels}


def test_names_follow_the_conventions() -> None:
    """https://prometheus.io/docs/practices/naming/: counters end in _total, and units are base units."""
    for family in FAMILIES.values():
        assert re.fullmatch(r"aigw_[a-z]+(_[a-z]+)*", family.name)
        assert (family.kind is Kind.COUNTER) == family.name.endswith("_total")
        assert not family.name.endswith(("_ms", "_count", "_sum", "_bucket"))
        assert family.text.endswith(".")
        if family.kind is Kind.HISTOGRAM:
            assert family.name.endswith("_seconds")
        assert not {"tenant", "tenant_id", "key", "key_id", "vpc_id", "model"} & {*family.labels}


def test_openmetrics_is_served_to_who_asks(sources: Sources, record: OpenRecord) -> None:
    fill(sources, record)
    content_type, body = expose(sources, OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert body.count(b"# EOF") == 1
    names = {metric.name for metric in openmetrics_families(body.decode())}  # type: ignore[no-untyped-call]  # of the library
    assert {"aigw_requests", "aigw_request_duration_seconds", "process_open_fds"} <= names


def test_label_values_are_escaped(sources: Sources) -> None:
    odd = 'we"ird\\na\nme'
    sources.gateway.stats.count_byo(odd, "opaque", None, "complete", 1, None)
    (sample,) = families(sources)["aigw_requests_total"].samples
    assert (sample.labels["provider"], sample.labels["status_class"]) == (odd, "none")


def test_the_process_is_seen(sources: Sources) -> None:
    found = samples(sources)
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert found["process_open_fds"] > 0
    assert found["process_start_time_seconds"] > 1e9
    (build,) = families(sources)["aigw_build_info"].samples
    assert build.labels["backend"] == "trio"


def test_other_labels_than_the_familys_are_refused() -> None:
    with pytest.raises(ValueError, match="aigw_requests_total"):
        REQUESTS.of([(("one",), 1)])


def test_a_registry_of_an_embedder_takes_the_collector(sources: Sources) -> None:
    registry = CollectorRegistry()
    registry.register(GatewayCollector(sources))
    assert registry.get_sample_value("aigw_exchanges") == 0
