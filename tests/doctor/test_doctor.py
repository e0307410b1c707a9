"""The command itself, and what it says of configuration, limits, addresses and disk."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from aigw_anyio.cli import main
from aigw_anyio.deny.snapshotfile import write_snapshot
from aigw_anyio.doctor.report import Verdict, as_text, ok, summary, warning, worst, wrong
from aigw_core.denyset import DenySet
from aigw_core.denyview import DenyView
from aigw_core.snapshot import Snapshot
from tests.doctor.conftest import Doctor, of
from tests.doctor.models import KEY, Models
from tests.sources import ROOT

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def served(models: Callable[..., Models]) -> dict[str, str]:
    """An environment with one good provider."""
    return {
        "AI_PROVIDER_AUTHORITIES": json.dumps({"openai": models().url}),
        "AI_POOL_KEY_OPENAI": KEY,
        "AI_SIGNING_KEYS": '{"1": "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="}',
    }


# The command


def test_all_is_well(doctor: Doctor, served: dict[str, str]) -> None:
    code, findings = doctor(**served)
    assert code == 0
    assert {f["verdict"] for f in findings} == {"ok", "skipped"}
    assert of(findings, "configuration")["what"] == "is valid: 1 signing keys, 1 pool keys"


def test_the_process_prints_for_people(served: dict[str, str], tmp_path: Path) -> None:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AI_")},
        **served,
        "AI_LISTEN_ADDR": "127.0.0.1:0",
        "AI_METRICS_LISTEN": "127.0.0.1:0",
        "AI_FACT_SINK": "spool",
        "AI_SPOOL_DIR": str(tmp_path / "file"),
        "PYTHONPATH": str(ROOT),
    }
    (tmp_path / "file").touch()
    command = [sys.executable, "-W", "error", "-m", "aigw_anyio", "doctor"]
    run = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "")
    lines = run.stdout.splitlines()
    at = lines.index(next(line for line in lines if line.startswith("wrong")))
    assert lines[at].split() == ["wrong", "disk", "spool_dir", "is", "no", "directory"]
    assert lines[at + 1].strip().startswith("why: ")
    assert lines[at + 2].strip().startswith("do: ")
    assert lines[-1].startswith("1 wrong, ")
    assert KEY not in run.stdout


def test_a_refused_configuration_is_all_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AI_RATE_LIMIT_RPS", "many")
    monkeypatch.setenv("AI_FACT_SINK", "spool")
    assert main(["doctor", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "wrong"
    assert [f["check"] for f in document["findings"]] == ["configuration"] * 2
    assert "AI_RATE_LIMIT_RPS" in document["findings"][0]["what"]


def test_an_unknown_provider(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--provider", "opena"]) == 2
    assert "did you mean openai?" in capsys.readouterr().out


def test_warnings_of_the_settings_are_told(doctor: Doctor, served: dict[str, str]) -> None:
    code, findings = doctor(**served, AI_NO_SUCH_NAME="1", AI_SIGNING_SEED="x")
    assert code == 0
    told = [f["what"] for f in findings if f["check"] == "configuration" and f["verdict"] == "warning"]
    assert len(told) == 2
    assert told[0].startswith("AI_NO_SUCH_NAME: unknown variable")


def test_signing_keys_without_pool_keys(doctor: Doctor, served: dict[str, str]) -> None:
    del served["AI_POOL_KEY_OPENAI"]
    code, findings = doctor(**served)
    assert (code, of(findings, "configuration")["verdict"]) == (0, "warning")


def test_the_report() -> None:
    findings = [
        ok("dns", "a", "x"),
        warning("tls", "bbb", "y\x1b[31m", why="w"),
        wrong("disk", "c", "z", fix="do this"),
    ]
    assert as_text(findings) == (
        "ok       dns           a    x\n"
        "warning  tls           bbb  y\\x1b[31m\n"
        "         why: w\n"
        "wrong    disk          c    z\n"
        "         do:  do this\n"
        "1 wrong, 1 warning, 1 ok\n"
    )
    assert [worst(findings[:n]) for n in range(4)] == [Verdict.OK, Verdict.OK, Verdict.WARNING, Verdict.WRONG]
    assert summary([]) == "nothing was looked at"


# Limits and addresses


@pytest.mark.parametrize(("wanted", "verdict"), [(10, "ok"), (10**6, "wrong")])
def test_connections_against_files(doctor: Doctor, served: dict[str, str], wanted: int, verdict: str) -> None:
    code, findings = doctor(**served, AI_MAX_CONNECTIONS=str(wanted))
    found = of(findings, "limits")
    if wanted == 10:
        assert found["verdict"] == "warning", "ten are few"
    else:
        assert (code, found["verdict"]) == (1, verdict)
        fits = int(found["fix"].rpartition(" ")[2])
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert 2 * fits + 64 <= soft < 2 * (fits + 1) + 64


def test_an_address_that_is_taken(doctor: Doctor, served: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = {**served, "AI_LISTEN_ADDR": f"127.0.0.1:{taken.getsockname()[1]}"}
        code, findings = doctor(**environ)
    assert (code, of(findings, "listener", "listen_addr")["verdict"]) == (0, "warning")


def test_an_address_that_is_not_ours(doctor: Doctor, served: dict[str, str]) -> None:
    code, findings = doctor(**served, AI_METRICS_LISTEN="192.0.2.1:9090")
    found = of(findings, "listener", "metrics_listen")
    assert (code, found["verdict"]) == (1, "wrong")
    assert "assign" in found["why"]


# Disk


def spool(served: dict[str, str], path: Path, **more: str) -> dict[str, str]:
    return {**served, "AI_FACT_SINK": "spool", "AI_SPOOL_DIR": str(path), **more}


def test_a_directory_that_is_there_and_one_that_is_not(doctor: Doctor, served: dict[str, str], tmp_path: Path) -> None:
    code, findings = doctor(**spool(served, tmp_path))
    assert (code, of(findings, "disk")["verdict"]) == (0, "ok")
    code, findings = doctor(**spool(served, tmp_path / "new" / "spool"))
    assert code == 0
    assert "made at the start" in of(findings, "disk")["what"]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_file_in_the_place_of_the_directory(doctor: Doctor, served: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    code, findings = doctor(**spool(served, tmp_path / "spool"))
    assert (code, of(findings, "disk")["what"]) == (1, "is no directory")


@pytest.mark.parametrize(("mode", "below"), [(0o555, ""), (0o700, "inner/spool")])
def test_a_directory_where_nobody_may_write(served: dict[str, str], mode: int, below: str) -> None:
    """As another user where we are root, who may write everywhere."""
    # Not in tmp_path, whose parents are for nobody else.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder) / "closed"
        closed.mkdir()
        (closed / "inner").mkdir()
        closed.chmod(mode if os.geteuid() == 0 else mode & 0o555)
        environ = {**os.environ, **spool(served, closed / below), "PYTHONPATH": str(ROOT)}
        # Everything is loaded first: that user need not be able to read the interpreter.
        script = "import os, sys, encodings.idna, anyio._backends._asyncio, aigw_anyio.doctor.run\n"
        script += "from aigw_anyio.cli import main\n"
        script += "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\nsys.exit(main(['doctor', '--json']))"
        environ |= {"AI_LISTEN_ADDR": "127.0.0.1:0", "AI_METRICS_LISTEN": "127.0.0.1:0"}
        run = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
        closed.chmod(0o700)
    assert (run.returncode, run.stderr) == (1, "")
    found = of(json.loads(run.stdout)["findings"], "disk")
    assert (found["what"], found["why"]) == ("cannot be written", "Permission denied")
    assert str(closed) in found["fix"]


def test_a_disk_that_takes_nothing_more(served: dict[str, str], tmp_path: Path) -> None:
    """The system refuses to reserve a segment, as a full disk or a quota does."""
    environ = {**os.environ, **spool(served, tmp_path), "PYTHONPATH": str(ROOT)}
    environ |= {"AI_LISTEN_ADDR": "127.0.0.1:0", "AI_METRICS_LISTEN": "127.0.0.1:0"}
    script = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
    script += "from aigw_anyio.cli import main\nsys.exit(main(['doctor', '--json']))"
    run = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    found = of(json.loads(run.stdout)["findings"], "disk")
    assert (found["what"], found["why"]) == ("cannot be written", "File too large")
    assert "make room" in found["fix"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("free", "verdict", "code"), [(16 << 20, "wrong", 1), (1 << 30, "warning", 0), (90 << 30, "ok", 0)]
)
def test_room_on_the_disk(
    doctor: Doctor,
    served: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    verdict: str,
    code: int,
) -> None:
    total = 100 << 30
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(total, total - free, free))
    found_code, findings = doctor(**spool(served, tmp_path))
    assert (found_code, of(findings, "disk")["verdict"]) == (code, verdict)


def test_a_spool_that_has_reached_its_limit(doctor: Doctor, served: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "w0-0"
    directory.mkdir()
    (directory / "00000001.seg").write_bytes(bytes(2_000_000))
    code, findings = doctor(**spool(served, tmp_path, AI_SPOOL_MAX_BYTES="10000000"))
    found = of(findings, "disk", "w0-0")
    assert (code, found["verdict"]) == (0, "warning")
    assert "spool_max_bytes" in found["fix"]
    code, findings = doctor(**spool(served, tmp_path, AI_SPOOL_MAX_BYTES="1000000000"))
    assert of(findings, "disk", "w0-0")["verdict"] == "ok"


def test_the_snapshot(doctor: Doctor, served: dict[str, str], tmp_path: Path) -> None:
    deny = tmp_path / "deny.json"
    deny.write_text('{"blackhole.42": "spend"}')
    path = tmp_path / "snapshot"
    environ = {**served, "AI_DENY_SOURCE": "file", "AI_DENY_FILE": str(deny), "AI_SNAPSHOT_PATH": str(path)}
    code, findings = doctor(**environ)
    assert (code, of(findings, "disk", "snapshot_path")["what"]) == (0, "can be written; there is none yet")
    assert of(findings, "disk", "deny_file")["what"] == "1 entries"
    deny.write_text('{"blackhole.42": "spend", "blackhol.key.7x": "fraud"}')
    code, findings = doctor(**environ)
    misspelt = of(findings, "disk", "deny_file")
    assert (code, misspelt["verdict"], misspelt["what"]) == (0, "warning", "2 entries, 1 of them misspelt")
    assert "did you mean blackhole.key.7?" in misspelt["why"]
    deny.write_text('{"blackhole.42": "spend"}')
    write_snapshot(path, Snapshot(f"file:{deny}", DenyView(DenySet(), set()), None, 0.0))
    code, findings = doctor(**environ)
    found = of(findings, "disk", "snapshot_path")
    assert (code, found["verdict"]) == (0, "warning"), "it was never confirmed"
    path.write_bytes(b"something else")
    code, findings = doctor(**environ)
    found = of(findings, "disk", "snapshot_path")
    assert (found["verdict"], found["what"]) == ("warning", "is not used")


@pytest.mark.parametrize("content", [None, "[]", "{", '{"blackhole.1": "spend", "blackhole.1": "fraud"}'])
def test_a_deny_file_that_is_of_no_use(
    doctor: Doctor, served: dict[str, str], tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "deny.json"
    if content is not None:
        path.write_text(content)
    code, findings = doctor(**served, AI_DENY_SOURCE="file", AI_DENY_FILE=str(path))
    found = of(findings, "disk", "deny_file")
    assert (code, found["verdict"]) == (1, "wrong")
