"""The answer to a scrape: what the gateway counts and what its process takes."""

from __future__ import annotations

from collections.abc import Iterable

import anyio.lowlevel
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from aigw_anyio.metrics.collector import GatewayCollector, Sources

_EOF = b"# EOF\n"
"""What OpenMetrics ends with."""


class _One(Collector):
    """A registry of one family, since an encoder takes a whole registry."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


class Metrics:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self, sources: Sources) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(GatewayCollector(sources))
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    async def expose(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and body, in the format that the ``Accept`` header asks for: OpenMetrics, else text 0.0.4."""
        encode, content_type = choose_encoder(accept)
        pieces: list[bytes] = []
        is_open = False
        for metric in self._registry.collect():
            text = encode(_One(metric))
            is_open = text.endswith(_EOF)
            pieces.append(text.removesuffix(_EOF))
            # All of it takes milliseconds, and streams go on meanwhile.
            await anyio.lowlevel.checkpoint()
        return content_type, b"".join(pieces) + (_EOF if is_open else b"")
