"""The source tree as the tidy tests see it: files that belong to the project, modules, imports."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("aigw_core", "aigw_anyio", "aigw_asyncio", "aigw_trio")


@cache
def project_files() -> tuple[Path, ...]:
    """Every file that is, or would be, under version control; outside a repository every file but hidden ones."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        found = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    else:
        relative = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        found = [
            ROOT / path for path in relative if not any(p.startswith(".") or p == "__pycache__" for p in path.parts)
        ]
    return tuple(sorted(path for path in found if path.is_file()))


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's module, by its full name."""

    module: str
    names: tuple[str, ...]
    line: int
    for_types: bool
    """It stands under ``if TYPE_CHECKING``."""


@dataclass(frozen=True, slots=True)
class Module:
    """One source file of a package."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))

    def imports(self) -> Iterator[Import]:
        for_types = {
            inner
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            for statement in node.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, (), node.lineno, node in for_types)
            elif isinstance(node, ast.ImportFrom):
                names = tuple(alias.name for alias in node.names)
                yield Import(self._absolute(node), names, node.lineno, node in for_types)
            elif isinstance(node, ast.Call) and _is_import_module(node):
                yield Import(_literal_argument(node), (), node.lineno, node in for_types)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            assert node.module is not None
            return node.module
        parts = self.name.split(".")
        if self.path.name != "__init__.py":
            parts = parts[:-1]
        base = parts[: len(parts) - (node.level - 1)]
        return ".".join([*base, *([node.module] if node.module else [])])


def _is_import_module(node: ast.Call) -> bool:
    return ast.unparse(node.func) in ("import_module", "importlib.import_module", "__import__")


def _literal_argument(node: ast.Call) -> str:
    """The module that a dynamic import names, or its source text where only running it would tell."""
    argument = node.args[0] if node.args else None
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    return ast.unparse(node)


@cache
def modules(package: str) -> tuple[Module, ...]:
    """The modules of one package, in order of their paths."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        found.append(Module(name, path, text, ast.parse(text)))
    return tuple(found)


def all_modules() -> list[Module]:
    return [module for package in PACKAGES for module in modules(package)]


def import_graph(*, types_too: bool, beside: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """Module → the modules of ours that it imports; names of the package root resolve to submodules.

    ``beside`` names further folders of sources that are to be walked as well.
    """
    sources = [*all_modules(), *[module for folder in beside for module in modules(folder)]]
    known = {module.name for module in sources}
    graph: dict[str, set[str]] = {}
    for module in sources:
        edges = graph.setdefault(module.name, set())
        for found in module.imports():
            if found.module.partition(".")[0] not in (*PACKAGES, *beside) or (found.for_types and not types_too):
                continue
            for name in found.names or ("",):
                submodule = f"{found.module}.{name}"
                edges.add(submodule if submodule in known else found.module)
        edges.discard(module.name)
    return graph


def reach(graph: Mapping[str, set[str]], roots: Iterable[str]) -> set[str]:
    """The roots and whatever they import, directly or not."""
    found: set[str] = set()
    left = list(roots)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += graph.get(node, ())
    return found


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components), each sorted."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in order:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], order[target])
        if low[node] == order[node]:
            at = stack.index(node)
            group, stack[at:] = stack[at:], []
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in order:
            visit(node)
    return sorted(found)


def code_lines(text: str) -> int:
    """Lines of a source that are neither blank nor part of a comment, a docstring or an import.

    A string that stands by itself is a docstring, wherever it stands.
    """
    apart: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_docstring(node):
            assert isinstance(node, ast.stmt)
            assert node.end_lineno is not None
            apart.update(range(node.lineno, node.end_lineno + 1))
    kept = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in apart]
    return sum(bool(line) and not line.startswith("#") for line in kept)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
