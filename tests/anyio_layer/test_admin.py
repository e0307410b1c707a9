from __future__ import annotations

import json
import os

import anyio
import pytest

from aigw_anyio import httpd
from aigw_anyio.admin import STARTING_SECS, AdminState, respond, serve_admin
from aigw_anyio.sinks import StdoutSink
from aigw_core.facts import OpenRecord
from aigw_core.gateway import Gateway
from tests.anyio_layer.conftest import exchange, request_bytes


@pytest.fixture
def state(gateway: Gateway) -> AdminState:
    with open(os.devnull, "wb") as file:
        sink = StdoutSink(file.fileno(), outstanding_max=1)
    return AdminState(gateway, sink, "asyncio", started_at=100.0, is_listening=True)


def ready(state: AdminState, now: float) -> tuple[int, object]:
    status, row = state.ready_at(now)
    return status, dict(row)


def test_readiness_without_a_feed(state: AdminState) -> None:
    assert ready(state, 100.0) == (200, {"status": "ok", "deny": "none", "deny_revision": None})
    state.is_listening = False
    assert ready(state, 100.0)[0] == 503
    state.is_listening = True
    state.gateway.drain()
    assert ready(state, 100.0) == (503, {"status": "draining", "deny": "none", "deny_revision": None})


@pytest.mark.parametrize(
    ("deny_state", "age", "expected"),
    [
        ("cold", 0.0, (503, "starting")),
        ("seeding", STARTING_SECS - 0.01, (503, "starting")),
        ("seeding", STARTING_SECS, (200, "degraded")),
        ("live", 0.0, (200, "ok")),
        ("reconnecting", 0.0, (200, "degraded")),
    ],
)
def test_readiness_with_a_feed(state: AdminState, deny_state: str, age: float, expected: tuple[int, str]) -> None:
    state.gateway.deny_state = deny_state
    assert state.readiness(100.0 + age) == expected


def test_full_sink_is_degraded(state: AdminState, record: OpenRecord) -> None:
    assert state.sink.open(record) is True
    assert state.readiness(100.0) == (200, "degraded")


def test_routes_and_methods(state: AdminState) -> None:
    assert respond("GET", "/livez")[::2] == (200, b'{"status": "ok"}\n')
    assert respond("HEAD", "/livez")[0] == 200
    assert respond("POST", "/metrics")[0] == 405
    status, headers, _ = respond("POST", "/readyz")
    assert status == 405
    assert ("allow", "GET, HEAD") in headers
    for path in ("/", "/livez/", "/metrics2", "//metrics"):
        assert respond("GET", path)[0] == 404


@pytest.mark.anyio
async def test_over_a_socket(state: AdminState) -> None:
    listener = await httpd.listen("127.0.0.1", 0)
    port = httpd.bound_address(listener)[1]
    state.started_at = anyio.current_time()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_admin, listener, state)
            status, headers, body = await exchange(port, request_bytes("GET", "/readyz?x=1"))
            assert (status, headers["content-type"]) == (200, "application/json")
            assert json.loads(body)["status"] == "ok"
            status, headers, body = await exchange(port, request_bytes("HEAD", "/metrics"))
            assert (status, body) == (200, b"")
            assert int(headers["content-length"]) > 1000
            assert headers["content-type"].startswith("text/plain; version=0.0.4")
            asked = request_bytes("GET", "/metrics", {"Accept": "application/openmetrics-text;version=1.0.0"})
            status, headers, body = await exchange(port, asked)
            assert (status, body[-6:]) == (200, b"# EOF\n")
            assert headers["content-type"].startswith("application/openmetrics-text")
            assert (await exchange(port, request_bytes("DELETE", "/livez")))[0] == 405
            tasks.cancel_scope.cancel()
