"""The admin listener: ``/livez``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import anyio
from anyio.abc import SocketStream, TaskStatus
from anyio.streams.stapled import MultiListener

from aigw_anyio import httpd
from aigw_anyio.metrics import Metrics, Sources

IDLE_SECS: Final = 7.0
"""From the beginning of a connection, or the end of an answer, to the end of the next request. Probes and scrapers send
theirs at once. Nobody asks every seven seconds, so hardly anybody asks on a connection that is just being closed."""
LIMITS: Final = httpd.Limits(connections=64, body=4096, request_secs=IDLE_SECS)
"""Probes and scrapers are few, and send no bodies."""
STARTING_SECS: Final = 5.0
"""How long an unseeded deny-set keeps readiness back; the default is to allow."""

_METHODS: Final = ("GET", "HEAD")
_JSON: Final = (("content-type", "application/json"),)
_TEXT: Final = (("content-type", "text/plain; charset=utf-8"),)


Row = Mapping[str, object]
"""What ``/readyz`` says, as JSON."""


class AdminPages(Protocol):
    """What the admin listener tells about: one gateway, or several together."""

    async def metrics_page(self, accept: str, /) -> tuple[str, bytes]:
        """Content type and body, by the ``Accept`` header."""
        ...

    async def ready_page(self) -> tuple[int, Row]:
        """HTTP status and body."""
        ...


@dataclass(slots=True)
class AdminState(Sources):
    """One gateway."""

    started_at: float = 0.0
    """Monotonic seconds, the clock of the event loop."""
    is_listening: bool = False
    """Whether the data listener is bound."""
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self)

    async def metrics_page(self, accept: str, /) -> tuple[str, bytes]:
        return await self.metrics.expose(accept)

    async def ready_page(self) -> tuple[int, Row]:
        return self.ready_at(anyio.current_time())

    def ready_at(self, now: float) -> tuple[int, Row]:
        status, word = self.readiness(now)
        gateway = self.gateway
        return status, {"status": word, "deny": gateway.deny_state, "deny_revision": gateway.deny.revision}

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
    pages: AdminPages,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled."""

    async def answer(request: httpd.Request, responder: httpd.Responder) -> None:
        if request.method not in _METHODS or request.path not in ("/metrics", "/readyz"):
            await responder.reply(*respond(request.method, request.path))
        elif request.path == "/metrics":
            content_type, text = await pages.metrics_page(request.headers.get("accept", ""))
            await responder.reply(200, (("content-type", content_type),), text)
        else:
            status, row = await pages.ready_page()
            await responder.reply(status, _JSON, f"{json.dumps(row)}\n".encode())

    await httpd.serve(listener, answer, LIMITS, task_status=task_status)


def respond(method: str, path: str) -> tuple[int, httpd.Headers, bytes]:
    """Status, headers and body of a request that needs nothing of the gateway's."""
    if path not in ("/livez", "/readyz", "/metrics"):
        return 404, _TEXT, b"/livez, /readyz and /metrics are here\n"
    if method not in _METHODS:
        return 405, (*_TEXT, ("allow", "GET, HEAD")), b"GET or HEAD\n"
    return 200, _JSON, b'{"status": "ok"}\n'
