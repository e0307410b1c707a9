"""How the targets read one fuzz input: an option byte, a split byte, and the bytes under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from types import ModuleType
from unittest.mock import patch

SINGLE_BYTES_MAX = 512
"""Bytes split one by one; longer inputs would spend the budget on calls."""


@dataclass(frozen=True, slots=True)
class Case:
    """One decoded fuzz input."""

    options: int
    """0 to 255; every target gives the bits a meaning of its own."""
    data: bytes
    pieces: list[bytes]
    """`data` in the split that the second byte of the input asks for; never an empty piece."""


def case_of(raw: bytes) -> Case:
    """Missing bytes of the prefix count as zero."""
    options = raw[0] if raw else 0
    data = raw[2:]
    return Case(options, data, split(data, raw[1] if len(raw) > 1 else 0))


def split(data: bytes, how: int) -> list[bytes]:
    """0: single bytes; odd: pieces of `how // 2 + 1` bytes; even: up to eight cuts drawn from `how` as a seed."""
    size = len(data)
    if how == 0 and size <= SINGLE_BYTES_MAX:
        cuts = list(range(size))
    elif how % 2:
        cuts = list(range(0, size, how // 2 + 1))
    else:
        choices = Random(how)
        cuts = sorted({int(choices.random() * size) for _ in range(1 + how // 2 % 8)})
    bounds = [0, *(cut for cut in cuts if cut), size]
    return [data[start:end] for start, end in pairwise(bounds) if start < end]


@contextmanager
def limits(*changes: tuple[ModuleType, str, int]) -> Iterator[None]:
    """Replaces named limits while the block runs: inputs of some kilobytes reach what production sizes hide."""
    with ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(patch.object(module, name, value))
        yield
