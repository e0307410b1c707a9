"""The allow-list and the SQLite sink, in the ASGI application, with the real SDK."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import openai
import pytest

from aigw_core import OpenRecord, Policy
from examples.asgi_app import create_app
from examples.team_models import SqliteSink, report, with_models
from tests.examples.conftest import make_gateway, virtual_key
from tests.examples.targets import Uvicorn

ALLOWED = {7: ("gpt-5.4-*",), 8: ("o9", "gpt-5.4-mini")}


def _ask(port: int, tenant: int, model: str, *, stream: bool = False) -> None:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/llm/openai/v1", api_key=virtual_key(tenant), max_retries=0
    ) as client:
        create = client.chat.completions.create
        if stream:
            chunks = list(create(model=model, messages=[{"role": "user", "content": "Hello"}], stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        else:
            answer = create(model=model, messages=[{"role": "user", "content": "Hello"}])
            assert answer.choices[0].message.content


class Threadsafe(SqliteSink):
    """Made in the test's thread, used in the server's."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._database.close()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def test_models_are_allowed_by_team_and_usage_is_kept(policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    sink = Threadsafe(path)
    server = Uvicorn(create_app(make_gateway(with_models(policy, ALLOWED)), sink), lifespan="on")
    try:
        port = server.address[1]
        _ask(port, 7, "gpt-5.4-mini")
        _ask(port, 7, "gpt-5.4-mini", stream=True)
        _ask(port, 8, "gpt-5.4-mini")
        with pytest.raises(openai.PermissionDeniedError, match=r"This key may use: o9, gpt-5\.4-mini"):
            _ask(port, 8, "gpt-5.4-large")
        with pytest.raises(openai.PermissionDeniedError, match="no model"):
            _ask(port, 9, "gpt-5.4-mini")
    finally:
        server.stop()
        sink.close()
    found = report(path)
    assert [(tenant, model is not None) for tenant, model, _, _ in found] == [(7, True), (8, True)]
    assert all(row[2] > 0 and row[3] > 0 for row in found)
    with closing(sqlite3.connect(path)) as database:
        states = database.execute("select tenant, state, fact from usage order by tenant").fetchall()
    assert [(tenant, state) for tenant, state, _ in states] == [
        (7, "complete"),
        (7, "complete"),
        (8, "complete"),
        (8, "refused"),
        (9, "refused"),
    ]
    assert all(json.loads(fact)["outcome"] == state for _, state, fact in states)


def test_a_sink_without_room_refuses(tmp_path: Path) -> None:
    sink = SqliteSink(tmp_path / "usage.db")
    record = OpenRecord("1", "", 7, 0, None, 1, "openai", "chat_completions", "", None, None)
    assert sink.open(record)
    sink.void("1")
    assert sink.open(record)
    assert not sink.open(record)
    sink.close()
    assert not sink.open(record)
