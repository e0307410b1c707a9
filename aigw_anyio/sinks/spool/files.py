"""The file operations of the spool, in one place: tests put a failing layer here."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


class Files:
    """Thin over ``os``. Every method raises OSError."""

    def make_directory(self, path: Path) -> None:
        """With its parents; no error where it is there. Private: facts say who used what."""
        os.makedirs(path, mode=0o700, exist_ok=True)

    def list_directory(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def create(self, path: Path, size: int) -> int:
        """A new file whose ``size`` bytes are reserved: writing into them cannot end in a full disk.

        Leaves nothing behind where the room is not there.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        return fd

    def open(self, path: Path) -> int:
        """For writing; the file exists."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        """All of it. Where it fails a part may have been written."""
        written = os.pwrite(fd, data, offset)
        while written < len(data):
            written += os.pwrite(fd, data[written:], offset + written)

    def sync(self, fd: int) -> None:
        """Returns when what was written is on the disk."""
        os.fdatasync(fd)

    def free_bytes(self, path: Path) -> int:
        """Of the disk, as far as this process may take them."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def lock(self, path: Path) -> int | None:
        """A descriptor that holds the lock of this file until it is closed; None where another one holds it.

        The system drops the lock with the process, however that ends.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError:
            os.close(fd)
            raise
        return fd

    def write_whole(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        """Replaces a small file: readers see the old one or the new one, whole."""
        temporary = path.with_name(f"{path.name}.tmp")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self.write_at(fd, data, 0)
            if durable:
                self.sync(fd)
        finally:
            os.close(fd)
        self.rename(temporary, path)
        if durable:
            self.sync_directory(path.parent)
