"""The admin listener: ``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import SocketStream, TaskStatus
from anyio.streams.stapled import MultiListener

from aigw_anyio import httpd
from aigw_anyio.metrics import Metrics, Sources

LIMITS: Final = httpd.Limits(connections=64, body=4096)
"""Probes and scrapers are few, and send no bodies."""
STARTING_SECS: Final = 5.0
"""How long an unseeded deny-set keeps readiness back; the default is to allow."""

_METHODS: Final = ("GET", "HEAD")
_JSON: Final = (("content-type", "application/json"),)
_TEXT: Final = (("content-type", "text/plain; charset=utf-8"),)


@dataclass(slots=True)
class AdminState(Sources):
    """What the admin listener tells about."""

    started_at: float = 0.0
    """Monotonic seconds, the clock of the event loop."""
    is_listening: bool = False
    """Whether the data listener is bound."""
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self)

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
        if request.path == "/metrics" and request.method in _METHODS:
            content_type, text = await state.metrics.expose(request.headers.get("accept", ""))
            await responder.reply(200, (("content-type", content_type),), text)
            return
        status, headers, body = respond(state, request.method, request.path, anyio.current_time())
        await responder.reply(status, headers, body)

    await httpd.serve(listener, answer, LIMITS, task_status=task_status)


def respond(state: AdminState, method: str, path: str, now: float) -> tuple[int, httpd.Headers, bytes]:
    """Status, headers and body of a request for anything but the metrics."""
    if path not in ("/livez", "/readyz", "/metrics"):
        return 404, _TEXT, b"/livez, /readyz and /metrics are here\n"
    if method not in _METHODS:
        return 405, (*_TEXT, ("allow", "GET, HEAD")), b"GET or HEAD\n"
    if path == "/livez":
        return 200, _JSON, b'{"status": "ok"}\n'
    status, word = state.readiness(now)
    gateway = state.gateway
    row = {"status": word, "deny": gateway.deny_state, "deny_revision": gateway.deny.revision}
    return status, _JSON, f"{json.dumps(row)}\n".encode()
