"""Every named bound of the code, with the reason that stands beside it."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from docs.generator.markdown import code, string_of, table

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PACKAGES: Final = ("aigw_core", "aigw_anyio", "aigw_asyncio", "aigw_trio")

SUFFIXES: Final = ("_MAX", "_MIN", "_SECS", "_S", "_HIGH", "_SIZE", "_KEPT", "_RESERVED", "_FREE", "_STEP", "_PROBES")
"""How a name says that it is a bound."""

FORMATS: Final = {
    "PORT_MAX": "TCP: sixteen bits.",
    "SEED_SIZE": "Ed25519 (RFC 8032 §5.1.5).",
    "PUBLIC_KEY_SIZE": "Ed25519 (RFC 8032 §5.1.5).",
    "SIGNATURE_SIZE": "Ed25519 (RFC 8032 §5.1.6).",
    "FINGERPRINT_SIZE": "A keyed BLAKE2b of 256 bits: nobody finds two credentials with the same one.",
    "DIMENSIONS_MAX": "The mock provider's largest embedding, as OpenAI documents it.",
}
"""Sizes that a format fixes, which need no reason beside them."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One constant of a module."""

    module: str
    name: str
    value: str
    reason: str | None

    @property
    def is_private_arithmetic(self) -> bool:
        """Derived from other constants, or the width of a type: nobody chose it."""
        return self.name.startswith("_") and self.reason is None


def all_bounds() -> Iterator[Bound]:
    """Constants that are numbers or Limits, in the order of the packages and files."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from _of_module(path)


def _of_module(path: Path) -> Iterator[Bound]:
    text = path.read_text()
    lines, body = text.splitlines(), ast.parse(text).body
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for at, statement in enumerate(body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if not ast.unparse(statement.annotation).startswith("Final") or statement.value is None:
            continue
        constant = statement.target.id
        following = body[at + 1] if at + 1 < len(body) else None
        reason = (string_of(following) if following is not None else None) or _comment_above(lines, statement.lineno)
        value = _value(name, constant, statement.value)
        if value is not None:
            yield Bound(name, constant, value, FORMATS.get(constant) if reason is None else reason)


def _comment_above(lines: list[str], line: int) -> str | None:
    """The block of comments that ends on the line before."""
    words: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.startswith("# "):
            break
        words.insert(0, text.removeprefix("# "))
    return " ".join(words) or None


def _value(module: str, name: str, source: ast.expr) -> str | None:
    """The number as read by people; None for what is no bound."""
    if isinstance(source, ast.Attribute):
        # What the system defines is shown by its name: the number differs between systems.
        return code(ast.unparse(source)) if name == "SLICE" else None
    if isinstance(source, ast.Call) and ast.unparse(source.func).endswith("Limits"):
        names = vars(importlib.import_module(module))
        return ", ".join(f"{k.arg} {_number(eval(ast.unparse(k.value), names))}" for k in source.keywords)
    value = getattr(importlib.import_module(module), name)
    if type(value) is int or type(value) is float:
        return _number(value)
    return None


def _number(value: int | float) -> str:
    if isinstance(value, int) and value > 2**31 and value & (value + 1) == 0:
        return f"2^{value.bit_length()} - 1"
    if isinstance(value, int) and value > 2**31 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def without_reason() -> list[str]:
    """Bounds by their name that do not say why they are what they are."""
    return [
        f"{bound.module}.{bound.name}"
        for bound in all_bounds()
        if bound.reason is None and bound.name.endswith(SUFFIXES) and not bound.is_private_arithmetic
    ]


def bounds() -> str:
    """One table for each package."""
    parts = []
    for package in PACKAGES:
        rows = [
            (code(bound.module.removeprefix(f"{package}.")), code(bound.name), bound.value, bound.reason)
            for bound in all_bounds()
            if bound.module.startswith(f"{package}.") and bound.reason is not None
        ]
        if rows:
            parts.append(f"### {package}\n\n{table(('module', 'name', 'value', 'reason'), rows)}")
    return "\n\n".join(parts)
