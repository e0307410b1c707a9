"""How far the upstream connection of an exchange's current attempt has come."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Leg(IntEnum):
    """The upstream connection of the current attempt."""

    NONE = 0
    CONNECTING = 1
    READY = 2
    """Connected; no byte of this exchange went over it."""
    BUSY = 3
    RELEASED = 4


# As in states.py.
NONE: Final = Leg.NONE
CONNECTING: Final = Leg.CONNECTING
READY: Final = Leg.READY
BUSY: Final = Leg.BUSY
RELEASED: Final = Leg.RELEASED
