"""Facts in a NATS stream, by way of the spool: written there first, published from there, each once.

The seam: this class lives in the machine's thread, on anyio. Everything that touches nats-py is in
:mod:`aigw_anyio.nats` and runs in the asyncio loop of a *host*: the frontend's own loop under asyncio
(:class:`~aigw_anyio.nats.hosting.LoopHost`), a loop in a thread of its own under another event loop
(:class:`~aigw_anyio.nats.hosting.ThreadHost`). What crosses it: ``mark``, a tuple that is replaced whole; the wake-up,
submitted to the host; progress and verdicts, posted from it; and the files of the spool, which any thread may read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.lowlevel

from aigw_anyio.nats.connection import Pace
from aigw_anyio.nats.facts import FactsTarget, FactsTask
from aigw_anyio.nats.hosting import Host, host_here
from aigw_anyio.nats.options import NatsOptions
from aigw_anyio.nats.publisher import load_cursor
from aigw_anyio.sinks.lag import Lag
from aigw_anyio.sinks.protocol import SinkError
from aigw_anyio.sinks.spool import SpoolOptions, SpoolSink
from aigw_anyio.sinks.spool.files import Files
from aigw_core.outbox import Cursor

START_SECS: Final = 5.0
"""How long the start waits for NATS to say whether the stream is of use. Without an answer it goes on: that is what
the spool is for."""
FLUSH_POLL_SECS: Final = 0.02
"""Between two looks whether everything is published, at a stop."""
LAG_SECS: Final = 1.0
"""Between two looks how far the stream is behind: finer than anybody's scrapes."""

_log = logging.getLogger("aigw.facts")


@dataclass(slots=True, frozen=True)
class NatsTarget:
    """Where facts are published."""

    options: NatsOptions
    subject: str
    stream: str
    pace: Pace | None = None


class NatsSink(SpoolSink):
    """A SpoolSink whose facts are published to a stream. The data path never waits for NATS.

    While NATS is away, or the stream is full, facts stay in the spool; only when that has no more room are
    managed requests refused. Segments go an hour after the stream has acknowledged all that is in them.
    """

    def __init__(
        self,
        root: Path,
        target: NatsTarget,
        options: SpoolOptions | None = None,
        files: Files | None = None,
        *,
        make_host: Callable[[], Host] | None = None,
    ) -> None:
        """``make_host``: called in ``run``; by default :func:`host_here`."""
        super().__init__(root, options, files)
        self._target = target
        self._make_host = make_host if make_host is not None else host_here
        self._task: FactsTask | None = None
        self._cursor = Cursor()
        self._connected = False
        self._lag = Lag()
        self._refusal: str | None = None
        """Why the stream is of no use, while it is not."""
        self._judged = anyio.Event()
        self.on_written = self._announce

    @property
    def degraded(self) -> bool:
        return self._refusal is not None or super().degraded

    def oldest_needed(self) -> int:
        return min(super().oldest_needed(), self._cursor.segment)

    def oldest_needed_of(self, directory: Path) -> int | None:
        return load_cursor(directory, self.files).segment

    def _background(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [*super()._background(), self._publish, self._keep_lag]

    async def _publish(self) -> None:
        host = self._make_host()
        own, target = self.own, self._target
        self._task = FactsTask(
            FactsTarget(target.options, target.subject, target.stream, target.pace, self.options.tidy_secs),
            root=self.root,
            own=own,
            mark=lambda: self.mark,
            is_durable=self.is_durable,
            on_verdict=lambda refusal: host.post(partial(self._note_verdict, refusal)),
            on_status=lambda status: host.post(partial(self._note_status, status.connected)),
            on_progress=lambda count, cursor: host.post(partial(self._note_progress, count, cursor)),
            on_taken=lambda: host.post(self._note_taken),
        )
        self._cursor = self._task.cursor
        self._count_unpublished()
        self._host = host
        await host.run(self._task.run)

    async def _begin(self) -> None:
        with anyio.move_on_after(START_SECS):
            await self._judged.wait()
        if self._refusal is not None:
            raise SinkError(self._refusal)
        if not self._judged.is_set():
            _log.warning("NATS does not answer: facts wait in the spool")

    def _announce(self) -> None:
        self._count_unpublished()
        task = self._task
        if task is not None and task.is_wake_due():
            self._host.submit(task.wake)

    def looked(self) -> None:
        """Now, since the spool of a dead process cannot be locked twice: first it is recovered, then published."""
        if self._task is not None:
            self._host.submit(self._task.look)

    def _note_verdict(self, refusal: str | None) -> None:
        if refusal is not None and self._judged.is_set() and refusal != self._refusal:
            _log.error("facts stay in the spool: %s", refusal)
        self._refusal = refusal
        self._judged.set()

    def _note_status(self, connected: bool) -> None:
        self._connected = self.stats.connected = connected

    def _note_progress(self, count: int, cursor: Cursor) -> None:
        self.stats.published += count
        self._cursor = cursor
        self._count_unpublished()

    def _note_taken(self) -> None:
        self.stats.ids_taken += 1

    def _count_unpublished(self) -> None:
        if self._writer is not None:
            self.stats.unpublished = max(0, self._writer.sequence - 1 - self._cursor.sequence)

    async def _keep_lag(self) -> None:
        """Beside the requests, so that it costs them nothing."""
        self.stats.connected = self._connected
        while True:
            await anyio.sleep(LAG_SECS)
            self._lag.note(self.writer.sequence - 1, self._cursor.sequence, anyio.current_time())
            self.stats.unpublished_since = self._lag.since

    async def flush(self) -> None:
        """Also waits for the stream, as long as there is a connection to it; the spool keeps the rest."""
        await super().flush()
        self._announce()
        while self._connected and self._refusal is None and self.stats.unpublished:
            await anyio.sleep(FLUSH_POLL_SECS)
