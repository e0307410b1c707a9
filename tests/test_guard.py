"""The work of the core's hot paths, counted and not timed, against what was accepted; and whether that can fail."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from aigw_core.connection import Connection
from bench import counting, guard
from bench.core import Case, make_cases
from bench.counting import count, is_small

ROOT = Path(__file__).resolve().parent.parent
GUARD_SECS = 120
"""It takes one or two."""


class FallenBudget(UserWarning):
    """A budget is wider than it need be; no failure."""


@pytest.mark.filterwarnings("default::tests.test_guard.FallenBudget")
def test_hot_paths_do_no_more_work_than_was_accepted() -> None:
    command = [sys.executable, "-m", "bench.guard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=GUARD_SECS, check=False)
    assert done.stderr == ""
    if done.returncode == guard.EXIT_NO_BUDGET:
        pytest.skip(done.stdout.strip())
    if done.returncode != 0:
        pytest.fail(done.stdout, pytrace=False)
    if "less work" in done.stdout:
        warnings.warn(FallenBudget(done.stdout), stacklevel=1)


def _case(name: str) -> Case:
    return next(case for case in make_cases() if case.name == name)


def test_counting_gives_the_same_each_time() -> None:
    case = _case("JSON exchange, managed")
    first, second = count(case), count(case)
    assert set(first) == set(counting.MEASURES)
    assert first["bytecodes"] > first["calls"] > 0
    # Free lists leave some hundred bytes to chance.
    assert 1_500 < first.pop("peak") == pytest.approx(second.pop("peak"), rel=0.05)
    assert first == second


def test_needless_work_in_the_core_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _case("JSON exchange, BYO (no Meter, no fact)")
    before = {case.name: count(case)}
    receive, hoard = Connection.receive_upstream, []

    def slower(self: Connection, attempt: int, data: bytes, now: float) -> Any:
        for number in range(1_000):
            hash(number)
        hoard.append(bytearray(100_000))
        return receive(self, attempt, data, now)

    monkeypatch.setattr(Connection, "receive_upstream", slower)
    verdict = guard.judge(before, {case.name: count(case)})
    assert [line.partition(":")[2].split()[0] for line in verdict.failed] == ["bytecodes", "calls", "peak", "kept"]
    text = guard.explain(verdict)
    assert f"{case.name}: bytecodes {before[case.name]['bytecodes']:,} -> " in text
    assert guard.ACCEPT in text


def test_a_growth_of_a_tenth_is_the_limit() -> None:
    accepted = {"case": {"bytecodes": 1_000, "kept": 0}}
    for bytecodes, kept, failed, fallen in (
        (1_100, 0, [], []),
        (1_101, 0, ["case: bytecodes 1,000 -> 1,101 (+10.1 %)"], []),
        (900, 0, [], []),
        (899, 0, [], ["case: bytecodes 1,000 -> 899 (-10.1 %)"]),
        (1_000, 1, ["case: kept 0 -> 1 (from nothing)"], []),
    ):
        verdict = guard.judge(accepted, {"case": {"bytecodes": bytecodes, "kept": kept}})
        assert (verdict.failed, verdict.fallen) == (failed, fallen)
    for peak, is_over in ((1_323, False), (1_324, True), (5, False)):
        verdict = guard.judge({"case": {"peak": 272}}, {"case": {"peak": peak}})
        assert (bool(verdict.failed), verdict.fallen) == (is_over, [])
    assert guard.explain(guard.judge(accepted, accepted)) == ""
    assert "Keep it so" in guard.explain(guard.Verdict(fallen=["x"]))


def test_cases_and_budgets_are_the_same_ones() -> None:
    verdict = guard.judge({"gone": {"calls": 1}}, {"new": {"calls": 1}})
    assert verdict.failed == ["gone: is no case any more", "new: has no budget yet"]
    names = [case.name for case in make_cases() if is_small(case)]
    for version, figures in guard.read_budgets().items():
        assert list(figures) == names, version


def test_accepting_leaves_other_versions_alone(tmp_path: Path) -> None:
    path = tmp_path / "budgets.json"
    old = {"3.9": {"a": {"calls": 1}}, "3.11": {"a": {"calls": 2}}}
    guard.accept(old, path)
    guard.accept({"3.11": {"b": {"calls": 3}}, "3.10": {"b": {"calls": 4}}}, path)
    expected = {"3.9": old["3.9"], "3.10": {"b": {"calls": 4}}, "3.11": {"b": {"calls": 3}}}
    assert json.loads(path.read_text()) == guard.read_budgets(path) == expected
    assert list(guard.read_budgets(path)) == list(expected)


def test_budgets_are_written_as_they_are_committed(tmp_path: Path) -> None:
    path = tmp_path / "budgets.json"
    guard.accept(guard.read_budgets(), path)
    assert path.read_text() == guard.BUDGETS.read_text()


def test_a_version_without_a_budget_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "_run_alone", lambda python: {guard.VERSION: {}})
    monkeypatch.setattr(guard, "read_budgets", dict)
    assert guard.main([]) == guard.EXIT_NO_BUDGET
    assert f"nothing for Python {guard.VERSION}; {guard.ACCEPT} adds it" in capsys.readouterr().out
