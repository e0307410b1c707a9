"""What Linux says about processes: CPU time, memory, and how busy a core is."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SEC: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(_PROC):
        if name.isdigit() and (fields := _stat(int(name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(name))
    found = [pid]
    for parent in found:  # grows while it is walked; a process has one parent, so this ends
        found += children.get(parent, [])
    return found


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` behind the name, which may itself hold blanks and brackets."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def cpu_ns(pid: int) -> dict[int, int]:
    """Nanoseconds on a CPU, user and kernel, of each live thread of a process tree.

    ``schedstat`` is exact where ``stat`` counts ticks of 10 ms; a thread that ends takes its time with it.
    """
    times: dict[int, int] = {}
    for process in tree(pid):
        try:
            threads = os.listdir(_PROC / str(process) / "task")
        except OSError:
            continue
        for thread in threads:
            try:
                text = (_PROC / str(process) / "task" / thread / "schedstat").read_text()
            except OSError:
                continue
            times[int(thread)] = int(text.split()[0])
    return times


def cpu_used(before: dict[int, int], after: dict[int, int]) -> float:
    """Seconds between two readings."""
    return sum(max(0, ns - before.get(thread, 0)) for thread, ns in after.items()) / 1e9


def rss(pid: int) -> int:
    """Resident bytes of a process tree; pages that its processes share count in each."""
    total = 0
    for process in tree(pid):
        try:
            total += int((_PROC / str(process) / "statm").read_text().split()[1]) * _PAGE
        except OSError:
            continue
    return total


def open_files(pid: int) -> list[str]:
    """What each file descriptor of one process leads to. Raises OSError once it is gone."""
    found: list[str] = []
    for name in os.listdir(_PROC / str(pid) / "fd"):
        # One that is closed meanwhile was none.
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(_PROC / str(pid) / "fd" / name))
    return found


def raise_open_files_limit() -> None:
    """As far as this process may, for itself and the children that it starts."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def core_busy(core: int) -> float:
    """Seconds for which a core was not idle since boot, time stolen by the host included; ticks of 10 ms."""
    for line in (_PROC / "stat").read_text().splitlines():
        fields = line.split()
        if fields[0] == f"cpu{core}":
            # user, nice, system, idle, iowait, irq, softirq, steal
            return sum(int(fields[n]) for n in (1, 2, 3, 6, 7, 8)) / _TICKS_PER_SEC
    return 0.0


class Window:
    """``with Window(pid, core) as window: …`` measures what the block costs; without a pid only the core."""

    def __init__(self, pid: int | None, core: int | None) -> None:
        self.cpu: float | None = None
        """Seconds that the process tree spent."""
        self.wall = 0.0
        self.core_percent: float | None = None
        """How busy the core was."""
        self.others_percent: float | None = None
        """The share of the core that went to anything but the process tree: the noise."""
        self._pid = pid
        self._core = core

    def __enter__(self) -> Self:
        self._busy = 0.0 if self._core is None else core_busy(self._core)
        self._before = {} if self._pid is None else cpu_ns(self._pid)
        self._begin = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wall = time.perf_counter() - self._begin
        if self._pid is not None:
            self.cpu = cpu_used(self._before, cpu_ns(self._pid))
        if self._core is not None:
            busy = core_busy(self._core) - self._busy
            self.core_percent = 100 * busy / self.wall
            self.others_percent = max(0.0, 100 * (busy - (self.cpu or 0.0)) / self.wall)
