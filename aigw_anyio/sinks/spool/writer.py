"""Appending records to segments whose room was reserved in advance."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aigw_anyio.sinks.spool.layout import SEGMENT_SIZE, Spool, segment_name
from aigw_core.spool import RECORD_MAX, SegmentHead, capacity, pack_run

SEALED_MAX: Final = 64
"""Segments that wait to be closed in the background; beyond it they are closed at once. Failing disks only."""

Item = tuple[int, bytes, str]
"""Kind, payload, id of the exchange."""

_log = logging.getLogger("aigw.facts")


@dataclass(slots=True)
class Sealed:
    """A segment that takes no more records; its unused room is to be given back."""

    fd: int
    number: int
    end: int


class SegmentWriter:
    """Writes in the thread of the event loop: one ``write(2)`` for all records of a call.

    Each is at an explicit offset, so what a failed one left behind is written over, or left in a segment
    whose rest the next one's head declares void. Making, syncing and closing segments takes longer and is
    for the background.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        next_segment: int,
        next_sequence: int,
        oldest_open: Callable[[], int | None],
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        """``oldest_open``: the number of the oldest segment that holds an open record without its end."""
        self._spool = spool
        self._files = spool.files
        self._size = segment_size
        self._oldest_open = oldest_open
        self._next_segment = next_segment
        self._spares: deque[tuple[int, int]] = deque()
        self.sequence = next_sequence
        """Of the next record."""
        self.number = next_segment
        """Of the segment that is being filled, or of the next one."""
        self.offset = 0
        """Behind the last record of the segment that is being filled."""
        self._fd = -1
        self._first = next_sequence
        """Of the first record of this segment."""
        self.sealed: deque[Sealed] = deque()
        self.error: OSError | None = None
        """Why the last write did not take everything; None where only room was missing, or nothing."""
        self._fresh = capacity(0, 1, segment_size, len(SegmentHead(spool.id, 2**40, 2**63, 2**40).encode()))
        """What a spare adds to the capacity."""

    # Room

    @property
    def spares(self) -> int:
        """Segments that are ready to be filled."""
        return len(self._spares)

    @property
    def capacity(self) -> int:
        """Bytes of records that find room for certain; as :func:`aigw_core.spool.capacity`, sooner."""
        remaining = self._size - self.offset - RECORD_MAX
        begun = remaining if self._fd >= 0 and remaining > 0 else 0
        return begun + len(self._spares) * self._fresh

    def make_segment(self) -> tuple[int, int]:
        """Reserves the room of one more segment; for a thread, one call at a time. Raises OSError."""
        number = self._next_segment
        fd = self._files.create(self._spool.directory / segment_name(number), self._size)
        self._next_segment = number + 1
        return number, fd

    def add_spare(self, made: tuple[int, int]) -> None:
        """What ``make_segment`` returned."""
        self._spares.append(made)

    def drop_spare(self) -> None:
        """Gives the newest spare back."""
        number, fd = self._spares.pop()
        self._next_segment = number
        self._files.close(fd)
        self._files.unlink(self._spool.directory / segment_name(number))

    # Writing

    def write(self, items: list[Item]) -> int:
        """How many of the items, in order, were written; the others stay the caller's. ``error`` says why."""
        self.error = None
        began_in = self.number
        done, may_move_on = 0, True
        while done < len(items):
            room = self._size - self.offset if self._fd >= 0 else 0
            data, count = pack_run(items[done:] if done else items, self.sequence, room)
            try:
                if not count:
                    if not self._begin_next(began_in):
                        break
                    continue
                self._files.write_at(self._fd, data, self.offset)
            except OSError as error:
                self.error = error
                self._give_up()
                if not may_move_on or not self._spares:
                    break
                may_move_on = False
                continue
            self.offset += len(data)
            self.sequence += count
            done += count
        if done == len(items):
            self.error = None
        return done

    def rotate(self) -> bool:
        """Goes on in a new segment, if this one holds something and a spare is ready."""
        if self._fd < 0 or not self._spares or self.sequence == self._first:
            return False
        try:
            return self._begin_next(self.number)
        except OSError as error:
            self.error = error
            self._give_up()
            return False

    def _begin_next(self, began_in: int) -> bool:
        """False where no segment is ready. Raises OSError."""
        if not self._spares:
            return False
        number, fd = self._spares.popleft()
        self._seal()
        self._fd, self.number, self.offset, self._first = fd, number, 0, self.sequence
        oldest = self._oldest_open()
        # Records of the same call may have been opened in the segment where the call began.
        scan_from = began_in if oldest is None else min(began_in, oldest)
        head = SegmentHead(self._spool.id, number, self.sequence, scan_from).encode()
        self._files.write_at(fd, head, 0)
        self.offset = len(head)
        return True

    def _give_up(self) -> None:
        """The segment failed: what it holds counts up to ``offset``, the next one goes on from there."""
        _log.error("a segment of the spool cannot be written and is given up: %s", self.error)
        self._seal()

    def abandon(self) -> None:
        """The same where the disk failed later, at a sync."""
        self._seal()

    def _seal(self) -> None:
        if self._fd < 0:
            return
        sealed = Sealed(self._fd, self.number, self.offset)
        self._fd = -1
        self.sealed.append(sealed)
        if len(self.sealed) > SEALED_MAX:
            self.close_sealed(self.sealed.popleft(), sync=False)

    # For threads

    def descriptors(self) -> list[int]:
        """What holds records that may not be on the disk yet, sealed segments aside."""
        return [self._fd] if self._fd >= 0 else []

    def close_sealed(self, sealed: Sealed, *, sync: bool) -> None:
        """Cuts a segment to its size, and syncs it. The descriptor is closed whatever happens. Raises OSError."""
        try:
            if not sealed.end:
                self._files.unlink(self._spool.directory / segment_name(sealed.number))
                return
            self._files.truncate(sealed.fd, sealed.end)
            if sync:
                self._files.sync(sealed.fd)
        finally:
            self._files.close(sealed.fd)

    def close(self, *, sync: bool) -> None:
        """Gives unused room back; everything was written. No error is raised: recovery reads what is there."""
        self._seal()
        while self.sealed:
            with contextlib.suppress(OSError):
                self.close_sealed(self.sealed.popleft(), sync=sync)
        while self._spares:
            with contextlib.suppress(OSError):
                self.drop_spare()


RESERVED_EACH: Final = RECORD_MAX
"""Bytes kept for the end of each open record: a fact of the largest size, header and all."""
