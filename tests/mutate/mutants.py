"""Which mutants a module has: one changed operator, condition, constant or statement of its syntax tree each."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_COMPUTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_TEXT_MAX: Final = 100
"""Characters of source in a mutant's name: enough to tell one from the next."""


@dataclass(frozen=True)
class Mutant:
    """One change; ``function`` and ``change`` are its name, which stays as the lines around it come and go."""

    function: str
    """``Class.method`` or ``function``; ``-`` for the module's own statements."""
    change: str
    lines: range
    """Of the statement that is changed, as the source counts them."""
    tree: ast.Module

    @property
    def name(self) -> tuple[str, str]:
        return self.function, self.change


@dataclass(frozen=True)
class _Place:
    function: str
    lines: range


def mutants_of(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of the source."""
    tree = ast.parse(source)
    places = dict(_places(tree, _Place("-", range(0))))
    named: Counter[tuple[str, str]] = Counter()
    found = [(node, index) for index, node in enumerate(ast.walk(tree)) if node in places]
    for node, index in sorted(found, key=lambda pair: (getattr(pair[0], "lineno", 0), pair[1])):
        place = places[node]
        for number, (what, _) in enumerate(_changes(node)):
            changed = copy.deepcopy(tree)
            (same,) = islice(ast.walk(changed), index, index + 1)
            for _, apply in islice(_changes(same), number, number + 1):
                apply()
            mutant = Mutant(place.function, f"{what}: {_text(node)}", place.lines, ast.fix_missing_locations(changed))
            named[mutant.name] += 1
            if named[mutant.name] > 1:
                mutant = replace(mutant, change=f"{mutant.change} #{named[mutant.name]}")
            yield mutant


def _places(node: ast.AST, place: _Place) -> Iterator[tuple[ast.AST, _Place]]:
    """Where each node stands, but for annotations, which are never evaluated, and how a dataclass is laid out."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or (isinstance(node, ast.ClassDef) and name == "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_told(node, child):
                continue
            inner = place
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                outer = "" if place.function == "-" else f"{place.function}."
                inner = replace(place, function=f"{outer}{child.name}")
            if isinstance(child, ast.stmt):
                inner = replace(inner, lines=_own_lines(child))
            yield child, inner
            yield from _places(child, inner)


def _is_told(node: ast.AST, child: ast.AST) -> bool:
    """Documentation, the words of an error and the layout of a class: no caller's program reads them."""
    match node, child:
        case ast.Assign(targets=[ast.Name(id="__slots__")]), _:
            return True
        case ast.Expr(), ast.Constant(value=str()):
            return True
        case ast.Assert(msg=message), _ if child is message:
            return True
        case ast.Call(func=ast.Name(id=name)), ast.Constant(value=str()) | ast.JoinedStr():
            return name.endswith("Error")
    return False


def _own_lines(statement: ast.stmt) -> range:
    """Without those of the statements in it."""
    body = getattr(statement, "body", None)
    end = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return range(statement.lineno, max(statement.lineno, end) + 1)


def _text(node: ast.AST) -> str:
    """The node as source, on one line; of a compound statement its condition."""
    shown = node.test if isinstance(node, ast.If | ast.While) else node
    text = " ".join(ast.unparse(shown).split())
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}…"


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """What may be done to a node: a word for it, and the doing, in place since the parent holds the node."""
    match node:
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                inverse = _COMPARED[type(op)]
                yield f"{type(op).__name__} → {inverse.__name__}", partial(ops.__setitem__, at, inverse())
        case ast.BoolOp(op=ast.And()):
            yield "and → or", _setting(node, "op", ast.Or())
        case ast.BoolOp(op=ast.Or()):
            yield "or → and", _setting(node, "op", ast.And())
        case ast.BinOp(op=op) if type(op) in _COMPUTED:
            yield f"{type(op).__name__} → {_COMPUTED[type(op)].__name__}", _setting(node, "op", _COMPUTED[type(op)]())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            # ``not not x`` keeps the type and drops the negation.
            yield "not dropped", _setting(node, "operand", _negated(operand))
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if not _is_negated_elsewhere(test):
            yield "condition negated", _setting(node, "test", _negated(test))
        case ast.comprehension(ifs=ifs) if ifs:
            yield "conditions dropped", ifs.clear
        case ast.Constant(value=value):
            yield from _other_constants(node, value)
        case ast.Return(value=returned) if returned is not None and not isinstance(returned, ast.Constant):
            yield "returns None", _setting(node, "value", ast.Constant(None))
        case ast.Break():
            yield "break → continue", _setting(node, "__class__", ast.Continue)
        case ast.Continue():
            yield "continue → break", _setting(node, "__class__", ast.Break)
        case ast.Expr(value=ast.Call() | ast.YieldFrom() | ast.Yield()):
            yield "statement dropped", _setting(node, "value", ast.Constant(None))
        case ast.AugAssign(op=op):
            if type(op) in _COMPUTED:
                found = _COMPUTED[type(op)]
                yield f"{type(op).__name__}= → {found.__name__}=", _setting(node, "op", found())
            yield "statement dropped", _setting(node, "__class__", ast.Pass)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete() | ast.Raise():
            yield "statement dropped", _setting(node, "__class__", ast.Pass)


def _other_constants(node: ast.Constant, value: object) -> Iterator[tuple[str, Callable[[], None]]]:
    match value:
        case bool():
            yield "True ↔ False", _setting(node, "value", not value)
        case int():
            yield "constant + 1", _setting(node, "value", value + 1)
        case bytes():
            yield "bytes changed", _setting(node, "value", value + b"\x01")
        case str():
            yield "text changed", _setting(node, "value", f"{value}~x")


def _setting(node: ast.AST, name: str, value: object) -> Callable[[], None]:
    return partial(setattr, node, name, value)


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _is_negated_elsewhere(test: ast.expr) -> bool:
    """Where another mutant is the same program."""
    match test:
        case ast.Compare(ops=[ast.Eq() | ast.NotEq() | ast.Is() | ast.IsNot() | ast.In() | ast.NotIn()]):
            return True
        case ast.UnaryOp(op=ast.Not()):
            return True
    return False
