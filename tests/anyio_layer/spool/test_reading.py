"""Following, verifying and the command line, on spools that live, are dead, or are damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from aigw_anyio import cli
from aigw_anyio.sinks.spool.follow import Follower, Position
from aigw_anyio.sinks.spool.layout import segments
from aigw_anyio.sinks.spool.retention import bytes_in, remove_old
from aigw_anyio.sinks.spool.verify import verify
from aigw_core.spool import RECORD_MAX, Kind, Record, pack
from tests.anyio_layer.spool.helpers import Process, closing, facts_in, opening, voiding


def all_of(follower: Follower) -> list[Record]:
    found: list[Record] = []
    while records := follower.read():
        found += records
    return found


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# Following


def test_records_are_seen_as_they_are_written(tmp_path: Path) -> None:
    process = Process(tmp_path)
    follower = Follower(process.spool.directory)
    assert all_of(follower) == []
    for n in range(20):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
        assert [(record.kind, record.id) for record in all_of(follower)] == [(Kind.OPEN, str(n)), (Kind.FACT, str(n))]
    assert follower.position.segment == process.writer.number > 2
    assert follower.position.sequence == 40
    process.stop()
    assert all_of(follower) == []
    assert follower.damage == []


def test_a_position_can_be_kept_and_returned_to(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for n in range(20):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    first = Follower(process.spool.directory)
    whole = all_of(first)
    for record_number in (0, 5, 20, 39):
        at = Follower(process.spool.directory)
        while at.position.sequence < record_number:
            (records, position) = at.read(), at.position
            if position.sequence > record_number:
                # Somewhere in a read: positions of single records are made of the record.
                kept = next(r for r in records if r.sequence == record_number)
                at.position = Position(position.segment, kept.end, kept.sequence)
                break
        again = Follower(process.spool.directory, at.position)
        assert [r.sequence for r in all_of(again)] == [r.sequence for r in whole if r.sequence > at.position.sequence]
    process.stop()


def test_a_hole_in_a_living_segment_is_waited_for_unless_it_is_known_to_be_written(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("a"))
    begin = process.writer.offset
    process.write(opening("b"), opening("c"))
    path = segments(process.spool.directory)[0].path
    flip(path, begin + 30)
    follower = Follower(process.spool.directory)
    assert [record.id for record in all_of(follower)] == ["a"]
    records = follower.read(below=(1, process.writer.offset))
    assert [record.id for record in records] == ["c"]
    assert len(follower.damage) == 1
    process.stop()


def test_what_is_not_below_the_mark_is_not_read(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("a"))
    mark = (1, process.writer.offset)
    process.write(opening("b"))
    follower = Follower(process.spool.directory)
    assert [record.id for record in follower.read(below=mark)] == ["a"]
    assert follower.read(below=mark) == []
    process.stop()


def test_segments_may_go_while_they_are_followed(tmp_path: Path) -> None:
    process = Process(tmp_path)
    follower = Follower(process.spool.directory)
    process.write(opening("a"))
    assert len(follower.read()) == 1
    for n in range(20):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    for segment in segments(process.spool.directory)[:2]:
        segment.path.unlink()
    found = all_of(follower)
    assert found[-1].id == "19"
    assert found[0].sequence > 5
    process.stop()


# Retention


def test_only_old_segments_go_and_never_the_newest(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for n in range(20):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    process.stop()
    directory, files = process.spool.directory, process.files
    found = segments(directory)
    for age, segment in zip((900, 500, 100), found, strict=False):
        os.utime(segment.path, (10_000 - age, 10_000 - age))
    assert remove_old(directory, files, keep_secs=600, now=9_000) == 0, "the clock was set back"
    assert remove_old(directory, files, keep_secs=600, now=10_000, below=found[0].number) == 0
    assert remove_old(directory, files, keep_secs=600, now=10_000) == 1
    assert segments(directory) == found[1:]
    assert remove_old(directory, files, keep_secs=0, now=4_000_000_000) == len(found) - 2
    assert segments(directory) == found[-1:]
    assert verify(tmp_path).problems == []
    again = Process(tmp_path)
    assert (again.writer.number, again.writer.sequence) == (process.writer.number + 1, process.writer.sequence)
    again.stop()


def test_disk_use_counts_reserved_room(tmp_path: Path) -> None:
    process = Process(tmp_path)
    reserved = bytes_in(process.spool.directory, process.files)
    assert reserved >= 2 * 4 * RECORD_MAX
    process.write(opening("a"), closing("a"))
    process.stop()
    assert bytes_in(process.spool.directory, process.files) < 65_536


# Verifying


def test_a_living_spool_is_good_and_says_what_runs(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(*map(opening, "abc"))
    process.write(closing("a"), voiding("b"))
    report = verify(tmp_path)
    assert (report.facts, report.opens, report.voids, report.running, report.problems) == (1, 3, 1, 1, [])
    process.die()
    assert verify(tmp_path).problems == ["w0-0: c: open without an end, and its process is gone"]


def test_missing_segments_and_records_are_gaps(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for n in range(20):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    process.stop()
    found = segments(process.spool.directory)
    found[1].path.unlink()
    problems = verify(tmp_path).problems
    assert problems[0].startswith("w0-0: records ")
    assert [problem for problem in problems[1:] if "open without an end" not in problem] == []
    assert problems[0].endswith(" are missing")


def test_a_second_fact_is_told_wherever_it_stands(tmp_path: Path) -> None:
    first, second = Process(tmp_path), Process(tmp_path)
    for process in (first, second):
        process.write(opening("a"), closing("a"))
    first.write(closing("a"))
    first.stop()
    second.stop()
    assert verify(tmp_path).problems == [
        "w0-0: a: a second fact; the first is in w0-0",
        "w0-1: a: a second fact; the first is in w0-0",
    ]


def test_a_record_cut_short_by_a_death_is_told(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("a"), closing("a"))
    path, at = segments(process.spool.directory)[0].path, process.writer.offset
    process.die()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(pack(Kind.OPEN, 3, opening("b")[1])[:50])
    (problem,) = verify(tmp_path).problems
    assert problem == f"w0-0/00000001.seg: what stands behind byte {at} cannot be read: cut off, or damaged"


def test_every_bit_counts(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("a"), closing("a"), opening("b"), closing("b"))
    process.stop()
    path = segments(process.spool.directory)[0].path
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        flip(path, at)
        assert verify(tmp_path).problems != [], f"byte {at}"
        path.write_bytes(whole)
    assert verify(tmp_path).problems == []


# The command


def run(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str) -> tuple[int, bytes, bytes]:
    code = cli.main(["facts", *arguments])
    return code, *capfdbinary.readouterr()


def test_cat_prints_every_fact(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    first, second = Process(tmp_path), Process(tmp_path)
    first.write(opening("a"), closing("a"), opening("runs"))
    second.write(opening("b"), closing("b"))
    code, out, _ = run(capfdbinary, "cat", str(tmp_path))
    assert (code, out) == (0, closing("a")[1] + b"\n" + closing("b")[1] + b"\n")
    assert run(capfdbinary, "cat", str(second.spool.directory))[1] == closing("b")[1] + b"\n"
    first.stop()
    second.stop()


def test_cat_says_what_it_cannot_read(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    process = Process(tmp_path)
    process.write(opening("a"))
    at = process.writer.offset
    process.write(closing("a"), opening("b"), closing("b"))
    process.stop()
    flip(segments(process.spool.directory)[0].path, at + 50)
    code, out, err = run(capfdbinary, "cat", str(tmp_path))
    assert (code, out) == (1, closing("b")[1] + b"\n")
    assert b"w0-0/00000001.seg: bytes" in err
    code, out, _ = run(capfdbinary, "verify", str(tmp_path))
    assert code == 1
    assert out.splitlines()[-1] == b"1 facts, 2 open records, 0 voids, 0 running: 3 problems"


def test_verify_of_a_good_directory(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    process = Process(tmp_path)
    process.write(opening("a"), closing("a"))
    process.stop()
    expected = b"1 facts, 1 open records, 0 voids, 0 running: good\n"
    assert run(capfdbinary, "verify", str(tmp_path)) == (0, expected, b"")


@pytest.mark.parametrize("command", ["cat", "verify", "tail"])
def test_a_directory_that_is_not_there(command: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, err = run(capfdbinary, command, str(tmp_path / "none"))
    assert (code, out) == (1, b"")
    assert err.endswith(b"none: No such file or directory\n")


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("from_start", [False, True])
def test_tail_follows(tmp_path: Path, from_start: bool) -> None:
    process = Process(tmp_path)
    process.write(opening("early"), closing("early"))
    arguments = ["--all"] if from_start else []
    command = [sys.executable, "-W", "error", "-m", "aigw_anyio", "facts", "tail", str(tmp_path), *arguments]
    # Where the tests run in the background of a shell, a child would inherit that SIGINT is ignored.
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=_listen_to_ctrl_c) as tail, ExitStack() as ends:
        ends.callback(tail.kill)
        assert tail.stdout is not None
        if from_start:
            assert json.loads(tail.stdout.readline())["id"] == "early"
        else:
            # Without a sign that it is ready: write until it sees one.
            os.set_blocking(tail.stdout.fileno(), False)
            number = 0
            while not (line := tail.stdout.readline()):
                process.write(opening(str(number)), closing(str(number)))
                number += 1
                time.sleep(0.05)
            assert json.loads(line)["id"] != "early"
            os.set_blocking(tail.stdout.fileno(), True)
        second = Process(tmp_path)
        second.write(opening("late"), closing("late"))
        while json.loads(tail.stdout.readline())["id"] != "late":
            pass
        tail.send_signal(signal.SIGINT)
        assert tail.wait(10) == 0
    process.stop()
    second.stop()
    assert "late" in [fact["id"] for fact in facts_in(tmp_path)]
