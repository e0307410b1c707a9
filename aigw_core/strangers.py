"""Makes those wait whose own keys providers keep refusing, so that junk keys do not leave from our address.

A machine without a clock and without chance. It knows whose credentials a provider accepted lately, and which
credentials and addresses it refused; both up to a bound, the oldest forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

REFUSALS_MAX: Final = 4
"""Refusals that cost nothing: somebody who sets up a client tries a few times."""
FIRST_WAIT_SECS: Final = 1.0
"""The wait after one refusal more; each that follows doubles it."""
LONGEST_WAIT_SECS: Final = 60.0
"""The longest wait: clients of some SDKs sleep through it, and whoever has a good key at last gets through soon."""
FORGOTTEN_SECS: Final = 120.0
"""Seconds after the end of a wait in which another refusal goes on with the doubling: twice the longest wait."""
ACCEPTED_SECS: Final = 3_600.0
"""How long a credential that worked is beyond doubt: longer than people pause."""
ACCEPTED_MAX: Final = 16_384
"""Credentials remembered as good, about 200 bytes each. Only a provider's success enters one."""
WAITING_MAX: Final = 16_384
"""Credentials and addresses remembered as refused, about 300 bytes each; entries are made no faster than the limit
for all BYO callers lets requests pass, so that a wait is not washed away before it is over."""

REFUSED_STATUS: Final = 401
FORBIDDEN_STATUS: Final = 403
_KEY_NAMES: Final = (b"api key", b"api_key", b"apikey", b"api-key", b"access key", b"credential", b"authentication")
"""What a 403 says that is about the key and not about what the key may do."""
JUDGED_SIZE: Final = 4_096
"""Bytes of a 403's body that are looked at: errors of providers have some hundreds."""


@dataclass(slots=True)
class Wait:
    """The refusals of one credential or address, as long as they are not forgotten."""

    refusals: int = 0
    since: float = float("-inf")
    """When the latest wait began: what was sent by then says nothing new."""
    until: float = 0.0


class Strangers:
    """What providers said of callers' own keys.

    ``credential`` is a keyed hash of the provider's name and the credential, ``address`` one of the caller's address;
    without an address only credentials are made to wait. A credential that was accepted lately never waits, whatever
    else comes from its address, and its own refusals say nothing of that address.
    """

    __slots__ = ("_accepted", "waits")

    def __init__(self) -> None:
        self._accepted: OrderedDict[bytes, float] = OrderedDict()
        self.waits: OrderedDict[bytes, Wait] = OrderedDict()
        """Who was refused. To be asked whether it is empty, which it mostly is."""

    @property
    def known(self) -> tuple[int, int]:
        """How many credentials are remembered as accepted, and how many credentials and addresses as refused."""
        return len(self._accepted), len(self.waits)

    def wait(self, credential: bytes, address: bytes | None, now: float) -> float:
        """Seconds that a request must wait for; 0 lets it pass."""
        if not self.waits or self._is_accepted(credential, now):
            return 0.0
        until = now
        for key in (credential, address):
            entry = self.waits.get(key) if key is not None else None
            if entry is not None and entry.until > until:
                until = entry.until
        return until - now

    def accepted(self, credential: bytes, now: float) -> None:
        """The provider did what was asked with this credential."""
        accepted = self._accepted
        accepted[credential] = now
        accepted.move_to_end(credential)
        if len(accepted) > ACCEPTED_MAX:
            accepted.popitem(last=False)
        if self.waits:
            self.waits.pop(credential, None)

    def refused(self, credential: bytes, address: bytes | None, began: float, now: float) -> None:
        """The provider refused this credential, in an exchange that began at ``began``."""
        if self._is_accepted(credential, now):
            return
        is_new = credential not in self.waits
        self._count(credential, began, now)
        if is_new and address is not None:
            # The same wrong key again is one caller's mistake; one wrong key after the other is somebody who tries.
            self._count(address, began, now)

    def _count(self, key: bytes, began: float, now: float) -> None:
        entry = self.waits.get(key)
        if entry is None or now >= entry.until + FORGOTTEN_SECS:
            entry = self.waits[key] = Wait(until=now)
        elif began <= entry.since:
            return
        self.waits.move_to_end(key)
        entry.refusals += 1
        entry.until = now
        over = entry.refusals - REFUSALS_MAX
        if over > 0:
            entry.since = now
            # An exponent beyond what the limit can show would only overflow.
            entry.until = now + min(LONGEST_WAIT_SECS, FIRST_WAIT_SECS * 2.0 ** min(over - 1, 16))
        if len(self.waits) > WAITING_MAX:
            self.waits.popitem(last=False)

    def _is_accepted(self, credential: bytes, now: float) -> bool:
        at = self._accepted.get(credential)
        return at is not None and now < at + ACCEPTED_SECS


def names_the_key(body: bytes) -> bool:
    """Whether the beginning of a 403's body speaks of the key, not of what it may do."""
    text = body[:JUDGED_SIZE].lower()
    return any(name in text for name in _KEY_NAMES)
