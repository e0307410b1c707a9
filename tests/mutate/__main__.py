"""Mutation check: ``python -m tests.mutate [MODULE …]`` breaks modules of the core and counts the tests' catches.

Each mutant is one changed operator, condition, constant or statement of one module, in the place of the module in a
forked child. The tests that run the changed line are run against it until one fails: what is quick and caught most
lately first. What survives is a missing test, or the same program written in another way; the latter are listed in
``mutants.toml`` with the reason. The exit status is 0 exactly when nothing else survives.
"""

from __future__ import annotations

import argparse
import ast
import math
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import hypothesis.stateful  # noqa: F401
import nacl.signing  # noqa: F401

from tests.mutate.child import Program, cover, killer
from tests.mutate.mutants import Mutant, mutants_of
from tests.mutate.swap import killers, may_be_swapped

ROOT: Final = Path(__file__).parent.parent.parent
LISTED: Final = Path(__file__).parent / "mutants.toml"
CHECKED: Final[dict[str, tuple[str, ...]]] = {
    "keys": ("test_keys.py",),
    "auth": ("test_auth.py", "test_credentials.py"),
    "denyset": ("test_denyset.py", "test_gateway.py"),
    "limiter": ("test_limiter.py",),
    "facts": ("test_facts.py", "test_settlement.py"),
    "http1.heads": ("http1/test_heads.py", "http1/test_writing.py"),
    "http1.bodies": ("http1/test_bodies.py",),
    "http1.upstream": ("http1/test_upstream.py",),
    "http1.writing": ("http1/test_writing.py", "test_connection.py"),
    "http1.memo": ("http1/test_memo.py",),
}
"""Module → the test files that have to notice, under ``tests/core``."""
_TEST_SECONDS_MAX: Final = 3.0
"""Of the CPU, with lines counted. Longer searches are not tried: what catches a mutant shall say what is wrong."""
_PATIENCE: Final = 3
"""How many times as long as without a mutant the tests may run …"""
_MORE_SECONDS: Final = 10
"""… and this much longer; what runs on is caught, since it would not end."""


def listed() -> dict[tuple[str, str, str], str]:
    """(module, function, change) → why the mutant is the same program."""
    rows = tomllib.loads(LISTED.read_text())["equivalent"]
    return {(row["module"], row["function"], change): row["reason"] for row in rows for change in row["changes"]}


def check(name: str, mutants: list[Mutant]) -> Iterator[tuple[Mutant, str | None]]:
    """Each mutant with what caught it, or None."""
    path = ROOT / "aigw_core" / Path(*name.split(".")).with_suffix(".py")
    files = [ROOT / "tests" / "core" / test for test in CHECKED[name]]
    program = Program(f"aigw_core.{name}", path, ast.parse(path.read_text()))
    covered = cover(program, files).without(_TEST_SECONDS_MAX)
    is_quick = may_be_swapped(program, covered)
    slowly = [mutant for mutant in mutants if not is_quick(mutant)]
    quickly = [mutant for mutant in mutants if is_quick(mutant)]
    for mutant, caught in zip(quickly, killers(program, files, quickly, covered), strict=True):
        if caught is None:
            slowly.append(mutant)
        else:
            yield mutant, caught
    order = covered.in_order()
    cpu_seconds = math.ceil(_PATIENCE * sum(covered.seconds.values())) + _MORE_SECONDS
    for mutant in slowly:
        tests = covered.tests_of(mutant.lines)
        chosen = [test for test in order if test in tests]
        caught = (
            killer(replace(program, tree=mutant.tree), files, chosen, covered.names, cpu_seconds) if chosen else None
        )
        if caught is not None:
            covered.caught(caught, order)
        yield mutant, caught


def report(name: str, options: argparse.Namespace) -> bool:
    """Prints what came of one module; whether every survivor is explained."""
    began = time.monotonic()
    path = ROOT / "aigw_core" / Path(*name.split(".")).with_suffix(".py")
    mutants = list(mutants_of(path.read_text()))
    explained = {key[1:]: reason for key, reason in listed().items() if key[0] == name}
    for stale in explained.keys() - {mutant.name for mutant in mutants}:
        print(f"  {name}: listed, but there is no such mutant: {stale[0]}: {stale[1]}", flush=True)
    chosen = mutants if options.listed else [mutant for mutant in mutants if mutant.name not in explained]
    if options.sample < len(chosen):
        chosen = Random(options.seed).sample(chosen, options.sample)
    if options.only:
        chosen = [mutant for mutant in chosen if any(text in ": ".join(mutant.name) for text in options.only)]
    survivors, caught = [], 0
    for mutant, by in check(name, chosen):
        caught += by is not None
        if options.verbose:
            print(f"  {mutant.function}: {mutant.change}: {by or 'SURVIVES'}", flush=True)
        if by is None and mutant.name not in explained:
            survivors.append(mutant)
            print(f"  {name}:{mutant.lines.start}: {mutant.function}: {mutant.change}", flush=True)
        if by is not None and mutant.name in explained:
            print(f"  {name}: listed, but caught by {by}: {mutant.function}: {mutant.change}", flush=True)
    counts = f"{caught} of {len(chosen)} caught, {len(survivors)} survive, {len(explained)} explained"
    print(f"{name}: {counts} ({time.monotonic() - began:.0f} s)", flush=True)
    return not survivors


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", choices=[*CHECKED, []], help="default: all")
    parser.add_argument("--sample", type=int, default=10_000, help="mutants of each module (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default: 1)")
    parser.add_argument("--only", action="append", help="mutants whose function and change contain this text")
    parser.add_argument("--listed", action="store_true", help="try what mutants.toml explains, too")
    parser.add_argument("--verbose", action="store_true", help="each mutant, with what caught it")
    options = parser.parse_args()
    if any(module.startswith("aigw_core") for module in sys.modules):
        raise RuntimeError("the core must not be imported before it is broken")
    are_explained = [report(name, options) for name in options.modules or CHECKED]
    return 0 if all(are_explained) else 1


if __name__ == "__main__":
    sys.exit(main())
