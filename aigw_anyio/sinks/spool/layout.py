"""Where things are: ``SPOOL_DIR/w0-0/00000001.seg``; a subdirectory is a *spool*, written by one process at a time."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigw_anyio.sinks.spool.files import Files
from aigw_core.spool import VERSION, SegmentScan, SpoolFormatError

LOCK_NAME: Final = "lock"
IDENTITY_NAME: Final = "spool.json"
RECOVERY_NAME: Final = "recovery.tmp"
SUFFIX_MAX: Final = 1_000
"""Processes of one worker index that overlap: one that drains and one that starts, so far fewer than this."""
SEGMENT_SIZE: Final = 16 * 1024 * 1024
"""Bytes reserved at a time: some ten thousand exchanges, and a file that is read in one piece."""

_SEGMENT: Final = re.compile(r"([0-9]{8,})\.seg")
_SPOOL: Final = re.compile(r"w[0-9]+-[0-9]+")


def segment_name(number: int) -> str:
    return f"{number:08d}.seg"


@dataclass(slots=True, frozen=True)
class Segment:
    """One segment file."""

    path: Path
    number: int


def segments(directory: Path, files: Files | None = None) -> list[Segment]:
    """The segment files of a spool in their order. Raises OSError."""
    names = (files or Files()).list_directory(directory)
    found = [(name, _SEGMENT.fullmatch(name)) for name in names]
    rows = [Segment(directory / name, int(match[1])) for name, match in found if match is not None]
    return sorted(rows, key=lambda segment: segment.number)


def spools(root: Path) -> list[Path]:
    """The spools below a spool directory, or the directory itself if it is one. Raises OSError."""
    names = sorted(os.listdir(root))
    found = [root / name for name in names if _SPOOL.fullmatch(name) is not None and (root / name).is_dir()]
    if not found and any(_SEGMENT.fullmatch(name) for name in names):
        return [root]
    return found


@dataclass(slots=True)
class Spool:
    """A subdirectory whose lock this process holds."""

    directory: Path
    id: str
    """Told apart from every other spool anywhere, over restarts: the last part of its NATS subject."""
    lock_fd: int
    files: Files

    def close(self) -> None:
        """Gives the lock back."""
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.lock_fd = -1


def take_own(root: Path, worker: int, files: Files) -> Spool:
    """Locks the first free subdirectory of this worker index, made if need be. Raises OSError."""
    for suffix in range(SUFFIX_MAX):
        directory = root / f"w{worker}-{suffix}"
        files.make_directory(directory)
        spool = take(directory, files)
        if spool is not None:
            return spool
    raise OSError(f"{SUFFIX_MAX} processes hold a spool each")


def take(directory: Path, files: Files) -> Spool | None:
    """Locks a spool; None where its process lives. Raises OSError."""
    lock_fd = files.lock(directory / LOCK_NAME)
    if lock_fd is None:
        return None
    try:
        return Spool(directory, _identity(directory, files), lock_fd, files)
    except BaseException:
        os.close(lock_fd)
        raise


def is_locked(directory: Path, files: Files | None = None) -> bool:
    """Whether a process writes it. Raises OSError."""
    lock_fd = (files or Files()).lock(directory / LOCK_NAME)
    if lock_fd is None:
        return True
    os.close(lock_fd)
    return False


def _identity(directory: Path, files: Files) -> str:
    known = _stated_identity(directory, files) or _identity_of_segments(directory, files)
    if known is not None:
        return known
    made = f"{directory.name}-{os.urandom(8).hex()}"
    row = {"v": VERSION, "spool": made}
    # Not synced: after a power loss the segments say it, and without any nothing was published.
    files.write_whole(directory / IDENTITY_NAME, json.dumps(row).encode(), durable=False)
    return made


def _stated_identity(directory: Path, files: Files) -> str | None:
    try:
        row = json.loads(files.read(directory / IDENTITY_NAME))
    except (FileNotFoundError, ValueError):
        return None
    spool = row.get("spool") if isinstance(row, dict) else None
    return spool if isinstance(spool, str) and re.fullmatch(r"[a-z0-9-]{1,64}", spool) else None


def _identity_of_segments(directory: Path, files: Files) -> str | None:
    """What the segments say, where the file is gone: their facts may stand under that subject already."""
    for segment in reversed(segments(directory, files)):
        scan = SegmentScan(files.read(segment.path))
        try:
            next(iter(scan), None)
        except SpoolFormatError:
            continue
        if scan.head is not None:
            return scan.head.spool
    return None
