"""The snapshot of the deny-set on disk: written whole beside the old one, then put in its place at once."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from aigw_anyio.deny.control import DenyControl
from aigw_core.snapshot import Snapshot, SnapshotError, decode, encode

INTERVAL_SECS: Final = 1.0
"""Between two snapshots: what a restart can have to learn again while its source is away."""
REFRESH_SECS: Final = 60.0
"""Without a change one is written so often, for the time at which the set was last confirmed."""
COST_SHARE: Final = 20
"""A large set that takes a second to write is written every twenty seconds at most."""
FILE_SIZE_MAX: Final = 1024 * 1024 * 1024
"""Of a snapshot to be read; fifty million entries."""

_log = logging.getLogger("aigw.deny")


def read_snapshot(path: Path, source: str) -> Snapshot | None:
    """None where there is none, or where it is not used, which is logged."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_SIZE_MAX + 1)
        if len(data) > FILE_SIZE_MAX:
            raise SnapshotError("it is too large")
        return decode(data, source)
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"it cannot be read: {error.strerror}"
    except SnapshotError as error:
        problem = str(error)
    _log.warning("the snapshot of the deny-set is not used: %s", problem, extra={"fields": {"file": str(path)}})
    return None


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Raises OSError. A crash at any moment leaves the old one or the new one, and perhaps a temporary file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in encode(snapshot):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class SnapshotKeeper:
    """Restores at the start, then follows the set."""

    def __init__(self, path: Path, control: DenyControl, *, interval_secs: float = INTERVAL_SECS) -> None:
        self._path = path
        self._control = control
        self._interval_secs = interval_secs
        self._written: int | None = None
        self._is_broken = False

    def restore(self) -> Snapshot | None:
        """Puts the snapshot on disk in force, if it is one of this source."""
        control = self._control
        snapshot = read_snapshot(self._path, control.source)
        if snapshot is None:
            return None
        age = time.time() - snapshot.confirmed_wall
        # A clock that was set back would make an old set look new.
        confirmed_at = anyio.current_time() - max(0.0, age) if snapshot.confirmed_wall else None
        control.restore(snapshot, confirmed_at)
        self._written = control.version
        return snapshot

    async def run(self) -> None:
        """Writes after changes, until cancelled."""
        control = self._control
        refresh_at = anyio.current_time() + REFRESH_SECS
        while True:
            cost = 0.0
            is_due = control.version != self._written or anyio.current_time() >= refresh_at
            if control.gateway.deny_seeded and is_due:
                cost = await self._write()
                refresh_at = anyio.current_time() + REFRESH_SECS
            await anyio.sleep(max(self._interval_secs, cost * COST_SHARE))

    async def flush(self) -> None:
        """Writes the last changes, at a clean stop."""
        if self._control.gateway.deny_seeded and self._control.version != self._written:
            await self._write()

    async def _write(self) -> float:
        """Seconds that it took."""
        control = self._control
        began = anyio.current_time()
        version = control.version
        # Copied here, in one turn, so that entries and cursor are of one moment; encoded and written elsewhere.
        snapshot = control.capture(time.time(), began).captured()
        try:
            await anyio.to_thread.run_sync(write_snapshot, self._path, snapshot)
        except OSError as error:
            control.stats.snapshot_failures += 1
            if not self._is_broken:
                self._is_broken = True
                reason = error.strerror or "failed"
                fields = {"file": str(self._path), "reason": reason}
                _log.error("the snapshot of the deny-set cannot be written, trying again", extra={"fields": fields})
        else:
            control.stats.snapshots += 1
            self._written = version
            if self._is_broken:
                self._is_broken = False
                _log.info("the snapshot of the deny-set is written again")
        return anyio.current_time() - began
