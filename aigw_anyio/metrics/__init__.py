"""Metrics for Prometheus: what they are called, and where each is read."""

from aigw_anyio.metrics.collector import GatewayCollector, Sources
from aigw_anyio.metrics.exposition import Metrics

__all__ = ["GatewayCollector", "Metrics", "Sources"]
