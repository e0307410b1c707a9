from __future__ import annotations

import dataclasses
import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from aigw_anyio.settings.model import SpoolFsync
from aigw_anyio.sinks import SinkError, SinkStats
from aigw_anyio.sinks.spool import SpoolOptions, SpoolSink
from aigw_anyio.sinks.spool import sink as sink_module
from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.layout import segments
from aigw_anyio.sinks.spool.verify import verify
from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.spool import RECORD_MAX, Kind, SegmentScan
from tests.anyio_layer.spool.helpers import (
    SMALL,
    FailingFiles,
    Process,
    ends_in,
    fact_of,
    opening,
    record_of,
    records_in,
)

pytestmark = pytest.mark.anyio
DEADLINE = 10.0
QUIET = SpoolOptions(fsync=SpoolFsync.NEVER, segment_size=SMALL)
"""Nothing happens by itself but what room demands."""


class Caller:
    """What a data plane does with a sink."""

    def __init__(self, sink: SpoolSink) -> None:
        self.sink = sink
        self.answers: dict[str, bool] = {}
        sink.on_answer = self.answers.__setitem__

    def open(self, *ids: str) -> None:
        """Answers that come at once, and later ones, end in ``answers``."""
        for fact_id in ids:
            accepted = self.sink.open(record_of(fact_id))
            if accepted is not None:
                self.answers[fact_id] = accepted
        self.sink.push()

    def close(self, *ids: str, padding: int = 0) -> None:
        for fact_id in ids:
            self.sink.emit(fact_of(fact_id, padding))
        self.sink.push()

    def accepted(self) -> list[str]:
        return [fact_id for fact_id, accepted in self.answers.items() if accepted]


