"""Facts in segment files: none is lost when the process dies, none is written twice."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import TaskStatus

from aigw_anyio.settings.model import SpoolFsync
from aigw_anyio.sinks.protocol import SinkError, SinkStats
from aigw_anyio.sinks.shares import TenantShares
from aigw_anyio.sinks.spool import housekeeping
from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.layout import Spool, take_own
from aigw_anyio.sinks.spool.options import SpoolOptions
from aigw_anyio.sinks.spool.recovery import recover
from aigw_anyio.sinks.spool.retention import bytes_in
from aigw_anyio.sinks.spool.writer import RESERVED_EACH, Item, SegmentWriter
from aigw_core.facts import OpenRecord, UsageFact
from aigw_core.spool import HEADER_SIZE, Kind, SpoolFormatError, void_payload

OUTSTANDING_MAX: Final = 65_536
"""Records open at a time, and records that wait for an answer: more exchanges than one process runs."""
RETRY_SECS: Final = 1.0
"""Between attempts on a disk that is full or fails."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Room that may come back: the gateway starts all the same, and refuses managed requests meanwhile."""

_FACT, _VOID, _OPEN = int(Kind.FACT), int(Kind.VOID), int(Kind.OPEN)

_log = logging.getLogger("aigw.facts")


class SpoolSink:
    """A :class:`~aigw_anyio.sinks.FactSink` on disk.

    ``open`` answers None; ``push`` writes the open records and the facts of a turn in one ``write(2)`` and
    tells ``on_answer`` then, or, with fsync ``always``, when a thread has synced them. Writing into room
    that was reserved in advance takes some microseconds in the loop's thread; making, syncing, closing and
    recovering segments is done in threads.

    A record is refused where room for its fact is missing, where its tenant holds its share of the room, and
    while the disk fails; facts then wait in memory, bounded by OUTSTANDING_MAX, and the disk is tried again every
    RETRY_SECS.

    Everything but the thread workers runs on anyio alone, so under asyncio and trio alike.
    """

    def __init__(self, root: Path, options: SpoolOptions | None = None, files: Files | None = None) -> None:
        self.on_answer: Callable[[str, bool], None] | None = None
        self.stats = SinkStats()
        self.root = root
        self.options = options if options is not None else SpoolOptions()
        self.files = files if files is not None else Files()
        self.spool: Spool | None = None
        self._answers_synced = self.options.fsync is SpoolFsync.ALWAYS
        self._low = self.options.segment_size // 2
        """Bytes that are left when more room is made."""
        self._writer: SegmentWriter | None = None
        self._waiting: dict[str, bytes] = {}
        """Open records that were not written yet."""
        self._ends: list[Item] = []
        """Facts and voids that were not written yet."""
        self._outstanding: dict[str, int] = {}
        """Open records on disk whose end is not, and the segment each is in at the latest."""
        self._shares = TenantShares(self.stats)
        """Of the records that wait and of those that are outstanding."""
        self._growth = 0
        """Bytes of segments that may be made yet, as of the last one that was."""
        self._room = 0
        """Records that could be open at a time, those that are included."""
        self._unsynced: list[str] = []
        """Written open records whose answer waits for a sync."""
        self._failing = False
        """The last write did not take everything."""
        self._no_room = False
        """The last attempt to make a segment failed, so waiting for one is of no use."""
        self._making = False
        self._is_new_data = False
        """Something was written since the last sync."""
        self._need_room = anyio.Event()
        self._need_sync = anyio.Event()
        self.look_due = anyio.Event()
        self.mark = (0, 0)
        """Segment and offset up to which everything is written; replaced whole, so any thread may read it."""
        self.on_written: Callable[[], None] | None = None
        """Called in the loop's thread when there is more below the mark."""

    # What the data plane calls

    @property
    def degraded(self) -> bool:
        return self._failing or self._writer is None or self._is_full()

    def open(self, record: OpenRecord) -> bool | None:
        if self._failing or self._writer is None or self._has_too_many() or (self._no_room and self._is_full()):
            self.stats.refused += 1
            return False
        if not self._shares.admit(record, self._room):
            return False
        self._waiting[record.id] = record.encode()
        return None

    def emit(self, fact: UsageFact) -> None:
        payload = fact.encode()
        self._ends.append((_FACT, payload, fact.id))
        self.stats.buffered_bytes += len(payload)

    def void(self, fact_id: str) -> None:
        if self._waiting.pop(fact_id, None) is not None:
            self._shares.release(fact_id)
        elif fact_id in self._outstanding:
            payload = void_payload(fact_id)
            self._ends.append((_VOID, payload, fact_id))
            self.stats.buffered_bytes += len(payload)

    def push(self) -> None:
        if self._failing or self._writer is None:
            self._refuse(list(self._waiting))
            return
        if self._ends or self._waiting:
            self._write(self._writer)

    # Writing

    def _write(self, writer: SegmentWriter) -> None:
        ends, opens = self._ends, self._take_opens(writer) if self._waiting else []
        segment = writer.number
        written = writer.write(ends + opens if opens else ends)
        if written < len(ends) + len(opens):
            unwritten = opens[max(0, written - len(ends)) :]
            ends, opens, self._ends = ends[:written], opens[: max(0, written - len(ends))], ends[written:]
            self._fall_behind(writer, [fact_id for _, _, fact_id in unwritten])
        else:
            self._ends = []
        if ends:
            self._note_ends(ends)
        if opens:
            outstanding = self._outstanding
            opened = [fact_id for _, _, fact_id in opens]
            for fact_id in opened:
                outstanding[fact_id] = segment
            self.stats.outstanding = len(outstanding)
        if written:
            self._is_new_data = True
            if self.on_written is not None:
                self.mark = (writer.number, writer.offset)
                self.on_written()
        if not writer.spares:
            self._need_room.set()
        if not opens:
            return
        if self._answers_synced:
            self._unsynced += opened
            self._need_sync.set()
        else:
            self._tell(opened, True)

    def _note_ends(self, ends: list[Item]) -> None:
        stats, outstanding, release = self.stats, self._outstanding, self._shares.release
        for kind, payload, fact_id in ends:
            outstanding.pop(fact_id, None)
            release(fact_id)
            stats.buffered_bytes -= len(payload)
            if kind == _FACT:
                stats.written += 1
        stats.outstanding = len(outstanding)

    def _take_opens(self, writer: SegmentWriter) -> list[Item]:
        """The waiting records for whose facts there is room, too. The others wait on, or are refused."""
        free = writer.capacity
        self._note_room(free)
        free -= len(self._outstanding) * RESERVED_EACH
        taken: list[Item] = []
        for fact_id, payload in self._waiting.items():
            free -= HEADER_SIZE + len(payload) + RESERVED_EACH
            if free < 0:
                break
            taken.append((_OPEN, payload, fact_id))
        if len(taken) == len(self._waiting):
            self._waiting = {}
            # Ends use up only what their opening has reserved, so this is the place to look ahead.
            if free < self._low:
                self._need_room.set()
        else:
            for _, _, fact_id in taken:
                del self._waiting[fact_id]
            self._need_room.set()
            if self._no_room:
                self._refuse(list(self._waiting))
        return taken

    def _tell(self, ids: list[str], accepted: bool) -> None:
        if not accepted:
            self.stats.refused += len(ids)
        on_answer = self.on_answer
        if on_answer is not None:
            for fact_id in ids:
                on_answer(fact_id, accepted)

    def _refuse(self, ids: list[str]) -> None:
        for fact_id in ids:
            self._waiting.pop(fact_id, None)
            self._shares.release(fact_id)
        self._tell(ids, False)

    def _fall_behind(self, writer: SegmentWriter, unwritten: list[str]) -> None:
        """Not everything was written: the disk fails, or a segment is missing after one that failed."""
        if not self._failing:
            self._failing = True
            _log.error("usage facts cannot be written, managed requests are refused: %s", _reason(writer.error))
        self._need_room.set()
        self._refuse(unwritten)

    def _note_room(self, capacity: int) -> None:
        self._room = min(OUTSTANDING_MAX, (capacity + self._growth) // RESERVED_EACH)

    def _is_full(self) -> bool:
        return self._has_too_many() or (self._writer is not None and self._reserve(self._writer) < 0)

    def _has_too_many(self) -> bool:
        return len(self._outstanding) + len(self._waiting) >= OUTSTANDING_MAX

    def _reserve(self, writer: SegmentWriter) -> int:
        """Bytes that are left for one more open record and beyond."""
        return writer.capacity - (len(self._outstanding) + 1) * RESERVED_EACH

    def _wants_room(self, writer: SegmentWriter) -> bool:
        """Room is made ahead, so that records seldom wait for it."""
        return not writer.spares or self._reserve(writer) < self._low

    def has_room_to_spare(self) -> bool:
        """Whether a whole segment can go and plenty is left."""
        return not self._making and self._reserve(self.writer) >= 2 * self.options.segment_size

    # Background work

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Raises SinkError, before it has started, for a directory in which nothing can be kept."""
        refusal: SinkError | None = None
        try:
            await self._start()
            async with anyio.create_task_group() as tasks:
                for work in self._background():
                    tasks.start_soon(work)
                try:
                    await self._begin()
                    task_status.started()
                except SinkError as error:
                    refusal = error
                    tasks.cancel_scope.cancel()
        finally:
            self._close()
        if refusal is not None:
            raise refusal

    def _background(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs beside the requests."""
        return [self._keep_room, self._keep_synced, partial(housekeeping.keep_tidy, self)]

    async def _begin(self) -> None:
        """The last step before requests are let in. Raises SinkError."""

    async def _start(self) -> None:
        def prepare() -> SegmentWriter:
            self.spool = take_own(self.root, self.options.worker, self.files)
            state = recover(self.spool, durable=self.is_durable)
            self.stats.recovered += state.lost
            return SegmentWriter(
                self.spool,
                next_segment=state.next_segment,
                next_sequence=state.next_sequence,
                oldest_open=self._oldest_open,
                segment_size=self.options.segment_size,
            )

        try:
            writer = await anyio.to_thread.run_sync(prepare)
        except OSError as error:
            raise SinkError(f"spool_dir: {error.strerror or error}") from None
        except SpoolFormatError as error:
            raise SinkError(f"spool_dir: {error}") from None
        self._writer = writer
        for _ in range(2):
            refusal = await self._make_room(writer)
            if refusal is not None and refusal.errno not in _FULL:
                raise SinkError(f"spool_dir: {_reason(refusal)}")

    async def _keep_room(self) -> None:
        writer = self.writer
        while True:
            if not self._failing and not self._no_room and not self._wants_room(writer):
                self._need_room = anyio.Event()
                await self._need_room.wait()
            wanted = self._no_room or self._wants_room(writer)
            refusal = await self._make_room(writer) if wanted else None
            if self._failing and writer.spares:
                self._try_again(writer)
            if self._waiting:
                self.push()
            if refusal is not None or self._failing:
                await anyio.sleep(RETRY_SECS)

    def _try_again(self, writer: SegmentWriter) -> None:
        self._failing = False
        if self._ends:
            self._write(writer)
        if not self._failing:
            _log.info("usage facts are written again")

    async def _make_room(self, writer: SegmentWriter) -> OSError | None:
        """Makes one more segment, or says why not."""
        self._making = True
        try:
            made = await anyio.to_thread.run_sync(self._make_segment, writer)
        except OSError as error:
            self._growth = 0
            self._note_room(writer.capacity)
            if not self._no_room:
                self._no_room = True
                _log.error("the spool gets no more room: %s", _reason(error))
            return error
        finally:
            self._making = False
        if self._no_room:
            self._no_room = False
            _log.info("the spool has room again")
        writer.add_spare(made)
        self._note_room(writer.capacity)
        return None

    def _make_segment(self, writer: SegmentWriter) -> tuple[int, int]:
        spool, size = self.own, self.options.segment_size
        limit = self.options.bytes_max
        taken = 0 if limit is None else bytes_in(spool.directory, self.files)
        if limit is not None and taken + size > limit:
            raise OSError(errno.EDQUOT, "spool_max_bytes is reached")
        free = self.files.free_bytes(spool.directory)
        made = writer.make_segment()
        if self.is_durable:
            self.files.sync_directory(spool.directory)
        left = (free if limit is None else min(free, limit - taken)) - size
        # Read in the loop's thread: one number, replaced whole.
        self._growth = max(0, left // size * size)
        return made

    async def _keep_synced(self) -> None:
        """Syncs and closes in threads; one sync answers all that was written before it began."""
        always = self.options.fsync is SpoolFsync.ALWAYS
        while True:
            if always:
                await self._need_sync.wait()
                self._need_sync = anyio.Event()
            else:
                await anyio.sleep(self.options.sync_secs)
            await self.sync()

    async def sync(self) -> None:
        """What was written is on the disk afterwards, as far as the policy cares; sealed segments are closed."""
        writer, ids = self.writer, self._unsynced
        self._unsynced = []
        sealed = [writer.sealed.popleft() for _ in range(len(writer.sealed))]
        fds = writer.descriptors() if self.is_durable and self._is_new_data else []
        self._is_new_data = False

        def work() -> None:
            with contextlib.ExitStack() as stack:
                # Each is closed, whatever happens to the others.
                for segment in sealed:
                    stack.callback(writer.close_sealed, segment, sync=self.is_durable)
                for fd in fds:
                    self.files.sync(fd)

        if not sealed and not fds:
            self._tell([fact_id for fact_id in ids if fact_id in self._outstanding], True)
            return
        try:
            await anyio.to_thread.run_sync(work)
        except OSError as error:
            _log.error("the spool cannot be synced: %s", _reason(error))
            self._give_up_unsynced(writer, ids)
            return
        self._tell([fact_id for fact_id in ids if fact_id in self._outstanding], True)

    def _give_up_unsynced(self, writer: SegmentWriter, ids: list[str]) -> None:
        """Nobody knows what the disk kept: go on in a new segment, and let nobody in on the strength of this one."""
        writer.abandon()
        refused = [fact_id for fact_id in ids if fact_id in self._outstanding]
        for fact_id in refused:
            self.void(fact_id)
        self._tell(refused, False)
        self.push()

    def take_over(self) -> None:
        """Spools of dead processes are looked for now, and not only at the next minute."""
        self.look_due.set()

    def looked(self) -> None:
        """Spools of dead processes have been looked for since ``take_over``."""

    async def flush(self) -> None:
        self.push()
        while self._ends:
            await anyio.sleep(RETRY_SECS / 10)
        if self._writer is not None:
            await self.sync()

    # Parts of it

    @property
    def writer(self) -> SegmentWriter:
        assert self._writer is not None, "run() has not started"
        return self._writer

    @property
    def own(self) -> Spool:
        assert self.spool is not None, "run() has not started"
        return self.spool

    def _oldest_open(self) -> int | None:
        return min(self._outstanding.values(), default=None)

    def oldest_needed(self) -> int:
        """The number of the oldest segment of our own that is not to be deleted."""
        # A copy: this may run in a thread.
        return min([self.writer.number, *list(self._outstanding.values())])

    def oldest_needed_of(self, directory: Path) -> int | None:  # noqa: ARG002  # for those who override it
        """The same of a dead process's spool; None: none is needed."""
        return None

    @property
    def is_durable(self) -> bool:
        """Whether the policy cares for power loss."""
        return self.options.fsync is not SpoolFsync.NEVER

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            if self._ends:
                writer.write(self._ends)
            writer.close(sync=self.is_durable)
        if self.spool is not None:
            self.spool.close()


def _reason(error: OSError | None) -> str:
    return "no segment is ready" if error is None else str(error.strerror or error)
