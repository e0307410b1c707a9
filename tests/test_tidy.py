"""The rules of the house, kept by the machine: purity, layering, size, names, and what text must not say."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.sources import PACKAGES, ROOT, Module, all_modules, cycles, import_graph, modules, project_files

MODULE_LINES_MAX: Final = 500
FUNCTION_LINES_MAX: Final = 70

LONG_MODULES: Final[dict[str, tuple[int, str]]] = {}
"""Path → (lines, why it cannot be shorter yet). The list only shrinks: an entry that is not needed fails."""
LONG_FUNCTIONS: Final[dict[str, tuple[int, str]]] = {}
"""``path:Class.function`` → (lines, why)."""


def _lines(found: list[str]) -> str:
    return "\n" + "\n".join(found)


# Purity

PURE: Final = frozenset(
    {
        "__future__",
        "base64",
        "binascii",
        "bisect",
        "codecs",
        "collections",
        "collections.abc",
        "contextlib",
        "dataclasses",
        "enum",
        "functools",
        "itertools",
        "operator",
        "hashlib",
        "hmac",
        "importlib",
        "ipaddress",
        "json",
        "json.encoder",
        "math",
        "re",
        "struct",
        "sys",
        "types",
        "typing",
        "urllib.parse",
        "zlib",
    }
)
"""Modules of the standard library that neither wait, look at a clock, nor touch the system. A new one is a decision."""
THIRD_PARTY: Final = frozenset({"nacl", "typing_extensions", "backports.zstd", "compression.zstd", "brotli"})
PARTLY_PURE: Final = {"sys": {"version_info", "float_info"}, "importlib": {"import_module"}}
"""Of these only some names."""
BANNED_CALLS: Final = frozenset(
    {"open", "print", "input", "eval", "exec", "compile", "__import__", "breakpoint", "globals", "locals", "vars"}
)
NEVER_LOADED: Final = ("anyio", "asyncio", "h11", "pydantic", "selectors", "socket", "ssl", "trio")
"""What importing the whole core must not load, by whatever way."""


def _is_pure(module: str) -> bool:
    if module in PURE or module.partition(".")[0] == "aigw_core":
        return True
    return any(module == allowed or module.startswith(f"{allowed}.") for allowed in THIRD_PARTY)


@pytest.mark.parametrize("module", modules("aigw_core"), ids=lambda m: m.name)
def test_core_imports_only_what_is_pure(module: Module) -> None:
    found = [f"{module.place}:{i.line} imports {i.module}" for i in module.imports() if not _is_pure(i.module)]
    assert not found, _lines(found)


@pytest.mark.parametrize("module", modules("aigw_core"), ids=lambda m: m.name)
def test_core_uses_of_a_partly_pure_module_only_its_pure_part(module: Module) -> None:
    found = [
        f"{module.place}:{node.lineno} uses {node.value.id}.{node.attr}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.attr not in PARTLY_PURE.get(node.value.id, {node.attr})
    ]
    found += [
        f"{module.place}:{i.line} imports {name} of {i.module}"
        for i in module.imports()
        for name in i.names
        if name not in PARTLY_PURE.get(i.module, {name})
    ]
    assert not found, _lines(found)


@pytest.mark.parametrize("module", modules("aigw_core"), ids=lambda m: m.name)
def test_core_calls_nothing_that_acts(module: Module) -> None:
    found = [
        f"{module.place}:{node.lineno} calls {node.func.id}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS
    ]
    assert not found, _lines(found)


def test_importing_the_core_loads_no_io() -> None:
    names = [module.name for module in modules("aigw_core")]
    script = f"import sys, {', '.join(names)}\nprint(*sorted(set({NEVER_LOADED!r}) & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# Layering

BELOW: Final = {
    "aigw_core": frozenset({"aigw_core"}),
    "aigw_anyio": frozenset({"aigw_anyio", "aigw_core"}),
    "aigw_asyncio": frozenset({"aigw_asyncio", "aigw_anyio", "aigw_core"}),
    "aigw_trio": frozenset({"aigw_trio", "aigw_anyio", "aigw_core"}),
}
EVENT_LOOPS: Final = {
    "aigw_core": frozenset[str](),
    "aigw_anyio": frozenset({"anyio"}),
    "aigw_asyncio": frozenset({"anyio", "asyncio", "uvloop"}),
    "aigw_trio": frozenset({"anyio", "trio"}),
}
NATIVE_ASYNCIO: Final = "aigw_anyio.nats."
"""nats-py runs on asyncio alone, and not inside the cancel scopes of anyio: its package is the only exception."""
_ALL_EVENT_LOOPS: Final = frozenset({"anyio", "asyncio", "trio", "uvloop"})

_VOCABULARY: Final = frozenset(
    {
        "clock",
        "effects",
        "errors",
        "facts",
        "headers",
        "limiter",
        "messages",
        "origin",
        "secrets",
        "states",
        "timers",
        "wires",
    }
)
"""The ground floor of the core: words that every other module speaks in."""
_INNER: Final = {
    "http1": frozenset({"errors", "headers", "messages"}),
    "usage": frozenset({"errors", "wires"}),
}
"""What a part of the core with its own folder may import beside itself."""


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_downwards(package: str) -> None:
    found = []
    for module in modules(package):
        for i in module.imports():
            top = i.module.partition(".")[0]
            if (top in PACKAGES and top not in BELOW[package]) or (
                top in _ALL_EVENT_LOOPS
                and top not in EVENT_LOOPS[package]
                and not (top == "asyncio" and module.name.startswith(NATIVE_ASYNCIO))
            ):
                found.append(f"{module.place}:{i.line} imports {i.module}")
    assert not found, _lines(found)


def _core_edges() -> list[tuple[str, str]]:
    """Runtime imports inside the core, by names without the package's own."""
    graph = import_graph(types_too=False)
    pairs = [(source, target) for source, targets in graph.items() for target in targets]
    inside = [(s, t) for s, t in pairs if s.startswith("aigw_core.") and t.startswith("aigw_core.")]
    return [(s.removeprefix("aigw_core."), t.removeprefix("aigw_core.")) for s, t in inside]


