"""The allow-list and the SQLite sink, in the ASGI application and on threads, with the real SDK."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from aigw_anyio.testing import DEADLINE_SECS
from aigw_core import Gateway, OpenRecord, Policy
from examples.asgi_app import create_app
from examples.team_models import SqliteSink, report, with_models
from examples.threads_gateway import serve
from tests.examples.conftest import make_gateway, virtual_key
from tests.examples.targets import Uvicorn

ALLOWED = {7: ("gpt-5.4-*",), 8: ("o9", "gpt-5.4-mini")}


def _ask(url: str, tenant: int, model: str, *, stream: bool = False) -> None:
    with openai.OpenAI(base_url=url, api_key=virtual_key(tenant), max_retries=0) as client:
        create = client.chat.completions.create
        if stream:
            chunks = list(create(model=model, messages=[{"role": "user", "content": "Hello"}], stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        else:
            answer = create(model=model, messages=[{"role": "user", "content": "Hello"}])
            assert answer.choices[0].message.content


@contextmanager
def in_the_app(gateway: Gateway, sink: SqliteSink) -> Iterator[str]:
    server = Uvicorn(create_app(gateway, sink), lifespan="on")
    try:
        yield f"http://127.0.0.1:{server.address[1]}/llm/openai/v1"
    finally:
        server.stop()


@contextmanager
def on_threads(gateway: Gateway, sink: SqliteSink) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            serve(listener, gateway, sink, threading.Lock())

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/openai/v1"
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_SECS)


@pytest.mark.parametrize("under", [in_the_app, on_threads])
def test_models_are_allowed_by_team_and_usage_is_kept(under: Any, policy: Policy, tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    sink = SqliteSink(path)
    with closing(sink), under(make_gateway(with_models(policy, ALLOWED)), sink) as url:
        _ask(url, 7, "gpt-5.4-mini")
        _ask(url, 7, "gpt-5.4-mini", stream=True)
        _ask(url, 8, "gpt-5.4-mini")
        with pytest.raises(openai.PermissionDeniedError, match=r"This key may use: o9, gpt-5\.4-mini"):
            _ask(url, 8, "gpt-5.4-large")
        with pytest.raises(openai.PermissionDeniedError, match="no model"):
            _ask(url, 9, "gpt-5.4-mini")
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
