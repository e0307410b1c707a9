"""Guards the hot paths of the core without a clock: ``python -m bench.guard``.

Counts bytecode instructions, calls and memory of one operation of each case of ``bench.core``, and compares them
with what was accepted for this version of Python in ``bench/budgets.json``. Ends with 1 where one has grown by
more than a tenth. ``--accept`` writes what was counted. Counts also what the most expensive inputs of each parser
take (``bench.worst_cases``); their limits are the same for every version.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.core import make_cases
from bench.counting import MEASURES, Counts, count, is_small
from bench.worst import judge as judge_worst

TOLERANCE: Final = 0.1
SLACK: Final = {"peak": 1_024}
"""On top of it: what the interpreter finds in its free lists differs by some hundred bytes."""
ROOT: Final = Path(__file__).resolve().parent.parent
BUDGETS: Final = ROOT / "bench" / "budgets.json"
VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
EXIT_GROWN: Final = 1
EXIT_NO_BUDGET: Final = 3
ACCEPT: Final = "python -m bench.guard --accept"

Figures = dict[str, Counts]
"""By the name of the case."""


@dataclass(slots=True)
class Verdict:
    """Lines for people."""

    failed: list[str] = field(default_factory=list)
    fallen: list[str] = field(default_factory=list)
    """Budgets so wide by now that a growth would hide in them."""


def judge(accepted: Mapping[str, Counts], counted: Mapping[str, Counts]) -> Verdict:
    """Each measure of each case against its budget; a case that is on one side only has failed."""
    verdict = Verdict()
    for name in sorted(accepted.keys() ^ counted.keys()):
        there = "has no budget yet" if name in counted else "is no case any more"
        verdict.failed.append(f"{name}: {there}")
    for name in sorted(accepted.keys() & counted.keys()):
        for measure, now in counted[name].items():
            budget = accepted[name].get(measure, 0)
            line = f"{name}: {measure} {budget:,} -> {now:,} ({_percent(budget, now)})"
            slack = SLACK.get(measure, 0)
            if now > budget * (1 + TOLERANCE) + slack:
                verdict.failed.append(line)
            elif now < budget * (1 - TOLERANCE) - slack:
                verdict.fallen.append(line)
    return verdict


def _percent(budget: int, now: int) -> str:
    return f"{100 * (now - budget) / budget:+.1f} %" if budget else "from nothing"


def explain(verdict: Verdict) -> str:
    """What a developer is to do about it; empty where there is nothing to do."""
    lines: list[str] = []
    if verdict.failed:
        lines += [
            f"The core does more work than was accepted for Python {VERSION} (bench/budgets.json):",
            *(f"  {line}" for line in verdict.failed),
            "where " + "; ".join(f"{name}: {meaning}" for name, meaning in MEASURES.items()) + ".",
            "See where it comes from: python -m cProfile -s ncalls -m bench.core --rounds 1 --only CASE",
            f"Where it is worth its price: {ACCEPT}, and say in the commit what it buys.",
        ]
    if verdict.fallen:
        lines += [
            f"The core does less work than was accepted for Python {VERSION}. Keep it so: {ACCEPT}",
            *(f"  {line}" for line in verdict.fallen),
        ]
    return "\n".join(lines)


def count_all() -> Figures:
    """Every case that is small."""
    return {case.name: count(case) for case in make_cases() if is_small(case)}


def read_budgets(path: Path = BUDGETS) -> dict[str, Figures]:
    """By the version of Python."""
    budgets: dict[str, Figures] = json.loads(path.read_text()) if path.exists() else {}
    return budgets


def accept(counted: Mapping[str, Figures], path: Path = BUDGETS) -> None:
    """Replaces what was accepted for these versions of Python; the others stay."""
    budgets = {**read_budgets(path), **counted}
    versions = []
    for version in sorted(budgets, key=lambda text: [int(part) for part in text.split(".")]):
        cases = [f"  {json.dumps(name)}: {json.dumps(counts)}" for name, counts in budgets[version].items()]
        versions.append(f"{json.dumps(version)}: {{\n" + ",\n".join(cases) + "\n }")
    path.write_text("{\n " + ",\n ".join(versions) + "\n}\n")


def _run_alone(python: str, environ: Mapping[str, str] | None = None) -> dict[str, Figures]:
    """Counts in a process of its own: nothing but the core has been in its caches. Raises CalledProcessError."""
    clean = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), **(environ or {})}
    command = [python, "-m", "bench.guard", "--counts"]
    done = subprocess.run(command, cwd=ROOT, env=clean, stdout=subprocess.PIPE, check=True)
    figures: dict[str, Figures] = json.loads(done.stdout)
    return figures


def _run_with(python: str) -> dict[str, Figures]:
    """The same with another interpreter, which gets the dependencies in an environment of its own."""
    with tempfile.TemporaryDirectory(prefix="aigw-guard-") as name:
        subprocess.run([python, "-m", "venv", name], check=True)
        inside = str(Path(name) / "bin" / "python")
        subprocess.run([inside, "-m", "pip", "install", "-q", str(ROOT)], check=True)
        return _run_alone(inside)


def main(argv: list[str] | None = None) -> int:
    """Prints what has moved; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.guard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accept", action="store_true", help="write what is counted into bench/budgets.json")
    parser.add_argument(
        "--with", dest="others", action="append", default=[], metavar="PYTHON", help="--accept: this interpreter too"
    )
    parser.add_argument("--counts", action="store_true", help="only count, in this very process, and print JSON")
    parser.add_argument("--worst", action="store_true", help="only the most expensive inputs, in this very process")
    arguments = parser.parse_args(argv)
    if arguments.worst:
        return _check_worst()
    if arguments.counts:
        print(json.dumps({VERSION: count_all()}))
        return 0
    counted = _run_alone(sys.executable)
    if arguments.accept:
        for python in arguments.others:
            counted |= _run_with(python)
        accept(counted)
        print(f"accepted for Python {', '.join(counted)}: commit bench/budgets.json")
        return 0
    accepted = read_budgets().get(VERSION)
    if accepted is None:
        print(f"bench/budgets.json has nothing for Python {VERSION}; {ACCEPT} adds it")
        return EXIT_NO_BUDGET
    verdict = judge(accepted, counted[VERSION])
    print(explain(verdict) or f"{len(accepted)} cases within their budgets, Python {VERSION}")
    return max(EXIT_GROWN if verdict.failed else 0, _check_worst())


def _check_worst() -> int:
    over = list(judge_worst())
    if over:
        print("An input made to be expensive costs too much (bench/worst_cases.py):")
    for line in over:
        print(f"  {line}")
    return EXIT_GROWN if over else 0


if __name__ == "__main__":
    raise SystemExit(main())
