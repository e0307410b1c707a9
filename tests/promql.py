"""What a PromQL expression reads: its selectors, and the labels that are asked of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import promql_parser as p


@dataclass
class Selector:
    """One metric by its name, the labels that must exist on it, and the values that matchers look for."""

    name: str
    labels: set[str] = field(default_factory=set)
    matched: list[tuple[str, str, str]] = field(default_factory=list)
    """(label, operator, value)."""


_OPERATORS = ((p.MatchOp.Equal, "="), (p.MatchOp.NotEqual, "!="), (p.MatchOp.Re, "=~"), (p.MatchOp.NotRe, "!~"))


def selectors(expression: str) -> list[Selector]:
    """Raises ValueError for what is not PromQL."""
    return list(_walk(p.parse(expression)))


def _walk(node: p.Expr) -> Iterator[Selector]:
    if isinstance(node, p.MatrixSelector):
        yield from _walk(node.vector_selector)
    elif isinstance(node, p.VectorSelector):
        assert not node.matchers.or_matchers, "alternatives are not looked into"
        matched = [(m.name, _operator(m.op), m.value) for m in node.matchers.matchers]
        assert node.name is not None, "a selector without a name reads everything"
        yield Selector(node.name, {name for name, _, _ in matched}, matched)
    elif isinstance(node, p.AggregateExpr):
        grouped = set(node.modifier.labels) if node.modifier is not None else set()
        for found in _walk(node.expr):
            found.labels |= grouped
            yield found
    elif isinstance(node, p.BinaryExpr):
        on = set(node.modifier.matching.labels) if node.modifier is not None and node.modifier.matching else set()
        if node.modifier is not None and node.modifier.group_labels:
            on |= set(node.modifier.group_labels)
        for side in (node.lhs, node.rhs):
            for found in _walk(side):
                found.labels |= on
                yield found
    elif isinstance(node, p.Call):
        for argument in node.args:
            yield from _walk(argument)
    elif isinstance(node, p.ParenExpr | p.UnaryExpr | p.SubqueryExpr):
        yield from _walk(node.expr)
    else:
        assert isinstance(node, p.NumberLiteral | p.StringLiteral), f"{type(node)} is new here"


def _operator(operator: p.MatchOp) -> str:
    return next(written for known, written in _OPERATORS if known == operator)


def of_grafana(expression: str) -> str:
    """An expression of a dashboard without its variables."""
    return re.sub(r"\$\w+", "x", expression.replace("$__rate_interval", "5m"))
