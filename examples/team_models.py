"""An admission hook and a fact sink of your own: models by team, usage in SQLite.

Hooks are pure functions in the Policy; a sink is three methods that do not wait. Both work under every driver, such as
those of ``asgi_app.py`` and ``threads_gateway.py``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from aigw_core import OpenRecord, Policy, Reason, Rejection, Route, UsageFact, VirtualKey

SCHEMA = """
create table if not exists usage (
    id text primary key,
    tenant integer not null,
    state text not null,
    model text,
    input integer,
    output integer,
    fact text
) strict
"""


class ModelsByTeam:
    """``on_model``: which models each tenant may call, by patterns as in ``gpt-5.4-*``."""

    def __init__(self, allowed: Mapping[int, tuple[str, ...]]) -> None:
        self._allowed = allowed

    def __call__(self, caller: VirtualKey, route: Route, model: str | None) -> Rejection | None:  # noqa: ARG002
        """None admits. ``model`` is None where the request names none."""
        patterns = self._allowed.get(caller.tenant_id, ())
        if model is not None and any(fnmatchcase(model, pattern) for pattern in patterns):
            return None
        # The text goes to the caller, so it names no other team's models.
        return Rejection(Reason.HOOK, f"This key may use: {', '.join(patterns) or 'no model'}.")


def with_models(policy: Policy, allowed: Mapping[int, tuple[str, ...]]) -> Policy:
    """The same policy with the allow-list in force."""
    return replace(policy, on_model=ModelsByTeam(allowed))


class SqliteSink:
    """One row for each admitted exchange. A row that stays ``open`` is an exchange whose process died."""

    def __init__(self, path: Path) -> None:
        # A driver calls its sink in one thread at a time, which need not be the one that made it.
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute(SCHEMA)

    def open(self, record: OpenRecord) -> bool:
        """False where the row cannot be written: then nobody is served, and nothing goes unrecorded."""
        row = (record.id, record.tenant_id)
        try:
            self._database.execute("insert into usage (id, tenant, state) values (?, ?, 'open')", row)
        except sqlite3.Error:
            return False
        return True

    def emit(self, fact: UsageFact) -> None:
        tokens = fact.tokens or {}
        self._database.execute(
            "update usage set state = ?, model = ?, input = ?, output = ?, fact = ? where id = ?",
            (fact.outcome, fact.model, tokens.get("input"), tokens.get("output"), fact.encode().decode(), fact.id),
        )

    def void(self, fact_id: str) -> None:
        self._database.execute("delete from usage where id = ?", (fact_id,))

    def close(self) -> None:
        self._database.close()


def report(path: Path) -> list[tuple[int, str | None, int, int]]:
    """(tenant, model, input tokens, output tokens), summed over all exchanges that were completed."""
    with closing(sqlite3.connect(path)) as database:
        return database.execute(
            "select tenant, model, sum(input), sum(output) from usage where state = 'complete' group by tenant, model"
        ).fetchall()
