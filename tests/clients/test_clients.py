"""Every program of the page, as it stands there, through a real gateway: each call leaves the right fact, or none."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from docs.generator import DOCS
from tests import zstd
from tests.blocks import DATA_ADDRESS, DEMO_KEY, Block, blocks_of
from tests.clients.mock import TEXT, Call, Mock
from tests.e2e import answers, keys
from tests.e2e.client import Client, bearer, request
from tests.e2e.conftest import BACKENDS
from tests.e2e.fleet import environment
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider

PAGE: Final = DOCS / "how-to" / "connect-clients.md"
VARIABLE: Final = "AIGW_CLIENTS"
PROGRAM_SECS: Final = 240.0
"""For one program: some of them load hundreds of megabytes first."""

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
_USAGE: Final = {CHAT: answers.CHAT_USAGE, RESPONSES: answers.RESPONSES_USAGE, MESSAGES: answers.MESSAGES_USAGE}
_TOKENS: Final = {
    CHAT: {**answers.CHAT_TOKENS, "input_audio": 0},
    RESPONSES: {"input": 36, "cache_read": 0, "output": 80, "reasoning": 7},
    MESSAGES: {"input": 25, "cache_read": 3, "cache_write": 0, "output": 15},
}


@dataclass(frozen=True, slots=True)
class Expected:
    """Where a client lives, and what it asks: (path, whether it streams)."""

    home: str
    calls: tuple[tuple[str, bool], ...]


CLIENTS: Final = {
    "openai-python": Expected("sdks", ((RESPONSES, False), (CHAT, True))),
    "openai-node": Expected("node", ((RESPONSES, False), (CHAT, True))),
    "anthropic-python": Expected("sdks", ((MESSAGES, False), (MESSAGES, True))),
    "anthropic-node": Expected("node", ((MESSAGES, False), (MESSAGES, True))),
    "agents": Expected("agents", ((RESPONSES, False), (RESPONSES, False))),
    "langchain": Expected("langchain", ((CHAT, False), (MESSAGES, True))),
    "llamaindex": Expected("llamaindex", ((CHAT, False), (MESSAGES, False))),
    "pydantic-ai": Expected("pydantic", ((CHAT, False), (CHAT, False), (MESSAGES, True))),
    "litellm": Expected("litellm", ((CHAT, False), (MESSAGES, True))),
    "vercel": Expected("node", ((RESPONSES, False), (MESSAGES, True))),
    "claude-code": Expected("node", ((MESSAGES, True), (MESSAGES, True))),
    "codex": Expected("node", ((RESPONSES, True), (RESPONSES, True))),
}


def blocks() -> list[Block]:
    return [block for block in blocks_of(PAGE.read_text()) if block.mark("client") is not None]


def test_the_page_has_every_client() -> None:
    assert {block.mark("client") for block in blocks()} == {"*", *CLIENTS}


@pytest.fixture
def installed() -> Path:
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} names no folder of clients (python -m tests.clients.install DIR)")
    return Path(folder)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass
class Stage:
    """A gateway, the mock behind it, and one caller's key."""

    gateway: Gateway
    mock: Mock
    key: str
    key_id: int


@pytest.fixture
def stage(backend: str, installed: Path) -> Iterator[Stage]:
    mock = Mock()
    provider = Provider(script=mock)
    gateway = Gateway(backend, environment(provider))
    key_id = keys.number()
    try:
        yield Stage(gateway, mock, keys.virtual_key(key_id=key_id), key_id)
        assert gateway.stop() == 0
        assert gateway.faults() == []
    finally:
        with contextlib.suppress(AssertionError):
            gateway.stop()
        provider.close()


class Desk:
    """Where one client's programs run: a home of its own, nothing of the user's, no way out but the gateway."""

    def __init__(self, stage: Stage, installed: Path, home: str, folder: Path) -> None:
        self._stage, self._folder = stage, folder
        node = installed / "node" / "node_modules"
        self._python = str(installed / "python" / home / "bin" / "python")
        # Modules are looked for beside the program.
        (folder / "node_modules").symlink_to(node)
        nowhere = "http://127.0.0.1:9"
        self._environ = {
            "HOME": str(folder),
            "PATH": f"{node / '.bin'}:{os.environ['PATH']}",
            "TERM": "dumb",
            "DO_NOT_TRACK": "1",
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), nowhere),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
        }
        self._exports = ""

    def run(self, block: Block) -> str:
        """What the program prints."""
        host, port = self._stage.gateway.address
        text = block.text.replace(DATA_ADDRESS, f"{host}:{port}").replace(DEMO_KEY, self._stage.key)
        if block.mark("client") == "*":
            self._exports = text
            return ""
        if block.language == "toml":
            path = self._folder / ".codex" / "config.toml"
            path.parent.mkdir()
            path.write_text(text)
            return ""
        if block.language == "python":
            (self._folder / "program.py").write_text(text)
            text = f'exec "{self._python}" program.py'
        elif block.language == "javascript":
            (self._folder / "program.mjs").write_text(text)
            text = "exec node program.mjs"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{self._exports}\n{text}"],
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROGRAM_SECS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert self._stage.key not in done.stdout + done.stderr
        return done.stdout


