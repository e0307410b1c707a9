"""Reading a spool from some place on, also while its process goes on writing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigw_anyio.sinks.spool.layout import Segment, segments
from aigw_core.spool import RECORD_MAX, Record, SegmentHead, SegmentScan, SpoolFormatError

READ_SIZE: Final = 8 * RECORD_MAX
"""Bytes read at a time: several of the largest records, so every read gets on."""
HEAD_READ: Final = 1_024
"""Bytes in which the head of a segment stands for certain."""


@dataclass(slots=True, frozen=True)
class Position:
    """Behind a record: where the next one begins."""

    segment: int = 0
    offset: int = 0
    sequence: int = 0
    """Of the record ahead; 0 for none."""


class Follower:
    """Gives the records of one spool in order, from a position on.

    Only what no writer can be busy with is stepped over when it cannot be read: the bytes below the
    writer's own mark, or a segment after which another one has begun.
    """

    def __init__(self, directory: Path, position: Position | None = None) -> None:
        self.directory = directory
        self.position = position if position is not None else Position()
        self.damage: list[tuple[int, int, int]] = []
        """Segment, from, to: bytes that could not be read and were stepped over."""

    def read(self, *, below: tuple[int, int] | None = None, final: bool = False) -> list[Record]:
        """The next records, some 256 KiB of them at most; empty where there are none yet.

        ``below``: segment and offset up to which the caller knows that everything is written.
        ``final``: nobody writes any more. Raises OSError, and SpoolFormatError.
        """
        while True:
            found = [s for s in segments(self.directory) if s.number >= self.position.segment]
            if not found:
                return []
            segment = found[0]
            if segment.number != self.position.segment:
                self.position = Position(segment.number, 0, self.position.sequence)
            following = _next_head(found[1:])
            try:
                records = self._read(segment, following, below, final)
            except FileNotFoundError:
                # Retention was faster.
                self.position = Position(segment.number + 1, 0, self.position.sequence)
                continue
            if records or following is None:
                return records
            self.position = Position(following.segment, 0, self.position.sequence)

    def skip(self) -> None:
        """Goes behind what is there now. Raises OSError, and SpoolFormatError."""
        found = segments(self.directory)
        while found:
            segment = found.pop()
            scan = SegmentScan(_read_at(segment.path, 0, -1))
            records = list(scan)
            if scan.head is not None or records:
                sequence = records[-1].sequence if records else scan.head.first - 1 if scan.head is not None else 0
                self.position = Position(segment.number, scan.end, sequence)
                return

    def _read(
        self, segment: Segment, following: SegmentHead | None, below: tuple[int, int] | None, final: bool
    ) -> list[Record]:
        at = self.position
        is_over = final or following is not None
        known = below[1] if below is not None and below[0] == segment.number else None
        limit = None if known is None else known - at.offset
        data = _read_at(segment.path, at.offset, READ_SIZE if limit is None else min(READ_SIZE, limit))
        before = following.first if following is not None else None
        records = self._scan(segment, data, before, steps_over=False)
        if not records and data and (is_over or known is not None):
            # Nothing here can be read, and nobody is writing it.
            data = _read_at(segment.path, at.offset, -1 if limit is None else limit)
            records = self._scan(segment, data, before, steps_over=True)
        return records

    def _scan(self, segment: Segment, data: bytes, before: int | None, *, steps_over: bool) -> list[Record]:
        at = self.position
        scan = SegmentScan(data, base=at.offset, after=at.sequence, before=before, steps_over=steps_over)
        records = list(scan)
        self.damage += [(segment.number, start, end) for start, end in scan.damage]
        self.position = Position(segment.number, scan.end, records[-1].sequence if records else at.sequence)
        return records


def _next_head(found: list[Segment]) -> SegmentHead | None:
    """Of the next segment that has begun."""
    for segment in found:
        try:
            scan = SegmentScan(_read_at(segment.path, 0, HEAD_READ), steps_over=False)
            next(iter(scan), None)
        except (FileNotFoundError, SpoolFormatError):
            continue
        if scan.head is not None:
            return scan.head
    return None


def _read_at(path: Path, offset: int, size: int) -> bytes:
    """``size`` -1: to the end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if size < 0:
            size = max(0, os.fstat(fd).st_size - offset)
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)
