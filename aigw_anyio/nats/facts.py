"""The task that publishes facts: this process's spool all the time, spools of dead processes as they are found.

Runs in asyncio, see :mod:`aigw_anyio.nats.hosting`. It is told what to publish by the files of the spools; it tells
by its three callables, which it calls in its own loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from aigw_anyio.nats.connection import LinkLost, LinkStatus, LinkTimeout, NatsLink, NatsSupervisor, Pace
from aigw_anyio.nats.factstream import Stream, StreamRefused, require_stream
from aigw_anyio.nats.jetstream import ApiError
from aigw_anyio.nats.options import NatsOptions
from aigw_anyio.nats.publisher import SpoolPublisher
from aigw_anyio.sinks.spool.housekeeping import PAUSE_SECS, traits
from aigw_anyio.sinks.spool.layout import Spool, spools, take
from aigw_anyio.sinks.spool.recovery import recover
from aigw_core.outbox import Cursor
from aigw_core.spool import SpoolFormatError

REFUSED_SECS: Final = 10.0
"""Between two looks at a stream that is of no use: an operator may be mending it."""
CONNECTION_NAME: Final = "aigw facts"

_log = logging.getLogger("aigw.facts")


@dataclass(slots=True, frozen=True)
class FactsTarget:
    """Where facts go, and how often dead processes are looked for."""

    options: NatsOptions
    subject: str
    stream: str
    pace: Pace | None
    tidy_secs: float


class FactsTask:
    """Publishes until cancelled, over as many connections as it takes."""

    def __init__(
        self,
        target: FactsTarget,
        *,
        root: Path,
        own: Spool,
        mark: Callable[[], tuple[int, int]],
        is_durable: bool,
        on_verdict: Callable[[str | None], None],
        on_status: Callable[[LinkStatus], None],
        on_progress: Callable[[int, Cursor], None],
        on_taken: Callable[[], None],
    ) -> None:
        """``on_verdict``: None where the stream is good, else why not. Raises ValueError for bad certificates."""
        self._target = target
        self._root = root
        self._own = own
        self._is_durable = is_durable
        self._on_verdict = on_verdict
        self._on_progress = on_progress
        self._on_taken = on_taken
        self._wake_due = False
        self._look_due = asyncio.Event()
        self._settled: dict[Path, tuple[object, ...]] = {}
        subject = f"{target.subject}.{own.id}"
        self._publisher = SpoolPublisher(
            own.directory, subject, mark, files=own.files, on_progress=on_progress, on_taken=on_taken
        )
        self._supervisor = NatsSupervisor(target.options, name=CONNECTION_NAME, pace=target.pace, on_change=on_status)

    @property
    def cursor(self) -> Cursor:
        """As it was found."""
        return self._publisher.cursor

    async def run(self) -> None:
        self._wake_due = False
        await self._supervisor.run(self._session)

    def is_wake_due(self) -> bool:
        """In the machine's thread: whether ``wake`` must be submitted, which then is on its way until it runs."""
        if self._wake_due:
            return False
        self._wake_due = True
        return True

    def wake(self) -> None:
        """In the loop: there is more to publish."""
        self._wake_due = False
        self._publisher.wake()

    def look(self) -> None:
        """In the loop: spools of dead processes may be there to be published."""
        self._look_due.set()

    async def _session(self, link: NatsLink) -> None:
        target = self._target
        try:
            stream = await require_stream(link, target.subject, target.stream)
        except StreamRefused as refused:
            self._on_verdict(str(refused))
            await asyncio.sleep(REFUSED_SECS)
            return
        except ApiError as error:
            _log.warning("the stream of facts cannot be looked at: %s", error)
            return
        self._on_verdict(None)
        link.settled()
        orphans = asyncio.get_running_loop().create_task(self._publish_orphans(link, stream))
        try:
            await self._publisher.publish(link, stream)
        finally:
            orphans.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await orphans

    async def _publish_orphans(self, link: NatsLink, stream: Stream) -> None:
        """Spools whose process is gone, one after the other. What is published and unchanged is left alone."""
        while True:
            try:
                for directory in await asyncio.to_thread(spools, self._root):
                    if directory != self._own.directory and self._settled.get(directory) != traits(directory):
                        await self._publish_orphan(directory, link, stream)
            except (OSError, SpoolFormatError) as error:
                _log.error("a spool of a dead process cannot be published: %s", error)
            except (LinkLost, LinkTimeout) as error:
                link.fail(str(error) or "no answer from the server in time")
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._target.tidy_secs):
                    await self._look_due.wait()
            self._look_due.clear()

    async def _publish_orphan(self, directory: Path, link: NatsLink, stream: Stream) -> None:
        spool = await asyncio.to_thread(self._take, directory)
        if spool is None:
            return
        try:
            seen = traits(directory)
            publisher = SpoolPublisher(
                directory,
                f"{self._target.subject}.{spool.id}",
                lambda: None,
                files=spool.files,
                on_progress=lambda count, _: self._on_progress(count, self._publisher.cursor),
                on_taken=self._on_taken,
            )
            await publisher.publish(link, stream)
            self._settled[directory] = seen
        finally:
            spool.close()

    def _take(self, directory: Path) -> Spool | None:
        """Locked and recovered; None where its process lives."""
        spool = take(directory, self._own.files)
        if spool is None:
            return None
        try:
            recover(spool, durable=self._is_durable, pause=partial(time.sleep, PAUSE_SECS))
        except BaseException:
            spool.close()
            raise
        return spool
