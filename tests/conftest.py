"""What holds for every test: an environment without settings of the user's own, no deadline, nothing left running."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.e2e import nursery

# A developer's shell may hold what is meant for a real gateway or SDK.
for name in [name for name in os.environ if name.startswith(("AI_", "OPENAI_", "ANTHROPIC_"))]:
    del os.environ[name]

# Hundreds of interpreters are started, each of which would otherwise compile the same modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Nor need each look for plugins in every package that a developer has installed.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"

# How fast the machine is decides about no test.
settings.register_profile("aigw", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile(
    "mutation",
    settings.get_profile("aigw"),
    # The same each time, and short, since it is done for each of a thousand mutants.
    derandomize=True,
    database=None,
    max_examples=25,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("aigw")


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    nursery.close()
    assert _children() == []


def _children() -> list[str]:
    """The command lines of this process's children, where the system tells."""
    pids = [pid for listed in Path("/proc/self/task").glob("*/children") for pid in listed.read_text().split()]
    commands = [_command_line(pid) for pid in pids]
    # Shared memory is watched by a helper that ends with this process.
    return [command for command in commands if command and "resource_tracker" not in command]


def _command_line(pid: str) -> str:
    """Empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