def _story(name: str) -> int:
    """4 the kit, 3 the byte machine, 2 the semantic machine, 1 what they are made of, 0 the vocabulary."""
    if re.match(r"testing(\.|$)", name):
        return 4
    if name in _VOCABULARY:
        return 0
    if re.match(r"connection(_|$)", name):
        return 3
    return 2 if re.match(r"exchange(_|$)", name) else 1


def test_the_core_is_built_in_stories() -> None:
    assert [f"{s} imports {t}" for s, t in _core_edges() if _story(s) < _story(t)] == []


def test_parts_of_the_core_stand_on_their_own() -> None:
    found = []
    for source, target in _core_edges():
        part, dot, _ = source.partition(".")
        if part in _INNER and (dot or source == part) and target.partition(".")[0] not in {part, *_INNER[part]}:
            found.append(f"{source} imports {target}")
    assert not found, _lines(found)


def test_no_module_imports_itself_in_a_circle() -> None:
    assert cycles(import_graph(types_too=False)) == []


TYPE_CIRCLES: Final = [
    ["aigw_core.responseside", "aigw_core.settlement"],
    ["aigw_asyncio.downstream", "aigw_asyncio.server"],
]
"""Modules that name each other's types. At run time none of them imports the other."""


def test_circles_of_types_are_known() -> None:
    assert sorted(cycles(import_graph(types_too=True))) == sorted(TYPE_CIRCLES)


# Size


def _listed(actual: dict[str, int], limit: int, allowed: dict[str, tuple[int, str]]) -> list[str]:
    """What is over the limit without an entry, over its entry, or has an entry that it no longer needs."""
    over = [f"{name}: {n} lines, {limit} allowed" for name, n in actual.items() if n > limit and name not in allowed]
    grown = [f"{name}: grew from {n} to {actual[name]} lines" for name, (n, _) in allowed.items() if actual[name] > n]
    idle = [f"{name}: is no longer over {limit}: drop its entry" for name in allowed if actual[name] <= limit]
    return over + grown + idle


