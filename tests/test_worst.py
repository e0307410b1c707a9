"""The most expensive byte of every parser, found by search and counted in instructions; and whether that can fail."""

from __future__ import annotations

import gc
import os
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st

from aigw_core.http1 import bodies
from bench import guard, worst
from bench.worst import instructions, limit_of, search, worst_of
from bench.worst_cases import Parser, make_parsers

PARSERS: Final = make_parsers()
SEARCHED: Final = int(os.environ.get("AIGW_WORST_EXAMPLES", "8"))
"""Units that are tried for each parser; thousands where somebody looks for a new worst case."""
UNIT_MAX: Final = 6
SMALL: Final = 4_096
"""Bytes of an input that is only searched with."""


def _named(parsers: list[Parser]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("parser", parsers, ids=lambda parser: parser.name)


@_named(PARSERS)
def test_the_worst_found_stays_within_its_limit(parser: Parser) -> None:
    ordinary = instructions(parser, parser.ordinary)
    found = worst_of(parser, instructions)
    limit = limit_of(parser, ordinary)
    assert found.cost <= limit, f"{found.unit!r}: {found.cost:.2f} instructions a byte, {limit:.2f} are allowed"


@_named(PARSERS)
def test_a_search_finds_nothing_worse(parser: Parser) -> None:
    """Hypothesis is told the cost of each unit, and prefers what costs more."""
    limit = limit_of(parser, instructions(parser, parser.ordinary))

    @settings(
        max_examples=SEARCHED,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.target],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.sampled_from(parser.tokens), min_size=1, max_size=UNIT_MAX))
    def look(tokens: list[bytes]) -> None:
        cost = instructions(parser, parser.filled(b"".join(tokens)))
        target(cost)
        assert cost <= limit, f"{b''.join(tokens)!r}: {cost:.2f} instructions a byte, {limit:.2f} are allowed"

    look()


def test_every_limit_of_its_own_has_a_reason() -> None:
    assert [parser.name for parser in PARSERS if bool(parser.limit) is not bool(parser.why)] == []


def test_a_search_is_the_same_each_time_and_finds_what_costs_more() -> None:
    parser = next(parser for parser in PARSERS if parser.name == "chunk extensions")
    cheap = Parser(parser.name, parser.read, parser.ordinary, b"", b"", parser.tokens, (b"\r\n",), size=SMALL)
    first, second = (search(cheap, instructions, steps=60, seed=1) for _ in range(2))
    assert first == second
    assert first.cost > 10 * worst_of(cheap, instructions).cost


def test_what_the_collector_calls_is_not_counted() -> None:
    """Hypothesis, for one, has it call a function."""
    parser = next(parser for parser in PARSERS if parser.name == "anthropic-beta")
    quiet = instructions(parser, parser.ordinary)
    threshold = gc.get_threshold()
    called: list[str] = []

    def callback(phase: str, _: dict[str, int]) -> None:
        called.append(phase)

    gc.callbacks.append(callback)
    gc.set_threshold(1)
    try:
        counted = instructions(parser, parser.ordinary)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(callback)
    assert called, "the collector ran"
    assert counted == quiet


def test_a_parser_that_takes_a_step_for_each_byte_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As chunks of one byte were read once, each by itself."""
    monkeypatch.setattr(bodies, "_TINY_MAX", 0)
    assert [line.partition(":")[0] for line in worst.judge()] == ["chunks"]


def test_the_guard_reports_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bodies, "_TINY_MAX", 0)
    assert guard.main(["--worst"]) == guard.EXIT_GROWN
    assert "chunks: b'1" in capsys.readouterr().out
    monkeypatch.undo()
    assert guard.main(["--worst"]) == 0
