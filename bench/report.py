"""Rounds in, medians and ratios out, as Markdown and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

Row = dict[str, float | None]
"""The figures of one round, by key; None where there is none."""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of the table."""

    heading: str
    key: str
    digits: int = 1
    compared: bool = False
    """Whether its ratio to the baseline is shown."""
    plotted: bool = False
    """Whether that ratio is drawn: the figures that say most, of which less is better."""


class Spread(TypedDict):
    """Over the rounds."""

    min: float
    median: float
    max: float


class Entry(TypedDict):
    """One line of the table."""

    rounds: int
    figures: dict[str, Spread]
    ratios: dict[str, Spread]


def spread(values: Sequence[float]) -> Spread:
    """Raises StatisticsError without values."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


TLS: Final = "-tls"
"""What the names of targets end in that speak TLS to the provider."""
DIGITS: Final = 5
"""Significant ones, in files: more than any figure has."""


def as_json(document: object, indent: int = 0) -> str:
    """JSON for files that are committed: what holds no other table is one line."""
    if isinstance(document, float):
        return json.dumps(float(f"{document:.{DIGITS}g}"))
    inner = "\n" + " " * (indent + 1)
    if isinstance(document, Mapping):
        pieces = [f"{json.dumps(name)}: {as_json(value, indent + 1)}" for name, value in document.items()]
        return "{" + _joined(pieces, inner, document.values()) + "}"
    if isinstance(document, list | tuple):
        return "[" + _joined([as_json(value, indent + 1) for value in document], inner, document) + "]"
    return json.dumps(document)


def _joined(pieces: Sequence[str], inner: str, values: Iterable[object]) -> str:
    if any(isinstance(value, Mapping | list | tuple) for value in values):
        return inner + f",{inner}".join(pieces) + inner[:-1]
    return ", ".join(pieces)


def label(target: str, variant: str) -> str:
    """How results are keyed: a baseline is compared within its variant only."""
    return f"{target} | {variant}" if variant else target


def summarise(
    results: Mapping[str, Sequence[Row]], columns: Sequence[Column], *, baseline: str | None
) -> dict[str, Entry]:
    """``results`` maps labels to rounds. A ratio is taken within each round, then spread over the rounds."""
    summary: dict[str, Entry] = {}
    for name, rows in results.items():
        base = _baseline_of(name, results, baseline) if baseline is not None else []
        entry: Entry = {"rounds": len(rows), "figures": {}, "ratios": {}}
        for column in columns:
            key = column.key
            values = [value for row in rows if (value := row.get(key)) is not None]
            if values:
                entry["figures"][key] = spread(values)
            if not column.compared:
                continue
            pairs = zip((row.get(key) for row in rows), (row.get(key) for row in base), strict=False)
            ratios = [mine / other for mine, other in pairs if mine is not None and other]
            if ratios:
                entry["ratios"][key] = spread(ratios)
        summary[name] = entry
    return summary


def _baseline_of(name: str, results: Mapping[str, Sequence[Row]], baseline: str) -> Sequence[Row]:
    """Of the same variant; with TLS to the provider that of the same work, where it was measured."""
    target, _, variant = name.partition(" | ")
    same = label(f"{baseline}{TLS}", variant)
    return results[same] if target.endswith(TLS) and same in results else results.get(label(baseline, variant), [])


def table(
    summary: Mapping[str, Entry], columns: Sequence[Column], *, baseline: str | None, first: str = "target"
) -> str:
    """Markdown; cells are min / **median** / max, or one number where all print alike."""
    shown = [column for column in columns if any(column.key in entry["figures"] for entry in summary.values())]
    headings = [first]
    for column in shown:
        headings.append(column.heading)
        if column.compared and baseline is not None:
            headings.append(f"/ {baseline}")
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    for name in _by_variant(summary):
        entry = summary[name]
        cells = [name.replace(" | ", ", ")]
        for column in shown:
            cells.append(_cell(entry["figures"].get(column.key), column.digits))
            if column.compared and baseline is not None:
                cells.append(_cell(entry["ratios"].get(column.key), 2))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _by_variant(summary: Mapping[str, Entry]) -> list[str]:
    variants = list(dict.fromkeys(name.partition(" | ")[2] for name in summary))
    return sorted(summary, key=lambda name: variants.index(name.partition(" | ")[2]))


def _cell(values: Spread | None, digits: int) -> str:
    if values is None:
        return "-"
    low, middle, high = (f"{value:,.{digits}f}" for value in (values["min"], values["median"], values["max"]))
    return middle if low == high else f"{low} / **{middle}** / {high}"
