"""Runs tests in a forked child against one program in the place of a module, and brings back what they said."""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import coverage
import pytest

SECONDS_MAX: Final = 600.0
"""Of wall time between two answers of a child. Its own time has a bound too; this one is for what waits for ever."""
QUICK_SECONDS: Final = 0.05
"""Of the CPU. Most tests take less; what caught a mutant in that time is asked first about the next one."""
MEMORY_MAX: Final = 4 << 30
"""Bytes of address space: a mutant that never stops growing fails here instead of taking the machine with it."""


@dataclass(frozen=True)
class Program:
    """A module of the core as it shall be: its name, its file and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module


@dataclass(frozen=True)
class Covered:
    """What the tests of a module did without a mutant."""

    seconds: dict[str, float]
    """By test, in the order in which they ran."""
    names: frozenset[str]
    """Of all tests there are."""
    tests_by_line: dict[int, frozenset[str]]
    imported: frozenset[int]
    """Lines that ran while something was imported, so that every test may depend on them."""

    def without(self, seconds_max: float) -> Covered:
        """Less the tests that take longer."""
        kept = {test: seconds for test, seconds in self.seconds.items() if seconds <= seconds_max}
        return replace(self, seconds=kept, tests_by_line={n: t & kept.keys() for n, t in self.tests_by_line.items()})

    def in_order(self) -> list[str]:
        """The tests, the quickest first."""
        return sorted(self.seconds, key=self.seconds.__getitem__)

    def caught(self, test: str, order: list[str]) -> None:
        """Puts a test to the front, unless it takes so long that others should be asked before it."""
        if self.seconds.get(test, QUICK_SECONDS) < QUICK_SECONDS:
            order.remove(test)
            order.insert(0, test)

    def tests_of(self, lines: range) -> frozenset[str]:
        """Those that a change in these lines may concern."""
        if self.imported.intersection(lines):
            return frozenset(self.seconds)
        return frozenset(chain.from_iterable(self.tests_by_line.get(line, ()) for line in lines))


EMPTY_AT_FIRST: Final[list[dict[Any, Any] | set[Any] | list[Any]]] = []
"""What the module in question remembers things in, for all processes that are forked from this one."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the program for one module name."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self._program.name else None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self._program.path)
        exec(compile(self._program.tree, module.__file__, "exec"), module.__dict__)
        EMPTY_AT_FIRST[:] = [v for v in module.__dict__.values() if isinstance(v, dict | set | list) and not v]


class _Chosen:
    """A plugin: of the tests that are found, these alone, in this order; the first that fails ends it.

    What has a name that is not known is run as well: a mutant may rename a case of a parametrized test.
    """

    def __init__(self, order: Sequence[str], known: Collection[str]) -> None:
        self._order = {test: place for place, test in enumerate(order)}
        self._known = known
        self.killer: str | None = None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self._order or item.nodeid not in self._known]
        items.sort(key=lambda item: self._order.get(item.nodeid, -1))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.killer is None:
            self.killer = report.nodeid


class _Counting:
    """A plugin: how long each test takes, and which lines it runs."""

    def __init__(self, counts: coverage.Coverage) -> None:
        self._counts = counts
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._counts.switch_context(item.nodeid)
        began = time.process_time()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.process_time() - began
            self._counts.switch_context("")


def cover(program: Program, files: Sequence[Path]) -> Covered:
    """Runs every test in these files. Raises RuntimeError where one fails."""
    answers = list(answers_of(lambda send: _count(program, files, send)))
    if len(answers) != 1 or not isinstance(answers[0], dict):
        raise RuntimeError(f"the tests of {program.name} fail without a mutant: {answers}")
    [counted] = answers
    tests = {int(line): frozenset(tests) for line, tests in counted["lines"].items()}
    imported = frozenset(line for line, names in tests.items() if "" in names)
    return Covered(counted["seconds"], frozenset(counted["seconds"]), tests, imported)


def killer(
    program: Program, files: Iterable[Path], order: Sequence[str], known: Collection[str], cpu_seconds: int
) -> str | None:
    """The first of these tests, in this order, that fails, or how the process ended; None where all pass.

    ``known``: the names of all tests there are without a mutant.
    """
    plugin = _Chosen(order, known)
    answers = list(answers_of(lambda send: _kill(program, files, plugin, send), cpu_seconds))
    return str(answers[0]) if answers and answers[0] is not None else None


def _count(program: Program, files: Sequence[Path], send: Callable[[object], None]) -> None:
    counts = coverage.Coverage(data_file=None, config_file=False, include=[str(program.path)])
    # What Python 3.14 would have instead cannot tell which test runs a line.
    counts.set_option("run:core", "ctrace")
    plugin = _Counting(counts)
    counts.start()
    status = run_pytest(program, files, plugin)
    counts.stop()
    lines = counts.get_data().contexts_by_lineno(str(program.path))
    send(f"pytest ended with {status}" if status else {"seconds": plugin.seconds, "lines": lines})


def _kill(program: Program, files: Iterable[Path], plugin: _Chosen, send: Callable[[object], None]) -> None:
    status = run_pytest(program, files, plugin)
    send((plugin.killer or f"pytest ended with {status}") if status else None)


def run_pytest(program: Program, files: Iterable[Path], plugin: object) -> int:
    """In this process, which is spoilt by it; returns pytest's exit status."""
    sys.meta_path.insert(0, _Finder(program))
    quiet = "ignore::pytest.PytestAssertRewriteWarning"  # for what was imported before the fork
    flags = ["-x", "-q", "-W", quiet, "--tb=no", "--hypothesis-profile=mutation"]
    without = [flag for name in ("randomly", "cacheprovider", "xdist") for flag in ("-p", f"no:{name}")]
    return int(pytest.main([*flags, *without, *map(str, files)], plugins=[plugin]))


def answers_of(work: Callable[[Callable[[object], None]], None], cpu_seconds: int | None = None) -> Iterator[Any]:
    """Runs the work in a forked child and yields what it sends; how the child ended where that was not in peace."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):
            os.close(reading)
            _confine(cpu_seconds)
            with os.fdopen(writing, "w") as stream:
                work(lambda answer: print(json.dumps(answer), file=stream, flush=True))
            status = 0
        os._exit(status)
    os.close(writing)
    is_late = False
    with os.fdopen(reading, "rb") as stream:
        while not is_late:
            is_late = not select.select([stream], [], [], SECONDS_MAX)[0]
            line = b"" if is_late else stream.readline()
            if not line:
                break
            yield json.loads(line)
    if is_late:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if status:
        yield f"ended with {os.waitstatus_to_exitcode(status)}"


def _confine(cpu_seconds: int | None) -> None:
    if cpu_seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, resource.RLIM_INFINITY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
