"""Whether several workers together are ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

DENY_WORST_FIRST: Final = ("cold", "seeding", "reconnecting", "live", "none")

Row = Mapping[str, Any]
"""What ``/readyz`` of one worker says."""


class Readiness:
    """From the start on, until every worker has been ready: ``starting``. Later one that serves is enough."""

    def __init__(self, workers: int, have_all_listened: Callable[[], bool]) -> None:
        """``have_all_listened``: since then nobody waits any more for one that is gone."""
        self._waits_for = set(range(workers))
        self._have_all_listened = have_all_listened

    def judge(self, rows: Sequence[Row | None]) -> tuple[int, Row]:
        """HTTP status and body; None of a worker that does not answer."""
        said = [row for row in rows if row is not None]
        words = [row["status"] for row in said]
        serving = [worker for worker, row in enumerate(rows) if row is not None and row["status"] in ("ok", "degraded")]
        self._waits_for.difference_update(serving)
        waits = any(self._is_awaited(rows[worker]) for worker in self._waits_for)
        status = 200
        if "draining" in words and not serving:
            status, word = 503, "draining"
        elif not serving or waits:
            status, word = 503, "starting"
        else:
            word = "ok" if words == ["ok"] * len(rows) else "degraded"
        states = {row["deny"] for row in said}
        revisions = [row["deny_revision"] for row in said if row["deny_revision"] is not None]
        return status, {
            "status": word,
            "deny": next((state for state in DENY_WORST_FIRST if state in states), "cold"),
            "deny_revision": min(revisions, default=None),
            "workers": {"ready": len(serving), "of": len(rows)},
        }

    def _is_awaited(self, row: Row | None) -> bool:
        """Of one that has not been ready yet."""
        return row["status"] == "starting" if row is not None else not self._have_all_listened()
