"""The admin pages of a gateway of several processes: asks each worker for its own, and tells of all of them."""

from __future__ import annotations

import json
import logging
import signal
import socket
from collections.abc import Iterable, Sequence
from typing import Final

import anyio
import httpcore
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from aigw_anyio import httpd
from aigw_anyio.admin import Row, serve_admin
from aigw_anyio.workers.link import LinkNotifier
from aigw_anyio.workers.merge import Merger
from aigw_anyio.workers.readiness import Readiness

ASK_SECS: Final = 2.0
"""For a worker to answer: it is on the same machine, and a turn of its loop takes milliseconds."""

_log = logging.getLogger("aigw.workers")


class Workers:
    """What each worker says of itself."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._pool = httpcore.AsyncConnectionPool()

    @property
    def count(self) -> int:
        return len(self._ports)

    async def ask(self, path: str) -> list[bytes | None]:
        """The bodies of their answers, whatever the status; None of a worker that gives none in time."""
        bodies: list[bytes | None] = [None] * len(self._ports)

        async def ask_one(worker: int, port: int) -> None:
            timeout = dict.fromkeys(("connect", "read", "write", "pool"), ASK_SECS)
            try:
                with anyio.move_on_after(ASK_SECS):
                    response = await self._pool.request(
                        "GET", f"http://127.0.0.1:{port}{path}", extensions={"timeout": timeout}
                    )
                    bodies[worker] = response.content
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                _log.debug("a worker does not answer", extra={"fields": {"of": worker, "error": str(error)}})

        async with anyio.create_task_group() as tasks:
            for worker, port in enumerate(self._ports):
                tasks.start_soon(ask_one, worker, port)
        return bodies

    async def aclose(self) -> None:
        await self._pool.aclose()


class PagesOfAll:
    """Implements :class:`aigw_anyio.admin.AdminPages` for several workers."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._merger = Merger(workers.count)
        self._readiness = Readiness(workers.count)

    async def metrics_page(self, accept: str, /) -> tuple[str, bytes]:
        texts = [body.decode() if body is not None else None for body in await self._workers.ask("/metrics")]
        encode, content_type = choose_encoder(accept)
        return content_type, encode(_Scrape(self._merger.merge(texts)))

    async def ready_page(self) -> tuple[int, Row]:
        bodies = await self._workers.ask("/readyz")
        return self._readiness.judge([json.loads(body) if body is not None else None for body in bodies])


class _Scrape(Collector):
    """A registry of one scrape."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def serve_for_all(listening: socket.socket, ports: Sequence[int], notifier: LinkNotifier) -> None:
    """Serves until it is cancelled, or told by a signal to stop."""
    workers = Workers(ports)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_admin, await httpd.adopt(listening), PagesOfAll(workers))
            tasks.start_soon(notifier.watch)
            notifier.ready("")
            async for _ in signals:
                tasks.cancel_scope.cancel()
                break
    await workers.aclose()
