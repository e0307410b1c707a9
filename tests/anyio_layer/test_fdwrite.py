"""Several processes that write lines to one descriptor."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aigw_anyio.fdwrite import SLICE, SharedFdWriter

# Children do nothing that a thread of the runner could hold up.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

WRITERS = 4
LINES = 150
LENGTHS = (20, SLICE - 1, SLICE, SLICE + 1, 100, 3 * SLICE, 7)
"""Of the lines, by turns."""


@pytest.fixture
def lock_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        # A test may have closed one.
        with contextlib.suppress(OSError):
            os.close(fd)


def line(writer: int, number: int) -> bytes:
    """Tells itself apart from all others, and from a part of itself."""
    name = f"<{writer}-{number}-".encode()
    return name + b"abcdefghij"[writer : writer + 1] * (LENGTHS[number % len(LENGTHS)] - len(name)) + b">\n"


def fork(body: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return pid


def write_all(writer: SharedFdWriter, data: bytes) -> None:
    while data:
        data = data[writer.write(data) :]
        if data:
            select.select([], [], [], 0.0005)


def hammer(fd: int, lock_fd: int, number: int) -> None:
    writer = SharedFdWriter(fd, lock_fd)
    for at in range(0, LINES, 3):
        # Some at a time, as facts of one turn are.
        write_all(writer, b"".join(line(number, each) for each in range(at, at + 3)))


def read_all(reader: int, *, size: int = 65_536, pause: float = 0.0) -> bytes:
    data = b""
    while piece := os.read(reader, size):
        data += piece
        if pause:
            time.sleep(pause)
    return data


def check(data: bytes) -> None:
    """Every line whole, once, and those of each writer in their order."""
    found = data.splitlines(keepends=True)
    expected = [line(writer, number) for writer in range(WRITERS) for number in range(LINES)]
    assert Counter(found) == Counter(expected)
    for writer in range(WRITERS):
        own = [each for each in found if each.startswith(f"<{writer}-".encode())]
        assert own == [line(writer, number) for number in range(LINES)]


def end_well(pids: list[int]) -> None:
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(pids)


@pytest.mark.parametrize("reading", ["as it comes", "a little at a time", "after a stall"])
def test_lines_of_several_processes_are_whole(pipe: tuple[int, int], lock_fd: int, reading: str) -> None:
    reader, fd = pipe
    pids = [fork(lambda number=number: hammer(fd, lock_fd, number)) for number in range(WRITERS)]  # type: ignore[misc]
    os.close(fd)
    if reading == "after a stall":
        select.select([], [], [], 0.2)
    pieces = {"size": 700, "pause": 0.00005} if reading == "a little at a time" else {"size": 65_536}
    data = read_all(reader, **pieces)
    end_well(pids)
    check(data)


@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["as opened", "append"])
def test_lines_in_a_file_are_whole(tmp_path: Path, lock_fd: int, flags: int) -> None:
    fd = os.open(tmp_path / "facts", os.O_WRONLY | os.O_CREAT | flags)
    pids = [fork(lambda number=number: hammer(fd, lock_fd, number)) for number in range(WRITERS)]  # type: ignore[misc]
    end_well(pids)
    os.close(fd)
    check((tmp_path / "facts").read_bytes())


LONG = b"x" * (3 * SLICE) + b"\n"


def fill(fd: int) -> None:
    """Until there is no room in the pipe."""
    writer, poll = os.dup(fd), select.poll()
    poll.register(writer, select.POLLOUT)
    while poll.poll(0):
        os.write(writer, b"-" * (SLICE - 1) + b"\n")
    os.close(writer)


def drain(reader: int, slices: int) -> bytes:
    return b"".join(os.read(reader, SLICE) for _ in range(slices))


def test_nobody_writes_into_a_line_that_waits_for_its_reader(pipe: tuple[int, int], lock_fd: int) -> None:
    reader, fd = pipe
    fill(fd)
    began, may_end = os.pipe(), os.pipe()

    def begin() -> None:
        writer = SharedFdWriter(fd, lock_fd)
        rest = LONG[writer.write(LONG) :]
        assert len(rest) == len(LONG) - SLICE
        os.write(began[1], b"!")
        os.read(may_end[0], 1)
        write_all(writer, rest)

    drain(reader, 1)
    pid = fork(begin)
    os.read(began[0], 1)
    ours = SharedFdWriter(fd, lock_fd)
    left = drain(reader, 4)
    assert ours.write(b"ours\n") == 0, "there is room, and it is not our turn"
    os.write(may_end[1], b"!")
    end_well([pid])
    assert ours.write(b"ours\n") == 5
    os.close(fd)
    assert (left + read_all(reader)).splitlines(keepends=True)[-2:] == [LONG, b"ours\n"]
    for end in (*began, *may_end):
        os.close(end)


def test_a_line_whose_writer_is_killed_spoils_no_other(pipe: tuple[int, int], lock_fd: int) -> None:
    reader, fd = pipe
    fill(fd)
    drain(reader, 1)
    began = os.pipe()

    def begin() -> None:
        assert SharedFdWriter(fd, lock_fd).write(LONG) == SLICE
        os.write(began[1], b"!")
        signal.pause()

    pid = fork(begin)
    os.read(began[0], 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ours = SharedFdWriter(fd, lock_fd)
    assert ours.write(b"ours\n") == 0, "no room yet, not even for the end of that line"
    left = drain(reader, 4)
    assert ours.write(b"ours\n") == 5
    assert ours.write(b"more\n") == 5
    os.close(fd)
    lines = (left + read_all(reader)).splitlines(keepends=True)
    assert lines[-3:] == [LONG[:SLICE] + b"\n", b"ours\n", b"more\n"]
    for end in began:
        os.close(end)


def test_a_reader_that_is_gone_is_seen_by_all(pipe: tuple[int, int], lock_fd: int) -> None:
    """Also by those who wait for the end of a line that nobody can write any more."""
    reader, fd = pipe
    fill(fd)
    drain(reader, 1)
    began, closed = os.pipe(), os.pipe()

    def begin() -> None:
        os.close(reader)
        writer = SharedFdWriter(fd, lock_fd)
        assert writer.write(LONG) == SLICE
        os.write(began[1], b"!")
        os.read(closed[0], 1)
        with contextlib.suppress(BrokenPipeError):
            writer.write(LONG[SLICE:])
            os._exit(1)
        os.write(began[1], b"!")
        signal.pause()

    pid = fork(begin)
    os.read(began[0], 1)
    os.close(reader)
    os.write(closed[1], b"!")
    os.read(began[0], 1)
    with pytest.raises(BrokenPipeError):
        SharedFdWriter(fd, lock_fd).write(b"ours\n")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for end in (*began, *closed):
        os.close(end)
