from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from aigw_anyio.fdwrite import SLICE, FdWriter
from aigw_anyio.sinks import SinkStats, StdoutSink
from aigw_anyio.sinks import stdout as stdout_module
from aigw_core.facts import FACT_MAX_BYTES, OpenRecord
from tests.anyio_layer.conftest import numbered

DEADLINE = 10.0


class Pipe:
    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        self._reader = os.fdopen(reader, "rb", buffering=0)

    @property
    def reader(self) -> int:
        return self._reader.fileno()

    def close_reader(self) -> None:
        self._reader.close()

    async def read_lines(self, count: int) -> bytes:
        """Everything up to and with this many line ends."""
        data = bytearray()
        while data.count(b"\n") < count:
            await anyio.wait_readable(self.reader)
            data += os.read(self.reader, 65_536)
        return bytes(data)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close_reader()
    os.close(made.writer)


def fill(fd: int) -> int:
    """Writes until the pipe is full; the number of bytes."""
    writer, total = FdWriter(fd), 0
    while written := writer.write(b"x" * SLICE):
        total += written
    return total


def is_degraded(sink: StdoutSink) -> bool:
    return sink.degraded


def ids(data: bytes) -> list[str]:
    return [json.loads(line)["id"] for line in data.splitlines()]


def test_fact_is_visible_when_push_returns(pipe: Pipe, record: OpenRecord) -> None:
    sink = StdoutSink(pipe.writer)
    assert sink.open(record) is True
    assert sink.stats.outstanding == 1
    fact = numbered(record, 1)
    sink.emit(fact)
    sink.push()
    assert os.read(pipe.reader, 100_000) == fact.encode() + b"\n"
    assert sink.stats == SinkStats(written=1)


def test_void_frees_the_room(pipe: Pipe, record: OpenRecord) -> None:
    sink = StdoutSink(pipe.writer, outstanding_max=1)
    second = dataclasses.replace(record, id="0002")
    assert sink.open(record) is True
    assert is_degraded(sink)
    assert sink.open(second) is False
    sink.void(record.id)
    assert not is_degraded(sink)
    assert sink.open(second) is True
    assert sink.stats == SinkStats(refused=1, outstanding=1)


def test_a_tenant_holds_a_quarter_and_others_are_admitted(
    pipe: Pipe, record: OpenRecord, caplog: pytest.LogCaptureFixture
) -> None:
    sink = StdoutSink(pipe.writer, outstanding_max=12)
    answers = [sink.open(dataclasses.replace(record, id=f"{number:04d}")) for number in range(9)]
    assert answers == [True] * 3 + [False] * 6
    assert not is_degraded(sink)
    assert sink.open(dataclasses.replace(record, id="other", tenant_id=2)) is True
    assert sink.stats == SinkStats(refused_by_share=6, outstanding=4)
    (line,) = caplog.records
    assert line.__dict__["fields"] == {"tenant_id": "1", "open": 3, "room": 12}
    sink.emit(numbered(record, 0))
    sink.void("0001")
    # Of the eleven that the other one leaves, a quarter is two.
    answers = [sink.open(dataclasses.replace(record, id=f"{number:04d}")) for number in (10, 11)]
    assert answers == [True, False]


def test_regular_file_takes_every_size(tmp_path: Path, record: OpenRecord) -> None:
    with (tmp_path / "facts").open("wb") as file:
        sink = StdoutSink(file.fileno())
        large = numbered(record, 2, FACT_MAX_BYTES - 1000)
        for fact in (numbered(record, 1), large, numbered(record, 3)):
            sink.emit(fact)
            sink.push()
    data = (tmp_path / "facts").read_bytes()
    assert ids(data) == ["0001", "0002", "0003"]
    assert len(data.splitlines()[1]) > SLICE
    assert sink.stats == SinkStats(written=3)


@pytest.mark.anyio
async def test_blocked_reader_neither_stalls_nor_loses(pipe: Pipe, record: OpenRecord) -> None:
    filled = fill(pipe.writer)
    fact_bytes = len(numbered(record, 1).encode()) + 1
    sink = StdoutSink(pipe.writer, buffered_max=3 * fact_bytes)
    accepted = []
    for number in range(1, 10):
        if sink.open(dataclasses.replace(record, id=f"{number:04d}")):
            accepted.append(f"{number:04d}")
            sink.emit(numbered(record, number))
            sink.push()
    # The fourth fact is what passes the limit; the fifth request is the first refused one.
    assert accepted == ["0001", "0002", "0003", "0004"]
    assert sink.stats == SinkStats(refused=5, buffered_bytes=4 * fact_bytes)
    assert is_degraded(sink)
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(DEADLINE):
            await tasks.start(sink.run)
            data = await pipe.read_lines(4)
            await sink.flush()
        tasks.cancel_scope.cancel()
    assert ids(data[filled:]) == accepted
    assert not is_degraded(sink)
    assert sink.stats == SinkStats(written=4, refused=5)


