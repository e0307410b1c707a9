"""What is published: the same bytes from the same sources, whoever builds them, and all that belongs to it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.test_manifests import allowed_into_the_build
from tests.sources import PACKAGES, ROOT, project_files

EPOCH: Final = "1700000000"
BUILD_SECS: Final = 300.0


def copy(files: Iterable[Path], target: Path) -> Path:
    for path in files:
        there = target / path.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there)
        # A checkout by somebody else, on another day, with another umask.
        there.chmod(0o600 if target.name == "other" else 0o644)
        os.utime(there, (2_000_000_000, 2_000_000_000))
    return target


def build(source: Path, output: Path, *what: str) -> list[Path]:
    """What ``python -m build`` makes of a source tree, without a network."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), *what, str(source)],
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(output.iterdir())


@dataclass(frozen=True)
class Built:
    sdist: Path
    wheel: Path
    """Made from the sdist."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("build")
    wheel, sdist = build(copy(project_files(), folder / "one"), folder / "dist")
    return Built(sdist, wheel)


def test_two_builds_are_equal_byte_for_byte(built: Built, tmp_path: Path) -> None:
    """The wheel of the tree is that of the sdist, too: the one above was made from it."""
    other = copy(project_files(), tmp_path / "other")
    (sdist,) = build(other, tmp_path / "sdist", "--sdist")
    (wheel,) = build(other, tmp_path / "wheel", "--wheel")
    assert (sdist.name, wheel.name) == (built.sdist.name, built.wheel.name)
    assert wheel.read_bytes() == built.wheel.read_bytes()
    assert sdist.read_bytes() == built.sdist.read_bytes()


def test_the_image_is_built_from_the_same_sources(built: Built, tmp_path: Path) -> None:
    allowed = tuple(ROOT / path for path in allowed_into_the_build())
    seen = [path for path in project_files() if any(path == each or each in path.parents for each in allowed)]
    (wheel,) = build(copy(seen, tmp_path / "source"), tmp_path / "wheel", "--wheel")
    assert wheel.read_bytes() == built.wheel.read_bytes()


def _project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def test_the_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
        metadata = HeaderParser().parsestr(archive.read(f"aigw-{_project()['version']}.dist-info/METADATA").decode())
    info = {name for name in names if name.startswith("aigw-")}
    modules = {str(path.relative_to(ROOT)) for path in project_files() if path.relative_to(ROOT).parts[0] in PACKAGES}
    assert names - info == modules
    assert {name.partition("/")[2] for name in info} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    wanted = _project()["dependencies"]
    assert isinstance(wanted, list)
    assert {name_of(line) for line in required} == {name_of(line) for line in wanted}


def name_of(requirement: str) -> str:
    """Normalised, as names of distributions are compared."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_the_sdist_holds_what_the_pages_and_the_tests_need(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tree = {str(path.relative_to(ROOT)) for path in project_files()}
    left_out = {name for name in tree - names if not name.startswith(".git")}
    assert left_out == set()
    assert names - tree == {"PKG-INFO"}


def test_the_version_is_said_once() -> None:
    from aigw_anyio.version import VERSION

    assert _project()["version"] == VERSION
