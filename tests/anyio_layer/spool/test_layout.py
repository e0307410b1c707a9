from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aigw_anyio.sinks.spool.files import Files
from aigw_anyio.sinks.spool.layout import IDENTITY_NAME, is_locked, segments, spools, take, take_own
from tests.anyio_layer.spool.helpers import Process, closing, opening

FILES = Files()


def test_each_process_has_a_spool_of_its_own(tmp_path: Path) -> None:
    first, second, other = take_own(tmp_path, 0, FILES), take_own(tmp_path, 0, FILES), take_own(tmp_path, 1, FILES)
    assert [spool.directory.name for spool in (first, second, other)] == ["w0-0", "w0-1", "w1-0"]
    assert len({first.id, second.id, other.id}) == 3
    assert take(first.directory, FILES) is None
    first.close()
    again = take_own(tmp_path, 0, FILES)
    assert (again.directory, again.id) == (first.directory, first.id)
    for spool in (second, other, again):
        spool.close()
    assert spools(tmp_path) == [tmp_path / name for name in ("w0-0", "w0-1", "w1-0")]


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from aigw_anyio.sinks.spool.files import Files;"
        "from aigw_anyio.sinks.spool.layout import take_own; take_own(Path(sys.argv[1]), 0, Files());"
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_locked(tmp_path / "w0-0")
        process.kill()
        process.wait()
    assert not is_locked(tmp_path / "w0-0")


@pytest.mark.parametrize("damage", ["missing", "empty", "foreign"])
def test_the_name_of_a_spool_survives_the_loss_of_its_file(tmp_path: Path, damage: str) -> None:
    process = Process(tmp_path)
    process.write(opening("a"), closing("a"))
    process.stop()
    identity = process.spool.directory / IDENTITY_NAME
    if damage == "missing":
        identity.unlink()
    else:
        identity.write_text("" if damage == "empty" else '{"v": 1, "spool": "../x"}')
    spool = take_own(tmp_path, 0, FILES)
    assert spool.id == process.spool.id
    spool.close()


def test_segments_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("00000002.seg", "100000000.seg", "00000010.seg", "3.seg", "00000004.seg.tmp", "lock"):
        (tmp_path / name).touch()
    assert [segment.number for segment in segments(tmp_path)] == [2, 10, 100000000]
    assert spools(tmp_path) == [tmp_path]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    FILES.write_whole(path, b"longer than the next")
    FILES.write_whole(path, b"next", durable=False)
    assert path.read_bytes() == b"next"
    assert list(tmp_path.iterdir()) == [path]


def test_room_that_is_not_there_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"too large|No space|Invalid"):
        FILES.create(tmp_path / "x", 2**62)
    assert list(tmp_path.iterdir()) == []
