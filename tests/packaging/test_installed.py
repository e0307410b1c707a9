"""The wheel in an environment of its own, and what the image and the SBOM are made with. Needs a package index, so it
is asked for by ``AIGW_INSTALLS=1``."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from docs.generator import DOCS
from tests.deploy.test_manifests import allowed_into_the_build, dockerfile
from tests.packaging.test_build import build, copy, name_of
from tests.sources import ROOT, project_files

VARIABLE: Final = "AIGW_INSTALLS"
INSTALL_SECS: Final = 500.0
pytestmark = pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} is not set: nothing is installed")

EXTRAS_ALONE: Final = frozenset({"brotli", "uvloop", "trio", "pytest", "mypy", "ruff", "openai", "anthropic"})
"""What only an extra brings."""


def run(*command: str, cwd: Path | None = None) -> str:
    """Standard output. Nothing of this environment reaches the program."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AI_", "VIRTUAL"))}
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=INSTALL_SECS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = build(copy(project_files(), folder / "source"), folder / "dist", "--wheel")
    return wheel


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the wheel and what it requires, and nothing else."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", str(venv))
    run(str(venv / "bin" / "python"), "-m", "pip", "install", "-q", str(wheel))
    return venv


def installed_in(python: Path) -> set[str]:
    listed: list[dict[str, str]] = json.loads(run(str(python), "-m", "pip", "list", "--format=json"))
    return {name_of(each["name"]) for each in listed}


def test_runtime_dependencies_are_enough(venv: Path, tmp_path: Path) -> None:
    python = venv / "bin" / "python"
    assert "No broken requirements" in run(str(python), "-m", "pip", "check")
    assert installed_in(python).isdisjoint(EXTRAS_ALONE)
    everything = "import pkgutil, importlib, aigw_core, aigw_anyio, aigw_asyncio\n" + (
        "for package in (aigw_core, aigw_anyio, aigw_asyncio):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
    )
    run(str(python), "-I", "-W", "error", "-c", everything, cwd=tmp_path)
    assert run(str(venv / "bin" / "aigw"), "--version", cwd=tmp_path).startswith("aigw ")


@pytest.fixture
def demo(venv: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The demo of the installed command: its address, and a virtual key."""
    environ = {"PATH": "", "AI_LISTEN_ADDR": "127.0.0.1:0", "AI_METRICS_LISTEN": "127.0.0.1:0"}
    process = subprocess.Popen(
        [str(venv / "bin" / "aigw"), "demo"],
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    told = ""
    try:
        for line in process.stderr:
            told += line
            if (key := re.search(r'api_key="(bai_[^"]+)"', line)) is not None:
                break
        address = re.search(r"^listening data=(\S+)", told, re.MULTILINE)
        assert address is not None, told
        assert key is not None, told
        yield address[1], key[1]
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert [json.loads(line)["outcome"] for line in out.splitlines()] == ["complete"]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        assert process.stdout is not None
        process.stdout.close()


def test_the_demo_of_the_installed_command(demo: tuple[str, str]) -> None:
    address, key = demo
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{address}/openai/v1/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.loads(answer.read())["choices"][0]["message"]["content"]


def test_the_image_is_made_of_commands_that_work(tmp_path: Path) -> None:
    """Each RUN that deals with Python, in order, with folders of this machine for those of the image."""
    allowed = tuple(ROOT / path for path in allowed_into_the_build())
    seen = [path for path in project_files() if any(path == each or each in path.parents for each in allowed)]
    source, venv = copy(seen, tmp_path / "src"), tmp_path / "venv"
    (extras,) = [rest.partition("=")[2] for word, rest in dockerfile() if word == "ARG" and rest.startswith("EXTRAS=")]
    commands = [rest for word, rest in dockerfile() if word == "RUN" and "python" in rest]
    assert len(commands) == 3
    for command in commands:
        here = (
            command.replace("${EXTRAS}", extras).replace("/src", str(source)).replace("/usr/local/lib/aigw", str(venv))
        )
        words = shlex.split(here)
        words[0] = sys.executable if words[0] == "python" else words[0]
        run(*words)
    python = venv / "bin" / "python"
    assert not (venv / "bin" / "pip").exists()
    script = "import aigw_asyncio, brotli; from aigw_anyio.version import VERSION; print(VERSION)"
    assert run(str(python), "-I", "-c", script).strip() in (ROOT / "pyproject.toml").read_text()


def test_the_bill_of_materials(venv: Path, tmp_path: Path) -> None:
    """By the commands of the page."""
    text = (DOCS / "how-to" / "build-a-release.md").read_text()
    install, make = re.findall(r"^(?:\S*sbom\S*|python -m pip install \S*cyclonedx\S*).*$", text, re.MULTILINE)
    tools = tmp_path / "tools"
    run(sys.executable, "-m", "venv", str(tools))
    run(*shlex.split(install.replace("sbom-tools/bin/python", str(tools / "bin" / "python"))))
    words = shlex.split(
        make.replace("sbom-tools", str(tools)).replace("release/bin/python", str(venv / "bin" / "python"))
    )
    output = tmp_path / "aigw.cdx.json"
    words = [str(output) if word == "dist/aigw.cdx.json" else word for word in words]
    run(*words, cwd=ROOT)
    first = output.read_bytes()
    bill: dict[str, Any] = json.loads(first)
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "aigw")
    listed = {name_of(each["name"]) for each in bill["components"]}
    assert listed | {"aigw"} >= installed_in(venv / "bin" / "python") - {"pip", "setuptools"}
    assert listed.isdisjoint(EXTRAS_ALONE)
    run(*words, cwd=ROOT)
    assert output.read_bytes() == first, "the same environment gives the same bill"
