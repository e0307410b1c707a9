"""The gateway inside the walls that deploy/ puts around it, as far as they can be put up here."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.test_manifests import SYSTEMD
from tests.e2e.gateway import Gateway, wait_until

NO_NEW_CODE: Final = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
    sys.exit(1)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    text = (SYSTEMD / "aigw.service").read_text()
    # What is not installed here would be the only finding.
    unit = tmp_path / "aigw.service"
    unit.write_text(text.replace("/usr/local/lib/aigw/bin/python", sys.executable))

    def findings() -> str:
        done = subprocess.run(
            [tool, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout + done.stderr

    assert findings() == ""
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "Unknown key" in findings()


def test_systemd_finds_little_exposed() -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    # 20 is 2.0 out of 10. What is left: it serves the network, and reads its own files.
    command = [tool, "security", "--offline=yes", "--threshold=20", str(SYSTEMD / "aigw.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def served(gateway: Gateway) -> None:
    """It answers, and ends well."""
    try:
        wait_until(lambda: gateway.admin("/readyz")[0] == 200, "it is ready")
        assert gateway.admin("/metrics")[0] == 200
        assert gateway.stop() == 0
        assert gateway.faults() == []
    finally:
        if gateway.running():
            gateway.send_signal(signal.SIGKILL)
            gateway.wait()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_on_a_file_system_that_is_read_only(backend: str, tmp_path: Path) -> None:
    """As in the image, the pod and the unit: nothing is written but into the state directory."""
    state = tmp_path / "state"
    state.mkdir()
    script = f'mount --make-rprivate / && mount --bind {state} {state} && mount -o remount,ro,bind / && exec "$@"'
    wrapper = ["unshare", "--mount", "sh", "-c", script, "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this user may not make a mount namespace")
    refused = subprocess.run([*wrapper, "touch", str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert "Read-only file system" in refused.stderr
    environ = {
        "AI_FACT_SINK": "spool",
        "AI_SPOOL_DIR": str(state / "spool"),
        "AI_DENY_SOURCE": "file",
        "AI_DENY_FILE": str(tmp_path / "deny.json"),
        "AI_SNAPSHOT_PATH": str(state / "deny.snapshot"),
    }
    (tmp_path / "deny.json").write_text(json.dumps({"blackhole.1": "spend"}))
    served(Gateway(backend, environ, wrapper=wrapper))
    assert (state / "spool").is_dir()
    assert (state / "deny.snapshot").is_file()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_without_memory_that_is_writable_and_executable(backend: str) -> None:
    """``MemoryDenyWriteExecute`` of the unit, by the kernel's own means (Linux 6.3 and later)."""
    wrapper = [sys.executable, "-c", NO_NEW_CODE]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel has no such protection")
    writable_code = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
    refused = subprocess.run(
        [*wrapper, sys.executable, "-c", writable_code], capture_output=True, text=True, check=False
    )
    assert "Permission denied" in refused.stderr
    served(Gateway(backend, {}, wrapper=wrapper))
