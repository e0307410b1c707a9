"""Reads the counters of a gateway when they are asked for: between two scrapes metrics cost nothing of their own."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import anyio
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from aigw_anyio.deny.control import DenyStats
from aigw_anyio.metrics import families as f
from aigw_anyio.sinks import FactSink
from aigw_anyio.version import VERSION
from aigw_core.effects import ConnectFailure
from aigw_core.errors import Reason
from aigw_core.gateway import Gateway
from aigw_core.stats import LIMITS

_DENY_STATES: Final = ("none", "cold", "seeding", "live", "reconnecting")
_CONNECT_FAILURES: Final = (*(failure.name.lower() for failure in ConnectFailure), "timeout")
_REASONS: Final = tuple(reason.name.lower() for reason in Reason)


@dataclass(slots=True)
class Sources:
    """Where the numbers are. All of it is read in the event loop's thread."""

    gateway: Gateway
    sink: FactSink
    backend: str
    """The frontend: ``asyncio``, ``trio`` or an embedder's own word."""
    now: Callable[[], float] = anyio.current_time
    """Monotonic seconds, the clock of the event loop."""
    connections: Callable[[], int] = lambda: 0
    streams: Callable[[], int] = lambda: 0
    connections_max: int | None = None
    deny: Callable[[], DenyStats] | None = None
    """Of the deny source, if there is one."""


class GatewayCollector(Collector):
    """For a registry of prometheus-client: an embedder's own, or the one behind ``/metrics``."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        yield from _traffic(sources)
        yield from _providers(sources.gateway)
        yield from _metering(sources.gateway)
        yield from _facts(sources)
        yield from _deny(sources)
        # Of this process alone; who merges several knows better.
        yield f.WORKERS.one(1)
        yield f.WORKERS_UP.one(1)
        yield f.WORKER_RESTARTS.one(0)
        yield f.BUILD_INFO.of([((VERSION, sources.backend, platform.python_version()), 1)])


def _traffic(sources: Sources) -> Iterator[Metric]:
    gateway = sources.gateway
    stats, policy = gateway.stats, gateway.policy
    yield f.REQUESTS.of(sorted(stats.requests.items()))
    series = sorted(stats.series.items())
    yield f.DURATION.of_histograms((key, one.durations) for key, one in series)
    yield f.TTFT.of_histograms((key, one.ttfts) for key, one in series)
    # From zero on, so that the first one is seen as a rise.
    yield f.REJECTIONS.of(((reason,), stats.rejections[reason]) for reason in _REASONS)
    yield f.RATE_LIMITED.of(((limit,), stats.limited[limit]) for limit in LIMITS)
    configured = (policy.rate_limit_rps, policy.byo_rate_limit_rps, policy.unverified_rate_limit_rps)
    yield f.RATE_LIMIT.of(((limit,), rps) for limit, rps in zip(LIMITS, configured, strict=True))
    yield f.EXCHANGES.one(gateway.active)
    yield f.STREAMS.one(sources.streams())
    yield f.READING.one(gateway.work.waiting + gateway.answer_work.waiting)
    yield f.READING_RESUMES.one(gateway.work.resumed + gateway.answer_work.resumed)
    yield f.CONNECTIONS_ACCEPTED.one(stats.connections_total)
    yield f.CONNECTIONS.one(sources.connections())
    if sources.connections_max is not None:
        yield f.CONNECTIONS_MAX.one(sources.connections_max)
    yield f.DRAINING.one(gateway.draining)


def _providers(gateway: Gateway) -> Iterator[Metric]:
    stats, providers = gateway.stats, gateway.policy.providers
    # A provider that a reload took away keeps what was counted.
    names = sorted({*providers, *stats.connects, *stats.retries, *(name for name, _ in stats.connect_failures)})
    yield f.CONNECTS.of(((name,), stats.connects[name]) for name in names)
    yield f.CONNECT_FAILURES.of(
        ((name, reason), stats.connect_failures[name, reason]) for name in names for reason in _CONNECT_FAILURES
    )
    yield f.RETRIES.of(((name,), stats.retries[name]) for name in names)
    idle = gateway.pool.idle_by_origin()
    yield f.IDLE.of(((name,), idle.get(providers[name].origin, 0)) for name in sorted(providers))


def _metering(gateway: Gateway) -> Iterator[Metric]:
    stats = gateway.stats
    yield f.TOKENS.of(sorted(stats.tokens.items()))
    yield f.USAGE.of(sorted(stats.usage.items()))
    yield f.METER_FLAGS.of(((flag,), number) for flag, number in sorted(stats.flags.items()))


def _facts(sources: Sources) -> Iterator[Metric]:
    facts = sources.sink.stats
    yield f.FACTS_WRITTEN.one(facts.written)
    yield f.FACTS_REFUSED.one(facts.refused)
    yield f.FACTS_REFUSED_BY_SHARE.one(facts.refused_by_share)
    yield f.FACTS_LOST.one(facts.lost)
    yield f.FACTS_OUTSTANDING.one(facts.outstanding)
    yield f.FACTS_BUFFERED.one(facts.buffered_bytes)
    yield f.FACTS_DEGRADED.one(sources.sink.degraded)
    yield f.FACTS_RECOVERED.one(facts.recovered)
    yield f.FACTS_PUBLISHED.one(facts.published)
    yield f.FACTS_IDS_TAKEN.one(facts.ids_taken)
    since = facts.unpublished_since if facts.unpublished else None
    yield f.FACTS_LAG.one(0.0 if since is None else max(0.0, sources.now() - since))
    if facts.connected is not None:
        yield f.FACTS_CONNECTED.one(facts.connected)
    yield f.SPOOL_UNPUBLISHED.one(facts.unpublished)
    yield f.SPOOL_BYTES.one(facts.spool_bytes)


def _deny(sources: Sources) -> Iterator[Metric]:
    gateway = sources.gateway
    yield f.DENY_STATE.of(((state,), state == gateway.deny_state) for state in _DENY_STATES)
    deny = gateway.deny
    yield f.DENY_REVISION.one(deny.revision or 0)
    yield f.DENY_ENTRIES.one(deny.size)
    yield f.DENY_IGNORED.one(deny.ignored_keys)
    if sources.deny is None:
        return
    stats = sources.deny()
    stale_ms = gateway.deny_stale_ms(sources.now())
    yield f.DENY_STALENESS.one(float("inf") if stale_ms is None else stale_ms / 1000)
    yield f.DENY_CONNECTED.one(stats.connected)
    yield f.DENY_CONNECTS.one(stats.connects)
    yield f.DENY_FAILURES.one(stats.failures)
    yield f.DENY_RESUMES.one(stats.resumes)
    yield f.DENY_RESCANS.one(stats.rescans)
    yield f.DENY_GAPS.one(stats.gaps)
    yield f.DENY_VANISHED.one(stats.vanished)
    yield f.DENY_RECONCILES.one(stats.reconciles)
    yield f.DENY_DIFFERENCES.one(stats.differences)
    yield f.DENY_UNKNOWN.one(stats.unknown)
    yield f.DENY_SNAPSHOTS.one(stats.snapshots)
    yield f.DENY_SNAPSHOT_FAILURES.one(stats.snapshot_failures)
