"""A forked server is told from a fresh one by nothing but the time that its start takes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.e2e.gateway import ROOT, Gateway
from tests.e2e.nursery import Forked


def test_a_refused_start_looks_the_same(backend: str) -> None:
    environ = {"AI_LOG_LEVEL": "loud", "AI_NO_SUCH_SETTING": "1"}
    ends = []
    for fresh in (False, True):
        gateway = Gateway(backend, environ, fresh=fresh, listens=False)
        ends.append((gateway.wait(), gateway.stdout, gateway.stderr))
    assert ends[0] == ends[1]
    assert ends[0][0] == 2


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("--frobnicate",)])
def test_arguments_arrive(backend: str, arguments: tuple[str, ...]) -> None:
    ends = []
    for fresh in (False, True):
        gateway = Gateway(backend, {}, arguments=arguments, fresh=fresh, listens=False)
        ends.append((gateway.wait(), gateway.stdout, gateway.stderr))
    assert ends[0] == ends[1]
    assert ends[0][1:] != ([], [])


def test_a_module_gets_what_is_said_and_no_more() -> None:
    """Its name, arguments, environment and working directory, an empty standard input, and warnings that are errors."""
    module, environ = "tests.e2e.teller", {"LC_CTYPE": "C.UTF-8", "TOLD": "1"}
    fresh = subprocess.run(
        [sys.executable, "-W", "error", "-m", module, "a", "b"],
        env=environ,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    forked = Forked(module, ["a", "b"], environ)
    with forked.stdout, forked.stderr:
        assert forked.stdout.read().decode() == fresh.stdout
        assert forked.stderr.read().decode().splitlines()[-1] == fresh.stderr.splitlines()[-1]
    assert forked.wait() == fresh.returncode == 1


def test_a_kill_is_told(backend: str) -> None:
    gateway = Gateway(backend, {})
    assert gateway.running()
    gateway.send_signal(signal.SIGKILL)
    assert gateway.wait() == -signal.SIGKILL
    assert not gateway.running()
    gateway.send_signal(signal.SIGKILL)


def test_a_wait_has_an_end(backend: str) -> None:
    waiting = Forked(f"aigw_{backend}", [], {"AI_LISTEN_ADDR": "127.0.0.1:0", "AI_METRICS_LISTEN": "127.0.0.1:0"})
    with waiting.stdout, waiting.stderr:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.01)
        assert waiting.poll() is None
        waiting.kill()
        assert waiting.wait() == -signal.SIGKILL
