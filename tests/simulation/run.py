"""Many worlds one after the other; a failing one is made smaller, and its replay command printed."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.canaries import CANARIES, applied
from tests.simulation.faults import Fault
from tests.simulation.world import World

EPOCH_EXCHANGES: Final = 1_000
"""Exchanges of one gateway before it drains."""
LINES: Final = 200
"""Connections at the same time."""


@dataclass(frozen=True)
class Case:
    """All that a replay needs."""

    seed: int
    exchanges: int = EPOCH_EXCHANGES
    lines: int = LINES
    without: frozenset[Fault] = frozenset()

    @property
    def command(self) -> str:
        flags = f"--epoch {self.seed} --exchanges {self.exchanges} --lines {self.lines}"
        flags += "".join(f" --without {fault}" for fault in sorted(self.without))
        return f"python -m tests.simulation {flags}"


@dataclass
class Totals:
    exchanges: int = 0
    relayed: int = 0
    steps: int = 0
    tally: Counter[Fault] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        return self.relayed / max(1, self.exchanges)


def play(case: Case, totals: Totals | None = None) -> str | None:
    """What is wrong, or None. Whatever a world raises counts."""
    world = World(case.seed, case.exchanges, case.lines, case.without)
    failure = None
    try:
        world.run()
    except Exception as error:  # noqa: BLE001  # any other exception out of the core is a finding as well
        failure = f"{type(error).__name__}: {error}"
    if totals is not None:
        totals.exchanges += world.judged
        totals.relayed += world.relayed
        totals.steps += world.steps
        totals.tally += world.tally
    return failure


def epoch_seed(seed: int, epoch: int) -> int:
    return seed * 1_000_003 + epoch


def search(exchanges: int, seed: int, totals: Totals, *, lines: int = LINES) -> tuple[Case, str] | None:
    """Plays until so many exchanges were judged; the first failure, or None."""
    epoch = 0
    while totals.exchanges < exchanges:
        case = Case(epoch_seed(seed, epoch), min(EPOCH_EXCHANGES, max(50, exchanges - totals.exchanges)), lines)
        failure = play(case, totals)
        if failure is not None:
            return case, failure
        epoch += 1
    return None


def smaller(case: Case) -> tuple[Case, str]:
    """A smaller case that fails as well: fewer exchanges, fewer connections, fewer kinds of fault."""
    failure = play(case) or ""
    for lines in (1, 2, 5, 20, 60):
        for exchanges in (3, 10, 40, 150, 500):
            if exchanges < case.exchanges and lines < case.lines:
                candidate = Case(case.seed, exchanges, lines)
                found = play(candidate)
                if found is not None:
                    return _with_fewer_faults(candidate, found)
    return _with_fewer_faults(case, failure)


def _with_fewer_faults(case: Case, failure: str) -> tuple[Case, str]:
    for fault in Fault:
        candidate = Case(case.seed, case.exchanges, case.lines, case.without | {fault})
        found = play(candidate)
        if found is not None:
            case, failure = candidate, found
    return case, failure


def main() -> int:
    options = _arguments()
    with applied(options.canary):
        if options.epoch is not None:
            without = frozenset(Fault(name) for name in options.without)
            case = Case(options.epoch, options.exchanges, options.lines, without)
            if options.traceback:
                World(case.seed, case.exchanges, case.lines, case.without).run()
            failure = play(case)
            print(failure or "passes")
            return int(failure is not None)
        return _search(options)


def _search(options: argparse.Namespace) -> int:
    totals = Totals()
    # The time of this process alone: what else the machine does is no property of the harness.
    started = time.process_time()
    found = search(options.exchanges, options.seed, totals, lines=options.lines)
    seconds = time.process_time() - started
    print(_report(totals, seconds))
    if found is None:
        return 0
    case, failure = found
    broken = f" --canary {options.canary}" if options.canary else ""
    print(f"\nFAILED: {failure}\nreplay: {case.command}{broken}")
    if not options.no_shrink:
        case, failure = smaller(case)
        print(f"smaller: {case.command}{broken}\n  {failure}")
    return 1


def _report(totals: Totals, seconds: float) -> str:
    lines = [
        f"{totals.exchanges} exchanges, {totals.steps} inputs, {seconds:.1f} s of CPU: "
        f"{totals.exchanges / max(seconds, 0.001) * 60:.0f} exchanges a minute",
        f"reached the relay: {totals.relayed} ({totals.share:.1%})",
    ]
    lines += [f"  {fault.value:<24}{totals.tally[fault]:>10}" for fault in Fault]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--exchanges", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lines", type=int, default=LINES, help="connections at the same time")
    parser.add_argument("--epoch", type=int, help="replay the world of this seed alone")
    parser.add_argument("--without", action="append", default=[], help="leave out a kind of fault")
    parser.add_argument("--canary", choices=sorted(CANARIES), help="break the core in this way first")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a smaller failing case")
    parser.add_argument("--traceback", action="store_true", help="let a replayed failure raise")
    return parser.parse_args()
