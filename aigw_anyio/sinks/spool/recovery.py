"""What a dead process left behind: its torn tail is cut, its open exchanges become ``gateway_lost`` facts, once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.layout import RECOVERY_NAME, Segment, Spool, segment_name, segments
from aigw_core.spool import Kind, OpenSet, Record, SegmentHead, SegmentScan, pack_run

_log = logging.getLogger("aigw.facts")

Pause = Callable[[], None]


@dataclass(slots=True)
class Recovered:
    """How a spool stands after recovery."""

    lost: int
    """Exchanges that became ``gateway_lost`` now."""
    next_segment: int
    next_sequence: int


@dataclass(slots=True)
class _Found:
    segment: Segment
    scan: SegmentScan
    records: list[Record]
    size: int

    @property
    def first(self) -> int | None:
        """The sequence from which on earlier segments do not count."""
        if self.scan.head is not None:
            return self.scan.head.first
        return self.records[0].sequence if self.records else None


def recover(spool: Spool, *, durable: bool = True, pause: Pause = lambda: None) -> Recovered:
    """Settles a spool whose lock is held. ``pause`` is called between pieces of work.

    One rename commits: a crash before it leaves everything as it was, and after it nothing is open. So each
    exchange becomes ``gateway_lost`` once, however often this is begun. Raises OSError, and SpoolFormatError
    for what another version wrote; then nothing was changed that counts.
    """
    files, directory = spool.files, spool.directory
    used, unused = _examine(spool, pause)
    open_set, sequence = _open_records(used, pause)
    last = used[-1].segment.number if used else 0
    if not open_set:
        for path in (directory / RECOVERY_NAME, *(segment.path for segment in unused)):
            with contextlib.suppress(FileNotFoundError):
                files.unlink(path)
        _cut(spool, used)
        return Recovered(0, last + 1, sequence)
    lost = open_set.lost_facts()
    head = SegmentHead(spool.id, last + 1, sequence, last + 1)
    items = [(int(Kind.FACT), payload, "") for payload in lost]
    size = sum(len(payload) for payload in lost) + 64 * len(lost)
    records, count = pack_run(items, sequence, size)
    assert count == len(lost)
    _write_recovery(spool, head.encode() + records, unused, durable)
    # The name of the next segment: if a spare has it, its room was taken over or is replaced now.
    files.rename(directory / RECOVERY_NAME, directory / segment_name(last + 1))
    if durable:
        files.sync_directory(directory)
    for segment in unused:
        if segment.number != last + 1:
            with contextlib.suppress(FileNotFoundError):
                files.unlink(segment.path)
    _cut(spool, used)
    _log.warning("exchanges of a dead process are lost", extra={"fields": {"spool": spool.id, "facts": len(lost)}})
    return Recovered(len(lost), last + 2, sequence + len(lost))


def _examine(spool: Spool, pause: Pause) -> tuple[list[_Found], list[Segment]]:
    """Segments from the one on that may hold open records, and spares. Reads backwards as far as need be."""
    used: list[_Found] = []
    unused: list[Segment] = []
    before: int | None = None
    scan_from = 0
    for segment in reversed(segments(spool.directory, spool.files)):
        if used and segment.number < scan_from:
            break
        found = _read(spool.files, segment, before)
        pause()
        if found.scan.unused:
            unused.append(segment)
            continue
        if found.scan.head is not None and not used:
            scan_from = found.scan.head.scan_from
        used.insert(0, found)
        before = found.first if found.first is not None else before
    return used, unused


def _read(files: Files, segment: Segment, before: int | None) -> _Found:
    data = files.read(segment.path)
    scan = SegmentScan(data, before=before)
    return _Found(segment, scan, list(scan), len(data))


def _open_records(used: list[_Found], pause: Pause) -> tuple[OpenSet, int]:
    """What has no end, and the sequence of the next record."""
    open_set, sequence = OpenSet(), 1
    for found in used:
        if found.scan.head is not None:
            sequence = found.scan.head.first
        for record in found.records:
            open_set.see(record)
            sequence = record.sequence + 1
        pause()
    return open_set, sequence


def _write_recovery(spool: Spool, data: bytes, unused: list[Segment], durable: bool) -> None:
    """Into the room of a spare where there is one, so that a full disk does not matter."""
    files, path = spool.files, spool.directory / RECOVERY_NAME
    try:
        # Of a recovery that did not come to its end.
        fd = files.open(path)
    except FileNotFoundError:
        if unused:
            files.rename(unused[0].path, path)
            fd = files.open(path)
        else:
            fd = files.create(path, len(data))
    try:
        files.write_at(fd, data, 0)
        files.truncate(fd, len(data))
        if durable:
            files.sync(fd)
    finally:
        files.close(fd)


def _cut(spool: Spool, used: list[_Found]) -> None:
    """Gives the room behind the last record back. Readers know without it where a segment ends."""
    for found in used:
        if found.scan.end == found.size:
            continue
        try:
            fd = spool.files.open(found.segment.path)
            try:
                spool.files.truncate(fd, found.scan.end)
            finally:
                spool.files.close(fd)
        except OSError as error:
            _log.warning("a segment of the spool keeps unused room: %s", error.strerror)
