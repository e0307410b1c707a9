"""Facts as JSON lines on standard output, each visible at once."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskStatus

from aigw_anyio.fdwrite import FdWriter, SharedFdWriter
from aigw_anyio.sinks.protocol import SinkStats
from aigw_anyio.sinks.shares import TenantShares
from aigw_core.facts import OpenRecord, UsageFact

OUTSTANDING_MAX: Final = 65_536
"""Records open at a time: the reserved room is this many facts of FACT_MAX_BYTES (2 GiB if all were of that
size; real ones have about 1 KB), and more exchanges than this one process does not run."""
BUFFERED_MAX: Final = 4 * 1024 * 1024
"""Bytes that wait for a slow reader before new records are refused: some thousand facts."""
RETRY_SECS: Final = 1.0
"""Between attempts on a file that cannot grow (disk full)."""

TURN_SECS: Final = 0.002
"""Between attempts while another process writes."""

_GONE: Final = frozenset({errno.EPIPE, errno.EBADF, errno.ECONNRESET})

_log = logging.getLogger("aigw.facts")


class StdoutSink:
    """Writes in ``push`` what the reader takes at once; the rest is buffered and ``run`` goes on with it.

    A blocked reader never stalls the loop and loses nothing: when the room is used up, new records are
    refused, and before that those of a tenant that holds its share of the room. Memory is bounded by
    BUFFERED_MAX plus the facts of OUTSTANDING_MAX running exchanges. A reader that is gone (EPIPE) can take
    nothing any more: records are refused, facts that are still due are counted as lost. At most once across a
    crash.
    """

    def __init__(
        self,
        fd: int = 1,
        *,
        lock_fd: int | None = None,
        tells_risk: bool = True,
        outstanding_max: int = OUTSTANDING_MAX,
        buffered_max: int = BUFFERED_MAX,
    ) -> None:
        """``lock_fd``: where other processes write there too, of a file that all of them lock for it. ``tells_risk``:
        whether this one of several processes says what a crash loses.

        Raises OSError for a descriptor that is not open.
        """
        self.on_answer: Callable[[str, bool], None] | None = None
        self.stats = SinkStats()
        self._is_shared = lock_fd is not None
        self._writer = FdWriter(fd) if lock_fd is None else SharedFdWriter(fd, lock_fd)
        self._tells_risk = tells_risk
        self._outstanding_max = outstanding_max
        self._buffered_max = buffered_max
        self._open = TenantShares(self.stats)
        self._emitted: list[UsageFact] = []
        self._buffer = bytearray()
        self._gone = False
        self._failing = False
        self._pumping = False
        self._blocked = False
        """The descriptor took less than it was offered: ``run`` goes on, so that order is kept."""
        self._filled = anyio.Event()
        self._emptied = anyio.Event()

    @property
    def degraded(self) -> bool:
        return self._gone or self._failing or self._is_full()

    def open(self, record: OpenRecord) -> bool:
        if self.degraded:
            self.stats.refused += 1
            return False
        if not self._open.admit(record, self._outstanding_max):
            return False
        self.stats.outstanding = len(self._open)
        return True

    def emit(self, fact: UsageFact) -> None:
        self._open.release(fact.opened.id)
        self._emitted.append(fact)

    def push(self) -> None:
        for fact in self._emitted:
            self._buffer += fact.encode()
            self._buffer += b"\n"
        self._emitted.clear()
        self.stats.outstanding = len(self._open)
        if self._blocked:
            self.stats.buffered_bytes = len(self._buffer)
            return
        self._write_buffered()
        self.stats.buffered_bytes = len(self._buffer)
        if self._buffer:
            self._blocked = True
            self._filled.set()

    def void(self, fact_id: str) -> None:
        self._open.release(fact_id)
        self.stats.outstanding = len(self._open)

    def tell_risk(self) -> None:
        """Says in the log what a crash loses; to be called once the gateway serves."""
        if self._tells_risk:
            _log.info(
                "usage facts go to standard output: what runs when a process dies leaves no fact. "
                "A spool (fact_sink) keeps it"
            )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            self._filled = anyio.Event()
            if not self._buffer:
                await self._filled.wait()
            await self._empty()

    async def flush(self) -> None:
        self.push()
        await self._empty()

    async def _empty(self) -> None:
        """Returns when nothing waits; one task at a time pumps, others wait for it."""
        while self._buffer:
            if self._pumping:
                await self._emptied.wait()
            else:
                await self._pump()

    def _is_full(self) -> bool:
        return len(self._open) >= self._outstanding_max or len(self._buffer) > self._buffered_max

    async def _pump(self) -> None:
        """Writes until the buffer is empty."""
        self._pumping = True
        self._emptied = anyio.Event()
        try:
            while self._buffer:
                await self._wait_writable()
                self._write_buffered()
                self.stats.buffered_bytes = len(self._buffer)
        finally:
            self._pumping = False
            self._blocked = bool(self._buffer)
            self._emptied.set()

    async def _wait_writable(self) -> None:
        # Files are always writable for poll, and event loops refuse to wait for them.
        if not (self._failing or self._writer.is_regular):
            await anyio.wait_writable(self._writer.fd)
        if self._failing:
            await anyio.sleep(RETRY_SECS)
        elif self._is_shared:
            # Writable, and yet not written to: another process is in the middle of a line.
            await anyio.sleep(TURN_SECS)
        elif self._writer.is_regular:
            await anyio.sleep(RETRY_SECS)

    def _write_buffered(self) -> None:
        written = self._write(self._buffer)
        self.stats.written += self._buffer.count(b"\n", 0, written)
        del self._buffer[:written]
        if self._gone:
            self.stats.lost += self._buffer.count(b"\n")
            self._buffer.clear()

    def _write(self, data: bytearray) -> int:
        if self._gone:
            return 0
        try:
            written = self._writer.write(data)
        except OSError as error:
            self._note_failure(error)
            return 0
        if self._failing and written:
            self._failing = False
            _log.info("usage facts are written again")
        return written

    def _note_failure(self, error: OSError) -> None:
        if error.errno in _GONE:
            self._gone = True
            _log.error("nobody reads the usage facts any more: managed requests are refused until a restart")
        elif not self._failing:
            self._failing = True
            _log.error("usage facts cannot be written, managed requests are refused: %s", error.strerror)
