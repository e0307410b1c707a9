"""Changes to a deny file, one at a time, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from aigw_anyio.deny.file import parse_deny_file


def change_deny_file(path: Path, change: Callable[[dict[str, object]], bool]) -> bool:
    """Reads, changes and replaces the file under a lock beside it; a missing file counts as ``{}``.

    ``change`` alters the members in place and tells whether it did; its answer is returned. Raises FileProblem or
    OSError.
    """
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            data = path.read_bytes()
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            data, mode = b"{}", 0o644
        parse_deny_file(data)
        members: dict[str, object] = json.loads(data)
        if not change(members):
            return False
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), mode)
                json.dump(members, file, indent=2, ensure_ascii=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        return True
    finally:
        os.close(lock)