@pytest.mark.anyio
async def test_reserved_facts_are_taken_however_full(pipe: Pipe, record: OpenRecord) -> None:
    filled = fill(pipe.writer)
    sink = StdoutSink(pipe.writer, outstanding_max=50, buffered_max=1)
    for number in range(50):
        assert sink.open(dataclasses.replace(record, id=f"{number:04d}", tenant_id=number)) is True
    for number in range(50):
        sink.emit(numbered(record, number, 20_000))
        sink.push()
    data = b""

    async def read() -> None:
        nonlocal data
        data = await pipe.read_lines(50)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            # No background task runs: flush does the work itself.
            await sink.flush()
    assert ids(data[filled:]) == [f"{number:04d}" for number in range(50)]
    assert sink.stats == SinkStats(written=50)


@pytest.mark.anyio
async def test_order_holds_while_the_rest_of_a_line_waits(pipe: Pipe, record: OpenRecord) -> None:
    filled = fill(pipe.writer)
    os.read(pipe.reader, SLICE)  # room for a part of the first line
    sink = StdoutSink(pipe.writer)
    sink.emit(numbered(record, 1, 20_000))
    sink.push()
    part = sink.stats.buffered_bytes
    assert SLICE < part < 20_000 + 2_000
    sink.emit(numbered(record, 2))
    sink.push()
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(DEADLINE):
            await tasks.start(sink.run)
            data = await pipe.read_lines(2)
        tasks.cancel_scope.cancel()
    assert ids(data[filled - SLICE :]) == ["0001", "0002"]


def test_reader_that_is_gone(pipe: Pipe, record: OpenRecord, caplog: pytest.LogCaptureFixture) -> None:
    sink = StdoutSink(pipe.writer)
    for number in (1, 2):
        assert sink.open(dataclasses.replace(record, id=f"{number:04d}")) is True
    pipe.close_reader()
    sink.emit(numbered(record, 1))
    sink.push()
    sink.emit(numbered(record, 2))
    sink.push()
    assert sink.stats == SinkStats(lost=2)
    assert is_degraded(sink)
    assert sink.open(record) is False
    assert [entry.levelname for entry in caplog.records] == ["ERROR"]


@pytest.mark.anyio
async def test_reader_that_leaves_while_facts_wait(pipe: Pipe, record: OpenRecord) -> None:
    fill(pipe.writer)
    sink = StdoutSink(pipe.writer)
    sink.emit(numbered(record, 1))
    sink.push()
    pipe.close_reader()
    with anyio.fail_after(DEADLINE):
        await sink.flush()
    assert sink.stats == SinkStats(lost=1)


@pytest.mark.anyio
async def test_full_disk_refuses_and_recovers(
    tmp_path: Path, record: OpenRecord, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stdout_module, "RETRY_SECS", 0.0)
    real, is_full = os.write, True

    def write(fd: int, data: bytes) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    with (tmp_path / "facts").open("wb") as file:
        sink = StdoutSink(file.fileno())
        sink.emit(numbered(record, 1))
        sink.push()
        assert is_degraded(sink)
        assert sink.open(record) is False
        sink.emit(numbered(record, 2))
        sink.push()
        is_full = False
        with anyio.fail_after(DEADLINE):
            await sink.flush()
        assert sink.open(record) is True
    monkeypatch.undo()
    assert ids((tmp_path / "facts").read_bytes()) == ["0001", "0002"]
    assert [entry.levelname for entry in caplog.records] == ["ERROR"]


def test_writer_leaves_the_flags_alone_and_stops_at_a_full_pipe(pipe: Pipe) -> None:
    assert os.get_blocking(pipe.writer)
    total = FdWriter(pipe.writer).write(b"x" * 10_000_000)
    assert SLICE <= total < 10_000_000
    assert os.get_blocking(pipe.writer)
    assert FdWriter(pipe.writer).write(b"y") == 0
    assert len(os.read(pipe.reader, SLICE)) == SLICE
    assert FdWriter(pipe.writer).write(b"y" * (SLICE + 1)) == SLICE


def test_writer_of_a_closed_descriptor() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        StdoutSink(writer)
