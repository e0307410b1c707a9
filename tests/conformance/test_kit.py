"""The kit notices what it is for: each of these drivers is wrong in one way, and at least one scenario says so."""

from __future__ import annotations

from typing import Any

import pytest

from aigw_core.effects import CloseDownstream, OpenFact, SendDownstream, SendUpstream, VoidFact
from aigw_core.testing import SCENARIOS, MemoryRig, memory, play
from aigw_core.testing import commands as c
from aigw_core.testing.watch import Effects


class Forgetful(MemoryRig):
    """Does not give up properly."""

    def close(self) -> None:
        self.watch.check()
        self.ledger.check()

    def _stop(self, _: c.Stop) -> None:
        self._let_go()


class Greedy(MemoryRig):
    """Does not tell the machine of full queues."""

    def _edge(self, pipe: Any) -> None:
        pass


class Impatient(MemoryRig):
    """Feeds the sink's answer before the other effects are carried out."""

    def _open_fact(self, effect: OpenFact) -> None:
        if self.ledger.open(effect.record):
            self._run(self._machine.fact_opened(effect.record.id, self.now))


class Lossy(MemoryRig):
    """Loses the last byte of each longer write."""

    def _send_downstream(self, effect: SendDownstream) -> None:
        super()._send_downstream(SendDownstream(effect.data[: max(1, len(effect.data) - 1)]))


class Polite(MemoryRig):
    """Ends what was cut in an orderly way."""

    def _close_downstream(self, effect: CloseDownstream) -> None:
        super()._close_downstream(effect)
        if self._down.closed is not None:
            self._down.closed = c.Ended(True)


class Thrifty(MemoryRig):
    """Uses idle connections whatever has become of them."""

    def _pump_up(self, pipe: Any) -> bool:
        return not pipe.idle and super()._pump_up(pipe)


class Wasteful(MemoryRig):
    """Does not tell the sink of voids."""

    def _void_fact(self, effect: VoidFact) -> None:
        pass


class Timeless(MemoryRig):
    """Never fires a timer."""

    def _wait(self, condition: Any, what: str) -> None:
        self._pump()
        assert condition(), what


class Deaf(MemoryRig):
    """Does not hear callers leave."""

    def _caller_reset(self, _: c.CallerReset) -> None:
        pass


class Hasty(MemoryRig):
    """Closes without sending what is queued."""

    def _close_downstream(self, effect: CloseDownstream) -> None:
        self._down.to_peer.clear()
        super()._close_downstream(effect)


class Mixed(MemoryRig):
    """Sends to the latest connection, whichever was meant."""

    def _send_upstream(self, effect: SendUpstream) -> None:
        self._ups[0].to_peer += effect.data


WRONG = [Forgetful, Greedy, Impatient, Lossy, Polite, Thrifty, Wasteful, Timeless, Deaf, Hasty, Mixed]


def _verdicts(rig_class: type[MemoryRig], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The scenarios that find something wrong."""
    for table in (memory._EFFECTS, memory._COMMANDS):
        names = {kind: method.__name__ for kind, method in table.items()}
        monkeypatch.setattr(memory, "_EFFECTS" if table is memory._EFFECTS else "_COMMANDS", _Late(names))
    failed = set()
    for scenario in SCENARIOS:
        rig = rig_class(scenario)
        try:
            play(scenario, rig.ledger, rig.do)
            rig.close()
        except (AssertionError, IndexError):
            failed.add(scenario.name)
    return failed


class _Late(dict[Any, Any]):
    """Finds methods on the object, so that a subclass's own is called."""

    def __getitem__(self, kind: Any) -> Any:
        name = super().__getitem__(kind)
        return lambda rig, argument: getattr(rig, name)(argument)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.__name__)
def test_a_driver_that_is_wrong_is_found_out(wrong: type[MemoryRig], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _verdicts(wrong, monkeypatch)


def test_the_right_driver_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _verdicts(MemoryRig, monkeypatch) == set()


def test_names_are_unique() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)


def test_effects_know_when_they_are_carried_out() -> None:
    effects = Effects([VoidFact("1"), VoidFact("2")])
    for _ in effects:
        assert not effects.carried_out
    assert effects.carried_out
    by_number = Effects([VoidFact("1"), VoidFact("2")])
    assert by_number[0] == VoidFact("1")
    assert not by_number.carried_out
    assert by_number[1] == VoidFact("2")
    assert by_number.carried_out
