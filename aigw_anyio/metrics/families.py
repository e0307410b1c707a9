"""Every metric of the gateway by name: kind, labels, meaning. The reference page is drawn from this table.

Label values come from configuration and from fixed sets, never from callers, so their number is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from aigw_core.stats import BUCKETS_MS, Histogram

_BOUNDS: Final = (*(f"{ms / 1000:g}" for ms in BUCKETS_MS), "+Inf")
"""The ``le`` labels, in seconds."""


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(StrEnum):
    """What a gauge is for several processes together, from what it is for each. Counters are added up."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


Sample = tuple[tuple[str, ...], float]
"""Label values in the order of the family's labels, and the number."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, as it is exposed."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    text: str
    merge: Merge = Merge.SUM

    def of(self, samples: Iterable[Sample]) -> Metric:
        """The family with these samples. Raises ValueError for other labels than its own."""
        metric: CounterMetricFamily | GaugeMetricFamily
        if self.kind is Kind.COUNTER:
            # The library adds the suffix itself.
            metric = CounterMetricFamily(self.name.removesuffix("_total"), self.text, labels=self.labels)
        else:
            metric = GaugeMetricFamily(self.name, self.text, labels=self.labels)
        for labels, number in samples:
            if len(labels) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {self.labels}")
            metric.add_metric(labels, number)
        return metric

    def one(self, number: float) -> Metric:
        """The same of a metric without labels."""
        return self.of([((), number)])

    def of_histograms(self, samples: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
        metric = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for labels, histogram in samples:
            buckets = list(zip(_BOUNDS, histogram.cumulative, strict=True))
            metric.add_metric(labels, buckets, histogram.sum_ms / 1000)
        return metric


FAMILIES: Final[dict[str, Family]] = {}


def _add(name: str, kind: Kind, labels: tuple[str, ...], text: str, merge: Merge = Merge.SUM) -> Family:
    family = FAMILIES[name] = Family(name, kind, labels, text, merge)
    return family


def _counter(name: str, text: str, *labels: str) -> Family:
    return _add(name, Kind.COUNTER, labels, text)


def _gauge(name: str, text: str, *labels: str, merge: Merge = Merge.SUM) -> Family:
    return _add(name, Kind.GAUGE, labels, text, merge)


def _histogram(name: str, text: str, *labels: str) -> Family:
    return _add(name, Kind.HISTOGRAM, labels, text)


# Traffic

REQUESTS = _counter(
    "aigw_requests_total",
    "Exchanges that ended: managed ones by the outcome of their fact, BYO ones by the same words.",
    "provider",
    "wire",
    "caller",
    "status_class",
    "outcome",
)
DURATION = _histogram(
    "aigw_request_duration_seconds",
    "From the request's head to the end of its exchange.",
    "provider",
    "wire",
    "caller",
)
TTFT = _histogram(
    "aigw_time_to_first_token_seconds",
    "From the request's head to the first byte of the answer's body: the first token, where it streams.",
    "provider",
    "wire",
    "caller",
)
REJECTIONS = _counter("aigw_rejections_total", "Error answers of the gateway's own, by reason.", "reason")
RATE_LIMITED = _counter("aigw_rate_limited_total", "Requests that a rate limit refused, by limit.", "limit")
RATE_LIMIT = _gauge(
    "aigw_rate_limit_rps", "Requests a second that a limit lets pass; 0 is off.", "limit", merge=Merge.MAX
)
EXCHANGES = _gauge("aigw_exchanges", "Exchanges that are running.")
STREAMS = _gauge("aigw_streams", "Exchanges whose answer is on its way to the caller.")
READING = _gauge("aigw_reading_connections", "Connections that wait for a turn to read on.")
READING_RESUMES = _counter(
    "aigw_reading_resumes_total", "Times that reading went on in a later turn: of a body, or of pipelined requests."
)
CONNECTIONS_ACCEPTED = _counter("aigw_connections_accepted_total", "Downstream connections accepted.")
CONNECTIONS = _gauge("aigw_connections", "Downstream connections that are open.")
CONNECTIONS_MAX = _gauge("aigw_connections_max", "Downstream connections that may be open at a time.")
DRAINING = _gauge("aigw_draining", "1 while the gateway finishes its exchanges before it stops.", merge=Merge.MIN)

# Providers

CONNECTS = _counter(
    "aigw_upstream_connects_total", "New connections to a provider that were used for an exchange.", "provider"
)
CONNECT_FAILURES = _counter(
    "aigw_upstream_connect_failures_total",
    "Failed attempts to connect to a provider, by what failed.",
    "provider",
    "reason",
)
RETRIES = _counter("aigw_upstream_retries_total", "Requests tried again on a new connection.", "provider")
IDLE = _gauge("aigw_upstream_idle_connections", "Connections to a provider kept for the next exchange.", "provider")

# Metering

TOKENS = _counter(
    "aigw_tokens_total",
    "Tokens of managed exchanges as the providers stated them, in disjoint classes.",
    "provider",
    "class",
)
USAGE = _counter("aigw_usage_total", "Facts by their usage status.", "provider", "wire", "usage_status")
METER_FLAGS = _counter("aigw_meter_flags_total", "Flags on facts: what the meter could not take at face value.", "flag")

# Facts

FACTS_WRITTEN = _counter("aigw_facts_written_total", "Usage facts written.")
FACTS_REFUSED = _counter("aigw_facts_refused_total", "Requests refused for want of room for their fact.")
FACTS_REFUSED_BY_SHARE = _counter(
    "aigw_facts_refused_by_share_total", "Requests refused because their tenant holds its share of the room for facts."
)
FACTS_LOST = _counter("aigw_facts_lost_total", "Usage facts that nobody can read any more.")
FACTS_OUTSTANDING = _gauge("aigw_facts_outstanding", "Admitted exchanges whose fact is still due.")
FACTS_BUFFERED = _gauge("aigw_facts_buffered_bytes", "Bytes of facts that wait for their reader.")
FACTS_DEGRADED = _gauge(
    "aigw_facts_degraded", "1 while managed requests are refused for want of a place for facts.", merge=Merge.MAX
)
FACTS_RECOVERED = _counter("aigw_facts_recovered_total", "Exchanges of dead processes that became gateway_lost facts.")
FACTS_PUBLISHED = _counter("aigw_facts_published_total", "Usage facts that a NATS stream has acknowledged.")
FACTS_IDS_TAKEN = _counter(
    "aigw_facts_ids_taken_total", "Message ids of facts under which somebody else had published to the NATS stream."
)
FACTS_LAG = _gauge(
    "aigw_facts_publish_lag_seconds",
    "Age of the oldest record that the NATS stream has not acknowledged; 0 if none.",
    merge=Merge.MAX,
)
FACTS_CONNECTED = _gauge(
    "aigw_facts_connected", "1 while the NATS connection of the fact sink is there.", merge=Merge.MIN
)
SPOOL_UNPUBLISHED = _gauge("aigw_spool_unpublished_records", "Records of the spool that wait for the NATS stream.")
SPOOL_BYTES = _gauge("aigw_spool_bytes", "Disk that the spool takes, reserved room included.")

# Deny-set

DENY_STATE = _gauge("aigw_deny_state", "1 for the state that the deny feed is in.", "state", merge=Merge.MAX)
DENY_REVISION = _gauge("aigw_deny_revision", "Revision of the last applied deny entry, 0 for none.", merge=Merge.MIN)
DENY_ENTRIES = _gauge("aigw_deny_entries", "Tenants and keys that are cut off.", merge=Merge.MAX)
DENY_IGNORED = _counter("aigw_deny_ignored_total", "Entries ignored because their key is none of ours.")
DENY_STALENESS = _gauge(
    "aigw_deny_staleness_seconds",
    "Since the deny-set was last known to be current; +Inf where it never was.",
    merge=Merge.MAX,
)
DENY_CONNECTED = _gauge("aigw_deny_connected", "1 while the connection to NATS is there.", merge=Merge.MIN)
DENY_CONNECTS = _counter("aigw_deny_connects_total", "Connections to NATS that were made.")
DENY_FAILURES = _counter("aigw_deny_failures_total", "Times that the source was lost or could not be read.")
DENY_RESUMES = _counter("aigw_deny_resumes_total", "Times that the feed went on from where it was.")
DENY_RESCANS = _counter("aigw_deny_rescans_total", "Times that all entries were read again and taken over.")
DENY_GAPS = _counter("aigw_deny_gaps_total", "Times that entries were known to be lost on the way.")
DENY_VANISHED = _counter("aigw_deny_vanished_total", "Times that entries had vanished without an event.")
DENY_RECONCILES = _counter("aigw_deny_reconciles_total", "Times that a second reading was compared.")
DENY_DIFFERENCES = _counter("aigw_deny_differences_total", "Times that it gave another set, twice in a row.")
DENY_UNKNOWN = _counter("aigw_deny_unknown_total", "Entries of an unknown operation or marker; they deny.")
DENY_SNAPSHOTS = _counter("aigw_deny_snapshots_total", "Snapshots written.")
DENY_SNAPSHOT_FAILURES = _counter("aigw_deny_snapshot_failures_total", "Snapshots that could not be written.")

# Process

WORKERS = _gauge("aigw_workers", "Processes that are to serve.")
WORKERS_UP = _gauge("aigw_workers_up", "Those of them that have answered this scrape.")
WORKER_RESTARTS = _counter("aigw_worker_restarts_total", "Workers that were started again after one had died.")
BUILD_INFO = _gauge("aigw_build_info", "Always 1.", "version", "backend", "python", merge=Merge.MAX)
