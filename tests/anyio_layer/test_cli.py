from __future__ import annotations

import base64
import io
import json
import logging
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aigw_anyio import cli
from aigw_anyio.cli import frontend_main, main
from aigw_anyio.demo import guide
from aigw_core.keys import KeyRing, parse_virtual_key, public_key_of
from aigw_core.secrets import Secret
from tests.anyio_layer.test_lifecycle import FakePlane

SEED = bytes([7]) * 32
SEED_TEXT = base64.b64encode(SEED).decode()
PUBLIC_KEY = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("AI_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("aigw_anyio.cli.raise_open_files_limit", lambda: 0)


def mint(capsys: Capture, monkeypatch: pytest.MonkeyPatch, *more: str) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(SEED_TEXT + "\n"))
    assert main(["key", "mint", "--tenant", "1", "--vpc", "1", *more]) == 0
    return capsys.readouterr().out.strip()


def test_new_key(capsys: Capture) -> None:
    assert main(["key", "new", "--kid", "9"]) == 0
    out, err = capsys.readouterr()
    made = tomllib.loads(out)
    assert made["kid"] == 9
    seed = base64.b64decode(made["seed"])
    assert base64.b64encode(public_key_of(Secret(seed))).decode() == made["public_key"]
    line = err.splitlines()[1]
    name, _, value = line.partition("=")
    assert name == "AI_SIGNING_KEYS"
    assert json.loads(value.strip("'")) == {"9": made["public_key"]}
    assert made["seed"] not in err
    assert main(["key", "new"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["seed"] != made["seed"]


def test_mint_takes_the_seed_from_everywhere(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = mint(capsys, monkeypatch)
    ring = KeyRing({1: PUBLIC_KEY})
    verified = ring.verify(parse_virtual_key(expected.encode()), bytes(32))
    assert (verified.version, verified.kid, verified.tenant_id, verified.vpc_id) == (1, 1, 1, 1)
    file = tmp_path / "seed"
    url_text = base64.urlsafe_b64encode(SEED).decode().rstrip("=")
    for content in (SEED, SEED_TEXT.encode(), f"{url_text}\n".encode(), SEED.hex().encode()):
        file.write_bytes(content)
        assert main(["key", "mint", "--tenant", "1", "--vpc", "1", "--seed-file", str(file)]) == 0
        assert capsys.readouterr().out.strip() == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("not read"))
    monkeypatch.setenv("AI_SIGNING_SEED", SEED_TEXT)
    assert main(["key", "mint", "--tenant", "1", "--vpc", "1"]) == 0
    assert capsys.readouterr().out.strip() == expected


def test_mint_version_two(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    token = mint(capsys, monkeypatch, "--key-id", "18446744073709551615", "--kid", "4294967295")
    claimed = parse_virtual_key(token.encode()).claimed
    assert (claimed.version, claimed.kid, claimed.key_id) == (2, 2**32 - 1, 2**64 - 1)


@pytest.mark.parametrize("seed", ["", "TAINTED", SEED_TEXT[:-2] + "==", "TAINTED" + SEED_TEXT, SEED.hex() + "0"])
def test_mint_never_repeats_a_bad_seed(seed: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(seed))
    assert main(["key", "mint", "--tenant", "1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "aigw key: a seed is 32 raw bytes, 64 hex digits, or 43 or 44 characters of base64\n"


def test_inspect(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    token = mint(capsys, monkeypatch, "--key-id", "5")
    rows = ["version     2", "kid         1", "tenant_id   1", "vpc_id      1", "key_id      5"]
    assert main(["key", "inspect", token]) == 0
    assert capsys.readouterr().out.splitlines() == [*rows, "signature   not checked: no --public-key given"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f" {token}\n"))
    assert main(["key", "inspect", "--public-key", PUBLIC_KEY]) == 0
    assert capsys.readouterr().out.splitlines() == [*rows, "signature   good"]
    other = base64.b64encode(public_key_of(Secret(bytes(32)))).decode()
    assert main(["key", "inspect", token, "--public-key", other]) == 1
    assert capsys.readouterr().out.splitlines() == [*rows, "signature   refused: bad signature"]


@pytest.mark.parametrize(
    ("token", "fault"),
    [("bai_v1.TAINTED", "malformed"), ("bai_v9.1.x.TAINTED", "bad version"), ("sk-TAINTED", "malformed")],
)
def test_inspect_of_no_key(token: str, fault: str, capsys: Capture) -> None:
    assert main(["key", "inspect", token]) == 1
    assert capsys.readouterr() == (f"signature   refused: {fault}\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        ["key", "mint", "--tenant", "1", "--seed", "TAINTED"],
        ["key", "mint", "--tenant", "1", "--seed=TAINTED"],
        ["key", "mint", "--tenant", "TAINTED"],
        ["key", "mint", "--tenant", "18446744073709551616"],
        ["key", "mint", "--tenant", "+1"],
        ["key", "mint", "--tenant", "1", "TAINTED"],
        ["key", "new", "--kid=-1TAINTED"],
        ["key", "TAINTED"],
        ["TAINTED"],
        ["serve", "--backend", "TAINTED"],
        ["serve", "--conf", "TAINTED"],
        [],
    ],
)
def test_usage_errors_repeat_nothing(argv: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "TAINTED" not in err
    assert "usage: aigw" in err


def test_flag_with_a_value_is_not_repeated(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        frontend_main(FakePlane, "asyncio", ["--demo=TAINTED"])
    err = capsys.readouterr().err
    assert "TAINTED" not in err
    assert "takes no value" in err


def test_configuration_errors_are_lines(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('listn_addr = "x"\nworkers = 0\n')
    monkeypatch.setenv("AI_LOG_LEVEL", "loud")
    assert frontend_main(FakePlane, "asyncio", ["--config", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    assert lines[0] == "aigw: listn_addr: unknown name; did you mean listen_addr?"
    assert all(line.startswith("aigw: ") for line in lines)


def test_failure_of_our_own_exits_with_one(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> int:
        raise RuntimeError("boom")

    monkeypatch.setattr(cli, "run_gateway", fail)
    monkeypatch.setattr("aigw_anyio.logs.configure", lambda *_: None)
    assert frontend_main(FakePlane, "asyncio", []) == 1
    assert [entry.levelno for entry in caplog.records] == [logging.CRITICAL]


def test_frontends_are_found_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    calls: list[list[str]] = []

    class Frontend:
        @staticmethod
        def main(argv: list[str]) -> int:
            calls.append(argv)
            return 5

    monkeypatch.setitem(sys.modules, "aigw_asyncio", Frontend)
    monkeypatch.setitem(sys.modules, "aigw_trio", object())
    assert main(["serve"]) == 5
    assert main(["serve", "--config", "x.toml", "--backend", "asyncio"]) == 5
    assert main(["demo"]) == 5
    assert calls == [[], ["--config", "x.toml"], ["--demo"]]
    assert main(["demo", "--backend", "trio"]) == 1
    assert capsys.readouterr().err == "aigw: the trio frontend is not available yet\n"
    monkeypatch.setitem(sys.modules, "aigw_trio", None)
    assert main(["demo", "--backend", "trio"]) == 1
    assert "pip install 'aigw[trio]'" in capsys.readouterr().err


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aigw_anyio", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("aigw ")
    assert done.stderr == ""


@pytest.mark.parametrize(("closed", "code"), [(">&-", 1), ("2>&-", 2), ("<&-", 2)])
def test_closed_standard_streams(closed: str, code: int) -> None:
    """A closed stdout is refused; the others are replaced, and the start goes on to the bad setting."""
    program = (
        "import sys; from aigw_anyio.cli import frontend_main;"
        "from tests.anyio_layer.test_lifecycle import FakePlane;"
        "sys.exit(frontend_main(FakePlane, 'asyncio', []))"
    )
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "AI_WORKERS": "0"},
        timeout=60,
    )
    assert done.returncode == code
    assert done.stdout == ""
    if closed == ">&-":
        assert done.stderr == "aigw: standard output is closed, so usage facts have nowhere to go\n"


def test_guide_holds_what_it_promises() -> None:
    text = guide("bai_v2.KEY", "http://127.0.0.1:8080")
    curls = [line for line in text.splitlines() if line.startswith("curl ")]
    assert len(curls) == 4
    for line in curls:
        assert "bai_v2.KEY" in line
        json.loads(line.rpartition(" -d '")[2].removesuffix("'"))
    python = text.partition("# Python, openai SDK")[2]
    compile(python, "guide", "exec")
    assert 'base_url="http://127.0.0.1:8080/openai/v1"' in python
    assert 'base_url="http://127.0.0.1:8080/anthropic"' in python
