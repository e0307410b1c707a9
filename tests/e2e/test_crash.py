"""kill -9 at random moments: every request that reached the provider has exactly one fact."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.e2e.crash import (
    KILLS,
    CountingProvider,
    Load,
    check_ledger,
    check_verified,
    facts_in,
    spool_environment,
    start,
)
from tests.e2e.provider import Provider


def test_killed_again_and_again(backend: str, provider: Provider, tmp_path: Path) -> None:
    environ = spool_environment(provider, tmp_path / "spool")
    load = Load(CountingProvider(provider), seed=1)
    dice = random.Random(1)
    gateway = load.target = start(backend, environ)
    load.start()
    for _ in range(KILLS):
        time.sleep(dice.uniform(0.0, 0.6))
        load.kill(gateway)
        gateway = load.target = start(backend, environ)
    time.sleep(0.3)
    load.stop()
    assert gateway.stop() == 0
    assert gateway.faults() == []
    check_ledger(load, facts_in(tmp_path / "spool"), check_verified(tmp_path / "spool"))
