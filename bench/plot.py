"""Draws the ratios of a run as SVG, from the JSON that it wrote: ``python -m bench.plot FILE.json FILE.svg``.

One row for each target: from the least to the greatest ratio of the rounds, a dot at the median. The axis is
logarithmic: half and twice are equally far from the line at 1. Text is text, colours follow the scheme of the reader.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.modes import COLUMNS
from bench.report import Column, Entry, Spread

MODES: Final = {
    "json": "JSON exchange",
    "connect": "Request on a new connection",
    "sse": "Event streams",
    "body": "Large bodies",
    "mem": "Memory",
}
OURS: Final = "aigw"
"""Targets of this name, and its variants, have a colour of their own."""
DIRECT: Final = "direct"
"""No server, so it has no cost to be drawn."""

_WIDTH: Final = 860
_LEFT, _RIGHT = 130, 560
"""Of the axis; names stand left of it, figures right."""
_RATIO_X: Final = 640
_RANGE_X: Final = 740
_FIGURE_X: Final = 840
_TOP: Final = 92
_ROW: Final = 20
_HEADING: Final = 34
_TICKS: Final = tuple(factor * 10.0**power for power in range(-4, 5) for factor in (1, 2, 5))

_STYLE: Final = """\
text { font: 13px sans-serif; fill: #1f2328; }
.title { font-size: 17px; font-weight: bold; }
.heading { font-weight: bold; }
.dim { fill: #59636e; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.ground { fill: #ffffff; }
.tick { stroke: #d1d9e0; }
.one { stroke: #59636e; stroke-dasharray: 4 3; }
.range { stroke: #818b98; stroke-width: 4; stroke-linecap: round; }
.dot { fill: #59636e; }
.ours.range { stroke: #54a3ff; }
.ours.dot { fill: #0550ae; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
.dim { fill: #9198a1; }
.ground { fill: #0d1117; }
.tick { stroke: #3d444d; }
.one { stroke: #9198a1; }
.range { stroke: #656c76; }
.dot { fill: #b7bdc8; }
.ours.range { stroke: #1f6feb; }
.ours.dot { fill: #a5d6ff; }
}"""


@dataclass(frozen=True, slots=True)
class Line:
    """One target in one panel."""

    target: str
    ratio: Spread
    figure: float
    """The median itself."""
    digits: int

    @property
    def is_ours(self) -> bool:
        return self.target == OURS or self.target.startswith(f"{OURS}-")


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure of one mode and variant."""

    heading: str
    lines: list[Line]


def panels(document: Mapping[str, Any]) -> list[Panel]:
    """What is drawn of a run, in its order; ratios that have no place on the axis are left out."""
    found = []
    for mode, result in document["modes"].items():
        summary: Mapping[str, Entry] = result["summary"]
        variants = dict.fromkeys(name.partition(" | ")[2] for name in summary)
        for variant in variants:
            for column in COLUMNS[mode]:
                lines = list(_lines(summary, variant, column)) if column.plotted else []
                if lines:
                    words = ", ".join(filter(None, (MODES[mode], _words(variant))))
                    found.append(Panel(f"{words}: {column.heading}", lines))
    return found


def _lines(summary: Mapping[str, Entry], variant: str, column: Column) -> Iterator[Line]:
    for name, entry in summary.items():
        target, _, its_variant = name.partition(" | ")
        ratio = entry["ratios"].get(column.key)
        if target != DIRECT and its_variant == variant and ratio is not None and ratio["min"] > 0:
            yield Line(target, ratio, entry["figures"][column.key]["median"], column.digits)


def _words(variant: str) -> str:
    kind, equals, number = variant.partition("=")
    if not equals:
        return variant
    noun = {"c": "connection", "streams": "stream"}[kind]
    return f"{int(number):,} {noun}{'' if number == '1' else 's'}"


def number(value: float) -> str:
    """Three digits of a ratio."""
    return f"{value:.{2 if value >= 0.1 else 3}f}" if value < 10 else f"{value:.1f}"


class _Axis:
    """Logarithmic, over all that is drawn and 1."""

    def __init__(self, ratios: list[float]) -> None:
        self.low = max((tick for tick in _TICKS if tick <= min([*ratios, 0.5])), default=_TICKS[0])
        self.high = min((tick for tick in _TICKS if tick >= max([*ratios, 2.0])), default=_TICKS[-1])
        self.ticks = [tick for tick in _TICKS if self.low <= tick <= self.high]

    def x(self, ratio: float) -> float:
        share = math.log(ratio / self.low) / math.log(self.high / self.low)
        return _LEFT + (_RIGHT - _LEFT) * min(max(share, 0.0), 1.0)


def draw(document: Mapping[str, Any]) -> str:
    """The whole SVG of a document of ``bench.run``."""
    drawn, baseline = panels(document), str(document["baseline"])
    axis = _Axis([value for panel in drawn for line in panel.lines for value in (line.ratio["min"], line.ratio["max"])])
    height = _TOP + sum(_HEADING + _ROW * len(panel.lines) for panel in drawn) + 24
    title = f"Cost beside that of {baseline}"
    rounds = f"min, median and max of {document['rounds']} rounds, each as a ratio within its round; less is better"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}: {escape(rounds)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}"/>',
        _text(20, 30, title, "title"),
        _text(20, 52, rounds, "dim"),
        *(_text(x, 80, heading, "dim end") for x, heading in _headings(baseline)),
    ]
    for tick in axis.ticks:
        x = axis.x(tick)
        kind = "one" if tick == 1 else "tick"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{height - 16}"/>')
        parts.append(_text(x, 80, f"{tick:g}", "dim middle"))
    y = _TOP
    for panel in drawn:
        # On a ground of its own: the lines of the axis must not strike it through.
        parts.append(f'<rect class="ground" x="16" y="{y + 6}" width="{_RIGHT}" height="22"/>')
        parts.append(_text(20, y + 22, panel.heading, "heading"))
        y += _HEADING
        for line in panel.lines:
            parts += _row(line, axis, y + _ROW / 2)
            y += _ROW
    return "\n".join([*parts, "</svg>"]) + "\n"


def _headings(baseline: str) -> list[tuple[int, str]]:
    return [(_RATIO_X, f"/ {baseline}"), (_RANGE_X, "min … max"), (_FIGURE_X, "median")]


def _row(line: Line, axis: _Axis, y: float) -> list[str]:
    low, middle, high = line.ratio["min"], line.ratio["median"], line.ratio["max"]
    ours = "ours " if line.is_ours else ""
    return [
        _text(_LEFT - 12, y + 4, line.target, "end"),
        f'<line class="{ours}range" x1="{axis.x(low):.1f}" y1="{y:g}" x2="{axis.x(high):.1f}" y2="{y:g}"/>',
        f'<circle class="{ours}dot" cx="{axis.x(middle):.1f}" cy="{y:g}" r="5"/>',
        _text(_RATIO_X, y + 4, number(middle), "heading end"),
        _text(_RANGE_X, y + 4, f"{number(low)} … {number(high)}", "dim end"),
        _text(_FIGURE_X, y + 4, f"{line.figure:,.{line.digits}f}", "dim end"),
    ]


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.6g}" y="{y:g}">{escape(text)}</text>'


def main(argv: list[str] | None = None) -> int:
    """Writes the plot; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.plot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("document", type=Path, help="what bench.run --json has written")
    parser.add_argument("svg", type=Path)
    arguments = parser.parse_args(argv)
    arguments.svg.write_text(draw(json.loads(arguments.document.read_text())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
