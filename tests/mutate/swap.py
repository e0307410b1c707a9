"""The quick way to try a mutant: everything is imported once, and each mutant's function gets its code in a fork.

Only for functions that nothing ran while modules were imported and that no decorator wraps: what was computed before
would still be that of the program without the mutant. What survives here is tried again the slow way (``child``).
"""

from __future__ import annotations

import ast
import gc
import inspect
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Final

import pytest

from tests.mutate.child import EMPTY_AT_FIRST, Covered, Program, answers_of, run_pytest
from tests.mutate.mutants import Mutant

_TIMES: Final = 5
"""How many times as long as without a mutant a test may run …"""
_MORE_SECONDS: Final = 2
"""… and this much longer; one that runs on is caught, since it would not end."""
_HARMLESS: Final = frozenset({"classmethod", "staticmethod", "property", "override", "overload"})
"""Decorators that keep no result and call the function itself."""


def may_be_swapped(program: Program, covered: Covered) -> Callable[[Mutant], bool]:
    """Tells of a mutant whether it may be tried the quick way."""
    plain: dict[str, range] = {}
    for name, function in _functions(program.tree, ""):
        own = range(function.body[0].lineno, (function.end_lineno or function.lineno) + 1)
        wrapped = {ast.unparse(decorator) for decorator in function.decorator_list} - _HARMLESS
        if not wrapped and not covered.imported.intersection(own):
            plain[name] = own
    return lambda mutant: mutant.lines.start in plain.get(mutant.function, ())


def _functions(node: ast.AST, outer: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield outer + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{outer}{child.name}.")


def killers(program: Program, files: Sequence[Path], jobs: Sequence[Mutant], covered: Covered) -> Iterator[str | None]:
    """For each mutant the test that caught it, or None."""
    yield from answers_of(lambda send: _serve(program, files, jobs, covered, send))


def _serve(
    program: Program, files: Sequence[Path], jobs: Sequence[Mutant], covered: Covered, send: Callable[[object], None]
) -> None:
    run_pytest(program, files, _Swapper(program, jobs, covered, send))


class _Swapper:
    """A pytest plugin that collects once and then tries mutants in forks instead of running the tests."""

    def __init__(
        self, program: Program, jobs: Sequence[Mutant], covered: Covered, send: Callable[[object], None]
    ) -> None:
        self._jobs, self._covered, self._send = jobs, covered, send
        self._path = str(program.path)
        self._order = covered.in_order()
        self._killer: str | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        for mutant in self._jobs:
            tests = self._covered.tests_of(mutant.lines)
            chosen = [items[test] for test in self._order if test in tests]
            answers = list(answers_of(partial(self._try, mutant, chosen)))
            caught = answers[-1]
            if len(answers) > 1 and caught is not None:
                # The child died in the test that it named last.
                caught = answers[-2]
            if caught is not None:
                self._covered.caught(caught, self._order)
            self._send(caught)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self._killer is None:
            self._killer = report.nodeid

    def _try(self, mutant: Mutant, chosen: Sequence[pytest.Item], send: Callable[[object], None]) -> None:
        _swap(self._path, mutant)
        for item in chosen:
            send(item.nodeid)
            limit = time.process_time() + _TIMES * self._covered.seconds[item.nodeid] + _MORE_SECONDS
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), resource.RLIM_INFINITY))
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
            if self._killer is not None:
                return
        send(None)


def _swap(path: str, mutant: Mutant) -> None:
    """Gives the functions of the imported module the code of the mutant. Raises LookupError where there is none."""
    new = dict(_codes(compile(mutant.tree, path, "exec")))
    found = 0
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename == path:
            place = function.__code__.co_qualname, function.__code__.co_firstlineno
            if place in new and function.__code__ != new[place]:
                function.__code__ = new[place]
                found += 1
    if not found:
        raise LookupError(mutant.function)
    # What was remembered while modules were imported would hide what the mutant does.
    for memory in EMPTY_AT_FIRST:
        memory.clear()


def _codes(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    """Of every function that exists once the module is imported; what is in a function comes with its code."""
    for part in code.co_consts:
        if isinstance(part, CodeType):
            if part.co_flags & inspect.CO_NEWLOCALS:
                yield (part.co_qualname, part.co_firstlineno), part
            else:
                yield from _codes(part)
