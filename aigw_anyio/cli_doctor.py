"""``aigw doctor``: what is wrong with this configuration on this machine, why, and what to do."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Final

import anyio

from aigw_anyio import logs
from aigw_anyio.limits import raise_open_files_limit
from aigw_anyio.settings import SettingsError, load_settings
from aigw_anyio.settings.load import nearest

EXIT_WELL: Final = 0
"""Nothing is wrong; there may be warnings."""
EXIT_WRONG: Final = 1
EXIT_CONFIGURATION: Final = 2
"""The configuration is refused, so nothing else could be looked at."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", type=Path, help="TOML file (default: AI_CONFIG, else none)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--provider", metavar="NAME", action="append", default=[], help="only this provider; may be given again"
    )


def run(arguments: argparse.Namespace) -> int:
    """0 where nothing is wrong, 1 where something is, 2 for a configuration that is refused."""
    # h11, httpcore and nats-py are loaded by who uses them.
    from aigw_anyio.doctor.report import Verdict, as_json, as_text, worst, wrong
    from aigw_anyio.doctor.run import examine

    # What was logged would stand between the findings.
    logs.silence()
    raise_open_files_limit()
    try:
        settings, warnings = load_settings(config=arguments.config, environ=os.environ)
        problems = [_unknown(name, settings.provider_names) for name in arguments.provider]
    except SettingsError as error:
        problems = error.problems
    refused = [problem for problem in problems if problem]
    if refused:
        fix = "mend it as the line says; `allowed` names what is"
        findings = [wrong("configuration", "settings", problem, fix=fix) for problem in refused]
        code = EXIT_CONFIGURATION
    else:
        findings = anyio.run(examine, settings, warnings, arguments.provider)
        code = EXIT_WRONG if worst(findings) is Verdict.WRONG else EXIT_WELL
    sys.stdout.write(as_json(findings, code) if arguments.json else as_text(findings))
    return code


def _unknown(name: str, known: list[str]) -> str:
    return "" if name in known else f"--provider: no such provider{nearest(name, known)}"
