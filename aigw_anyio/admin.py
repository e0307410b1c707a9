"""The admin listener: ``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import SocketStream, TaskStatus
from anyio.streams.stapled import MultiListener

from aigw_anyio import httpd, metrics
from aigw_anyio.deny.control import DenyStats
from aigw_anyio.sinks import FactSink
from aigw_core.gateway import Gateway

LIMITS: Final = httpd.Limits(connections=64, body=4096)
"""Probes and scrapers are few, and send no bodies."""
STARTING_SECS: Final = 5.0
"""How long an unseeded deny-set keeps readiness back; the default is to allow."""

_JSON: Final = (("content-type", "application/json"),)
_TEXT: Final = (("content-type", "text/plain; charset=utf-8"),)
_METRICS: Final = (("content-type", "text/plain; version=0.0.4; charset=utf-8"),)


@dataclass(slots=True)
class AdminState:
    """What the admin listener tells about, beside the gateway's own state."""

    gateway: Gateway
    sink: FactSink
    backend: str
    started_at: float
    """Monotonic seconds, the clock of the event loop."""
    is_listening: bool = False
    """Whether the data listener is bound."""
    connections: Callable[[], int] = lambda: 0
    deny: Callable[[], DenyStats] | None = None
    """Of the deny source, if there is one."""

    def readiness(self, now: float) -> tuple[int, str]:
        """HTTP status, and ``ok``, ``degraded``, ``starting`` or ``draining``."""
        gateway = self.gateway
        if gateway.draining:
            return 503, "draining"
        # Who refuses every managed caller until it is seeded is not ready before that.
        patience_is_over = now - self.started_at >= STARTING_SECS and not gateway.policy.deny_fail_closed
        waits_for_seed = gateway.deny_unready() and not patience_is_over
        if not self.is_listening or waits_for_seed:
            return 503, "starting"
        is_current = gateway.deny_state in ("none", "live")
        return 200, "ok" if is_current and not self.sink.degraded else "degraded"


async def serve_admin(
    listener: MultiListener[SocketStream],
    state: AdminState,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled."""

    async def answer(request: httpd.Request, responder: httpd.Responder) -> None:
        status, headers, body = respond(state, request.method, request.path, anyio.current_time())
        await responder.reply(status, headers, body)

    await httpd.serve(listener, answer, LIMITS, task_status=task_status)


def respond(state: AdminState, method: str, path: str, now: float) -> tuple[int, httpd.Headers, bytes]:
    """Status, headers and body of one admin request."""
    if path not in ("/livez", "/readyz", "/metrics"):
        return 404, _TEXT, b"/livez, /readyz and /metrics are here\n"
    if method not in ("GET", "HEAD"):
        return 405, (*_TEXT, ("allow", "GET, HEAD")), b"GET or HEAD\n"
    if path == "/livez":
        return 200, _JSON, b'{"status": "ok"}\n'
    if path == "/metrics":
        deny = state.deny() if state.deny is not None else None
        text = metrics.exposition(state.gateway, state.sink.stats, state.backend, state.connections(), deny, now)
        return 200, _METRICS, text.encode()
    status, word = state.readiness(now)
    gateway = state.gateway
    row = {"status": word, "deny": gateway.deny_state, "deny_revision": gateway.deny.revision}
    return status, _JSON, f"{json.dumps(row)}\n".encode()
