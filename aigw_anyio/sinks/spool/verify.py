"""Whether a spool directory holds exactly one end for every open record, and every byte as it was written."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aigw_anyio.sinks.spool.layout import Segment, is_locked, segments, spools
from aigw_core.spool import Kind, Record, SegmentScan, SpoolFormatError

SECOND_LOOK_SECS: Final = 0.2
"""After which a record that was being written when it was first read is whole."""


@dataclass(slots=True)
class Report:
    """What was found, over all spools of a directory."""

    facts: int = 0
    opens: int = 0
    voids: int = 0
    running: int = 0
    """Open records of living processes whose end is still to come."""
    problems: list[str] = field(default_factory=list)
    """One line each."""


def verify(root: Path) -> Report:
    """Reads everything. Raises OSError for a directory that cannot be read."""
    report = Report()
    seen: dict[str, str] = {}
    for directory in spools(root):
        _verify_spool(directory, report, seen)
    return report


def _verify_spool(directory: Path, report: Report, seen: dict[str, str]) -> None:
    # Asked first: what a process opens while it is being read has its end behind it, or is running.
    is_alive = is_locked(directory)
    state = _Spool(directory, report, seen)
    found = segments(directory)
    heads = [_first(SegmentScan(segment.path.read_bytes())) for segment in found]
    for at, segment in enumerate(found):
        before = next((first for first in heads[at + 1 :] if first is not None), None)
        is_last = before is None
        scan, records = _settled_scan(segment, before, is_alive and is_last)
        # What is cut off ahead of a later segment shows as missing records, if it held any that count.
        scan.torn = scan.torn and is_last
        state.add(segment, scan, records)
    for fact_id in state.open:
        if is_alive:
            report.running += 1
        else:
            report.problems.append(f"{directory.name}: {fact_id}: open without an end, and its process is gone")


def _settled_scan(segment: Segment, before: int | None, is_alive: bool) -> tuple[SegmentScan, list[Record]]:
    scan, records = _scan(segment, before)
    if is_alive and (scan.damage or scan.torn):
        time.sleep(SECOND_LOOK_SECS)
        scan, records = _scan(segment, before)
        # Behind the last record somebody may always be writing.
        scan.torn = False
    return scan, records


def _scan(segment: Segment, before: int | None) -> tuple[SegmentScan, list[Record]]:
    scan = SegmentScan(segment.path.read_bytes(), before=before)
    return scan, list(scan)


def _first(scan: SegmentScan) -> int | None:
    """The sequence from which on the segments ahead do not count."""
    try:
        record = next(iter(scan), None)
    except SpoolFormatError:
        return None
    if scan.head is not None:
        return scan.head.first
    return record.sequence if record is not None else None


class _Spool:
    def __init__(self, directory: Path, report: Report, seen: dict[str, str]) -> None:
        self._name = directory.name
        self._report = report
        self._seen = seen
        self._expected: int | None = None
        self.open: dict[str, None] = {}

    def add(self, segment: Segment, scan: SegmentScan, records: list[Record]) -> None:
        place = f"{self._name}/{segment.path.name}"
        problems = self._report.problems
        for start, end in scan.damage:
            problems.append(f"{place}: bytes {start} to {end} cannot be read: the checksum does not hold")
        if scan.torn:
            problems.append(f"{place}: what stands behind byte {scan.end} cannot be read: cut off, or damaged")
        if scan.head is not None:
            self._check_gap(scan.head.first)
        for record in records:
            self._check_gap(record.sequence)
            self._expected = record.sequence + 1
            self._count(record, problems)

    def _check_gap(self, sequence: int) -> None:
        if self._expected is not None and sequence > self._expected:
            self._report.problems.append(f"{self._name}: records {self._expected} to {sequence - 1} are missing")
            self._expected = sequence
        elif self._expected is None:
            self._expected = sequence

    def _count(self, record: Record, problems: list[str]) -> None:
        report = self._report
        if record.kind == Kind.OPEN:
            report.opens += 1
            self.open[record.id] = None
            return
        self.open.pop(record.id, None)
        if record.kind == Kind.VOID:
            report.voids += 1
            return
        report.facts += 1
        other = self._seen.get(record.id)
        if other is not None:
            problems.append(f"{self._name}: {record.id}: a second fact; the first is in {other}")
        self._seen[record.id] = self._name
