"""Configuration: any TOML file and any environment give settings or a list of problems, and no line repeats a value.

The first byte chooses: even, the rest is the file; odd, the rest is the environment, one ``NAME=value`` a line.
"""

from __future__ import annotations

import atexit
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aigw_anyio.settings import Settings, SettingsError, load_settings

TAINT: Final = "TAINTED"
TOKENS: Final = (
    *(f"{name} = ".encode() for name in Settings.model_fields),
    *(f"\nAI_{name.upper()}=".encode() for name in Settings.model_fields),
    b'"sk-TAINTED"', b"\nAI_POOL_KEY_OPENAI=sk-TAINTED", b"\nAI_POOL_KEY_OPENAI_FILE=/TAINTED",
    b"[pool_keys]\nopenai = ",
    b'{"openai": "sk-TAINTED"}', b'{"default": 1, "xai": -1}', b"1e999", b"nan", b"-1", b"true", b"[", b"{", b"\x00",
    b'"127.0.0.1:0"', b'"http://a:1/TAINTED"', b'"https://u:TAINTED@a"',
    b'"6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="',
)  # fmt: skip
_FOLDER: Final = tempfile.TemporaryDirectory(prefix="fuzz-configuration-")
atexit.register(_FOLDER.cleanup)
_FILE: Final = Path(_FOLDER.name) / "aigw.toml"


def check(data: bytes) -> None:
    if data[:1] and data[0] % 2:
        environ = _environ(data[1:])
        _check(None, environ, tainted_names=any(TAINT in name for name in environ))
        return
    _FILE.write_bytes(data[1:])
    _check(_FILE, {}, tainted_names=_names_hold_taint(data[1:]))


def _environ(data: bytes) -> dict[str, str]:
    """A process environment holds no NUL, and no surrogate that the system did not make."""
    environ = {}
    for line in data.replace(b"\0", b"").split(b"\n"):
        name, mark, value = line.decode("utf-8", "surrogateescape").partition("=")
        if name and mark and name != "AI_CONFIG":
            environ[name] = value
    return environ


def _names_hold_taint(data: bytes) -> bool:
    """Unknown names are repeated, so that they can be found; values never are."""
    try:
        found = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return False
    pending: list[object] = [found]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            if any(TAINT in name for name in value):
                return True
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return False


def _check(config: Path | None, environ: Mapping[str, str], *, tainted_names: bool) -> None:
    lines: list[str]
    try:
        settings, lines = load_settings(config=config, environ=environ)
    except SettingsError as error:
        lines = error.problems
        assert lines, "refused without a reason"
    else:
        again, _ = load_settings(config=config, environ=environ)
        assert again == settings, "the same configuration reads in two ways"
    for line in lines:
        assert line
        assert "\n" not in line, "a problem takes two lines"
        assert tainted_names or TAINT not in line, "a problem repeats a value"
