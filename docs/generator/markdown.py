"""Markdown tables and the source texts that they quote."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells may hold any text of one line or more."""
    lines = [_row(columns), _row(["---"] * len(columns))]
    lines += [_row([cell(text) for text in row]) for row in rows]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(text: str) -> str:
    """Text that cannot end its cell; the code marks of docstrings become those of Markdown."""
    return " ".join(text.replace("``", "`").split()).replace("|", "\\|")


def code(text: object) -> str:
    return f"`{text}`"


def member_docs(owner: type) -> dict[str, str]:
    """The docstring that follows each member of a class, by the member's name."""
    tree = ast.parse(inspect.getsource(owner))
    assert isinstance(tree.body[0], ast.ClassDef)
    body = tree.body[0].body
    found: dict[str, str] = {}
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            continue
        if isinstance(target, ast.Name) and (text := string_of(following)) is not None:
            found[target.id] = text
    return found


def string_of(statement: ast.stmt) -> str | None:
    """The text of a statement that is nothing but a string."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        return value if isinstance(value, str) else None
    return None
