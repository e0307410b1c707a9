"""Every fuzz target runs clean on its seeds and on a fixed set of mutations, and can fail."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import islice

import pytest

from fuzz import TARGETS
from fuzz.inputs import case_of, split
from fuzz.mutation import SIZE_MAX, fails, mutants, seeds_of, shrunk

MUTANTS = 200


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_mutants_run_clean(name: str) -> None:
    target = import_module(f"fuzz.{name}")
    check: Callable[[bytes], None] = target.check
    seeds = seeds_of(name)
    assert len(seeds) >= 5
    inputs = [*seeds, *islice(mutants(seeds, target.TOKENS, seed=1), MUTANTS)]
    failures = {data: failure for data in inputs if (failure := fails(check, data)) is not None}
    assert failures == {}


def test_mutants_are_reproducible_and_bounded() -> None:
    seeds, tokens = [b"x" * SIZE_MAX, b"short"], [b"token"]
    first = list(islice(mutants(seeds, tokens, seed=7), 50))
    assert first == list(islice(mutants(seeds, tokens, seed=7), 50))
    assert first != list(islice(mutants(seeds, tokens, seed=8), 50))
    assert max(map(len, first)) == SIZE_MAX
    assert len(set(first)) > 40


@pytest.mark.parametrize("how", range(256))
def test_a_split_loses_nothing(how: int) -> None:
    data = bytes(range(100))
    pieces = split(data, how)
    assert b"".join(pieces) == data
    assert all(pieces)
    assert len(pieces) == (100 if how < 2 else len(pieces))
    assert split(b"", how) == []


def test_a_short_input_is_a_case() -> None:
    assert [(case.options, case.pieces) for case in map(case_of, (b"", b"\x05", b"\x05\x01", b"\x05\x01ab"))] == [
        (0, []),
        (5, []),
        (5, []),
        (5, [b"a", b"b"]),
    ]


def test_a_failing_input_is_shrunk_to_what_fails() -> None:
    def check(data: bytes) -> None:
        assert b"bad" not in data, "found"

    assert fails(check, b"good") is None
    assert (fails(check, b"a bad one") or "").startswith("AssertionError: found")
    assert shrunk(check, b"a long and bad input " * 9) == b"bad"