def test_modules_are_short() -> None:
    lines = {module.place: len(module.text.splitlines()) for module in all_modules()}
    found = _listed(lines, MODULE_LINES_MAX, LONG_MODULES)
    assert not found, _lines(found)


def _functions(module: Module) -> dict[str, int]:
    found: dict[str, int] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    assert child.end_lineno is not None
                    found[f"{module.place}:{name}"] = child.end_lineno - child.lineno + 1
                walk(child, f"{name}.")
            else:
                walk(child, prefix)

    walk(module.tree, "")
    return found


def test_functions_are_short() -> None:
    lines: dict[str, int] = {}
    for module in all_modules():
        lines |= _functions(module)
    assert lines
    found = _listed(lines, FUNCTION_LINES_MAX, LONG_FUNCTIONS)
    assert not found, _lines(found)


def test_the_size_rule_can_fail() -> None:
    allowed = {"grown": (12, "why"), "idle": (20, "why"), "fine": (12, "why")}
    actual = {"short": 10, "long": 11, "grown": 13, "idle": 10, "fine": 12}
    assert _listed(actual, 10, allowed) == [
        "long: 11 lines, 10 allowed",
        "grown: grew from 12 to 13 lines",
        "idle: is no longer over 10: drop its entry",
    ]


# Packages

