"""Sources, the file among them, and the snapshot on disk."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from aigw_anyio.deny import snapshotfile
from aigw_anyio.deny.control import DenyControl
from aigw_anyio.deny.file import FileDenySource, FileProblem, parse_deny_file
from aigw_anyio.deny.keeper import DenyKeeper
from aigw_anyio.deny.snapshotfile import read_snapshot, write_snapshot
from aigw_core.denyset import DenyChange, DenyReason, DenySet
from aigw_core.denyview import DenyView
from aigw_core.gateway import Gateway
from aigw_core.snapshot import Snapshot
from tests.nats.feedrun import make_gateway

pytestmark = pytest.mark.anyio
PATIENCE = 30.0


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.005)


# A source of an embedder's own


class Own:
    """Says what a test wants, in the words of the protocol."""

    name = "own:1"

    def __init__(self, *steps: Callable[[DenyControl], None]) -> None:
        self.steps = list(steps)
        self.runs = 0
        self.snapshot: Snapshot | None = None

    def restored(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    async def run(self, control: DenyControl) -> None:
        self.runs += 1
        while self.steps:
            self.steps.pop(0)(control)
        await anyio.sleep_forever()


async def test_an_own_source(tmp_path: Path) -> None:
    gateway = make_gateway()
    cuts: list[list[DenyChange] | None] = []
    own = Own(
        lambda control: control.replace({"blackhole.1": (b"spend", 3)}, 5),
        lambda control: control.live(),
        lambda control: control.put("blackhole.2", b"fraud", 6),
        lambda control: control.remove("blackhole.1", 7),
        lambda control: control.remove("blackhole.1", 7),
    )
    keeper = DenyKeeper(gateway, own, tmp_path / "snapshot")
    assert gateway.deny_state == "cold"
    assert gateway.deny_unready()
    keeper.cut_with(cuts.append)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        await until(lambda: gateway.deny.revision == 7)
        assert (gateway.deny_state, gateway.deny_unready()) == ("live", False)
        assert gateway.deny.check(2, None) is DenyReason.FRAUD
        assert gateway.deny.check(1, None) is None
        assert [[change.reason for change in changes] if changes is not None else None for changes in cuts] == [
            None,
            None,
            [DenyReason.FRAUD],
            [None],
            [],
        ]
        await keeper.flush()
        tasks.cancel_scope.cancel()
    again, other = make_gateway(), Own()
    DenyKeeper(again, other, tmp_path / "snapshot")
    assert (again.deny_state, again.deny_seeded, again.deny.check(2, None)) == ("reconnecting", True, DenyReason.FRAUD)
    assert other.snapshot is not None
    stale = again.deny_stale_ms(anyio.current_time())
    assert stale is not None
    assert 0 <= stale < PATIENCE * 1000


async def test_a_source_that_fails_is_run_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(control: DenyControl) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("aigw_anyio.deny.keeper.random.random", lambda: 0.0)
    gateway = make_gateway()
    own = Own(lambda control: control.replace({"blackhole.1": (b"spend", 1)}, 1), lambda control: control.live(), fail)
    keeper = DenyKeeper(gateway, own)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        await until(lambda: gateway.deny_state == "reconnecting")
        assert gateway.deny.check(1, None) is DenyReason.SPEND
        await until(lambda: own.runs == 2)
        tasks.cancel_scope.cancel()
    assert "the deny source has failed" in caplog.text


async def test_states_are_told_once_until_live_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aigw.deny")
    control = DenyControl(make_gateway(), "own")
    for _ in range(50):
        control.say("seeding", "connected")
        control.lost("gone")
    assert len(caplog.records) == 2
    control.live()
    control.lost("gone")
    assert len(caplog.records) == 4


# The file


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{}", {}),
        ('{"blackhole.1": "spend"}', {"blackhole.1": b"spend"}),
        ('{"blackhole.1": {"reason": "fraud"}, "x": 3}', {"blackhole.1": b'{"reason": "fraud"}', "x": b"3"}),
    ],
)
async def test_files(text: str, found: dict[str, bytes]) -> None:
    assert parse_deny_file(text.encode()) == found


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 2}}', "[" * 100_000])
async def test_files_that_are_not_used(text: str) -> None:
    with pytest.raises(FileProblem):
        parse_deny_file(text.encode())


async def test_misspelt_entries_are_told_once_and_the_good_ones_apply(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "deny.json"
    gateway: Gateway = make_gateway()
    source = FileDenySource(file, poll_secs=0.01)

    def write(tenant: int, *keys: str) -> None:
        file.write_text(json.dumps({f"blackhole.{tenant}": "spend", **dict.fromkeys(keys, "fraud")}))

    async def is_held(tenant: int) -> None:
        await until(lambda: {subject.id for subject, _, _ in gateway.deny.entries()} == {tenant})

    write(1, "blackhole.42x", "blackhol.43")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.run, DenyControl(gateway, source.name))
        await is_held(1)
        write(2, "blackhole.42x", "blackhol.43")
        await is_held(2)
        write(3, f"\x1b[2J{'x y ' * 30}")
        await is_held(3)
        write(4, "sk-ant-api03-TAINTED")
        await is_held(4)
        write(5)
        await is_held(5)
        tasks.cancel_scope.cancel()
    assert gateway.deny.ignored_keys >= 6
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    what = "no key of an entry, so nobody is denied by it; did you mean"
    # JSON escapes the escape, and sixty-four characters are shown.
    escape = "\\u001b[2J" + "x y " * 15 + "…"
    assert said == [
        f'misspelt in the deny file: "blackhole.42x" and 1 more: {what} blackhole.42?',
        f'misspelt in the deny file: "{escape}": {what} blackhole.2?',
        f"misspelt in the deny file: (a name that is not shown): {what.removesuffix('; did you mean')}",
    ]


async def test_a_file_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "deny.json"
    gateway: Gateway = make_gateway()
    source = FileDenySource(file, poll_secs=0.01)
    control = DenyControl(gateway, source.name)

    def held() -> set[int]:
        return {subject.id for subject, _, _ in gateway.deny.entries()}

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.run, control)
        await until(lambda: control.stats.failures > 0)
        assert (gateway.deny_state, gateway.deny_unready()) == ("cold", True)
        file.write_text('{"blackhole.1": "spend", "other": "x"}')
        await until(lambda: gateway.deny_state == "live")
        assert held() == {1}
        assert gateway.deny.revision is not None
        assert abs(gateway.deny.revision / 1000 - time.time()) < 3600
        # Same size and, as far as the clock of the file system can tell, maybe the same time.
        file.write_text('{"blackhole.2": "spend", "other": "x"}')
        await until(lambda: held() == {2})
        revision = gateway.deny.revision
        file.unlink()
        await until(lambda: gateway.deny_state == "reconnecting")
        assert held() == {2}
        replacement = tmp_path / "new.json"
        replacement.write_text("{}")
        replacement.replace(file)
        await until(lambda: held() == set())
        await until(lambda: gateway.deny_state == "live")
        assert gateway.deny.revision is not None
        assert gateway.deny.revision > revision
        tasks.cancel_scope.cancel()


# The snapshot


def snapshot(number: int) -> Snapshot:
    deny = DenySet()
    for tenant in range(number):
        deny.put(f"blackhole.{tenant}", b"spend", tenant + 1)
    return Snapshot("own:1", DenyView(deny), None, 1.0)


async def test_a_snapshot_that_is_not_ours_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "snapshot"
    assert read_snapshot(path, "own:1") is None
    assert caplog.records == []
    write_snapshot(path, snapshot(3))
    found = read_snapshot(path, "own:1")
    assert found is not None
    assert found.view.deny.size == 3
    assert read_snapshot(path, "own:2") is None
    path.write_bytes(path.read_bytes()[:-1])
    assert read_snapshot(path, "own:1") is None
    path.unlink()
    path.mkdir()
    assert read_snapshot(path, "own:1") is None
    assert ["is not used" in record.getMessage() for record in caplog.records] == [True] * 3


async def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "snapshot"
    write_snapshot(path, snapshot(3))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_snapshot(path, snapshot(4))
    found = read_snapshot(path, "own:1")
    assert found is not None
    assert found.view.deny.size == 3
    assert [p.name for p in tmp_path.iterdir()] == ["snapshot"]


async def test_a_snapshot_that_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshotfile, "COST_SHARE", 0)
    control = DenyControl(make_gateway(), "own:1")
    keeper = snapshotfile.SnapshotKeeper(tmp_path / "none" / "snapshot", control, interval_secs=0.01)
    control.adopt(DenySet(), 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        await until(lambda: control.stats.snapshot_failures >= 3)
        assert len(caplog.records) == 1
        (tmp_path / "none").mkdir()
        await until(lambda: control.stats.snapshots == 1)
        tasks.cancel_scope.cancel()


_WRITER = """
import sys
from pathlib import Path
from aigw_anyio.deny.snapshotfile import write_snapshot
from tests.anyio_layer.test_deny import snapshot
print("ready", flush=True)
for number in range(1, 10**6):
    write_snapshot(Path(sys.argv[1]), snapshot(number % 500))
"""


async def test_kill_9_at_any_moment_leaves_a_whole_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    write_snapshot(path, snapshot(1))
    for number in range(8):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            await anyio.sleep(0.003 * number)
            writer.send_signal(signal.SIGKILL)
        assert read_snapshot(path, "own:1") is not None
