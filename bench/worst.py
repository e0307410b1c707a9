"""Looks for the most expensive input of each parser: ``python -m bench.worst``.

A seeded search over units of grammar tokens, each repeated to some reads' worth of bytes, keeps what costs most a byte:
in bytecode instructions, which are the same on every machine, or with ``--by ns`` in time, where work done in C counts.
What it finds beyond the committed cases of ``bench.worst_cases`` belongs there. ``bench.guard`` counts these.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from bench.counting import bytecodes, no_collector
from bench.worst_cases import FREE, RATIO_MAX, Parser, make_parsers

STEPS: Final = 200
"""Mutants of one search."""
KEPT: Final = 6
"""Units that mutants are made of."""
TOKENS_MAX: Final = 12
"""Tokens of one unit."""
RUNS: Final = 3
"""Timed runs, of which the shortest counts."""

Cost = Callable[[Parser, bytes], float]
"""Of one byte of this input."""


def instructions(parser: Parser, data: bytes) -> float:
    """Bytecode instructions a byte; the same each time."""
    sent = parser.prepare(data)
    parser.read(sent)
    with no_collector():
        return bytecodes(lambda: parser.read(sent)) / len(data)


def nanoseconds(parser: Parser, data: bytes) -> float:
    """Time a byte, on this machine and now."""
    sent = parser.prepare(data)
    best = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        parser.read(sent)
        best = min(best, time.perf_counter() - began)
    return best * 1e9 / len(data)


def limit_of(parser: Parser, ordinary: float) -> float:
    """Instructions a byte that the most expensive input may take."""
    return parser.limit or max(FREE, RATIO_MAX * ordinary)


@dataclass(frozen=True, slots=True)
class Found:
    """The most expensive unit of a parser."""

    cost: float
    unit: bytes


def worst_of(parser: Parser, cost: Cost) -> Found:
    """Of the committed cases."""
    return max((Found(cost(parser, parser.filled(unit)), unit) for unit in parser.worst), key=lambda found: found.cost)


def search(parser: Parser, cost: Cost, *, steps: int = STEPS, seed: int = 0) -> Found:
    """The most expensive unit after so many mutants; the committed cases are where it begins."""
    choices = Random(seed)
    units: list[tuple[bytes, ...]] = [(unit,) for unit in parser.worst]
    kept = sorted(((cost(parser, parser.filled(b"".join(unit))), unit) for unit in units), reverse=True)[:KEPT]
    seen = set(units)
    for _ in range(steps):
        unit = _mutant(choices.choice(kept)[1], choices, parser.tokens)
        if not b"".join(unit) or unit in seen:
            continue
        seen.add(unit)
        kept = sorted([*kept, (cost(parser, parser.filled(b"".join(unit))), unit)], reverse=True)[:KEPT]
    best, unit = kept[0]
    return Found(best, b"".join(unit))


def _mutant(unit: tuple[bytes, ...], choices: Random, tokens: tuple[bytes, ...]) -> tuple[bytes, ...]:
    made = list(unit)
    for _ in range(choices.randint(1, 3)):
        at = choices.randint(0, len(made))
        kind = choices.randrange(4)
        if kind == 0:
            made.insert(at, choices.choice(tokens))
        elif kind == 1:
            made[at : at + 1] = [choices.choice(tokens)]
        elif kind == 2:
            made[at : at + 1] = []
        else:
            made[at:at] = made[at : at + 2]
    return tuple(made[:TOKENS_MAX])


def judge() -> Iterator[str]:
    """A line for each parser whose committed cases exceed their limit."""
    for parser in make_parsers():
        ordinary = instructions(parser, parser.ordinary)
        found = worst_of(parser, instructions)
        limit = limit_of(parser, ordinary)
        if found.cost > limit:
            yield (
                f"{parser.name}: {found.unit!r} takes {found.cost:.2f} instructions a byte, {limit:.2f} are allowed"
                f" (ordinary: {ordinary:.2f})"
            )


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit code: 1 where something found exceeds its limit."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.worst", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="mutants for each parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by", choices=("instructions", "ns"), default="instructions", help="what is made large")
    parser.add_argument("--only", default="", help="parsers whose name contains this text")
    arguments = parser.parse_args(argv)
    cost = nanoseconds if arguments.by == "ns" else instructions
    exceeded = False
    print(f"{'':24}{'instructions a byte':>30}{'ns a byte':>30}")
    print(f"{'':24}{'ordinary':>10}{'worst':>10}{'ratio':>10}{'ordinary':>10}{'worst':>10}{'ratio':>10}  unit")
    for each in make_parsers():
        if arguments.only not in each.name:
            continue
        found = search(each, cost, steps=arguments.steps, seed=arguments.seed)
        data = each.filled(found.unit)
        counted, timed = (
            (measure(each, each.ordinary), measure(each, data)) for measure in (instructions, nanoseconds)
        )
        columns = "".join(f"{one:>10.2f}{two:>10.2f}{two / one:>10.1f}" for one, two in (counted, timed))
        over = counted[1] > limit_of(each, counted[0])
        exceeded |= over
        print(f"{each.name:24}{columns}  {found.unit!r}{'  TOO MUCH' if over else ''}", flush=True)
    return 1 if exceeded else 0


if __name__ == "__main__":
    raise SystemExit(main())