PUBLIC: Final[dict[str, tuple[str, ...]]] = {
    "aigw_core": (
        "AddressCache",
        "AdmissionHook",
        "Aggregate",
        "AuthScheme",
        "Byo",
        "CHUNKED",
        "Chunked",
        "Close",
        "CloseDownstream",
        "Connect",
        "ConnectFailure",
        "Connection",
        "ConnectionFeeder",
        "CutResponse",
        "Cuttable",
        "DenyChange",
        "DenyFeed",
        "DenyReason",
        "DenyScope",
        "DenySet",
        "DenySubject",
        "Dialect",
        "Effect",
        "EmitFact",
        "Exchange",
        "ExchangeEffect",
        "FactSink",
        "Feeder",
        "Framing",
        "Gateway",
        "Headers",
        "IncludeUsage",
        "KeyFault",
        "KeyRing",
        "Length",
        "Limiter",
        "LocalProtocolError",
        "Meter",
        "MeterResult",
        "ModelHook",
        "NO_BODY",
        "NoBody",
        "OnClientAbort",
        "OpenFact",
        "OpenRecord",
        "Origin",
        "Outcome",
        "ParsedKey",
        "PROVIDERS",
        "Policy",
        "Provider",
        "ProviderPolicy",
        "Reason",
        "Rejection",
        "ReleaseUpstream",
        "RemoteProtocolError",
        "RequestHead",
        "ResponseHead",
        "Route",
        "ScopeTable",
        "Secret",
        "SendDownstream",
        "SendInformational",
        "SendRequestBody",
        "SendRequestEnd",
        "SendRequestHead",
        "SendResponseBody",
        "SendResponseEnd",
        "SendResponseHead",
        "SendUpstream",
        "StoredRefs",
        "Timeouts",
        "Timer",
        "UNTIL_CLOSE",
        "UntilClose",
        "UpstreamPool",
        "UsageFact",
        "UsageProfile",
        "UsageStatus",
        "VirtualKey",
        "VirtualKeyError",
        "VoidFact",
        "Wire",
        "fingerprint",
        "mint_virtual_key",
        "parse_origin",
        "parse_virtual_key",
        "public_key_of",
        "usage_profile",
    ),
    "aigw_core.testing": (
        "Command",
        "Ended",
        "Feature",
        "Ledger",
        "MemoryRig",
        "SCENARIOS",
        "Scenario",
        "Script",
        "Watch",
        "commands",
        "play",
        "play_async",
        "scenarios",
    ),
    "aigw_anyio": (),
    "aigw_asyncio": ("AsyncioDataPlane", "main"),
    "aigw_trio": ("TrioDataPlane", "main"),
}
"""What each package offers by its own name. A change here changes the public interface: say so in the changelog."""


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names_are_those_that_are_meant(package: str) -> None:
    imported = importlib.import_module(package)
    assert sorted(getattr(imported, "__all__", ())) == sorted(PUBLIC[package])
    assert [name for name in PUBLIC[package] if not hasattr(imported, name)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").read_bytes() == b""


def _pyproject() -> dict[str, dict[str, dict[str, object]]]:
    table: dict[str, dict[str, dict[str, object]]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return table


def test_console_scripts_exist() -> None:
    for target in _pyproject()["project"]["scripts"].values():
        module, _, function = str(target).partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_mypy_checks_every_directory_with_sources() -> None:
    sources = {path.relative_to(ROOT).parts[0] for path in project_files() if path.suffix == ".py"}
    files = _pyproject()["tool"]["mypy"]["files"]
    assert isinstance(files, list)
    assert sorted(files) == sorted(sources)


# Tests mirror the modules

TESTED_ELSEWHERE: Final[dict[str, str]] = {
    "__init__": "re-exports: test_public_names_are_those_that_are_meant",
    "http1.__init__": "a docstring",
    "usage.__init__": "re-exports",
    "effects": "values without behaviour: test_connection and test_exchange",
    "connection_base": "a part of connection: test_connection",
    "connection_requests": "a part of connection: test_connection",
    "exchange_base": "half of exchange: test_exchange",
    **dict.fromkeys(
        (
            "testing.__init__",
            "testing.commands",
            "testing.control",
            "testing.endings",
            "testing.exchanges",
            "testing.ledger",
            "testing.memory",
            "testing.play",
            "testing.scenario",
            "testing.talk",
            "testing.watch",
        ),
        "the kit: tests/conformance, where drivers that are wrong must fail it",
    ),
}
"""Modules of the core without a test file of their own name, and where they are tested."""


def test_every_core_module_has_its_own_tests() -> None:
    missing = []
    for module in modules("aigw_core"):
        inside = module.path.relative_to(ROOT / "aigw_core")
        name = ".".join(inside.with_suffix("").parts)
        expected = ROOT / "tests" / "core" / inside.with_name(f"test_{inside.name}")
        if not expected.exists() and name not in TESTED_ELSEWHERE:
            missing.append(str(expected.relative_to(ROOT)))
    assert not missing, _lines(missing)


def test_exceptions_of_the_mirror_are_needed() -> None:
    places = {name: Path(f"{name.replace('.', '/')}.py") for name in TESTED_ELSEWHERE}
    gone = [name for name, place in places.items() if not (ROOT / "aigw_core" / place).exists()]
    tests = {name: ROOT / "tests" / "core" / place.with_name(f"test_{place.name}") for name, place in places.items()}
    assert (gone, [name for name, test in tests.items() if test.exists()]) == ([], [])


# Text

_TEXT_SUFFIXES: Final = frozenset({".cfg", ".json", ".md", ".py", ".pyi", ".sh", ".toml", ".txt", ".yaml", ".yml"})
_TEXT_NAMES: Final = frozenset({".gitignore", "LICENSE", "run"})
_MACHINE_PATH: Final = re.compile(r"/(?:root|work|home|Users|opt|private)/\w|[A-Z]:\\\\?Users")
_LOOSE_END: Final = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
_REGISTRY: Final = re.compile(r"py" r"pi\.org|python" r"hosted|npm" r"js\.|crates" r"\.io|--(?:extra-)?index" r"-url")


def _text_files() -> list[Path]:
    """Seeds of the fuzzers are bytes, whatever they are called."""
    seeds = ROOT / "fuzz" / "seeds"
    return [path for path in project_files() if path.suffix in _TEXT_SUFFIXES and seeds not in path.parents]


@pytest.mark.parametrize("pattern", [_MACHINE_PATH, _LOOSE_END, _REGISTRY], ids=["paths", "loose ends", "registries"])
def test_text_is_free_of(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in _text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line) and path != Path(__file__)
    ]
    assert not found, _lines(found)


def test_text_files_end_their_lines_alike() -> None:
    odd = [
        str(path.relative_to(ROOT))
        for path in _text_files()
        if path.suffix != ".json"
        and (content := path.read_bytes())
        and (b"\r" in content or not content.endswith(b"\n"))
    ]
    assert odd == []
