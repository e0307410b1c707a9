"""The effects are contract enough: drivers share the core and no driving code. Kept by a walk over their imports.

Driving code is what feeds a machine or takes its effects. Each driver has its own; what two of them share beside
the core is listed here, each with the reason why it is something else, and in ``docs/explanation/effects.md``.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import combinations
from typing import Final, get_args

import pytest

from aigw_core.connection import Connection
from aigw_core.effects import Effect, ExchangeEffect
from aigw_core.testing.watch import INPUTS
from tests.sources import ROOT, Module, import_graph, modules, reach

DRIVERS: Final = {
    "asyncio": ("connector", "downstream", "server", "sockets", "upstream"),
    "streams": ("channel", "socketstream", "streamplane", "streams", "upstream"),
    "kit": ("testing.memory",),
    "tests": ("core.driver",),
    "threads": ("threads_gateway",),
    "asgi": ("asgi_app",),
}
"""The modules of each driver, in the package that :data:`HOMES` says."""
HOMES: Final = {
    "asyncio": "aigw_asyncio",
    "streams": "aigw_anyio",
    "kit": "aigw_core",
    "tests": "tests",
    "threads": "examples",
    "asgi": "examples",
}
SHARED: Final = {
    "aigw_anyio.plane": "who is connected, who waits for which answer, what is idle, what is logged: a process's lists",
    "aigw_anyio.connecting": "names and addresses, and one word for each way not to connect",
    "aigw_anyio.sockets": "options of sockets",
    "aigw_anyio.readsize": "how much to ask of a socket, from times that are handed in",
    "aigw_anyio.tlspipe": "bytes in, bytes out: TLS as a codec",
    "aigw_anyio.tls": "certificates",
    "aigw_anyio.sinks": "where facts go",
    "aigw_anyio.fdwrite": "where facts go",
    "aigw_anyio.settings": "configuration",
    "aigw_anyio.limits": "configuration",
    "aigw_anyio.names": "configuration: names as errors may repeat them",
    "aigw_anyio.deny.bucket": "configuration: the names of entries",
    "aigw_anyio.nats.options": "configuration",
}
"""What drivers may share beside the core: a module, or a package with all that is in it, and what it is about."""

MACHINES: Final = frozenset({"Connection", "ConnectionFeeder", "Exchange", "ExchangeMachine", "Feeder"})
EFFECTS: Final = frozenset(kind.__name__ for kind in (*get_args(Effect), *get_args(ExchangeEffect)))
OF_A_DRIVER_TOO: Final = frozenset({"abandon", "cut", "drain", "resume"})
"""Inputs of a machine that are also what a process asks of a driver, by the same name."""


def test_the_kit_watches_every_input() -> None:
    """An input is a public method that takes the time last."""
    found = {
        name
        for name, member in inspect.getmembers(Connection, inspect.isfunction)
        if not name.startswith("_") and [*inspect.signature(member).parameters][-1] == "now"
    }
    assert found == set(INPUTS)


@cache
def graph() -> dict[str, set[str]]:
    """Types too: whoever names a driver's types knows the driver."""
    return import_graph(types_too=True, beside=("examples", "tests"))


def reached(driver: str) -> set[str]:
    return reach(graph(), names(driver))


def names(driver: str) -> set[str]:
    return {f"{HOMES[driver]}.{name}" for name in DRIVERS[driver]}


def module_of(name: str) -> Module:
    return next(module for module in modules(name.partition(".")[0]) if module.name == name)


def is_of_the_core(name: str) -> bool:
    return name.partition(".")[0] == "aigw_core"


def is_listed(name: str) -> bool:
    return any(name == listed or name.startswith(f"{listed}.") for listed in SHARED)


def driving(module: Module) -> set[str]:
    """What of it feeds a machine, or takes its effects."""
    found = {
        name
        for i in module.imports()
        if is_of_the_core(i.module)
        for name in (*i.names, i.module.rpartition(".")[2])
        if name in MACHINES | EFFECTS
    }
    used = {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
    return found | (used & (MACHINES | EFFECTS | set(INPUTS) - OF_A_DRIVER_TOO))


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_drives(driver: str) -> None:
    """So that the test below sees what it is to see."""
    drives = {name for name in names(driver) if driving(module_of(name))}
    assert drives
    assert any(len(driving(module_of(name))) >= 8 for name in drives), "every effect is carried out somewhere"


@pytest.mark.parametrize(("one", "other"), list(combinations(DRIVERS, 2)))
def test_drivers_share_no_driving_code(one: str, other: str) -> None:
    assert (reached(one) & names(other), reached(other) & names(one)) == (set(), set()), "no driver imports another"
    both = {name for name in reached(one) & reached(other) if not is_of_the_core(name) and name != "tests"}
    assert sorted(name for name in both if not is_listed(name)) == []
    assert {name: driving(module_of(name)) for name in both if driving(module_of(name))} == {}


def test_what_is_shared_is_needed() -> None:
    both = reached("asyncio") & reached("streams")
    assert [listed for listed in SHARED if listed not in both] == []


def test_the_page_lists_what_is_shared() -> None:
    page = (ROOT / "docs" / "explanation" / "effects.md").read_text()
    table = page.partition("## What drivers share\n")[2].partition("\n## ")[0]
    listed = [
        name.strip("`")
        for row in table.splitlines()
        if row.startswith("| `")
        for name in row[2:].split(" | ")[0].split(", ")
    ]
    assert listed == list(SHARED)


@pytest.mark.parametrize("module", modules("examples"), ids=lambda m: m.name)
def test_an_example_stands_on_the_core_alone(module: Module) -> None:
    """On what ``aigw_core`` offers by its own name, and on no other example."""
    ours = {"aigw_core", "aigw_anyio", "aigw_asyncio", "aigw_trio", "bench", "docs", "examples", "fuzz", "tests"}
    found = {i.module for i in module.imports() if i.module.partition(".")[0] in ours}
    assert found <= {"aigw_core"}


def test_driving_code_in_a_shared_module_would_be_seen() -> None:
    for text, expected in (
        ("from aigw_core.effects import ConnectFailure\nConnectFailure.DNS", set()),
        ("from aigw_core.effects import Connect, ConnectFailure", {"Connect"}),
        ("from aigw_core import Connection", {"Connection"}),
        ("import aigw_core as core\ncore.SendUpstream", {"SendUpstream"}),
        ("def f(driver):\n    driver.cut(None)", set()),
        ("def f(machine, now):\n    machine.tick(now)", {"tick"}),
    ):
        module = Module("aigw_anyio.made_up", ROOT / "aigw_anyio" / "made_up.py", text, ast.parse(text))
        assert driving(module) == expected, text
