"""The processes that a run starts itself: the mock provider and the gateway."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self
from urllib.parse import urlencode

from aigw_core.keys import mint_virtual_key, public_key_of
from aigw_core.secrets import Secret
from bench.targets import Target

ROOT: Final = Path(__file__).resolve().parent.parent
START_SECS: Final = 30.0
STOP_SECS: Final = 15.0
_SEED: Final = Secret(bytes(range(32)))
VIRTUAL_KEY: Final = mint_virtual_key(_SEED, kid=1, tenant_id=7, vpc_id=1, key_id=3)
BYO_KEY: Final = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"
_LISTENING: Final = re.compile(r"^listening data=\S+:(\d+) admin=\S+:(\d+)$", re.MULTILINE)

_CONFIGURATION: Final = """\
listen_addr = "127.0.0.1:{port}"
metrics_listen = "127.0.0.1:0"
log_level = "warning"
# Counted for every request, and never reached.
rate_limit_rps = 4000000000
byo_rate_limit_rps = 4000000000
unverified_rate_limit_rps = 4000000000
{more}
[signing_keys]
1 = "{public_key}"

[pool_keys]
openai = "sk-upstream"

[provider_authorities]
openai = "{authority}"
"""


class StartError(Exception):
    """A process did not come up; the text says which and where its log is."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where processes run; None leaves it to the scheduler."""

    gateway: int | None
    load: int | None

    @classmethod
    def choose(cls, gateway: int, load: int) -> Self:
        """The wanted cores where this process may use both."""
        allowed = os.sched_getaffinity(0)
        return cls(gateway, load) if {gateway, load} <= allowed else cls(None, None)


