"""A fact sink in memory that checks what is promised to it."""

from __future__ import annotations

from typing import Literal

from aigw_core.facts import OpenRecord, UsageFact

Answering = Literal["accept", "refuse", "hold"]
"""What becomes of an open record: both at once, or an answer that comes later, if it comes."""


class Ledger:
    """Synchronous, and used from the driver's thread. Violations of the contract raise AssertionError there."""

    def __init__(self, answering: Answering = "accept") -> None:
        self.answering: Answering = answering
        self.opened: list[OpenRecord] = []
        self.facts: list[UsageFact] = []
        self.voids: list[str] = []
        self.refused: list[str] = []
        self.held: list[str] = []
        """Ids that wait for an answer."""

    def open(self, record: OpenRecord) -> bool | None:
        """True: accepted. False: refused. None: the answer comes later."""
        assert record.id not in [known.id for known in self.opened], "an id is opened once"
        self.opened.append(record)
        if self.answering == "hold":
            self.held.append(record.id)
            return None
        if self.answering == "refuse":
            self.refused.append(record.id)
        return self.answering == "accept"

    def answer(self, accepted: bool) -> str:
        """Decides about the record that was held back last; its id, for ``fact_opened`` or ``fact_refused``."""
        fact_id = self.held.pop()
        if not accepted:
            self.refused.append(fact_id)
        return fact_id

    def emit(self, fact: UsageFact) -> None:
        assert fact.id in self.owed, "a fact ends a record that is open"
        assert fact.id not in self.held, "nobody is served before the sink has answered"
        self.facts.append(fact)

    def void(self, fact_id: str) -> None:
        assert fact_id in self.owed, "a void ends a record that is open"
        if fact_id in self.held:
            self.held.remove(fact_id)
        self.voids.append(fact_id)

    @property
    def ended(self) -> set[str]:
        return {*self.voids, *self.refused, *[fact.id for fact in self.facts]}

    @property
    def owed(self) -> list[str]:
        """Ids without their end."""
        ended = self.ended
        return [record.id for record in self.opened if record.id not in ended]

    def check(self) -> None:
        """Every open record has exactly one end. Raises AssertionError."""
        ends = [*self.voids, *self.refused, *[fact.id for fact in self.facts]]
        assert sorted(ends) == sorted(record.id for record in self.opened), "each record has exactly one end"
