"""Rounds in, medians and ratios out, as Markdown and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

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


def label(target: str, variant: str) -> str:
    """How results are keyed: a baseline is compared within its variant only."""
    return f"{target} | {variant}" if variant else target


def summarise(
    results: Mapping[str, Sequence[Row]], columns: Sequence[Column], *, baseline: str | None
) -> dict[str, Entry]:
    """``results`` maps labels to rounds. A ratio is taken within each round, then spread over the rounds."""
    summary: dict[str, Entry] = {}
    for name, rows in results.items():
        variant = name.partition(" | ")[2]
        base = results.get(label(baseline, variant), []) if baseline is not None else []
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
