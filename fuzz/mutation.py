"""The engine for interpreters without atheris: seeded mutations of the committed seeds, reproducible, no feedback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

SIZE_MAX: Final = 4_096
"""Bytes of one input, as libFuzzer's default."""
_EDITS_MAX: Final = 6
_SHRINK_CALLS_MAX: Final = 5_000
_SEEDS: Final = Path(__file__).parent / "seeds"


def seeds_of(target: str) -> list[bytes]:
    """The committed seeds, in the order of their names."""
    return [path.read_bytes() for path in sorted((_SEEDS / target).iterdir())]


def mutants(seeds: Sequence[bytes], tokens: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Inputs without end; equal arguments give equal inputs."""
    choices = Random(seed)
    while True:
        data = bytearray(choices.choice(seeds))
        for _ in range(choices.randint(1, _EDITS_MAX)):
            _edit(data, choices, seeds, tokens)
        yield bytes(data[:SIZE_MAX])


def _edit(data: bytearray, choices: Random, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    at = choices.randint(0, len(data))
    end = min(len(data), at + choices.choice((1, 1, 2, 4, 16, 64)))
    kind = choices.randrange(8)
    if kind == 0:
        data[at:end] = b""
    elif kind == 1:
        data[at:end] = data[at:end] * 2
    elif kind == 2:
        data[at:at] = choices.choice(tokens)
    elif kind == 3:
        data[at:end] = choices.choice(tokens)
    elif kind == 4:
        data[at:at] = choices.randbytes(choices.randint(1, 4))
    elif kind == 5:
        other = choices.choice(seeds)
        data[at:] = other[choices.randint(0, len(other)) :]
    elif kind == 6:
        data[: min(2, len(data))] = choices.randbytes(min(2, len(data)))
    elif at < len(data):
        data[at] ^= 1 << choices.randrange(8)


def fails(check: Callable[[bytes], None], data: bytes) -> str | None:
    """What the check raises on this input, by class and text; None where it passes."""
    try:
        check(data)
    except Exception as error:  # noqa: BLE001  # any exception out of the core is a finding
        return f"{type(error).__name__}: {error}"
    return None


def shrunk(check: Callable[[bytes], None], data: bytes) -> bytes:
    """A shorter input that raises the same class with the same first line."""
    wanted = _kind(fails(check, data))
    calls, size = 0, len(data) // 2
    while size:
        at = 0
        while at < len(data) and calls < _SHRINK_CALLS_MAX:
            shorter = data[:at] + data[at + size :]
            calls += 1
            if _kind(fails(check, shorter)) == wanted:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _kind(failure: str | None) -> str:
    return (failure or "").partition("\n")[0]
