"""The code blocks of a Markdown page, and running them in order as a reader would.

Comments directly above a block say what is special about it:

``<!-- run: serve -->``           one command that starts a gateway: left running, replaces the one before it
``<!-- run: background PORT -->`` one command that listens on PORT: left running to the end of the page
``<!-- run: file NAME -->``       saved under that name for the blocks that follow
``<!-- run: fails CODE -->``      ends with this exit code
``<!-- run: prints TEXT -->``     the text is in its output, or in that of the gateway it starts
``<!-- run: logs TEXT -->``       the running gateway says so on stderr, now or soon
``<!-- run: stops -->``           asks the running gateway to stop, which it does, and well
``<!-- run: client NAME -->``     run by tests/clients, where that client is installed; ``*`` is for each of them
``<!-- run: install -->``         sets up a virtual environment, so it is not run, but for the gateway it may end in

Pages show the default addresses and example keys; :class:`Page` puts in those that it really uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from aigw_anyio.settings import load_settings
from tests.sources import ROOT

LANGUAGES: Final = frozenset({"bash", "javascript", "json", "mermaid", "python", "text", "toml"})
"""``text`` and ``mermaid`` are for people; all others are run, loaded or parsed. ``javascript`` is for clients only."""
BLOCK_SECS: Final = 60.0
"""Generous: what a page runs takes a second or two."""
POLL_SECS: Final = 0.01

DATA_ADDRESS: Final = "127.0.0.1:8080"
ADMIN_ADDRESS: Final = "127.0.0.1:9090"
DEMO_KEY: Final = "bai_v2.1.…"
"""Stands for the virtual key that the demo prints."""
PUBLIC_KEY: Final = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="
"""Stands for the public key in ``signing-key.toml``, where the page has made one."""

_FENCE: Final = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARKS: Final = re.compile(r"(?:<!-- run: [^\n]+ -->\n)+\Z")
_WORDS: Final = frozenset({"background", "client", "fails", "file", "install", "logs", "prints", "serve", "stops"})


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    language: str
    text: str
    line: int
    marks: tuple[tuple[str, str], ...]
    """(word, what follows it) of each comment above the block."""

    def mark(self, word: str) -> str | None:
        """What follows the word; empty where nothing does, None without such a comment."""
        return next((argument for found, argument in self.marks if found == word), None)

    def all(self, word: str) -> list[str]:
        return [argument for found, argument in self.marks if found == word]


def blocks_of(text: str) -> list[Block]:
    """Raises ValueError for a language or a comment that nobody understands."""
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 1
        above = _MARKS.search(text, 0, fence.start())
        lines = above[0].splitlines() if above is not None else []
        marks = tuple(_mark(comment) for comment in lines)
        language, words = fence[1], {word for word, _ in marks}
        is_foreign = language == "javascript" and "client" not in words
        if language not in LANGUAGES or not words <= _WORDS or is_foreign:
            raise ValueError(f"line {line}: nobody knows how to run this block")
        found.append(Block(language, fence[2], line, marks))
    if text.count("<!-- run: ") != sum(len(block.marks) for block in found):
        raise ValueError("a comment for the runner does not stand directly above a block")
    return found


def _mark(comment: str) -> tuple[str, str]:
    word, _, argument = comment.removeprefix("<!-- run: ").removesuffix(" -->").partition(" ")
    return word, argument


class BlockError(AssertionError):
    """A block did not do what its page says."""


class Process:
    """A command that was left running; its output is collected."""

    def __init__(self, arguments: list[str], directory: Path, environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            arguments,
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.out, self.err = _Stream(self._process.stdout), _Stream(self._process.stderr)

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for(self, stream: _Stream, pattern: str) -> re.Match[str]:
        """Waits for the expression in what the process has written. Raises BlockError."""
        found: re.Match[str] | None = None

        def is_there() -> bool:
            nonlocal found
            ended = not self.running()
            found = re.search(pattern, stream.text(), re.MULTILINE)
            if found is None and ended:
                raise BlockError(f"the process has ended without {pattern!r}:\n{self.err.text()}")
            return found is not None

        wait_until(is_there, f"no {pattern!r} in\n{stream.text()}")
        assert found is not None
        return found

    def stop(self, *, ask: bool) -> int:
        """Presses Ctrl-C if it is to be asked; returns the exit code."""
        if ask and self.running():
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(BLOCK_SECS)
        finally:
            self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.out.join()
        self.err.join()


class _Stream:
    """Collects an output stream in a thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._pieces: list[bytes] = []
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self._pieces.extend(iter(self._stream.readline, b""))

    def text(self) -> str:
        return b"".join(self._pieces).decode()

    def join(self) -> None:
        self._thread.join(BLOCK_SECS)
        self._stream.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Polls what another process brings about. Raises BlockError."""
    end = time.monotonic() + BLOCK_SECS
    while not condition():
        if time.monotonic() > end:
            raise BlockError(f"waited in vain: {what}")
        time.sleep(POLL_SECS)


class Page:
    """Runs the blocks of one page in one directory, in one environment, as one reader in one terminal."""

    def __init__(self, directory: Path, blocks: list[Block]) -> None:
        self._directory = directory
        self._blocks = blocks
        self._tools = directory / ".tools"
        self._exports = directory / ".exports"
        self._gateway: Process | None = None
        self._others: list[Process] = []
        ports = [port for block in blocks for port in block.all("background")]
        self._examples: dict[str, str] = {port: str(_free_port()) for port in ports}
        """What a page shows → what stands there really."""
        self._make_tools()

    def _make_tools(self) -> None:
        self._tools.mkdir()
        interpreter = shlex.quote(sys.executable)
        for name, command in (
            ("python", interpreter),
            ("python3", interpreter),
            ("aigw", f"{interpreter} -m aigw_anyio"),
        ):
            tool = self._tools / name
            tool.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            tool.chmod(0o755)
        self._exports.touch()

    @property
    def _environ(self) -> dict[str, str]:
        names = ("LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "PYDANTIC_DISABLE_PLUGINS")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        return {
            **kept,
            "PATH": f"{self._tools}:{os.environ['PATH']}",
            "HOME": str(self._directory),
            "PYTHONPATH": str(ROOT),
            # Whatever a page says, its gateways must not meet others on one port.
            "AI_LISTEN_ADDR": "127.0.0.1:0",
            "AI_METRICS_LISTEN": "127.0.0.1:0",
        }

    def run(self) -> None:
        """Every block, in order. Raises BlockError."""
        for block in self._blocks:
            self._run(block)

    def _run(self, block: Block) -> None:
        if block.mark("client") is not None:
            return
        self._look_for_key()
        text = block.text
        for shown, real in self._examples.items():
            text = text.replace(shown, real)
        name = block.mark("file")
        if name is not None:
            (self._directory / name).write_text(text)
        if block.language == "json":
            json.loads(text)
        elif block.language == "toml":
            self._load(text, name)
        elif block.language == "python" and name is None:
            (self._directory / "block.py").write_text(text)
            self._finish(block, self._shell(". ./.exports; exec python -W error block.py"))
        elif block.language == "bash":
            self._run_bash(block, text)
        for expected in block.all("logs"):
            assert self._gateway is not None, "no gateway runs"
            self._gateway.wait_for(self._gateway.err, re.escape(expected))
        if block.mark("stops") is not None:
            self.stop_gateway(ask=False)

    def _load(self, text: str, name: str | None) -> None:
        path = self._directory / (name or "block.toml")
        path.write_text(text)
        with contextlib.chdir(self._directory):
            load_settings(config=path, environ={})

    def _run_bash(self, block: Block, text: str) -> None:
        if block.mark("install") is not None:
            text = text.rpartition("&& ")[2].replace(".venv/bin/", "")
        if block.mark("serve") is not None:
            self._serve(text)
            assert self._gateway is not None
            for expected in block.all("prints"):
                self._gateway.wait_for(self._gateway.err, re.escape(expected))
        elif (port := block.mark("background")) is not None:
            self._start_other(text, port)
        elif block.mark("install") is None:
            self._finish(block, self._shell(f". ./.exports\n{text}\nexport -p > .exports"))

    def _shell(self, script: str) -> subprocess.CompletedProcess[str]:
        self._settle()
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECS,
            check=False,
        )

    def _finish(self, block: Block, run: subprocess.CompletedProcess[str]) -> None:
        output = run.stdout + run.stderr
        expected = int(block.mark("fails") or 0)
        if run.returncode != expected:
            raise BlockError(f"line {block.line}: exit code {run.returncode}, not {expected}:\n{output}")
        for text in block.all("prints"):
            if text not in output:
                raise BlockError(f"line {block.line}: no {text!r} in\n{output}")

    def _start(self, command: str) -> Process:
        # exec, so that signals reach the command and not a shell around it.
        arguments = ["bash", "-euo", "pipefail", "-c", f". ./.exports; exec {command.strip()}"]
        return Process(arguments, self._directory, self._environ)

    def _serve(self, command: str) -> None:
        self.stop_gateway()
        gateway = self._gateway = self._start(command)
        listening = gateway.wait_for(gateway.err, r"^listening data=(\S+) admin=(\S+)$")
        self._examples |= {DATA_ADDRESS: listening[1], ADMIN_ADDRESS: listening[2]}
        if "--demo" in command or "demo" in command.split():
            self._examples[DEMO_KEY] = gateway.wait_for(gateway.err, r"api_key=\"(bai_[^\"]+)\"")[1]
        with self._exports.open("a") as exports:
            exports.write(f"export AIGW_PID={gateway.pid}\n")

    def _start_other(self, command: str, port: str) -> None:
        process = self._start(command)
        self._others.append(process)

        def listens() -> bool:
            if not process.running():
                raise BlockError(f"the command has ended:\n{process.err.text()}")
            with socket.socket() as caller:
                return caller.connect_ex(("127.0.0.1", int(self._examples[port]))) == 0

        wait_until(listens, f"nobody listens on {port}")

    def _look_for_key(self) -> None:
        path = self._directory / "signing-key.toml"
        if path.exists():
            found = re.search(r'^public_key = "(.+)"$', path.read_text(), re.MULTILINE)
            assert found is not None
            self._examples[PUBLIC_KEY] = found[1]

    def _settle(self) -> None:
        """Lets a running gateway write the facts of what was asked before, as a reader's pause would."""
        gateway = self._gateway
        if gateway is None or not gateway.running():
            return

        def is_idle() -> bool:
            if not gateway.running():
                return True
            try:
                with urllib.request.urlopen(f"http://{self._examples[ADMIN_ADDRESS]}/metrics", timeout=5) as answer:
                    samples = answer.read().decode()
            except OSError:
                # It is stopping.
                return True
            return "\naigw_exchanges 0.0\n" in samples and "\naigw_facts_buffered_bytes 0.0\n" in samples

        wait_until(is_idle, "the gateway has unfinished exchanges")

    def stop_gateway(self, *, ask: bool = True) -> None:
        """Ctrl-C, unless the page has asked it to stop. Raises BlockError unless it ends well."""
        gateway, self._gateway = self._gateway, None
        if gateway is None:
            return
        code = gateway.stop(ask=ask)
        if code != 0 or "Traceback" in gateway.err.text():
            raise BlockError(f"the gateway ended with {code}:\n{gateway.err.text()}")
        for line in gateway.out.text().splitlines():
            json.loads(line)

    def close(self) -> None:
        """Nothing is left running, whatever happened."""
        for process in (self._gateway, *self._others):
            if process is not None:
                process.kill()


def run_page(text: str, directory: Path) -> None:
    """Runs the blocks of a page in an empty directory. Raises BlockError; nothing is left running."""
    page = Page(directory, blocks_of(text))
    try:
        page.run()
        page.stop_gateway()
    finally:
        page.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
