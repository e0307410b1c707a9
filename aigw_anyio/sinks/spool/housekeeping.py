"""Once a minute: spools of dead processes are recovered, old segments go, a segment does not stay open for ever."""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import anyio

from aigw_anyio.sinks.protocol import SinkStats
from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.layout import Spool, segments, spools, take
from aigw_anyio.sinks.spool.options import SpoolOptions
from aigw_anyio.sinks.spool.recovery import recover
from aigw_anyio.sinks.spool.retention import bytes_in, remove_old
from aigw_anyio.sinks.spool.writer import SegmentWriter
from aigw_core.spool import SpoolFormatError

PAUSE_SECS: Final = 0.005
"""Between pieces of recovery beside running exchanges: its thread takes the interpreter no longer in one go."""
SPARES_MAX: Final = 2
"""Segments kept ready where nothing more is reserved; others go back to the disk."""

_log = logging.getLogger("aigw.facts")


class Housed(Protocol):
    """What is looked after: the sink."""

    root: Path
    files: Files
    options: SpoolOptions
    stats: SinkStats
    look_due: anyio.Event
    """Set where spools of dead processes are to be looked for before the next minute."""

    @property
    def own(self) -> Spool: ...
    @property
    def writer(self) -> SegmentWriter: ...
    @property
    def is_durable(self) -> bool: ...
    def oldest_needed(self) -> int: ...
    def oldest_needed_of(self, directory: Path) -> int | None: ...
    def has_room_to_spare(self) -> bool: ...
    def looked(self) -> None: ...


async def keep_tidy(sink: Housed) -> None:
    """Until cancelled. An error of one spool is logged and does not end the work on others."""
    rotated_at, number = anyio.current_time(), sink.writer.number
    settled: dict[Path, tuple[object, ...]] = {}
    while True:
        await anyio.to_thread.run_sync(_tidy, sink, settled)
        sink.looked()
        with anyio.move_on_after(sink.options.tidy_secs):
            await sink.look_due.wait()
            sink.look_due = anyio.Event()
        writer = sink.writer
        # The monotonic clock decides: the wall clock may be set.
        is_old = anyio.current_time() - rotated_at >= sink.options.rotate_secs
        if writer.number != number or (is_old and writer.rotate()):
            rotated_at, number = anyio.current_time(), writer.number
        while writer.spares > SPARES_MAX and sink.has_room_to_spare():
            with contextlib.suppress(OSError):
                writer.drop_spare()


def _tidy(sink: Housed, settled: dict[Path, tuple[object, ...]]) -> None:
    own = sink.own
    try:
        for directory in spools(sink.root):
            if directory == own.directory:
                _remove_old(sink, own, below=sink.oldest_needed())
            else:
                _settle(sink, directory, settled)
        sink.stats.spool_bytes = bytes_in(own.directory, own.files)
    except OSError as error:
        _log.error("the spool directory cannot be looked through: %s", error.strerror)


def _settle(sink: Housed, directory: Path, settled: dict[Path, tuple[object, ...]]) -> None:
    """Recovers the spool of a dead process. What is settled and has not changed is not read again."""
    spool: Spool | None = None
    try:
        if settled.get(directory) == traits(directory):
            return
        spool = take(directory, sink.files)
        if spool is None:
            return
        state = recover(spool, durable=sink.is_durable, pause=partial(time.sleep, PAUSE_SECS))
        sink.stats.recovered += state.lost
        _remove_old(sink, spool, below=sink.oldest_needed_of(directory))
        settled[directory] = traits(directory)
    except (OSError, SpoolFormatError) as error:
        _log.error("a spool cannot be recovered: %s", error, extra={"fields": {"spool": directory.name}})
    finally:
        if spool is not None:
            spool.close()


def traits(directory: Path) -> tuple[object, ...]:
    """What changes when somebody writes to a spool."""
    found = segments(directory)
    stats = [segment.path.stat() for segment in found[-2:]]
    return (len(found), *((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats))


def _remove_old(sink: Housed, spool: Spool, below: int | None) -> None:
    if sink.options.keep_secs is not None:
        remove_old(spool.directory, spool.files, keep_secs=sink.options.keep_secs, below=below)