@asynccontextmanager
async def running(root: Path, options: SpoolOptions = QUIET, files: Files | None = None) -> AsyncIterator[Caller]:
    sink = SpoolSink(root, options, files)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(sink.run)
            yield Caller(sink)
            tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Turns of the loop, and of the threads it waits for, until something holds; the caller bounds the time."""
    while not condition():
        await anyio.sleep(0.001)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "RETRY_SECS", 0.001)


def kinds(root: Path) -> list[tuple[int, str]]:
    return [(record.kind, record.id) for record in records_in(root)]


async def test_records_of_a_turn_are_written_when_push_returns(tmp_path: Path) -> None:
    async with running(tmp_path) as caller:
        sink = caller.sink
        for fact_id in "ab":
            assert sink.open(record_of(fact_id)) is None
        assert (caller.answers, kinds(tmp_path)) == ({}, [])
        sink.push()
        assert caller.answers == {"a": True, "b": True}
        assert kinds(tmp_path) == [(Kind.OPEN, "a"), (Kind.OPEN, "b")]
        assert sink.stats.outstanding == 2
        sink.emit(fact_of("a"))
        assert sink.stats.buffered_bytes == len(fact_of("a").encode())
        sink.void("b")
        sink.push()
        assert kinds(tmp_path)[2:] == [(Kind.FACT, "a"), (Kind.VOID, "b")]
        spool_bytes = sink.stats.spool_bytes
        assert sink.stats == SinkStats(written=1, spool_bytes=spool_bytes)
        assert not sink.degraded
    assert ends_in(tmp_path) == [("a", "complete")]


async def test_one_write_for_all_records_of_a_turn(tmp_path: Path) -> None:
    writes: list[int] = []

    class Counting(Files):
        def write_at(self, fd: int, data: bytes, offset: int) -> None:
            writes.append(len(data))
            super().write_at(fd, data, offset)

    async with running(tmp_path, files=Counting()) as caller:
        caller.open("warm")
        writes.clear()
        caller.sink.emit(fact_of("warm"))
        caller.open("a", "b", "c")
        assert len(writes) == 1
        caller.close("a", "b", "c")
        assert len(writes) == 2
        caller.sink.push()
        assert len(writes) == 2


async def test_a_void_before_the_answer_leaves_no_trace(tmp_path: Path) -> None:
    async with running(tmp_path) as caller:
        assert caller.sink.open(record_of("a")) is None
        caller.sink.void("a")
        caller.sink.push()
        caller.sink.void("unknown")
        caller.sink.push()
        assert (caller.answers, kinds(tmp_path)) == ({}, [])


async def test_nothing_runs_before_run_and_after_it(tmp_path: Path) -> None:
    sink = SpoolSink(tmp_path / "x", QUIET)
    assert sink.degraded
    assert sink.open(record_of("a")) is False
    assert not (tmp_path / "x").exists()
    async with running(tmp_path) as caller:
        caller.open("a")
        caller.sink.emit(fact_of("a"))
    # What was emitted without a push is written by the stop.
    assert ends_in(tmp_path) == [("a", "complete")]
    assert caller.sink.open(record_of("b")) is False
    again = Process(tmp_path)
    again.stop()
    assert (again.spool.directory.name, again.lost) == ("w0-0", 0)


async def test_room_for_each_fact_is_kept_before_its_request_is_let_in(tmp_path: Path) -> None:
    """The largest facts there can be, after everything that was let in: none lacks room."""
    many = [str(n) for n in range(40)]

    class NoMore(Files):
        limit = 6

        def create(self, path: Path, size: int) -> int:
            self.limit -= 1
            if self.limit < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().create(path, size)

    async with running(tmp_path, files=NoMore()) as caller:
        for fact_id in many:
            caller.open(fact_id)
            await anyio.sleep(0)
        await until(lambda: len(caller.answers) == len(many))
        accepted = caller.accepted()
        assert 6 <= len(accepted) < len(many)
        assert caller.sink.degraded
        refused = len(many) - len(accepted)
        assert caller.sink.stats.refused == refused
        size = RECORD_MAX - len(fact_of("a").encode()) - 30
        caller.close(*accepted, padding=size)
        assert caller.sink.stats.buffered_bytes == 0
    assert ends_in(tmp_path) == [(fact_id, "complete") for fact_id in accepted]
    assert verify(tmp_path).problems == []


async def test_a_burst_waits_for_room_that_is_being_made(tmp_path: Path) -> None:
    many = [str(n) for n in range(50)]
    async with running(tmp_path) as caller:
        caller.open(*many)
        assert 0 < len(caller.answers) < 50
        await until(lambda: len(caller.answers) == 50)
        assert caller.accepted() == many
        caller.close(*many)
        options = caller.sink.options
        assert (options.segment_size, caller.sink.writer.spares > 5) == (SMALL, True)


async def test_room_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aigw")
    files = FailingFiles(lambda _: False, errno.ENOSPC)
    async with running(tmp_path, files=files) as caller:
        caller.open(*map(str, range(3)))
        files.fails = lambda _: True
        files_write = files.write_at
        # The room is reserved: only what needs new room fails.
        files.write_at = Files().write_at  # type: ignore[method-assign]  # so that writes succeed
        caller.open(*map(str, range(3, 30)))
        await until(lambda: len(caller.answers) == 30)
        accepted = caller.accepted()
        assert len(accepted) < 30
        assert caller.sink.degraded
        caller.close(*accepted)
        files.fails, files.write_at = (lambda _: False), files_write  # type: ignore[method-assign]  # as it was
        await until(lambda: "the spool has room again" in caplog.messages)
        caller.open("later")
        await until(lambda: "later" in caller.answers)
        assert caller.answers["later"]
        caller.close("later")
    assert [fact_id for fact_id, _ in ends_in(tmp_path)] == [*accepted, "later"]
    assert caplog.messages.count("the spool gets no more room: No space left on device") == 1


async def test_spool_max_bytes_is_a_full_disk(tmp_path: Path) -> None:
    options = SpoolOptions(fsync=SpoolFsync.NEVER, segment_size=SMALL, bytes_max=2 * SMALL)
    async with running(tmp_path, options) as caller:
        caller.open(*map(str, range(20)))
        await until(lambda: len(caller.answers) == 20)
        assert 1 <= len(caller.accepted()) < 10
        assert sum(s.path.stat().st_size for s in segments(caller.sink.own.directory)) <= 2 * SMALL
        caller.close(*caller.accepted())


@pytest.mark.parametrize("half", [False, True])
async def test_a_disk_that_fails_for_a_while(tmp_path: Path, half: bool) -> None:
    """Requests are refused, facts wait in memory, and all of them are written once the disk works again."""
    files = FailingFiles(lambda _: False, errno.EIO, half=half)
    async with running(tmp_path, files=files) as caller:
        caller.open("a", "b")
        files.fails = lambda _: True
        caller.sink.emit(fact_of("a"))
        caller.open("refused")
        assert caller.answers["refused"] is False
        assert caller.sink.degraded
        assert caller.sink.open(record_of("also")) is False
        caller.close("b")
        assert caller.sink.stats.buffered_bytes > 0
        files.fails = lambda _: False
        await until(lambda: not caller.sink.degraded)
        assert caller.sink.stats.buffered_bytes == 0
        caller.open("c")
        await until(lambda: caller.answers.get("c") is True)
        caller.close("c")
    assert ends_in(tmp_path) == [("a", "complete"), ("b", "complete"), ("c", "complete")]
    assert verify(tmp_path).problems == []


async def _session(root: Path, files: Files, fsync: SpoolFsync) -> tuple[list[str], list[str]]:
    """Accepted and voided ids of a short life."""
    options = SpoolOptions(fsync=fsync, segment_size=SMALL, sync_secs=0.001)
    async with running(root, options, files) as caller:
        for group in ("ab", "cd", "ef"):
            ids = [*group]
            caller.open(*ids)
            await until(lambda ids=ids: all(i in caller.answers for i in ids))  # type: ignore[misc]  # bound at once
        accepted = caller.accepted()
        caller.close(*[i for i in accepted if i != "d"], padding=RECORD_MAX // 3)
        caller.sink.void("d")
        await caller.sink.flush()
        return accepted, ["d"]


@pytest.mark.parametrize("fsync", list(SpoolFsync))
@pytest.mark.parametrize(("number", "half"), [(errno.EIO, False), (errno.EIO, True), (errno.ENOSPC, False)])
async def test_any_operation_may_fail_once(tmp_path: Path, number: int, half: bool, fsync: SpoolFsync) -> None:
    operation = 0
    while True:
        operation += 1
        root = tmp_path / str(operation)
        files = FailingFiles(operation.__eq__, number, half=half)
        try:
            accepted, voided = await _session(root, files, fsync)
        except* SinkError:
            accepted, voided = [], []
        after = Process(root)
        after.stop()
        due = [(fact_id, "complete") for fact_id in accepted if fact_id not in voided]
        assert (sorted(ends_in(root)), after.lost) == (due, 0)
        assert verify(root).problems == []
        if not files.failed:
            assert operation > 10
            return


@pytest.mark.parametrize("half", [False, True])
async def test_the_disk_may_fail_for_good_at_any_operation(tmp_path: Path, half: bool) -> None:
    """What can be written no more is lost as ``gateway_lost``: every accepted exchange still has one fact."""
    operation = 0
    while True:
        operation += 1
        root = tmp_path / str(operation)
        files = FailingFiles(operation.__le__, half=half)
        accepted: list[str] = []
        refused: list[str] = []
        try:
            async with running(root, files=files) as caller:
                caller.open("a", "b")
                await until(lambda: len(caller.answers) == 2)  # called at once
                caller.close(*[i for i in "a" if i in caller.accepted()])
                caller.open("c")
                await until(lambda: len(caller.answers) == 3)  # called at once
                accepted = caller.accepted()
                refused = [i for i in "abc" if i not in accepted]
        except* SinkError:
            pass
        Process(root).stop()
        found = ends_in(root)
        assert len(found) == len(set(found))
        assert [i for i in accepted if i not in dict(found)] == []
        # A refused request whose record got to the disk all the same counts as lost, never as served.
        assert {outcome for fact_id, outcome in found if fact_id in refused} <= {"gateway_lost"}
        if not files.failed:
            assert accepted == ["a", "b", "c"]
            return


# fsync


async def test_always_answers_when_the_disk_has_it(tmp_path: Path) -> None:
    synced: list[int] = []
    may_sync = threading.Event()
    scans: list[list[str]] = []

    class Slow(Files):
        def sync(self, fd: int) -> None:
            may_sync.wait(DEADLINE)
            scans.append([record.id for record in SegmentScan(os.pread(fd, SMALL, 0))])
            super().sync(fd)
            synced.append(fd)

    options = SpoolOptions(fsync=SpoolFsync.ALWAYS, segment_size=SMALL)
    may_sync.set()
    async with running(tmp_path, options, Slow()) as caller:
        may_sync.clear()
        synced.clear()
        scans.clear()
        caller.open("a")
        caller.open("b")
        caller.sink.void("b")
        await anyio.sleep(0.01)
        assert caller.answers == {}
        caller.open("c")
        may_sync.set()
        await until(lambda: "c" in caller.answers)
        assert caller.answers == {"a": True, "c": True}, "nobody waits for b any more"
        assert len(synced) <= 2, "one sync for many"
        assert "a" in scans[0]
        assert "c" in scans[-1]
        caller.close("a", "c")
    assert verify(tmp_path).problems == []


async def test_always_lets_nobody_in_on_a_sync_that_failed(tmp_path: Path) -> None:
    class Broken(Files):
        fails = False

        def sync(self, fd: int) -> None:
            if self.fails:
                self.fails = False
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().sync(fd)

    files = Broken()
    async with running(tmp_path, SpoolOptions(fsync=SpoolFsync.ALWAYS, segment_size=SMALL), files) as caller:
        caller.open("a")
        await until(lambda: "a" in caller.answers)
        number = caller.sink.writer.number
        files.fails = True
        caller.open("b")
        await until(lambda: "b" in caller.answers)
        assert caller.answers == {"a": True, "b": False}
        caller.open("c")
        await until(lambda: "c" in caller.answers)
        assert caller.answers["c"]
        assert caller.sink.writer.number > number
        caller.close("a", "c")
    assert ends_in(tmp_path) == [("a", "complete"), ("c", "complete")]


@pytest.mark.parametrize(("fsync", "syncs"), [(SpoolFsync.INTERVAL, True), (SpoolFsync.NEVER, False)])
async def test_interval_syncs_what_is_new_and_never_does_not(tmp_path: Path, fsync: SpoolFsync, syncs: bool) -> None:
    count = 0

    class Counting(Files):
        def sync(self, fd: int) -> None:
            nonlocal count
            count += 1
            super().sync(fd)

        def sync_directory(self, path: Path) -> None:
            nonlocal count
            count += 1
            super().sync_directory(path)

    options = SpoolOptions(fsync=fsync, segment_size=SMALL, sync_secs=0.001)
    async with running(tmp_path, options, Counting()) as caller:
        before = count
        caller.open("a")
        caller.close("a")
        if syncs:
            await until(lambda: count > before)
            after = count
            for _ in range(20):
                await anyio.sleep(0.002)
            assert count == after, "nothing new, nothing to sync"
        await caller.sink.flush()
    assert bool(count) == syncs or fsync is SpoolFsync.NEVER


# Beside other processes


async def test_spools_of_dead_processes_are_recovered_and_living_ones_are_not(tmp_path: Path) -> None:
    draining, dead = Process(tmp_path), Process(tmp_path)
    draining.write(opening("draining"))
    dead.write(opening("dead"))
    options = SpoolOptions(fsync=SpoolFsync.NEVER, segment_size=SMALL, tidy_secs=0.005)
    async with running(tmp_path, options) as caller:
        assert caller.sink.own.directory.name == "w0-2"
        caller.open("own")
        dead.die()
        await until(lambda: caller.sink.stats.recovered == 1)
        for _ in range(5):
            await anyio.sleep(0.006)
        assert ends_in(tmp_path) == [("dead", "gateway_lost")]
        draining.write(*[(int(Kind.FACT), fact_of("draining").encode(), "draining")])
        draining.stop()
        caller.close("own")
        await anyio.sleep(0.02)
        assert caller.sink.stats.recovered == 1
    assert sorted(ends_in(tmp_path)) == [("dead", "gateway_lost"), ("draining", "complete"), ("own", "complete")]


async def test_old_segments_go_and_what_is_needed_stays(tmp_path: Path) -> None:
    options = SpoolOptions(fsync=SpoolFsync.NEVER, segment_size=SMALL, tidy_secs=0.005, keep_secs=3600.0)
    async with running(tmp_path, options) as caller:
        directory = caller.sink.own.directory
        caller.open("long")
        for n in range(10):
            caller.open(str(n))
            await until(lambda n=n: str(n) in caller.answers)  # type: ignore[misc]  # bound at once
            caller.close(str(n), padding=RECORD_MAX // 2)
            await anyio.sleep(0.005)
        for segment in segments(directory):
            os.utime(segment.path, (0, 0))
        await anyio.sleep(0.05)
        assert segments(directory)[0].number == 1, "an exchange that began there still runs"
        caller.close("long")
        await until(lambda: segments(directory)[0].number > 1)
        assert segments(directory)[0].number == caller.sink.writer.number


async def test_a_segment_is_closed_after_a_while(tmp_path: Path) -> None:
    options = SpoolOptions(
        fsync=SpoolFsync.NEVER, segment_size=SMALL, tidy_secs=0.005, sync_secs=0.005, rotate_secs=0.0
    )
    async with running(tmp_path, options) as caller:
        caller.open("a")
        first = segments(caller.sink.own.directory)[0].path
        await until(lambda: caller.sink.writer.number > 1 and first.stat().st_size < SMALL)
        number = caller.sink.writer.number
        await anyio.sleep(0.03)
        assert caller.sink.writer.number == number, "an empty one stays"
        caller.close("a")


async def test_spares_go_back_when_nobody_needs_them(tmp_path: Path) -> None:
    options = SpoolOptions(fsync=SpoolFsync.NEVER, segment_size=SMALL, tidy_secs=0.005)
    async with running(tmp_path, options) as caller:
        many = [str(n) for n in range(30)]
        caller.open(*many)
        await until(lambda: len(caller.answers) == 30)
        assert caller.sink.writer.spares > 4
        caller.close(*many)
        await until(lambda: caller.sink.writer.spares <= 2)


# Starting


def unwritable(root: Path) -> Path:
    (root / "file").touch()
    return root / "file" / "spool"


def foreign(root: Path) -> Path:
    process = Process(root)
    process.write((int(Kind.OPEN), b'{"v":9,"id":"a"}', "a"))
    process.die()
    return root


@pytest.mark.parametrize(
    ("make", "message"), [(unwritable, "spool_dir: Not a directory"), (foreign, "spool_dir: an open record lacks")]
)
async def test_a_directory_of_no_use_is_refused_at_start(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    sink = SpoolSink(make(tmp_path), QUIET)
    with pytest.raises(SinkError, match=message):
        await sink.run()


async def test_a_full_disk_at_start_refuses_requests_not_the_start(tmp_path: Path) -> None:
    class Full(Files):
        full = True

        def create(self, path: Path, size: int) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().create(path, size)

    files = Full()
    async with running(tmp_path, files=files) as caller:
        caller.open("a")
        assert caller.answers == {"a": False}
        assert caller.sink.degraded
        files.full = False
        await until(lambda: not caller.sink.degraded)
        caller.open("b")
        await until(lambda: "b" in caller.answers)
        assert caller.answers["b"]
        caller.close("b")


async def test_flush_waits_for_a_disk_that_comes_back(tmp_path: Path) -> None:
    files = FailingFiles(lambda _: False)
    async with running(tmp_path, files=files) as caller:
        caller.open("a")
        files.fails = lambda _: True
        caller.close("a")
        flushed: list[bool] = []

        async def flush(work: Callable[[], Awaitable[None]]) -> None:
            await work()
            flushed.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flush, caller.sink.flush)
            await anyio.sleep(0.01)
            assert flushed == []
            files.fails = lambda _: False
        assert ends_in(tmp_path) == [("a", "complete")]


async def test_a_clock_that_is_set_back_changes_nothing(tmp_path: Path) -> None:
    """Order is that of the records, whatever their ids and times say."""
    ids = [f"{n:04d}" for n in range(9, 0, -1)]
    options = SpoolOptions(fsync=SpoolFsync.NEVER, segment_size=SMALL, tidy_secs=0.005, keep_secs=3600.0)
    async with running(tmp_path, options) as caller:
        for fact_id in ids:
            caller.open(fact_id)
            await until(lambda fact_id=fact_id: fact_id in caller.answers)  # type: ignore[misc]  # bound at once
            caller.close(fact_id, padding=RECORD_MAX // 2)
        for segment in segments(caller.sink.own.directory):
            # Written in what is the future now.
            os.utime(segment.path, (4_000_000_000, 4_000_000_000))
        await anyio.sleep(0.03)
        caller.open("0000")
        caller.close("0000")
    assert [fact_id for fact_id, _ in ends_in(tmp_path)] == [*ids, "0000"]
    assert verify(tmp_path).problems == []


# Shares


ROOMY = SpoolOptions(fsync=SpoolFsync.NEVER, segment_size=16 * RECORD_MAX, bytes_max=66 * RECORD_MAX)
"""Four segments, and with their heads some fifteen records in each."""


def record_for(fact_id: str, tenant: int) -> OpenRecord:
    return dataclasses.replace(record_of(fact_id), tenant_id=tenant)


def open_many(caller: Caller, tenant: int, count: int) -> int:
    """How many of the records of one turn are admitted; the others get their answer at once."""
    answers = [caller.sink.open(record_for(f"{tenant}-{number}", tenant)) for number in range(count)]
    assert set(answers) <= {None, False}
    return answers.count(None)


async def test_no_tenant_holds_more_than_a_quarter_of_what_the_spool_may_become(tmp_path: Path) -> None:
    """Room that is yet to be made counts, or a tenant could hold a quarter of what is ready by chance."""
    async with running(tmp_path, ROOMY) as caller:
        sink = caller.sink
        first, second = open_many(caller, 1, 60), open_many(caller, 2, 60)
        assert (first, second) == (15, 11)
        sink.push()
        await until(lambda: len(caller.accepted()) == first + second)
        assert (sink.stats.refused, sink.stats.refused_by_share) == (0, 94)
        assert sink.open(record_for("third", 3)) is None
        sink.push()
        await until(lambda: caller.answers["third"])
        # What ended in whatever way leaves its place to others of the same tenant.
        sink.emit(UsageFact(record_for("1-0", 1), Outcome.COMPLETE, "final"))
        for number in range(1, 5):
            sink.void(f"1-{number}")
        assert sink.open(record_for("still", 1)) is False
        sink.push()
        # Of what the twelve records of the others leave, a quarter is twelve; ten are open.
        assert sink.open(record_for("void", 1)) is None
        assert sink.open(record_for("more", 1)) is None
        assert sink.open(record_for("too many", 1)) is False
        sink.void("void")
        assert sink.open(record_for("again", 1)) is None


async def test_records_that_a_failing_disk_refuses_leave_their_share(tmp_path: Path) -> None:
    files = FailingFiles(lambda _: False)
    async with running(tmp_path, ROOMY, files) as caller:
        sink = caller.sink
        assert open_many(caller, 1, 60) == 15
        files.fails = lambda _: True
        sink.push()
        assert caller.accepted() == []
        assert len(sink._shares) == 0
        files.fails = lambda _: False
        await until(lambda: not sink.degraded)
        assert open_many(caller, 1, 1) == 1


async def test_a_tenants_first_record_is_admitted_as_long_as_there_is_room(tmp_path: Path) -> None:
    async with running(tmp_path, ROOMY) as caller:
        sink = caller.sink
        for tenant in range(80):
            if sink.open(record_for(f"of {tenant}", tenant)) is None:
                sink.push()
                await until(lambda asked=tenant: f"of {asked}" in caller.answers)  # type: ignore[misc]
        assert len(caller.accepted()) >= 56
        assert sink.stats.refused_by_share == 0
