"""Spools made by hand, processes that die, and disks that fail."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.follow import Follower
from aigw_anyio.sinks.spool.layout import Spool, spools, take_own
from aigw_anyio.sinks.spool.recovery import recover
from aigw_anyio.sinks.spool.writer import Item, SegmentWriter
from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.spool import RECORD_MAX, Kind, Record, void_payload

SMALL: Final = 4 * RECORD_MAX
"""Bytes of a segment in tests: room for a few records of the largest size."""

RECORD: Final = OpenRecord(
    "0", "2026-01-31T09:05:00.042Z", 1, 2, 3, 1, "openai", "chat_completions", "/v1/chat/completions", None, None
)


def record_of(fact_id: str) -> OpenRecord:
    return dataclasses.replace(RECORD, id=fact_id)


def fact_of(fact_id: str, padding: int = 0) -> UsageFact:
    usage: dict[str, object] = {"padding": "a" * padding}
    return UsageFact(record_of(fact_id), Outcome.COMPLETE, "final", status=200, usage=usage)


def opening(fact_id: str) -> Item:
    return int(Kind.OPEN), record_of(fact_id).encode(), fact_id


def closing(fact_id: str, padding: int = 0) -> Item:
    return int(Kind.FACT), fact_of(fact_id, padding).encode(), fact_id


def voiding(fact_id: str) -> Item:
    return int(Kind.VOID), void_payload(fact_id), fact_id


class Process:
    """What one process does to its spool, with nothing but the writer."""

    def __init__(self, root: Path, files: Files | None = None, *, segments: int = 2, size: int = SMALL) -> None:
        self.files = files if files is not None else Files()
        self.spool: Spool = take_own(root, 0, self.files)
        self.open: dict[str, int] = {}
        try:
            state = recover(self.spool)
            self.lost = state.lost
            self.writer = SegmentWriter(
                self.spool,
                next_segment=state.next_segment,
                next_sequence=state.next_sequence,
                oldest_open=lambda: min(self.open.values(), default=None),
                segment_size=size,
            )
            for _ in range(segments):
                self.writer.add_spare(self.writer.make_segment())
        except BaseException:
            self.spool.close()
            raise

    def write(self, *items: Item) -> None:
        if not self.writer.spares:
            self.writer.add_spare(self.writer.make_segment())
        segment = self.writer.number
        assert self.writer.write(list(items)) == len(items)
        for kind, _, fact_id in items:
            if kind == Kind.OPEN:
                self.open[fact_id] = segment
            else:
                self.open.pop(fact_id, None)

    def stop(self) -> None:
        self.writer.close(sync=False)
        self.spool.close()

    def die(self) -> None:
        """As kill -9: descriptors and the lock are gone, nothing is tidied up."""
        writer = self.writer
        fds = [*writer.descriptors(), *(fd for _, fd in writer._spares), *(sealed.fd for sealed in writer.sealed)]
        for fd in fds:
            os.close(fd)
        self.spool.close()


def records_in(root: Path) -> list[Record]:
    found: list[Record] = []
    for directory in spools(root):
        follower = Follower(directory)
        while records := follower.read() or follower.read(final=True):
            found += records
    return found


def facts_in(root: Path) -> list[dict[str, Any]]:
    return [json.loads(record.payload) for record in records_in(root) if record.kind == Kind.FACT]


def ends_in(root: Path) -> list[tuple[str, str]]:
    """Id and outcome of each fact, in order."""
    return [(fact["id"], fact["outcome"]) for fact in facts_in(root)]


class FailingFiles(Files):
    """Fails operations by their number; ``half``: a write that fails has written half of its bytes."""

    def __init__(self, fails: Callable[[int], bool], number: int = errno.EIO, *, half: bool = False) -> None:
        self.fails = fails
        self.errno = number
        self.half = half
        self.operations = 0
        self.failed = 0

    def _operate(self) -> None:
        self.operations += 1
        if self.fails(self.operations):
            self.failed += 1
            raise OSError(self.errno, os.strerror(self.errno))

    def make_directory(self, path: Path) -> None:
        self._operate()
        super().make_directory(path)

    def list_directory(self, path: Path) -> list[str]:
        self._operate()
        return super().list_directory(path)

    def create(self, path: Path, size: int) -> int:
        self._operate()
        return super().create(path, size)

    def open(self, path: Path) -> int:
        self._operate()
        return super().open(path)

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        try:
            self._operate()
        except OSError:
            if self.half:
                with contextlib.suppress(OSError):
                    super().write_at(fd, data[: len(data) // 2], offset)
            raise
        super().write_at(fd, data, offset)

    def sync(self, fd: int) -> None:
        # Nothing here outlives the machine, so the disk need not move.
        self._operate()

    def truncate(self, fd: int, size: int) -> None:
        self._operate()
        super().truncate(fd, size)

    def rename(self, source: Path, target: Path) -> None:
        self._operate()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._operate()
        super().unlink(path)

    def sync_directory(self, path: Path) -> None:
        self._operate()

    def read(self, path: Path) -> bytes:
        self._operate()
        return super().read(path)

    def lock(self, path: Path) -> int | None:
        self._operate()
        return super().lock(path)