class Child:
    """A child on one core, whose output goes to files."""

    def __init__(self, core: int | None, command: list[str], out: IO[bytes], log: Path) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("AI_")}
        environ["PYTHONPATH"] = str(ROOT)
        mine = os.sched_getaffinity(0)
        if core is not None:
            # A child inherits the affinity of its parent, so the parent goes there for a moment.
            os.sched_setaffinity(0, {core})
        try:
            with log.open("wb") as errors:
                self._popen = subprocess.Popen(
                    command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=errors
                )
        finally:
            os.sched_setaffinity(0, mine)
        self._log = log

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def last_words(self) -> str:
        """Whether it runs or how it ended, and the end of its log."""
        code = self._popen.poll()
        state = "it runs" if code is None else f"it ended with {code}"
        return f"{state}; {self._log.read_text()[-2000:] or 'its log is empty'}"

    def wait_for(self, file: Path, pattern: re.Pattern[str]) -> re.Match[str]:
        """The first match in a file that the child writes. Raises StartError."""
        end = time.monotonic() + START_SECS
        while time.monotonic() < end and self._popen.poll() is None:
            found = pattern.search(file.read_text())
            if found is not None:
                return found
            time.sleep(0.02)
        raise StartError(f"{self._popen.args!r} did not start: {self.last_words}")

    def stop(self) -> None:
        self._popen.terminate()
        try:
            self._popen.wait(STOP_SECS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


class ProviderProcess:
    """The mock provider on the load's core."""

    def __init__(self, directory: Path, core: int | None, *, port: int, tls: bool = False) -> None:
        command = [sys.executable, "-m", "bench.provider", "--port", str(port)]
        self.ca_file: Path | None = None
        if tls:
            certificate, self.ca_file = make_certificate(directory)
            command += ["--certificate", str(certificate)]
        out = directory / "provider.out"
        with out.open("wb") as stdout:
            self._process = Child(core, command, stdout, directory / "provider.log")
        ports = self._process.wait_for(out, re.compile(r"^listening ([\d ]+)$", re.MULTILINE))[1].split()
        self.port = int(ports[0])
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.tls_url = f"https://localhost:{ports[1]}" if tls else None

    def configure(self, **plan: float) -> None:
        """``events``, ``delay_ms``, ``answer_bytes``. Raises OSError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECS)
        try:
            connection.request("GET", f"/_bench?{urlencode(plan)}")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise ConnectionError("the mock provider refuses its plan")
        finally:
            connection.close()

    def stop(self) -> None:
        self._process.stop()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost with its key, and the file of the authority that signed it.

    Raises StartError where trustme, which is part of the development extra, is missing.
    """
    try:
        import trustme
    except ImportError:
        raise StartError("TLS needs trustme: pip install 'aigw[dev]'") from None
    authority = trustme.CA()
    chain, trusted = directory / "localhost.pem", directory / "authority.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(chain))
    authority.cert_pem.write_to_path(str(trusted))
    return chain, trusted


class GatewayProcess:
    """This repository's server with one provider, one virtual key, and facts that go to a file."""

    def __init__(
        self,
        core: int | None,
        authority: str,
        *,
        module: str = "aigw_asyncio",
        ca_file: Path | None = None,
        spool: bool = False,
        watched: bool = False,
        idle_secs: float | None = None,
    ) -> None:
        """``spool``: facts go there, and can then not be counted. ``watched``: it counts what it holds when asked.

        ``idle_secs``: how long connections to the provider are kept.
        """
        self._core = core
        self._module = module
        self._directory = tempfile.TemporaryDirectory(prefix="aigw-bench-")
        self._facts = self._path("facts.jsonl")
        self._authority = authority
        self._more = f'upstream_ca_file = "{ca_file}"' if ca_file is not None else ""
        self.spool = self._path("spool")
        self._has_spool = spool
        if spool:
            self._more += f'\nfact_sink = "spool"\nspool_dir = "{self.spool}"'
        if idle_secs is not None:
            self._more += f"\nidle_timeout_secs = {idle_secs}"
        self._watched = watched
        self.census_file = self._path("census.json")
        self.port = self.admin_port = 0
        self._start()

    def _path(self, name: str) -> Path:
        return Path(self._directory.name) / name

    def _start(self) -> None:
        public_key = b64encode(public_key_of(_SEED)).decode()
        text = _CONFIGURATION.format(port=self.port, public_key=public_key, authority=self._authority, more=self._more)
        self._path("aigw.toml").write_text(text)
        watch = ["bench.watched", str(self.census_file)] if self._watched else []
        command = [sys.executable, "-m", *watch, self._module, "--config", str(self._path("aigw.toml"))]
        log = self._path("aigw.log")
        # Appended to, so that emptying the file between windows leaves no hole.
        with self._facts.open("ab") as facts:
            self._process = Child(self._core, command, facts, log)
        listening = self._process.wait_for(log, _LISTENING)
        self.port, self.admin_port = int(listening[1]), int(listening[2])
        self._path("pid").write_text(str(self._process.pid))

    def target(self, name: str, key: str) -> Target:
        """This server, for callers with that key."""
        return Target(
            name,
            f"http://127.0.0.1:{self.port}/openai",
            (("Authorization", f"Bearer {key}"),),
            pid=f"@{self._path('pid')}",
            restart=self.restart,
            facts=self if key == VIRTUAL_KEY and not self._has_spool else None,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_words(self) -> str:
        """For whoever finds that it does not answer any more."""
        return self._process.last_words

    def end(self) -> None:
        """The process stops; its files stay until ``stop``."""
        self._process.stop()

    def restart(self) -> None:
        """A fresh process on the same port."""
        self._process.stop()
        self._start()

    def forget_facts(self) -> None:
        """Empties the file; to be called while nothing runs."""
        os.truncate(self._facts, 0)

    def count_facts(self) -> int:
        """How many facts were written since they were last forgotten."""
        with self._facts.open("rb") as lines:
            return sum(block.count(b"\n") for block in iter(lambda: lines.read(1 << 20), b""))

    def stop(self) -> None:
        self._process.stop()
        self._directory.cleanup()
