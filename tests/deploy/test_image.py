"""The image as it was built, inside the walls that the how-to puts around it: ``AIGW_IMAGE`` names it.

Nothing is pulled, built or published: all of it happens on the loopback interface of a container without a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from typing import Final

import pytest

from tests.deploy.inside import CALLER, POOL_KEY, PROVIDER, until
from tests.deploy.test_manifests import STATE, USER, compose
from tests.e2e import keys

VARIABLE: Final = "AIGW_IMAGE"
ENGINE: Final = shutil.which("docker") or shutil.which("podman")
PROVIDER_PORT: Final = 9100
SPOOL: Final = f"{STATE}/spool"
pytestmark = pytest.mark.skipif(
    ENGINE is None or not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no image, or there is no docker"
)


def engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ENGINE is not None
    return subprocess.run([ENGINE, *arguments], capture_output=True, text=True, check=False, timeout=120)


def done(*arguments: str) -> str:
    """Standard output of what has to succeed."""
    ended = engine(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def walls() -> list[str]:
    """As ``docker run`` in the how-to."""
    return ["--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


class Container:
    """A gateway in front of a mock provider, with its facts on a volume."""

    def __init__(self) -> None:
        self.volume = done("volume", "create", f"aigw-test-{uuid.uuid4().hex}").strip()
        environ = {
            "AI_SIGNING_KEYS": keys.SIGNING_KEYS,
            "AI_PROVIDER_AUTHORITIES": json.dumps({"openai": f"http://127.0.0.1:{PROVIDER_PORT}"}),
            "AI_POOL_KEY_OPENAI": POOL_KEY,
            "AI_FACT_SINK": "spool",
            "AI_SPOOL_DIR": SPOOL,
        }
        settings = [f"--env={name}={value}" for name, value in environ.items()]
        image = os.environ[VARIABLE]
        self.id = done("run", "--detach", *walls(), f"--volume={self.volume}:{STATE}", *settings, image).strip()

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        return engine("exec", self.id, *command)

    def is_healthy(self) -> bool:
        """By the check of the compose file."""
        command: list[str] = compose()["services"]["gateway"]["healthcheck"]["test"]
        assert command[0] == "CMD"
        return self.exec(*command[1:]).returncode == 0

    def begin_stream(self) -> subprocess.Popen[str]:
        """Returns when the answer has begun."""
        done("exec", "--detach", self.id, "python", "-c", PROVIDER, str(PROVIDER_PORT), POOL_KEY)
        connects = f"import socket; socket.create_connection(('127.0.0.1', {PROVIDER_PORT})).close()"
        until(lambda: self.exec("python", "-c", connects).returncode == 0, "the provider listens")
        command = ["exec", self.id, "python", "-c", CALLER, "8080", keys.virtual_key()]
        caller = subprocess.Popen([str(ENGINE), *command], stdout=subprocess.PIPE, text=True)
        assert caller.stdout is not None
        assert caller.stdout.readline() == "begun 200\n"
        return caller

    def exit_code(self) -> str:
        return done("inspect", "--format={{.State.ExitCode}}", self.id).strip()

    def facts(self) -> list[str]:
        """The outcome of each, read by a container of its own; whether the spool is good, last."""
        reader = ["run", "--rm", *walls(), f"--volume={self.volume}:{STATE}", "--entrypoint=aigw", os.environ[VARIABLE]]
        outcomes = [json.loads(line)["outcome"] for line in done(*reader, "facts", "cat", SPOOL).splitlines()]
        return [*outcomes, done(*reader, "facts", "verify", SPOOL).rpartition(": ")[2].strip()]

    def remove(self) -> None:
        done("rm", "--force", self.id)
        done("volume", "rm", self.volume)


@pytest.fixture
def container() -> Iterator[Container]:
    container = Container()
    try:
        until(container.is_healthy, "it is healthy")
        yield container
    finally:
        container.remove()


def test_it_is_nobody_and_writes_to_its_volume_only(container: Container) -> None:
    assert container.exec("id", "-u").stdout.strip() == str(USER)
    assert "CapEff:\t0000000000000000" in container.exec("cat", "/proc/1/status").stdout
    for path in ("/x", "/tmp/x", "/usr/local/lib/aigw/x"):
        assert "Read-only file system" in container.exec("touch", path).stderr
    assert container.exec("touch", f"{STATE}/x").returncode == 0
    assert "No module named pip" in container.exec("python", "-m", "pip").stderr


def test_a_stop_waits_for_a_stream(container: Container) -> None:
    caller = container.begin_stream()
    done("stop", "--time=60", container.id)
    assert caller.communicate()[0] == "whole\n"
    assert container.exit_code() == "0"
    assert container.facts() == ["complete", "good"]


def test_what_is_killed_is_finished_by_the_next_start(container: Container) -> None:
    caller = container.begin_stream()
    done("kill", container.id)
    assert caller.communicate()[0] != "whole\n"
    done("start", container.id)
    until(container.is_healthy, "it is healthy again")
    done("stop", "--time=60", container.id)
    assert container.facts() == ["gateway_lost", "good"]
