"""The mutation check makes the mutants that it says, names them by what they are, and its list is one of reasons."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import Final

import pytest

from tests.mutate.__main__ import CHECKED, ROOT, listed
from tests.mutate.mutants import mutants_of

SOURCE: Final = '''
"""Documentation."""
LIMIT: int = 7


class Counter:
    __slots__ = ("n",)

    def add(self, n: int) -> int:
        """More documentation."""
        if not n or 0 < n <= LIMIT:
            raise ValueError("too many")
        self.n += n
        return self.n + n
'''
EXPECTED: Final = [
    ("-", "constant + 1: 7"),
    ("Counter.add", "or → and: not n or 0 < n <= LIMIT"),
    ("Counter.add", "condition negated: not n or 0 < n <= LIMIT"),
    ("Counter.add", "not dropped: not n"),
    ("Counter.add", "Lt → LtE: 0 < n <= LIMIT"),
    ("Counter.add", "LtE → Lt: 0 < n <= LIMIT"),
    ("Counter.add", "constant + 1: 0"),
    ("Counter.add", "statement dropped: raise ValueError('too many')"),
    ("Counter.add", "Add= → Sub=: self.n += n"),
    ("Counter.add", "statement dropped: self.n += n"),
    ("Counter.add", "returns None: return self.n + n"),
    ("Counter.add", "Add → Sub: self.n + n"),
]


def test_the_mutants_of_a_small_module() -> None:
    found = list(mutants_of(SOURCE))
    assert sorted(mutant.name for mutant in found) == sorted(EXPECTED)
    whole = ast.unparse(ast.parse(SOURCE))
    changed = {ast.unparse(mutant.tree) for mutant in found}
    assert len(changed) == len(found), "each is another program"
    assert whole not in changed
    for mutant in found:
        compile(mutant.tree, "mutant", "exec")


def test_names_do_not_depend_on_the_place() -> None:
    moved = [mutant.name for mutant in mutants_of("# A line.\n\n" + SOURCE)]
    assert moved == [mutant.name for mutant in mutants_of(SOURCE)]
    twice = [mutant.change for mutant in mutants_of("def f(a):\n    g(a)\n    g(a)\n")]
    assert twice == ["statement dropped: g(a)", "statement dropped: g(a) #2"]


def test_what_is_listed_has_a_reason() -> None:
    found = listed()
    assert found
    assert {module for module, _, _ in found} <= CHECKED.keys()
    assert all(len(reason) > 20 for reason in found.values())


@pytest.mark.skipif(sys.platform == "win32", reason="only where processes fork")
def test_a_module_runs_to_its_end() -> None:
    """The statuses that are counted on: clean here, and not where something survives."""
    command = [sys.executable, "-m", "tests.mutate", "http1.writing", "--only", "request_head_bytes: returns None"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "http1.writing: 1 of 1 caught, 0 survive" in run.stdout