def run_client(name: str, stage: Stage, installed: Path, folder: Path) -> str:
    desk = Desk(stage, installed, CLIENTS[name].home, folder)
    return "".join(desk.run(block) for block in blocks() if block.mark("client") in ("*", name))


def check_facts(stage: Stage, expected: list[tuple[str, bool]]) -> None:
    """One fact for each call that the provider got, exact, and none for anything else."""
    calls = stage.mock.calls
    assert [(call.method, call.target.partition("?")[0]) for call in calls] == [("POST", path) for path, _ in expected]
    # A stop writes whatever is still due.
    assert stage.gateway.stop() == 0
    facts = list(stage.gateway.facts().values())
    assert len(facts) == len(calls), stage.gateway.stderr
    for fact, call, (path, streaming) in zip(facts, calls, expected, strict=True):
        assert (fact["outcome"], fact["usage_status"], fact["status"]) == ("complete", "final", 200)
        assert (fact["endpoint"], fact["streaming"], fact["flags"]) == (path, streaming, [])
        assert (fact["tenant_id"], fact["key_id"]) == (str(keys.TENANT), str(stage.key_id))
        assert (fact["usage"], fact["tokens"]) == (_USAGE[path], _TOKENS[path])
        assert fact["requested_model"] == call.request["model"]
        # The splice that has the usage stated may count or not.
        assert abs(len(call.body) - fact["request_bytes"]) <= (64 if path == CHAT else 0)


@pytest.mark.parametrize("name", [name for name in CLIENTS if name not in ("claude-code", "codex")])
def test_a_program_of_the_page(name: str, stage: Stage, installed: Path, tmp_path: Path) -> None:
    printed = run_client(name, stage, installed, tmp_path)
    assert TEXT in printed
    check_facts(stage, list(CLIENTS[name].calls))


def test_claude_code(stage: Stage, installed: Path, tmp_path: Path) -> None:
    """It reads a file that the model asks for, and goes on with what is in it."""
    (tmp_path / "note.txt").write_text("the mark of the file\n")
    stage.mock.tools["Read"] = {"file_path": str(tmp_path / "note.txt")}
    assert TEXT in run_client("claude-code", stage, installed, tmp_path)
    first, second = stage.mock.calls
    assert first.target == "/v1/messages?beta=true"
    assert len(first.body) > 30_000
    assert "the mark of the file" in second.body.decode()
    check_facts(stage, list(CLIENTS["claude-code"].calls))
    probes = [json.loads(line) for line in stage.gateway.stderr if '"no_credential"' in line]
    assert {probe["status"] for probe in probes} <= {401}


def test_codex(stage: Stage, installed: Path, tmp_path: Path) -> None:
    """It carries out a command that the model asks for, as far as its sandbox lets it, and reports back."""
    (tmp_path / "note.txt").write_text("the mark of the file\n")
    assert TEXT in run_client("codex", stage, installed, tmp_path)
    first, second = stage.mock.calls
    assert first.target == RESPONSES
    assert len(first.body) > 20_000
    assert [item["type"] for item in second.request["input"]][-2:] == ["function_call", "function_call_output"]
    check_facts(stage, list(CLIENTS["codex"].calls))


@pytest.mark.parametrize("coding", ["zstd", "gzip"])
@pytest.mark.parametrize("name", ["claude-code", "codex"])
def test_what_they_send_may_come_compressed(
    name: str, coding: str, stage: Stage, installed: Path, tmp_path: Path
) -> None:
    """Both compress towards their makers' own hosts: here their own bodies are sent once more, compressed."""
    run_client(name, stage, installed, tmp_path)
    sent: Call = stage.mock.calls[0]
    body = zstd.compress(sent.body) if coding == "zstd" else gzip.compress(sent.body)
    prefix = "/anthropic" if name == "claude-code" else "/openai"
    fields = (bearer(stage.key), (b"Content-Type", b"application/json"), (b"Content-Encoding", coding.encode()))
    with Client(stage.gateway) as client:
        client.send(request(prefix + sent.target, body, *fields))
        answer = client.read_answer()
    assert (answer.status, answer.complete) == (200, True)
    assert stage.mock.calls[-1].body == body, "relayed as it is"
    fact = stage.gateway.fact(answer.request_id)
    path = CLIENTS[name].calls[0][0]
    assert (fact["outcome"], fact["usage"], fact["streaming"]) == ("complete", _USAGE[path], True)
    assert (fact["requested_model"], fact["request_bytes"]) == (sent.request["model"], len(body))


def test_a_probe_without_a_key_leaves_nothing(stage: Stage) -> None:
    """As Claude Code sends it at its start."""
    with Client(stage.gateway) as client:
        client.send(request("/anthropic", method="HEAD"))
        assert client.read_answer("HEAD").status == 401
        client.send(request("/anthropic/", method="HEAD"))
        assert client.read_answer("HEAD").status == 401
        client.send(request("/anthropic/v1/messages?beta=true", method="HEAD"))
        assert client.read_answer("HEAD").status == 401
    assert stage.gateway.stop() == 0
    assert stage.gateway.facts() == {}
    assert stage.mock.calls == []


def test_node_and_its_packages_are_there(installed: Path) -> None:
    assert shutil.which("node") is not None
    for name in ("claude", "codex"):
        assert (installed / "node" / "node_modules" / ".bin" / name).exists()
