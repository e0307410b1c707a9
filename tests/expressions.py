"""Every regular expression of the server: where the sources make one, and what it looks like inside."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any, Final

from tests.sources import modules

_MAKERS: Final = frozenset({"compile", "match", "search", "fullmatch", "split", "sub", "findall", "finditer"})
LONG: Final = 64
"""Rounds from which on a repetition counts as one without an end."""
_REPEATS: Final = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)


def places() -> set[str]:
    """``module.py:name`` of each call that makes an expression; the name is what it is assigned to, or the function."""
    found: set[str] = set()
    for package in ("aigw_core", "aigw_anyio"):
        for module in modules(package):
            if "/testing/" not in module.place:
                found |= {f"{module.place}:{name}" for name in _names(module.tree.body, "")}
    return found


def _names(nodes: Iterable[ast.AST], outer: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _names(ast.iter_child_nodes(node), f"{outer}{node.name}.")
        elif _makes_one(node):
            targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
            name = targets[0].id if isinstance(targets[0], ast.Name) and not outer else outer.removesuffix(".")
            yield name
        else:
            yield from _names((each for each in ast.iter_child_nodes(node) if not isinstance(each, ast.expr)), outer)


def _makes_one(node: ast.AST) -> bool:
    statements = (ast.If, ast.For, ast.While, ast.Try, ast.With)
    inside = ast.walk(node.test if isinstance(node, ast.If | ast.While) else node)
    if isinstance(node, statements) and not isinstance(node, ast.If | ast.While):
        return False
    return any(
        isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and isinstance(each.func.value, ast.Name)
        and each.func.value.id == "re"
        and each.func.attr in _MAKERS
        for each in inside
    )


def ambiguities(pattern: re.Pattern[Any]) -> list[str]:
    """Endless repetitions inside of endless ones, where what was taken once may be tried again."""
    found: list[str] = []
    _walk(
        _parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else 0),
        0,
        found,
    )
    return found


def _walk(items: Any, endless: int, found: list[str]) -> None:
    for op, value in items:
        if op in _REPEATS:
            _, most, body = value
            inside = endless + (most >= LONG)
            if inside > 1 and most >= LONG:
                found.append(str(body))
            _walk(body, inside, found)
        elif op is _constants.POSSESSIVE_REPEAT:
            # What it took is never given back, nor is what is inside of it.
            _walk(value[2], 0, found)
        elif op is _constants.ATOMIC_GROUP:
            _walk(value, 0, found)
        elif op is _constants.SUBPATTERN:
            _walk(value[3], endless, found)
        elif op is _constants.BRANCH:
            for branch in value[1]:
                _walk(branch, endless, found)
        elif op in (_constants.ASSERT, _constants.ASSERT_NOT):
            _walk(value[1], 0, found)


def compiled() -> dict[str, re.Pattern[Any]]:
    """Those that modules hold, themselves or in objects of theirs."""
    found: dict[str, re.Pattern[Any]] = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith(("aigw_core", "aigw_anyio")):
            for key, value in vars(module).items():
                for at, each in enumerate(_patterns(value)):
                    found[f"{name}.{key}.{at}"] = each
    return found


def _patterns(value: object) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _patterns(each)
    elif type(value).__module__.startswith(("aigw_core", "aigw_anyio")) and not isinstance(value, type):
        slots = getattr(type(value), "__slots__", ())
        for attribute in (*slots, *vars(value)) if hasattr(value, "__dict__") else slots:
            held = getattr(value, attribute, None)
            held = getattr(held, "__self__", held)  # a bound method of a pattern
            if isinstance(held, re.Pattern):
                yield held
