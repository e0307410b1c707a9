"""No sequence of faults leaves the gateway serving who is cut off or refusing who is restored, once calm.

``AIGW_CHAOS_ROUNDS`` and ``AIGW_CHAOS_SEED`` set the length and the seed, ``AIGW_CHAOS_BOUND_SECS`` the bound for
writes while nothing is wrong (1 on a quiet machine). A failure names the seed and tells what was done in the round.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.nats.chaos import Chaos, report

ROUNDS: Final = int(os.environ.get("AIGW_CHAOS_ROUNDS", "8"))
SEED: Final = int(os.environ.get("AIGW_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
BOUND_SECS: Final = float(os.environ.get("AIGW_CHAOS_BOUND_SECS", "10"))


# The harness's own client leaves the streams of servers that were killed to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*StreamWriter:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_history_safe", [False, True])
def test_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str], is_history_safe: bool) -> None:
    chaos = Chaos(tmp_path, SEED, bound_secs=BOUND_SECS, is_history_safe=is_history_safe)
    try:
        # Half of the rounds without the reconcile, which must not be what finds a lost entry.
        for reconcile in (None, 0.5):
            chaos.reconcile = reconcile
            chaos.start_gateway()
            for number in range(ROUNDS // 2):
                try:
                    chaos.round()
                except AssertionError as error:
                    raise AssertionError(f"seed {SEED}, reconcile {reconcile}, round {number}") from error
            chaos.stop_gateway(signal.SIGTERM)
    finally:
        chaos.close()
        with capsys.disabled():
            print(f"\nchaos: {report(chaos)}")
    assert chaos.tally["rounds"] == ROUNDS // 2 * 2
