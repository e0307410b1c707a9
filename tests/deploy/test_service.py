"""The systemd unit under systemd itself, beside a service that may run: asked for by ``AIGW_SYSTEMD=1``, as root.

The package and the user have to be there as the how-to installs them. The unit runs under a name of its own, with
settings, ports and a state directory of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.inside import CALLER, POOL_KEY, PROVIDER, until
from tests.deploy.test_manifests import SYSTEMD
from tests.e2e import keys
from tests.nats.server import free_port

VARIABLE: Final = "AIGW_SYSTEMD"
NAME: Final = "aigw-test"
RUN: Final = Path("/run")
UNIT: Final = RUN / "systemd" / "system" / f"{NAME}.service"
CONFIG, ENVIRON = RUN / f"{NAME}.toml", RUN / f"{NAME}.env"
STATE: Final = Path("/var/lib") / NAME
BIN: Final = Path("/usr/local/lib/aigw/bin")
pytestmark = pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set: no unit is started")


def systemctl(*arguments: str) -> int:
    return subprocess.run(["systemctl", *arguments], capture_output=True, check=False, timeout=120).returncode


def shown(what: str) -> str:
    command = ["systemctl", "show", "--value", f"--property={what}", NAME]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


class Service:
    def __init__(self) -> None:
        self.port, self.admin_port, self.provider_port = free_port(), free_port(), free_port()
        self.provider = subprocess.Popen([str(BIN / "python"), "-c", PROVIDER, str(self.provider_port), POOL_KEY])

    def configure(self, more: str = "") -> None:
        CONFIG.write_text(f"""
            listen_addr = "127.0.0.1:{self.port}"
            metrics_listen = "127.0.0.1:{self.admin_port}"
            fact_sink = "spool"
            spool_dir = "{STATE}/spool"
            signing_keys = {{{keys.SIGNING_KEYS[1:-1].replace(": ", " = ")}}}
            provider_authorities.openai = "http://127.0.0.1:{self.provider_port}"
            {more}
        """)

    def install(self, **changes: str) -> None:
        """The unit as it is shipped, but for where its files are and for ``changes``."""
        text = (SYSTEMD / "aigw.service").read_text()
        changes |= {
            "EnvironmentFile": str(ENVIRON),
            "StateDirectory": NAME,
            "ExecStart": f"{BIN}/python -m aigw_asyncio --config {CONFIG}",
        }
        lines = text.splitlines()
        for name, value in changes.items():
            (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{name}=")]
            lines[at] = f"{name}={value}"
        UNIT.write_text("\n".join(lines) + "\n")
        ENVIRON.write_text(f"AI_POOL_KEY_OPENAI={POOL_KEY}\n")
        assert systemctl("daemon-reload") == 0

    def begin_stream(self) -> subprocess.Popen[str]:
        """Returns when the answer has begun."""
        command = [str(BIN / "python"), "-c", CALLER, str(self.port), keys.virtual_key()]
        caller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert caller.stdout is not None
        assert caller.stdout.readline() == "begun 200\n"
        return caller

    def facts(self, command: str) -> str:
        reader = [str(BIN / "aigw"), "facts", command, str(STATE / "spool")]
        return subprocess.run(reader, capture_output=True, text=True, check=True, timeout=60).stdout

    def remove(self) -> None:
        systemctl("stop", NAME)
        for path in (UNIT, CONFIG, ENVIRON):
            path.unlink(missing_ok=True)
        systemctl("daemon-reload")
        systemctl("reset-failed", NAME)
        subprocess.run(["rm", "-rf", "--", str(STATE)], check=True)
        self.provider.terminate()
        self.provider.wait()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    try:
        service.configure()
        service.install()
        yield service
    finally:
        service.remove()


def test_it_starts_reloads_and_stops_with_its_stream(service: Service) -> None:
    assert systemctl("start", NAME) == 0
    assert shown("StatusText") == f"serving on 127.0.0.1:{service.port}, admin on 127.0.0.1:{service.admin_port}"
    service.configure("rate_limit_rps = 7")
    assert systemctl("reload", NAME) == 0
    caller = service.begin_stream()
    assert systemctl("stop", NAME) == 0
    assert caller.communicate()[0] == "whole\n"
    # What had ended badly would stay, as failed.
    assert shown("ActiveState") == "inactive"
    (fact,) = [json.loads(line) for line in service.facts("cat").splitlines()]
    assert fact["outcome"] == "complete"


def test_a_drain_may_take_longer_than_the_unit_says(service: Service) -> None:
    service.configure("shutdown_delay_secs = 5")
    service.install(TimeoutStopSec="1")
    assert systemctl("start", NAME) == 0
    assert systemctl("stop", NAME) == 0
    assert shown("ActiveState") == "inactive"


def test_it_comes_back_from_kill_9_and_from_standing_still(service: Service) -> None:
    service.install(WatchdogSec="3")
    assert systemctl("start", NAME) == 0
    caller = service.begin_stream()
    assert systemctl("kill", "--signal=KILL", NAME) == 0
    assert caller.communicate()[0] != "whole\n"
    until(lambda: (shown("NRestarts"), shown("SubState")) == ("1", "running"), "it is started again")
    os.kill(int(shown("MainPID")), signal.SIGSTOP)
    until(lambda: (shown("NRestarts"), shown("SubState")) == ("2", "running"), "its watchdog has bitten")
    assert systemctl("stop", NAME) == 0
    assert service.facts("verify").endswith(": good\n")
    (fact,) = [json.loads(line) for line in service.facts("cat").splitlines()]
    assert fact["outcome"] == "gateway_lost"


def test_a_configuration_that_is_refused_is_not_tried_again(service: Service) -> None:
    service.configure("no_such_setting = 1")
    assert systemctl("start", NAME) != 0
    assert (shown("ActiveState"), shown("ExecMainStatus"), shown("NRestarts")) == ("failed", "2", "0")


def test_its_walls_stand(service: Service) -> None:
    assert systemctl("start", NAME) == 0
    pid = shown("MainPID")
    status = Path(f"/proc/{pid}/status").read_text()
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status
    for path in ("/etc/x", "/usr/x", "/var/x"):
        command = ["nsenter", "--mount", "--target", pid, "touch", path]
        refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "Read-only file system" in refused.stderr
