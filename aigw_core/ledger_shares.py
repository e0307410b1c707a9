"""How much of a ledger one tenant may hold: the room for facts that are due is shared, so nobody takes all of it."""

from __future__ import annotations

from typing import Final

SHARE_DIVISOR: Final = 4
"""A tenant may hold one part in this many of the room that others do not hold. A quarter leaves three quarters to
the second tenant's quarter, and so on: however many tenants fill their shares, there is room for one more."""


class LedgerShares:
    """Who holds the room of a ledger, in records that are open.

    A tenant's next record is admitted while, with it, the tenant holds at most a quarter of the room that nobody else
    holds. A tenant that holds nothing is always admitted: whether there is room at all is for the sink to say.
    """

    __slots__ = ("_held", "_holders")

    def __init__(self) -> None:
        self._holders: dict[str, int] = {}
        """Open record → its tenant."""
        self._held: dict[int, int] = {}
        """Tenant → how many records it holds; no entry for none, so that tenants of the past cost nothing."""

    def __len__(self) -> int:
        return len(self._holders)

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._holders

    def held_by(self, tenant_id: int) -> int:
        return self._held.get(tenant_id, 0)

    def take(self, record_id: str, tenant_id: int, room: int) -> bool:
        """Opens a record, or refuses it for its tenant's share.

        ``room``: the records that the whole ledger can hold at a time, those that are open included. Ids are unique.
        """
        held = self._held.get(tenant_id, 0)
        if held and SHARE_DIVISOR * (held + 1) > room - len(self._holders) + held:
            return False
        self._held[tenant_id] = held + 1
        self._holders[record_id] = tenant_id
        return True

    def release(self, record_id: str) -> None:
        """The record has its end, or was refused after all. Nothing happens for one that is not open."""
        tenant_id = self._holders.pop(record_id, None)
        if tenant_id is None:
            return
        held = self._held[tenant_id] - 1
        if held:
            self._held[tenant_id] = held
        else:
            del self._held[tenant_id]
