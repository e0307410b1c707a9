"""Writing to a descriptor that may be a blocked pipe, without ever waiting for it."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import stat
from typing import Final

SLICE: Final = select.PIPE_BUF
"""Bytes of one write to what is no regular file: a pipe that polls writable takes so many at once (POSIX)."""


class FdWriter:
    """Writes what fits now, and never waits.

    The descriptor's own flags stay untouched: standard output is shared with the parent and with children,
    who would find O_NONBLOCK set. So a pipe that another process fills between poll and write can still
    block for a moment, and so can a terminal that its user has paused.
    """

    __slots__ = ("_poll", "fd", "is_regular")

    def __init__(self, fd: int) -> None:
        """Raises OSError for a descriptor that is not open."""
        self.fd = fd
        self.is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, data: bytes | bytearray) -> int:
        """How many leading bytes were written: fewer than all, or 0, where the rest must wait.

        Raises OSError where none was written because of an error.
        """
        if self.is_regular:
            return os.write(self.fd, data)
        written = 0
        while written < len(data) and self._poll.poll(0):
            try:
                written += os.write(self.fd, data[written : written + SLICE])
            except BlockingIOError:
                break
            except OSError:
                if not written:
                    raise
                break
        return written


class SharedFdWriter(FdWriter):
    """The same for lines on a descriptor that several processes write to: none begins within another's line.

    Lines of up to SLICE bytes are whole even where their writer is killed. Of a longer one a part may be left over,
    on a line of its own.
    """

    __slots__ = ("_is_torn", "_lock_fd", "_note")

    def __init__(self, fd: int, lock_fd: int) -> None:
        """``lock_fd``: of one file that all of them hold open. Raises OSError for a descriptor that is not open."""
        super().__init__(fd)
        self._lock_fd = lock_fd
        self._is_torn = False
        os.ftruncate(lock_fd, 1)
        self._note = mmap.mmap(lock_fd, 1)
        """In the file: whether its holder is in the middle of a line. It may be killed there."""

    def write(self, data: bytes | bytearray) -> int:
        """As :class:`FdWriter`; ``data`` goes on after what was written before. 0 also while another process writes."""
        if not self._is_torn and not (self._lock() and self._end_torn_line()):
            return 0
        written, is_over = 0, False
        try:
            while written < len(data):
                end = self._next_end(data, written)
                if end - written > SLICE:
                    self._note[0] = _TORN
                taken = super().write(data[written:end])
                written += taken
                if written < end:
                    break
        except BrokenPipeError:
            # Nobody misses the rest of the line, and others are to see for themselves.
            is_over = True
            raise
        finally:
            if written:
                self._is_torn = data[written - 1] != _NEWLINE
            if self._is_torn and not is_over:
                self._note[0] = _TORN
            else:
                self._is_torn = False
                self._unlock()
        return written

    def _end_torn_line(self) -> bool:
        """Of one who was killed in it. Whether the next line may begin; the lock is given back if not."""
        if self._note[0] != _TORN:
            return True
        try:
            is_ended = super().write(b"\n") == 1
        except OSError:
            self._unlock(is_torn=True)
            raise
        if not is_ended:
            self._unlock(is_torn=True)
        return is_ended

    def _unlock(self, *, is_torn: bool = False) -> None:
        self._note[0] = _TORN if is_torn else 0
        fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        try:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _next_end(self, data: bytes | bytearray, start: int) -> int:
        """As many whole lines as go in one write, or one line that does not."""
        end = data.rfind(b"\n", start, start + SLICE) + 1
        if not end:
            end = data.find(b"\n", start) + 1
        return end or len(data)


_NEWLINE: Final = 10
_TORN: Final = 1
