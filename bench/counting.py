"""Counts what a piece of Python does instead of timing it: the same code gives the same numbers on every machine."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from bench.core import READ_SIZE, Case

_OURS: Final = str(Path(__file__).resolve().parent) + os.sep
"""What drives the core is not counted. Whatever the core calls is, the standard library's Python included."""
PERIOD: Final = 64
"""Operations at least in a cycle; a multiple of what the core puts off to do together: each cycle does it as often."""
ROUNDS: Final = 2
"""Cycles of the longer of two runs. What both have in common, setting up and ending, is in neither figure."""

Counts = dict[str, int]
"""By the names in MEASURES."""
MEASURES: Final = {
    "bytecodes": "bytecode instructions executed",
    "calls": "calls, of Python functions and of C functions",
    "peak": "bytes allocated at the most at a time",
    "kept": "blocks of memory still allocated afterwards",
}


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OURS)


def bytecodes(work: Callable[[], object]) -> int:
    """Executed instructions of everything but this package."""
    count = 0

    def in_frame(_frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        return in_frame

    def on_call(frame: FrameType, _event: str, _: Any) -> Any:
        if _is_ours(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return in_frame

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def calls(work: Callable[[], object]) -> int:
    """Calls into or out of Python functions that are not of this package."""
    count = 0

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        if event in {"call", "c_call"} and not _is_ours(frame):
            count += 1

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def peak(work: Callable[[], object]) -> int:
    """Bytes beyond those at the beginning; what the interpreter keeps in free lists is not among them."""
    tracemalloc.start()
    try:
        # Once for the free lists, whose objects are as old as the first run.
        work()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def kept(work: Callable[[], object]) -> int:
    """Blocks that are there after it and were not before."""
    before = sys.getallocatedblocks()
    work()
    return sys.getallocatedblocks() - before


@contextmanager
def no_collector() -> Iterator[None]:
    """Its runs depend on what else was allocated in this process."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def cycle_of(case: Case) -> int:
    """PERIOD operations, or one stream with all its events."""
    return max(PERIOD, case.run(1))


def count(case: Case) -> Counts:
    """For one operation, but ``peak``, which is that of a few of them."""
    cycle = cycle_of(case)

    def run(cycles: int) -> Callable[[], object]:
        return lambda: case.run(cycles * cycle)

    def each(measure: Callable[[Callable[[], object]], int]) -> int:
        # A first run under the tracer: instructions get their hooks there, and some are counted twice meanwhile.
        measure(run(1))
        more = measure(run(ROUNDS)) - measure(run(1))
        return round(more / ((ROUNDS - 1) * cycle))

    with no_collector():
        # Caches, and the interpreter's specialisation.
        case.run(ROUNDS * cycle)
        return {"bytecodes": each(bytecodes), "calls": each(calls), "peak": peak(run(ROUNDS)), "kept": each(kept)}


def is_small(case: Case) -> bool:
    """Whether counting it is a matter of milliseconds; large bodies do the same work more often."""
    return case.size < READ_SIZE
