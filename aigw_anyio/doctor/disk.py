"""Checks of the directories and files that a gateway writes: by writing there, and removing it again."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Final

from aigw_anyio.deny.file import FILE_SIZE_MAX as DENY_FILE_SIZE_MAX
from aigw_anyio.deny.file import FileProblem, misspelt_keys, parse_deny_file, told
from aigw_anyio.deny.snapshotfile import FILE_SIZE_MAX as SNAPSHOT_SIZE_MAX
from aigw_anyio.doctor.report import Finding, ok, skipped, warning, wrong
from aigw_anyio.nats.publisher import load_cursor
from aigw_anyio.settings import Settings
from aigw_anyio.settings.model import DenySource, FactSinkKind
from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.follow import Follower, Position
from aigw_anyio.sinks.spool.layout import SEGMENT_SIZE, is_locked, spools
from aigw_anyio.sinks.spool.retention import bytes_in
from aigw_core.snapshot import SnapshotError, decode
from aigw_core.spool import Kind, SpoolFormatError

FREE_SHARE_LOW: Final = 0.05
"""Of the disk: below this it is time to look at what fills it."""
SEGMENTS_WANTED: Final = 2
"""That a spool makes at its start."""
SNAPSHOT_OLD_SECS: Final = 86_400.0
"""A snapshot is written every minute while a gateway runs; a day old means that none does, or none can write."""
WAITING_COUNTED_MAX: Final = 100_000
"""Unpublished facts that are counted one by one: enough to say that there are many."""
WAITING_MANY: Final = 10_000
"""More than a publisher has on its way in a few seconds."""


def check_disk(settings: Settings) -> list[Finding]:
    """What of it applies. Blocks."""
    found: list[Finding] = []
    if settings.fact_sink is not FactSinkKind.STDOUT and settings.spool_dir is not None:
        found += _spool(Path(settings.spool_dir), settings)
    if settings.snapshot_path is not None:
        found += _snapshot(Path(settings.snapshot_path), settings)
    if settings.effective_deny_source is DenySource.FILE and settings.deny_file is not None:
        found.append(_deny_file(Path(settings.deny_file)))
    return found or [skipped("disk", "spool_dir", "facts go to stdout, and nothing is kept on disk")]


# The spool


def _spool(root: Path, settings: Settings) -> list[Finding]:
    place = root
    # Those of os.path also answer where a directory above may not be entered.
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        fix = "name a directory, or a path at which one can be made"
        return [wrong("disk", "spool_dir", "is no directory", why=f"{place} is a file", fix=fix)]
    problem = _cannot_write(place, SEGMENT_SIZE, "spool_dir")
    if problem is not None:
        return [problem]
    made = "" if place == root else "does not exist yet; it is made at the start"
    return [_room(place, "spool_dir", made), *_spools(root, settings)]


def _cannot_write(directory: Path, size: int, subject: str) -> Finding | None:
    """Reserves so many bytes there and syncs them, as the gateway would."""
    files, path = Files(), directory / f".aigw-doctor.{os.getpid()}"
    try:
        fd = files.create(path, size)
        try:
            files.write_at(fd, b"aigw", 0)
            files.sync(fd)
        finally:
            files.close(fd)
    except OSError as error:
        fix = f"let the user of the gateway (uid {os.geteuid()} here) write to {directory}"
        if error.errno is not None and error.errno not in (1, 13, 30):
            fix = f"make room on the disk of {directory}, or name a directory on another one"
        return wrong("disk", subject, "cannot be written", why=error.strerror or "unknown", fix=fix)
    finally:
        with contextlib.suppress(OSError):
            files.unlink(path)
    return None


def _room(directory: Path, subject: str, made: str) -> Finding:
    usage = shutil.disk_usage(directory)
    free = f"{_size(usage.free)} of {_size(usage.total)} are free"
    what = f"{made}; {free}" if made else f"can be written; {free}"
    fix = "make room: remove what is not needed, set spool_retention_days or spool_max_bytes"
    if usage.free < SEGMENTS_WANTED * SEGMENT_SIZE:
        why = f"a start takes {_size(SEGMENTS_WANTED * SEGMENT_SIZE)}; without room managed requests get 503"
        return wrong("disk", subject, free, why=why, fix=fix)
    if usage.free < usage.total * FREE_SHARE_LOW:
        return warning("disk", subject, what, why="a full disk refuses managed requests", fix=fix)
    return ok("disk", subject, what)


def _spools(root: Path, settings: Settings) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(_one_spool(directory, settings) for directory in (spools(root) if os.path.isdir(root) else ()))
    except (OSError, SpoolFormatError) as error:
        why = str(getattr(error, "strerror", None) or error)
        found.append(
            wrong("disk", "spool_dir", "a spool cannot be read", why=why, fix=f"run `aigw facts verify {root}`")
        )
    return found


def _one_spool(directory: Path, settings: Settings) -> Finding:
    """Raises OSError or SpoolFormatError."""
    name, taken = directory.name, bytes_in(directory, Files())
    state = "in use" if is_locked(directory) else "its process is gone: it is taken over by the next one"
    limit = settings.spool_max_bytes
    if limit is not None and taken + SEGMENT_SIZE > limit:
        fix = "raise spool_max_bytes, or set spool_retention_days so that old segments go"
        what = f"{_size(taken)} of {_size(limit)} (spool_max_bytes) are taken"
        return warning("disk", name, what, why="no further segment fits, so managed requests get 503 soon", fix=fix)
    if settings.fact_sink is not FactSinkKind.NATS:
        return ok("disk", name, f"{_size(taken)}, {state}")
    waiting = _waiting(directory)
    what = f"{_size(taken)}, {state}; {waiting} facts wait for the stream"
    if waiting >= WAITING_MANY:
        fix = "see what is said of NATS; facts stay in the spool meanwhile, and nothing is lost while it has room"
        return warning("disk", name, what, why="the stream does not take them", fix=fix)
    return ok("disk", name, what)


def _waiting(directory: Path) -> int:
    """Facts behind the cursor of what was published."""
    cursor = load_cursor(directory, Files())
    follower = Follower(directory, Position(cursor.segment, cursor.offset, cursor.sequence))
    count = 0
    while count < WAITING_COUNTED_MAX and (records := follower.read()):
        count += sum(record.kind == Kind.FACT for record in records)
    return count


# The deny-set


def _snapshot(path: Path, settings: Settings) -> list[Finding]:
    problem = _cannot_write(path.parent, 4096, "snapshot_path")
    if problem is not None:
        return [problem]
    try:
        with path.open("rb") as file:
            data = file.read(SNAPSHOT_SIZE_MAX + 1)
        kind = settings.effective_deny_source
        source = f"nats:{settings.nats_bucket}" if kind is DenySource.NATS else f"file:{settings.deny_file}"
        snapshot = decode(data, source)
    except FileNotFoundError:
        return [ok("disk", "snapshot_path", "can be written; there is none yet")]
    except OSError as error:
        fix = "let the user of the gateway read it, or remove it"
        return [wrong("disk", "snapshot_path", "cannot be read", why=error.strerror or "unknown", fix=fix)]
    except SnapshotError as error:
        fix = "nothing: the next one replaces it. Until then a start without the source begins empty"
        return [warning("disk", "snapshot_path", "is not used", why=str(error), fix=fix)]
    age = time.time() - snapshot.confirmed_wall
    what = f"can be written; {snapshot.view.deny.size} entries"
    if age > SNAPSHOT_OLD_SECS:
        fix = "start the gateway, or look whether it can reach its deny source"
        return [warning("disk", "snapshot_path", f"{what}, not confirmed for {age / 3600:.0f} hours", fix=fix)]
    return [ok("disk", "snapshot_path", f"{what}, confirmed {max(0.0, age):.0f} s ago")]


def _deny_file(path: Path) -> Finding:
    try:
        with path.open("rb") as file:
            data = file.read(DENY_FILE_SIZE_MAX + 1)
        if len(data) > DENY_FILE_SIZE_MAX:
            raise FileProblem("it is too large")
        entries = parse_deny_file(data)
    except OSError as error:
        fix = "make the file ({} cuts nobody off), and let the user of the gateway read it"
        return wrong("disk", "deny_file", "cannot be read", why=error.strerror or "unknown", fix=fix)
    except FileProblem as error:
        fix = 'write one JSON object, such as {"blackhole.42": "spend"}'
        return wrong("disk", "deny_file", "is not used", why=str(error), fix=fix)
    misspelt = misspelt_keys(entries)
    if misspelt:
        what = f"{len(entries)} entries, {len(misspelt)} of them misspelt"
        return warning("disk", "deny_file", what, why=told(misspelt), fix="write blackhole.ID or blackhole.key.ID")
    return ok("disk", "deny_file", f"{len(entries)} entries")


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
