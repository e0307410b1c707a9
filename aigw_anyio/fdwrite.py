"""Writing to a descriptor that may be a blocked pipe, without ever waiting for it."""

from __future__ import annotations

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
