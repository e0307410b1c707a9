"""``aigw deny`` on a file and on a real bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aigw_anyio.cli import main
from tests.nats.bucket import Bucket
from tests.nats.server import NatsServer


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AI_DENY_SOURCE", "file")
    monkeypatch.setenv("AI_DENY_FILE", str(tmp_path / "deny.json"))
    return tmp_path / "deny.json"


def test_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deny", "put", "--tenant", "42", "spend"]) == 0
    assert main(["deny", "put", "--key", "7", "fraud"]) == 0
    assert json.loads(file.read_text()) == {"blackhole.42": "spend", "blackhole.key.7": "fraud"}
    capsys.readouterr()
    assert main(["deny", "ls"]) == 0
    assert capsys.readouterr().out == "tenant 42 spend 402\nkey 7 fraud 403\n"
    assert main(["deny", "ls", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == {"tenant": "42", "reason": "spend", "status": 402, "revision": 1}
    assert main(["deny", "rm", "--tenant", "42"]) == 0
    assert main(["deny", "rm", "--tenant", "42"]) == 0
    assert "was not there" in capsys.readouterr().err
    assert json.loads(file.read_text()) == {"blackhole.key.7": "fraud"}
    assert main(["deny", "put", "--tenant", "1", "spend", "--ttl", "5"]) == 1
    assert [path.name for path in file.parent.iterdir() if path.name.endswith(".tmp")] == []


def test_a_broken_file_is_left_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('{"a": 1, "a": 2}')
    assert main(["deny", "put", "--tenant", "42", "spend"]) == 1
    assert main(["deny", "ls"]) == 1
    assert file.read_text() == '{"a": 1, "a": 2}'
    assert "the deny file is not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["put", "--tenant", "01", "spend"],
        ["put", "--tenant", str(2**64), "spend"],
        ["put", "--tenant", "x", "spend"],
        ["put", "--tenant", "1", "whim"],
        ["put", "--tenant", "1", "--key", "2", "spend"],
        ["put", "spend"],
        ["put", "--tenant", "1", "spend", "--ttl", "0"],
        ["rm"],
    ],
)
def test_bad_arguments(arguments: list[str], file: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["deny", *arguments])
    assert caught.value.code == 2
    assert not file.exists()


def test_without_a_source(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deny", "ls"]) == 2
    assert "no deny source" in capsys.readouterr().err


def test_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    server = NatsServer(tmp_path / "nats").start()
    monkeypatch.setenv("AI_NATS_URL", server.url)
    try:
        assert main(["deny", "put", "--tenant", "42", "spend"]) == 1
        assert "there is no bucket ai-gateway" in capsys.readouterr().err
        assert main(["deny", "put", "--tenant", "42", "spend", "--create"]) == 0
        assert main(["deny", "put", "--key", "7", "fraud", "--ttl", "3600"]) == 0
        assert "blackhole.key.7: written as revision 2" in capsys.readouterr().err
        assert main(["deny", "ls"]) == 0
        assert capsys.readouterr().out == "tenant 42 spend 402\nkey 7 fraud 403\n"
        assert main(["deny", "rm", "--key", "7"]) == 0
        assert main(["deny", "ls"]) == 0
        assert capsys.readouterr().out == "tenant 42 spend 402\n"
        with Bucket(server.url) as bucket:
            # A full bucket refuses, and the command says so.
            config = bucket.info()["config"]
            bucket.api("STREAM.UPDATE.KV_ai-gateway", {**config, "max_bytes": 1})
        capsys.readouterr()
        assert main(["deny", "put", "--tenant", "43", "spend"]) == 1
        assert "is not written: maximum bytes exceeded" in capsys.readouterr().err
    finally:
        server.stop()
