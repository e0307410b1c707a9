"""The admin pages of a gateway of several processes: asks each worker for its own, and tells of all of them."""

from __future__ import annotations

import json
import logging
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import anyio
import httpcore
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from aigw_anyio import httpd
from aigw_anyio.admin import IDLE_SECS, Row, serve_admin
from aigw_anyio.settings import ListenAddr
from aigw_anyio.workers.link import LinkNotifier
from aigw_anyio.workers.merge import Merger
from aigw_anyio.workers.readiness import Readiness

METRICS_SECS: Final = 2.0
"""For a worker to write its metrics: it is on the same machine, and a turn of its loop takes milliseconds."""
READY_SECS: Final = 0.5
"""For a worker to say whether it is ready: a probe is asked within a second or two, and one that hangs is not."""

_log = logging.getLogger("aigw.workers")


class Workers:
    """What each worker says of itself."""

    def __init__(self, addresses: Sequence[ListenAddr]) -> None:
        self._addresses = addresses
        # Given up well before the worker does, which closes what is idle: no request may meet that.
        self._pool = httpcore.AsyncConnectionPool(keepalive_expiry=IDLE_SECS / 2)

    @property
    def count(self) -> int:
        return len(self._addresses)

    async def ask(self, path: str, within_secs: float) -> list[bytes | None]:
        """The bodies of their answers; None of a worker that gives none in time, or another one than it should."""
        bodies: list[bytes | None] = [None] * len(self._addresses)

        async def ask_one(worker: int, address: ListenAddr) -> None:
            timeout = dict.fromkeys(("connect", "read", "write", "pool"), within_secs)
            try:
                with anyio.move_on_after(within_secs):
                    url = f"http://{address}{path}"
                    response = await self._pool.request("GET", url, extensions={"timeout": timeout})
                    if response.status in (200, 503):
                        bodies[worker] = response.content
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                _log.debug("a worker does not answer", extra={"fields": {"of": worker, "error": str(error)}})

        async with anyio.create_task_group() as tasks:
            for worker, address in enumerate(self._addresses):
                tasks.start_soon(ask_one, worker, address)
        return bodies

    async def aclose(self) -> None:
        await self._pool.aclose()


class PagesOfAll:
    """Implements :class:`aigw_anyio.admin.AdminPages` for several workers."""

    def __init__(self, workers: Workers, have_all_listened: Callable[[], bool], restarts: Callable[[], int]) -> None:
        """``have_all_listened``: as for :class:`Readiness`. ``restarts``: as for :class:`Merger`."""
        self._workers = workers
        self._merger = Merger(workers.count, restarts)
        self._readiness = Readiness(workers.count, have_all_listened)
        self._scraping = anyio.Lock()
        self._begun = 0
        """Scrapes so far."""
        self._scrape = _Scrape(())

    async def metrics_page(self, accept: str, /) -> tuple[str, bytes]:
        asked = self._begun
        # One after the other: who was asked earlier would be taken for a process that follows.
        async with self._scraping:
            # What began while this one waited is as new as it may expect: a crowd costs two scrapes.
            if self._begun == asked:
                self._begun += 1
                bodies = await self._workers.ask("/metrics", METRICS_SECS)
                texts = [body.decode() if body is not None else None for body in bodies]
                self._scrape = _Scrape(list(self._merger.merge(texts)))
            encode, content_type = choose_encoder(accept)
            return content_type, encode(self._scrape)

    async def ready_page(self) -> tuple[int, Row]:
        bodies = await self._workers.ask("/readyz", READY_SECS)
        return self._readiness.judge([json.loads(body) if body is not None else None for body in bodies])


class _Scrape(Collector):
    """A registry of one scrape."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


async def serve_for_all(
    listening: Sequence[socket.socket],
    addresses: Sequence[ListenAddr],
    notifier: LinkNotifier,
    have_all_listened: Callable[[], bool],
    restarts: Callable[[], int],
) -> None:
    """Serves until it is cancelled, or told by a signal to stop."""
    workers = Workers(addresses)
    pages = PagesOfAll(workers, have_all_listened, restarts)
    # A reload is for the workers, and no reason to end.
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve_admin, await httpd.adopt(listening), pages)
            tasks.start_soon(notifier.watch)
            notifier.ready("")
            async for received in signals:
                if received == signal.SIGTERM:
                    tasks.cancel_scope.cancel()
                    break
    await workers.aclose()
