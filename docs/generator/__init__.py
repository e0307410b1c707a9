"""Draws the generated parts of the reference pages from the code they describe.

A page holds them between two comments, ``<!-- generated: NAME -->`` and ``<!-- end of NAME -->``. After a
change to what they describe run ``python -m docs.generator``; a test fails until that is done.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from docs.generator.bounds import bounds
from docs.generator.configuration import configuration
from docs.generator.examples import example, names
from docs.generator.http import broken_answers, refused_requests, served_requests
from docs.generator.layers import layers
from docs.generator.providers import managed_scope, providers
from docs.generator.rejections import catalogue, examples, rejections
from docs.generator.states import connection_diagram, connection_states, exchange_diagram, exchange_states, timers
from docs.generator.transparency import dropped_for_managed, hop_by_hop
from docs.generator.watching import alerts, metrics

DOCS: Final = Path(__file__).resolve().parent.parent

PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "alerts": alerts,
    "bounds": bounds,
    "broken answers": broken_answers,
    "configuration": configuration,
    "connection diagram": connection_diagram,
    "connection states": connection_states,
    "dropped for managed callers": dropped_for_managed,
    **{f"example {name}": partial(example, name) for name in names()},
    "exchange diagram": exchange_diagram,
    "exchange states": exchange_states,
    "hop-by-hop fields": hop_by_hop,
    "layers": layers,
    "managed scope": managed_scope,
    "metrics": metrics,
    "providers": providers,
    "refused requests": refused_requests,
    "rejection catalogue": catalogue,
    "rejection examples": examples,
    "rejections": rejections,
    "served requests": served_requests,
    "timers": timers,
}

_PART: Final = re.compile(r"(<!-- generated: ([a-z -]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


def redrawn(text: str) -> str:
    """The text of a page with every generated part as the code says it now. Raises KeyError for an unknown part."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]().strip()}\n\n{found[3]}", text)


def parts_of(text: str) -> list[str]:
    """The names of the generated parts of a page."""
    return [found[2] for found in _PART.finditer(text)]


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))
