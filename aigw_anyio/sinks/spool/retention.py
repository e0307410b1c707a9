"""Which segments may go."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.layout import segments

_log = logging.getLogger("aigw.facts")


def remove_old(
    directory: Path, files: Files, *, keep_secs: float, below: int | None = None, now: float | None = None
) -> int:
    """Deletes segments last written to more than ``keep_secs`` ago; returns how many.

    ``below``: only segments with a smaller number may go: what is not published yet stays, and so does what
    is being written. The newest segment always stays, since it says where numbers go on. A clock that was
    set back makes segments look young, so they stay longer. Raises OSError.
    """
    now = time.time() if now is None else now
    # Spares ahead of the newest segment that holds records are younger, so they do not go either.
    found = segments(directory, files)[:-1]
    removed = 0
    for segment in found:
        if below is not None and segment.number >= below:
            break
        with contextlib.suppress(FileNotFoundError):
            if now - segment.path.stat().st_mtime < keep_secs:
                break
            files.unlink(segment.path)
            removed += 1
    if removed:
        _log.info("old segments are gone", extra={"fields": {"spool": directory.name, "segments": removed}})
    return removed


def bytes_in(directory: Path, files: Files) -> int:
    """Bytes of disk that the segments of a spool take, reserved room included. Raises OSError."""
    total = 0
    for segment in segments(directory, files):
        with contextlib.suppress(FileNotFoundError):
            total += segment.path.stat().st_blocks * 512
    return total
