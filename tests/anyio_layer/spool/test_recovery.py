from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.layout import RECOVERY_NAME, segments, take
from aigw_anyio.sinks.spool.recovery import recover
from aigw_anyio.sinks.spool.verify import verify
from aigw_core.spool import RECORD_MAX, Kind, SegmentHead, SpoolFormatError, pack
from tests.anyio_layer.spool.helpers import (
    SMALL,
    FailingFiles,
    Process,
    closing,
    ends_in,
    facts_in,
    opening,
    records_in,
    voiding,
)


def restart(root: Path, files: Files | None = None) -> Process:
    process = Process(root, files)
    process.stop()
    return process


def test_open_exchanges_of_a_dead_process_are_lost_once(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(*map(opening, "abcd"))
    process.write(closing("b"), voiding("c"))
    process.die()
    assert restart(tmp_path).lost == 2
    assert restart(tmp_path).lost == 0
    assert ends_in(tmp_path) == [("b", "complete"), ("a", "gateway_lost"), ("d", "gateway_lost")]
    assert verify(tmp_path).problems == []
    assert [fact["usage_status"] for fact in facts_in(tmp_path)] == ["final", "absent", "absent"]


def test_a_clean_stop_leaves_nothing_to_recover(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("a"))
    process.write(closing("a"))
    process.stop()
    before = [(s.path.name, s.path.read_bytes()) for s in segments(process.spool.directory)]
    assert restart(tmp_path).lost == 0
    assert [(s.path.name, s.path.read_bytes()) for s in segments(process.spool.directory)] == before


def test_open_records_are_found_however_far_back(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("first"))
    for n in range(30):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    process.die()
    assert restart(tmp_path).lost == 1
    assert ends_in(tmp_path)[-1] == ("first", "gateway_lost")
    assert verify(tmp_path).problems == []


def test_what_need_not_be_read_is_not_read(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for n in range(30):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    process.die()
    read: list[str] = []

    class Noting(Files):
        def read(self, path: Path) -> bytes:
            read.append(path.name)
            return super().read(path)

    restart(tmp_path, Noting())
    numbers = sorted(int(name[:8]) for name in read if name.endswith(".seg"))
    assert process.writer.number >= 5
    assert numbers[0] >= process.writer.number - 1


@pytest.mark.parametrize("cut", [1, 10, 19, 20, 21, 200])
def test_a_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    process = Process(tmp_path)
    process.write(opening("a"), opening("b"))
    whole = process.writer.offset
    process.write(closing("a"))
    path, end = segments(process.spool.directory)[0].path, process.writer.offset
    process.die()
    with path.open("r+b") as file:
        file.seek(max(whole, end - cut))
        file.write(bytes(cut) if cut != 10 else b"\xaf\x5a" + os.urandom(8))
    assert restart(tmp_path).lost == 2
    assert ends_in(tmp_path) == [("a", "gateway_lost"), ("b", "gateway_lost")]
    assert path.stat().st_size == whole
    assert verify(tmp_path).problems == []


def test_a_damaged_fact_becomes_a_lost_one_and_the_damage_stays_visible(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("a"))
    at = process.writer.offset
    process.write(closing("a"), opening("b"), closing("b"))
    process.die()
    path = segments(process.spool.directory)[0].path
    data = bytearray(path.read_bytes())
    data[at + 40] ^= 1
    path.write_bytes(data)
    assert restart(tmp_path).lost == 1
    assert ends_in(tmp_path) == [("b", "complete"), ("a", "gateway_lost")]
    problems = verify(tmp_path).problems
    assert len(problems) == 2
    assert "00000001.seg: bytes" in problems[0]
    assert problems[1] == "w0-0: records 2 to 2 are missing"


def test_a_damaged_head_makes_recovery_read_everything(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("first"))
    for n in range(30):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    process.die()
    last = next(s for s in segments(process.spool.directory) if s.number == process.writer.number)
    data = bytearray(last.path.read_bytes())
    data[30] ^= 4
    last.path.write_bytes(data)
    assert restart(tmp_path).lost == 1
    assert ends_in(tmp_path)[-1] == ("first", "gateway_lost")


def test_recovery_takes_the_room_of_a_spare(tmp_path: Path) -> None:
    """A disk that has filled up meanwhile does not matter."""
    process = Process(tmp_path, segments=3)
    process.write(*map(opening, "ab"))
    process.die()

    class Full(Files):
        def create(self, path: Path, size: int) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    spool = take(process.spool.directory, Full())
    assert spool is not None
    state = recover(spool)
    spool.close()
    assert (state.lost, state.next_segment, state.next_sequence) == (2, 3, 5)
    assert ends_in(tmp_path) == [("a", "gateway_lost"), ("b", "gateway_lost")]
    assert [s.number for s in segments(process.spool.directory)] == [1, 2]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_recovery_that_fails_at_any_operation_is_begun_again(tmp_path: Path, number: int, half: bool) -> None:
    operation = 0
    while True:
        operation += 1
        root = tmp_path / str(operation)
        process = Process(root, segments=3)
        process.write(*map(opening, "abc"))
        process.write(closing("b"))
        process.die()
        files = FailingFiles(operation.__eq__, number, half=half)
        try:
            spool = take(process.spool.directory, files)
            assert spool is not None
            try:
                recover(spool)
            finally:
                spool.close()
        except OSError:
            pass
        restart(root)
        assert ends_in(root) == [("b", "complete"), ("a", "gateway_lost"), ("c", "gateway_lost")]
        assert verify(root).problems == []
        assert not (process.spool.directory / RECOVERY_NAME).exists()
        if not files.failed:
            assert operation > 8
            return


def test_what_another_version_wrote_is_left_alone(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write((int(Kind.OPEN), b'{"v":2,"id":"a","new":1}', "a"))
    process.die()
    before = [s.path.read_bytes() for s in segments(process.spool.directory)]
    with pytest.raises(SpoolFormatError):
        Process(tmp_path)
    assert [s.path.read_bytes() for s in segments(process.spool.directory)] == before


def test_a_segment_that_was_given_up_may_hold_what_counts_no_more(tmp_path: Path) -> None:
    """The write failed after the disk had taken it; the same records went into the next segment."""
    process = Process(tmp_path)
    process.write(opening("a"))
    process.stop()
    directory = process.spool.directory
    first = directory / "00000001.seg"
    stale = first.read_bytes() + pack(Kind.OPEN, 2, opening("refused")[1]) + pack(Kind.FACT, 3, closing("a")[1])
    first.write_bytes(stale)
    second = SegmentHead(process.spool.id, 2, 2, 1).encode() + pack(Kind.FACT, 2, closing("a")[1])
    (directory / "00000002.seg").write_bytes(second)
    assert restart(tmp_path).lost == 0
    assert ends_in(tmp_path) == [("a", "complete")]
    assert verify(tmp_path).problems == []


class SpoolMachine(RuleBasedStateMachine):
    """Processes write, stop and die; disks fail in the middle of a recovery. A model says what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.number = 0
        self.open: list[str] = []
        self.facts: dict[str, str] = {}
        self.process: Process | None = None

    @initialize()
    def begin(self) -> None:
        self.process = Process(self.root)

    @property
    def running(self) -> Process:
        assert self.process is not None
        return self.process

    @precondition(lambda self: self.process is not None)
    @rule(count=st.integers(1, 4))
    def admit(self, count: int) -> None:
        ids = [str(self.number + n) for n in range(count)]
        self.number += count
        self.running.write(*map(opening, ids))
        self.open += ids

    @precondition(lambda self: self.process is not None and self.open)
    @rule(data=st.data(), size=st.sampled_from([0, 300, RECORD_MAX // 2, RECORD_MAX - 900]))
    def finish(self, data: st.DataObject, size: int) -> None:
        fact_id = data.draw(st.sampled_from(self.open))
        self.running.write(closing(fact_id, size))
        self.open.remove(fact_id)
        self.facts[fact_id] = "complete"

    @precondition(lambda self: self.process is not None and self.open)
    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        fact_id = data.draw(st.sampled_from(self.open))
        self.running.write(voiding(fact_id))
        self.open.remove(fact_id)

    @precondition(lambda self: self.process is not None)
    @rule()
    def rotate(self) -> None:
        self.running.writer.rotate()

    @precondition(lambda self: self.process is not None)
    @rule(torn=st.integers(0, 60), junk=st.booleans())
    def die(self, torn: int, junk: bool) -> None:
        """In the middle of a write: a part of a record stands behind the last whole one."""
        process = self.running
        path = process.spool.directory / f"{process.writer.number:08d}.seg"
        if torn and path.exists() and process.writer.offset:
            record = pack(Kind.FACT, process.writer.sequence, closing("never")[1])
            with path.open("r+b") as file:
                file.seek(process.writer.offset)
                file.write(bytes(torn) + b"\x01" if junk else record[:torn])
        process.die()
        self.process = None

    @precondition(lambda self: self.process is not None and not self.open)
    @rule()
    def stop(self) -> None:
        self.running.stop()
        self.process = None

    @precondition(lambda self: self.process is None)
    @rule(operation=st.integers(1, 25), half=st.booleans())
    def fail_to_recover(self, operation: int, half: bool) -> None:
        files = FailingFiles(operation.__eq__, half=half)
        try:
            Process(self.root, files, segments=1).die()
        except OSError:
            return
        self._lose()

    @precondition(lambda self: self.process is None)
    @rule()
    def start(self) -> None:
        self.process = Process(self.root)
        self._lose()

    def _lose(self) -> None:
        self.facts |= dict.fromkeys(self.open, "gateway_lost")
        self.open = []

    @invariant()
    def exactly_what_is_due(self) -> None:
        if self.process is None:
            return
        found = ends_in(self.root)
        assert dict(found) == self.facts
        assert len(found) == len(self.facts)
        assert [record.sequence for record in records_in(self.root)] == list(range(1, self.running.writer.sequence))
        report = verify(self.root)
        assert report.problems == []
        assert report.running == len(self.open)

    def teardown(self) -> None:
        if self.process is not None:
            self.process.die()
        self.directory.cleanup()


SpoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestSpoolMachine = SpoolMachine.TestCase


def test_the_segments_of_these_tests_hold_several_records() -> None:
    assert SMALL > 3 * RECORD_MAX
