"""Every phase can be left, and everything leads back to where it began."""

from __future__ import annotations

from aigw_core.denystates import PHASES, FeedPhase


def test_every_phase_has_a_row_and_may_end() -> None:
    assert set(PHASES) == set(FeedPhase)
    assert all(FeedPhase.OFF in after for phase, after in PHASES.items() if phase is not FeedPhase.OFF)


def test_live_is_reached_by_checking_alone() -> None:
    assert [phase for phase, after in PHASES.items() if FeedPhase.WATCHING in after] == [FeedPhase.CHECKING]
