"""A real server process: environment in, `listening` on stderr, facts on stdout."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import aigw_core
from tests.e2e import DEADLINE
from tests.e2e.nursery import Forked

ROOT: Final = Path(aigw_core.__file__).parent.parent
POLL_SECS: Final = 0.002

FACT_FIELDS: Final = (
    "v",
    "id",
    "time",
    "duration_ms",
    "ttft_ms",
    "tenant_id",
    "vpc_id",
    "key_id",
    "kid",
    "provider",
    "wire",
    "endpoint",
    "streaming",
    "requested_model",
    "model",
    "status",
    "upstream_status",
    "upstream_request_id",
    "outcome",
    "usage_status",
    "tokens",
    "usage",
    "estimate",
    "service_tier",
    "server_tool_calls",
    "flags",
    "deny_revision",
    "deny_stale_ms",
    "request_bytes",
    "response_bytes",
)

Fact = dict[str, Any]
"""A decoded usage fact: JSON of many shapes."""


def wait_until(condition: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Polls a condition that another process brings about; fails with ``what`` after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline} s in vain: {what}")
        time.sleep(POLL_SECS)


class _Lines:
    """The lines of one output stream, collected by a thread until the stream ends."""

    def __init__(self, stream: IO[bytes], *, held: bool = False) -> None:
        """``held``: nothing is read before ``release`` is called."""
        self.lines: list[str] = []
        self._released = threading.Event()
        if not held:
            self._released.set()
        self._arrived = threading.Condition()
        self._over = False
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._released.set()

    def _read(self) -> None:
        self._released.wait()
        for line in self._stream:
            with self._arrived:
                self.lines.append(line.decode().removesuffix("\n"))
                self._arrived.notify_all()
        with self._arrived:
            self._over = True
            self._arrived.notify_all()

    def wait(self, wanted: Callable[[str], bool], what: str, seen: int = 0) -> str:
        """The first line that is wanted, behind the ``seen`` first ones."""
        end = time.monotonic() + DEADLINE
        with self._arrived:
            while True:
                while seen < len(self.lines):
                    if wanted(self.lines[seen]):
                        return self.lines[seen]
                    seen += 1
                remaining = end - time.monotonic()
                if self._over or remaining <= 0:
                    ended = "the stream ended" if self._over else "no such line in time"
                    raise AssertionError(f"{what}: {ended}; the last lines: {self.lines[-5:]}")
                self._arrived.wait(remaining)

    def join(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "an output stream stays open after the process has ended"
        self._stream.close()


class Gateway:
    """One gateway process."""

    def __init__(
        self,
        backend: str,
        environ: Mapping[str, str],
        *,
        arguments: Sequence[str] = (),
        module: str | None = None,
        wrapper: Sequence[str] = (),
        fresh: bool = False,
        listens: bool = True,
        holds_facts: bool = False,
    ) -> None:
        """``environ`` holds ``AI_…`` names; ``module`` is another entry point than the frontend's own; ``wrapper``
        is a command that turns into the one that follows it.

        ``fresh``: in an interpreter of its own from the start on, as an operator starts it, also without a wrapper.
        ``holds_facts``: nobody reads stdout before ``read_facts`` is called.
        """
        self.backend = backend
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AI_", "PYTEST")) and "proxy" not in name.lower()
        }
        if module is not None:
            inherited["TEST_BACKEND"] = backend
        listening = {"AI_LISTEN_ADDR": "127.0.0.1:0", "AI_METRICS_LISTEN": "127.0.0.1:0"}
        environ = {**inherited, "PYTHONPATH": str(ROOT), **listening, **environ}
        entry = module or f"aigw_{backend}"
        self._process: subprocess.Popen[bytes] | Forked
        if fresh or wrapper:
            self._process = subprocess.Popen(
                [*wrapper, sys.executable, "-W", "error", "-m", entry, *arguments],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        else:
            self._process = Forked(entry, arguments, environ)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out = _Lines(self._process.stdout, held=holds_facts)
        self._err = _Lines(self._process.stderr)
        self.tls = "AI_TLS_CERT_FILE" in environ
        self.address = ("", 0)
        self.admin_address = ("", 0)
        self._facts: dict[str, Fact] = {}
        self._parsed = 0
        if listens:
            line = self.wait_log(r"^listening data=\S+ admin=\S+$")
            found = re.findall(r"=(\S+):(\d+)", line)
            (self.address, self.admin_address) = ((host, int(port)) for host, port in found)

    # Addresses

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.address[1]}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def admin(self, path: str) -> tuple[int, str]:
        """Status and body of one admin request."""
        connection = http.client.HTTPConnection(*self.admin_address, timeout=DEADLINE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """One sample by its name and labels as exposed, 0 where it is not there yet."""
        return self.metrics((name,))[0]

    def metrics(self, names: Sequence[str]) -> list[float]:
        """Samples of one moment."""
        lines = (line.rpartition(" ") for line in self.admin("/metrics")[1].splitlines())
        samples = {name: value for name, _, value in lines}
        return [float(samples.get(name, 0)) for name in names]

    # What it wrote

    @property
    def stdout(self) -> list[str]:
        return self._out.lines

    @property
    def stderr(self) -> list[str]:
        return self._err.lines

    def read_facts(self) -> None:
        self._out.release()

    def wait_log(self, pattern: str) -> str:
        """The first stderr line in which the expression is found."""
        expression = re.compile(pattern)
        return self._err.wait(lambda line: expression.search(line) is not None, f"no {pattern!r} on stderr")

    def facts(self) -> dict[str, Fact]:
        """Every fact so far, by id; fails on a line that is none and on a second fact of one id."""
        while self._parsed < len(self.stdout):
            line = self.stdout[self._parsed]
            self._parsed += 1
            fact = json.loads(line)
            assert tuple(fact) == FACT_FIELDS, f"not the fields of a fact: {line}"
            assert fact["id"] not in self._facts, f"a second fact of one exchange: {line}"
            self._facts[fact["id"]] = fact
        return self._facts

    def fact(self, request_id: str) -> Fact:
        """The fact of this request, once it is there."""
        if request_id not in self.facts():
            wanted = f'"id":"{request_id}"'
            self._out.wait(lambda line: wanted in line, f"no fact of {request_id} on stdout", self._parsed)
        return self.facts()[request_id]

    def fact_by(self, member: str, value: str) -> Fact:
        """The one fact with this member, for an exchange that left no request id downstream."""
        wanted = f'"{member}":{json.dumps(value)}'
        self._out.wait(lambda line: wanted in line, f"no fact with {wanted} on stdout")
        (fact,) = [fact for fact in self.facts().values() if fact[member] == value]
        return fact

    # Memory, from /proc

    def reset_peak_memory(self) -> int:
        """Bytes resident now; the peak is counted from here."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self._memory("VmRSS")

    def peak_memory(self) -> int:
        """The most bytes that were resident at a time since the last reset."""
        return self._memory("VmHWM")

    def _memory(self, field: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    # The end

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code."""
        try:
            code = self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the gateway does not stop; its last lines: {self.stderr[-10:]}") from None
        self._out.release()
        self._out.join()
        self._err.join()
        return code

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> int:
        """Asks twice to stop, and waits."""
        if self.running():
            self.send_signal(signal.SIGTERM)
        return self.wait()

    def faults(self) -> list[str]:
        """Lines on stderr that a healthy gateway never writes."""
        return [
            line
            for line in list(self.stderr)
            if "Traceback" in line or "Error:" in line or re.search(r'"level": "(error|critical)"', line)
        ]
