from __future__ import annotations

import errno
from pathlib import Path

from aigw_anyio.sinks.spool.layout import segments
from aigw_core.spool import RECORD_MAX, Kind, SegmentScan
from tests.anyio_layer.spool.helpers import (
    SMALL,
    FailingFiles,
    Process,
    closing,
    ends_in,
    opening,
    records_in,
    voiding,
)


def scans(process: Process) -> list[SegmentScan]:
    found = [SegmentScan(segment.path.read_bytes()) for segment in segments(process.spool.directory)]
    for scan in found:
        list(scan)
    return found


def test_records_are_in_the_file_when_write_returns(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("a"), opening("b"))
    process.write(closing("a"), voiding("b"))
    found = records_in(tmp_path)
    assert [(r.kind, r.id, r.sequence) for r in found] == [
        (Kind.OPEN, "a", 1),
        (Kind.OPEN, "b", 2),
        (Kind.FACT, "a", 3),
        (Kind.VOID, "b", 4),
    ]
    process.stop()


def test_a_full_segment_is_followed_by_the_next(tmp_path: Path) -> None:
    process = Process(tmp_path)
    ids = [str(n) for n in range(12)]
    for fact_id in ids:
        process.write(opening(fact_id), closing(fact_id, RECORD_MAX // 2))
    assert process.writer.number > 1
    process.stop()
    assert ends_in(tmp_path) == [(fact_id, "complete") for fact_id in ids]
    found = scans(process)
    assert [scan.head.segment for scan in found if scan.head is not None] == [n + 1 for n in range(len(found))]
    # Room that was not used is given back, and so are spares.
    assert [scan.end for scan in found] == [s.path.stat().st_size for s in segments(process.spool.directory)]


def test_a_batch_may_be_spread_over_segments(tmp_path: Path) -> None:
    process = Process(tmp_path, segments=3)
    items = [closing(str(n), RECORD_MAX // 2) for n in range(12)]
    assert process.writer.write(items) == 12
    process.stop()
    assert [fact_id for fact_id, _ in ends_in(tmp_path)] == [str(n) for n in range(12)]


def test_without_a_spare_the_rest_stays_with_the_caller(tmp_path: Path) -> None:
    process = Process(tmp_path, segments=1)
    items = [closing(str(n), RECORD_MAX // 2) for n in range(12)]
    written = process.writer.write(items)
    assert 0 < written < 12
    assert process.writer.error is None
    process.writer.add_spare(process.writer.make_segment())
    process.writer.add_spare(process.writer.make_segment())
    assert process.writer.write(items[written:]) == 12 - written
    process.stop()
    assert [record.sequence for record in records_in(tmp_path)] == list(range(1, 13))


def test_the_head_says_how_far_back_open_records_may_be(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.write(opening("long"))
    for n in range(20):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    process.write(closing("long"))
    for n in range(20, 40):
        process.write(opening(str(n)), closing(str(n), RECORD_MAX // 2))
    process.stop()
    heads = [scan.head for scan in scans(process)]
    looked_back = [head.scan_from for head in heads if head is not None]
    ended_in = next(number for number in range(1, len(heads)) if looked_back[number] != 1)
    assert ended_in >= 3
    assert looked_back[-1] >= len(heads) - 1


def test_capacity_counts_what_is_ready(tmp_path: Path) -> None:
    process = Process(tmp_path, segments=0)
    writer = process.writer
    assert writer.capacity == 0
    writer.add_spare(writer.make_segment())
    one = writer.capacity
    assert SMALL - RECORD_MAX - 200 < one < SMALL - RECORD_MAX
    writer.add_spare(writer.make_segment())
    assert writer.capacity == 2 * one
    writer.drop_spare()
    assert writer.capacity == one
    process.write(opening("a"))
    assert writer.capacity < 2 * one
    process.stop()
    assert [segment.number for segment in segments(process.spool.directory)] == [1]


def test_a_segment_that_fails_is_given_up_and_the_next_one_goes_on(tmp_path: Path) -> None:
    for half in (False, True):
        root = tmp_path / str(half)
        files = FailingFiles(lambda _: False, errno.EIO, half=half)
        process = Process(root, files, segments=3)
        process.write(opening("a"), opening("b"))
        at = files.operations + 1
        files.fails = at.__eq__
        assert process.writer.write([closing("a"), opening("c"), closing("b")]) == 3
        assert (process.writer.number, files.failed) == (2, 1)
        process.open.clear()
        process.stop()
        assert ends_in(root) == [("a", "complete"), ("b", "complete")]
        assert [record.sequence for record in records_in(root)] == [1, 2, 3, 4, 5]


def test_a_disk_that_fails_for_good_takes_nothing(tmp_path: Path) -> None:
    files = FailingFiles(lambda _: False)
    process = Process(tmp_path, files)
    process.write(opening("a"))
    files.fails = lambda _: True
    assert process.writer.write([closing("a")]) == 0
    assert process.writer.error is not None
    files.fails = lambda _: False
    process.writer.add_spare(process.writer.make_segment())
    assert process.writer.write([closing("a")]) == 1
    process.stop()
    assert ends_in(tmp_path) == [("a", "complete")]


def test_rotation_leaves_no_segment_without_a_record(tmp_path: Path) -> None:
    process = Process(tmp_path)
    writer = process.writer
    assert not writer.rotate()
    process.write(opening("a"))
    assert writer.rotate()
    assert not writer.rotate(), "no spare is left"
    writer.add_spare(writer.make_segment())
    assert not writer.rotate(), "nothing was written since"
    process.write(closing("a"))
    assert writer.rotate()
    process.stop()
    assert ends_in(tmp_path) == [("a", "complete")]
