"""Metrics in the Prometheus text exposition format, version 0.0.4.

Label values come from configuration and from fixed sets, never from callers, so their number is bounded.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from aigw_anyio.deny.control import DenyStats
from aigw_anyio.limits import open_files_limit
from aigw_anyio.sinks import SinkStats
from aigw_anyio.version import VERSION
from aigw_core.gateway import Gateway

_STARTED_AT: Final = time.time()
_DENY_STATES: Final = ("none", "cold", "seeding", "live", "reconnecting")

Sample = tuple[tuple[str, ...], int | float | str]
Labels = TypeVar("Labels", bound=tuple[str, ...])


class _Exposition:
    """Collects families, each with HELP and TYPE ahead of its samples."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> None:
        """``samples``: label values in the order of ``labels``, and the value."""
        self._lines += (f"# HELP {name} {text}", f"# TYPE {name} {kind}")
        for values, number in samples:
            pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))
            self._lines.append(f"{name}{{{pairs}}} {number}" if pairs else f"{name} {number}")

    def counter(self, name: str, text: str, number: float) -> None:
        self.family(name, "counter", text, (), (((), number),))

    def gauge(self, name: str, text: str, number: float | str) -> None:
        self.family(name, "gauge", text, (), (((), number),))

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def exposition(
    gateway: Gateway, facts: SinkStats, backend: str, connections: int, deny: DenyStats | None = None, now: float = 0.0
) -> str:
    """Every metric of this process; ``now`` is monotonic seconds."""
    out = _Exposition()
    _traffic(out, gateway, connections)
    _facts(out, facts)
    _deny(out, gateway, deny, now)
    _process(out, backend)
    return out.text()


def _traffic(out: _Exposition, gateway: Gateway, connections: int) -> None:
    stats = gateway.stats
    out.family(
        "aigw_requests_total",
        "counter",
        "Managed exchanges that ended, by the outcome of their usage fact.",
        ("provider", "wire", "outcome"),
        _samples(stats.requests),
    )
    out.family(
        "aigw_byo_responses_total",
        "counter",
        "Exchanges with the caller's own provider key, by class of the answer's status.",
        ("provider", "status_class"),
        _samples(stats.byo),
    )
    rejections = {(reason.lower(),): n for reason, n in stats.rejections.items()}
    out.family(
        "aigw_rejections_total",
        "counter",
        "Requests that the gateway itself refused.",
        ("reason",),
        _samples(rejections),
    )
    out.family(
        "aigw_tokens_total",
        "counter",
        "Tokens of managed exchanges as the providers stated them, in disjoint classes.",
        ("provider", "class"),
        _samples(stats.tokens),
    )
    out.counter(
        "aigw_upstream_connect_failures_total",
        "Failed attempts to connect to a provider.",
        stats.connect_failures,
    )
    out.counter("aigw_upstream_retries_total", "Requests sent again on a new connection.", stats.retries)
    out.counter("aigw_connections_total", "Downstream connections accepted.", stats.connections_total)
    out.gauge("aigw_connections", "Downstream connections that are open.", connections)
    out.gauge("aigw_exchanges", "Exchanges that are running.", gateway.active)
    out.gauge("aigw_draining", "1 while the gateway finishes its exchanges before it stops.", int(gateway.draining))


def _facts(out: _Exposition, facts: SinkStats) -> None:
    out.counter("aigw_facts_written_total", "Usage facts written.", facts.written)
    out.counter("aigw_facts_refused_total", "Requests refused for want of room for their fact.", facts.refused)
    out.counter("aigw_facts_lost_total", "Usage facts that nobody can read any more.", facts.lost)
    out.gauge("aigw_facts_outstanding", "Admitted exchanges whose fact is still due.", facts.outstanding)
    out.gauge("aigw_facts_buffered_bytes", "Bytes of facts that wait for their reader.", facts.buffered_bytes)
    out.counter(
        "aigw_facts_recovered_total", "Exchanges of dead processes that became gateway_lost facts.", facts.recovered
    )
    out.counter("aigw_facts_published_total", "Usage facts that a NATS stream has acknowledged.", facts.published)
    out.gauge(
        "aigw_spool_unpublished_records", "Records of the spool that wait for the NATS stream.", facts.unpublished
    )
    out.gauge("aigw_spool_bytes", "Disk that the spool takes, reserved room included.", facts.spool_bytes)


def _deny(out: _Exposition, gateway: Gateway, stats: DenyStats | None, now: float) -> None:
    out.family(
        "aigw_deny_state",
        "gauge",
        "1 for the state that the deny feed is in.",
        ("state",),
        [((state,), int(state == gateway.deny_state)) for state in _DENY_STATES],
    )
    deny = gateway.deny
    out.gauge("aigw_deny_revision", "Revision of the last applied deny entry, 0 for none.", deny.revision or 0)
    out.gauge("aigw_deny_entries", "Tenants and keys that are cut off.", deny.size)
    if stats is None:
        return
    stale_ms = gateway.deny_stale_ms(now)
    staleness = stale_ms / 1000 if stale_ms is not None else float("inf")
    out.gauge(
        "aigw_deny_staleness_seconds",
        "Since the deny-set was last known to be current; +Inf where it never was.",
        "+Inf" if staleness == float("inf") else staleness,
    )
    out.gauge("aigw_deny_connected", "1 while the connection to NATS is there.", int(stats.connected))
    out.counter("aigw_deny_connects_total", "Connections to NATS that were made.", stats.connects)
    out.counter("aigw_deny_failures_total", "Times that the source was lost or could not be read.", stats.failures)
    out.counter("aigw_deny_resumes_total", "Times that the feed went on from where it was.", stats.resumes)
    out.counter("aigw_deny_rescans_total", "Times that all entries were read again and taken over.", stats.rescans)
    out.counter("aigw_deny_gaps_total", "Times that entries were known to be lost on the way.", stats.gaps)
    out.counter("aigw_deny_vanished_total", "Times that entries had vanished without an event.", stats.vanished)
    out.counter("aigw_deny_reconciles_total", "Times that a second reading was compared.", stats.reconciles)
    out.counter("aigw_deny_differences_total", "Times that it gave another set.", stats.differences)
    out.counter("aigw_deny_ignored_total", "Entries ignored because their key is none of ours.", deny.ignored_keys)
    out.counter("aigw_deny_unknown_total", "Entries of an unknown operation or marker; they deny.", stats.unknown)
    out.counter("aigw_deny_snapshots_total", "Snapshots written.", stats.snapshots)
    out.counter("aigw_deny_snapshot_failures_total", "Snapshots that could not be written.", stats.snapshot_failures)


def _process(out: _Exposition, backend: str) -> None:
    out.family("aigw_build_info", "gauge", "Always 1.", ("version", "backend"), [((VERSION, backend), 1)])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    out.counter("process_cpu_seconds_total", "User and system time spent.", round(usage.ru_utime + usage.ru_stime, 3))
    out.gauge("process_start_time_seconds", "Start time since the epoch.", round(_STARTED_AT, 3))
    out.gauge("process_max_fds", "Files that may be open.", open_files_limit())
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[1])
        files = len(os.listdir("/proc/self/fd"))
    except OSError:
        return  # no /proc on this system
    out.gauge("process_resident_memory_bytes", "Resident memory.", pages * resource.getpagesize())
    out.gauge("process_open_fds", "Files that are open.", files)


def _samples(counts: Mapping[Labels, int]) -> list[Sample]:
    return sorted(counts.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
