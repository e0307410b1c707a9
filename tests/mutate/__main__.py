"""Mutation check: ``python -m tests.mutate keys auth …`` breaks modules of the core and counts the tests' catches.

Each mutant is one changed operator, constant, condition or statement of one module, compiled in a child process in the
place of the module; the tests of that module run against it until one fails. What survives is printed with its line:
either a test is missing, or the two programs are the same. Only fork() makes this quick, so it needs a POSIX system.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Final

import hypothesis.strategies  # noqa: F401  # imported here once, not in every child
import pytest

ROOT: Final = Path(__file__).parent.parent
SECONDS_MAX: Final = 120.0
"""For one mutant; one that runs on for longer is caught, since the tests would not end."""
CHECKED: Final[dict[str, tuple[str, ...]]] = {
    "keys": ("test_keys.py",),
    "auth": ("test_auth.py", "test_credentials.py"),
    "denyset": ("test_denyset.py", "test_gateway.py"),
    "limiter": ("test_limiter.py",),
    "facts": ("test_facts.py", "test_settlement.py"),
    "http1.heads": ("http1/test_heads.py", "http1/test_against_h11.py"),
    "http1.bodies": ("http1/test_bodies.py", "http1/test_against_h11.py"),
    "http1.upstream": ("http1/test_upstream.py", "http1/test_against_h11.py"),
    "http1.writing": ("http1/test_writing.py", "test_connection.py"),
    "http1.memo": ("http1/test_memo.py",),
}
"""Module → the test files that have to notice, under ``tests/core``."""

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMPUTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    line: int
    what: str
    tree: ast.Module


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of the source."""
    tree = ast.parse(source)
    passive = _passive(tree)
    found = []
    for index, node in enumerate(ast.walk(tree)):
        what = None if node in passive else _change(node)
        if what is None:
            continue
        changed = copy.deepcopy(tree)
        _apply(next(islice(ast.walk(changed), index, None)))
        found.append(Mutant(getattr(node, "lineno", 0), what, ast.fix_missing_locations(changed)))
    return sorted(found, key=lambda mutant: mutant.line)


def _passive(tree: ast.Module) -> set[ast.AST]:
    """What nothing can notice: annotations, which are never evaluated, and how a dataclass is laid out."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        match node:
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation):
                roots.append(annotation)
            case ast.FunctionDef(returns=returns):
                roots.append(returns)
            case ast.ClassDef(decorator_list=decorators):
                roots += decorators
    return {node for root in roots if root is not None for node in ast.walk(root)}


def _change(node: ast.AST) -> str | None:
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            return f"{type(op).__name__} → {_COMPARED[type(op)].__name__}"
        case ast.BoolOp(op=ast.And()):
            return "and → or"
        case ast.BoolOp(op=ast.Or()):
            return "or → and"
        case ast.BinOp(op=op) if type(op) in _COMPUTED:
            return f"{type(op).__name__} → {_COMPUTED[type(op)].__name__}"
        case ast.AugAssign(op=op) if type(op) in _COMPUTED:
            return f"{type(op).__name__}= → {_COMPUTED[type(op)].__name__}="
        case ast.UnaryOp(op=ast.Not()):
            return "not dropped"
        case ast.If() | ast.While():
            return "condition negated"
        case ast.Constant(value=bool()):
            return "True ↔ False"
        case ast.Constant(value=int()):
            return "constant + 1"
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            return "returns None"
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            return "statement dropped"
        case ast.Raise():
            return "raise dropped"
    return None


def _apply(node: ast.AST) -> None:
    match node:
        case ast.Compare():
            node.ops = [_COMPARED[type(node.ops[0])]()]
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.BinOp() | ast.AugAssign() if type(node.op) in _COMPUTED:
            node.op = _COMPUTED[type(node.op)]()
        case ast.UnaryOp():
            # ``not not x`` keeps the type and drops the negation.
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        case ast.If() | ast.While():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Constant():
            node.value = not node.value if isinstance(node.value, bool) else int(str(node.value)) + 1
        case ast.Return():
            node.value = ast.Constant(None)
        case ast.Expr():
            node.value = ast.Constant(None)
        case ast.Raise():
            node.exc, node.cause = None, None
            node.__class__ = ast.Pass  # type: ignore[assignment]  # in place, since the parent holds this node


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant for one module name."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name, self._path, self._tree = name, path, tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self._path)
        exec(compile(self._tree, str(self._path), "exec"), module.__dict__)


def _child(name: str, path: Path, mutant: Mutant, tests: Sequence[str]) -> int:
    """Never returns to the caller's code: runs the tests and tells by its status whether one failed."""
    sys.meta_path.insert(0, _Finder(f"aigw_core.{name}", path, mutant.tree))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    quiet = "ignore::pytest.PytestAssertRewriteWarning"  # for what was imported before the fork
    flags = ["-x", "-q", "-W", quiet, "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return int(pytest.main([*flags, *tests]))


def is_caught(name: str, path: Path, mutant: Mutant, tests: Sequence[str]) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _child(name, path, mutant, tests)
        finally:
            os._exit(status)
    end = time.monotonic() + SECONDS_MAX
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def check(name: str, sample: int, seed: int) -> Iterator[tuple[Mutant, bool]]:
    path = ROOT / "aigw_core" / Path(*name.split(".")).with_suffix(".py")
    tests = [str(ROOT / "tests" / "core" / test) for test in CHECKED[name]]
    source = path.read_text()
    if is_caught(name, path, Mutant(0, "nothing", ast.parse(source)), tests):
        raise RuntimeError(f"the tests of {name} fail without a mutant")
    mutants = mutants_of(source)
    chosen = mutants if sample >= len(mutants) else Random(seed).sample(mutants, sample)
    for mutant in sorted(chosen, key=lambda mutant: mutant.line):
        yield mutant, is_caught(name, path, mutant, tests)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("modules", nargs="*", choices=[*CHECKED, []], help="default: all")
    parser.add_argument("--sample", type=int, default=10_000, help="mutants of each module (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if any(module.startswith("aigw_core") for module in sys.modules):
        raise RuntimeError("the core must not be imported before it is broken")
    for name in options.modules or CHECKED:
        results = list(check(name, options.sample, options.seed))
        survivors = [mutant for mutant, caught in results if not caught]
        print(f"{name}: {len(results) - len(survivors)} of {len(results)} caught", flush=True)
        for mutant in survivors:
            print(f"  line {mutant.line}: {mutant.what}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
