"""The shares of tenants in the room of a sink, counted and told of."""

from __future__ import annotations

import logging
import time
from typing import Final

from aigw_anyio.sinks.protocol import SinkStats
from aigw_core.facts import OpenRecord
from aigw_core.ledger_shares import LedgerShares

SHARE_TOLD_SECS: Final = 10.0
"""Between two lines of the log that say that a tenant's share is used up: whoever is refused tries again."""

_log = logging.getLogger("aigw.facts")


class TenantShares(LedgerShares):
    """Lets no tenant hold more than a quarter of what the others leave of a sink's room. Each process has its own."""

    __slots__ = ("_stats", "_told_at")

    def __init__(self, stats: SinkStats) -> None:
        super().__init__()
        self._stats = stats
        self._told_at: float | None = None

    def admit(self, record: OpenRecord, room: int) -> bool:
        """As ``take``; what is refused is counted and, now and then, told."""
        if self.take(record.id, record.tenant_id, room):
            return True
        stats = self._stats
        stats.refused_by_share += 1
        now = time.monotonic()
        if self._told_at is None or now - self._told_at >= SHARE_TOLD_SECS:
            self._told_at = now
            fields = {"tenant_id": str(record.tenant_id), "open": self.held_by(record.tenant_id), "room": room}
            _log.warning("a tenant holds its share of the room for facts: more is refused", extra={"fields": fields})
        return False
