"""What a scenario asks of a rig, and what it is told: one caller, any number of provider connections, controls."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from aigw_core.denyset import DenyReason


@dataclass(frozen=True, slots=True)
class Ended:
    """A peer's side of a connection is over."""

    orderly: bool
    """False: reset."""


@dataclass(frozen=True, slots=True)
class CallerConnect:
    """Open the caller's connection to the driver; a second one replaces the first."""


@dataclass(frozen=True, slots=True)
class CallerSend:
    """Send as the driver takes it, behind what was given before; does not wait."""

    data: bytes


@dataclass(frozen=True, slots=True)
class CallerEnd:
    """Half-close, once everything given before is sent."""


@dataclass(frozen=True, slots=True)
class CallerReset:
    """Close with RST, now."""


@dataclass(frozen=True, slots=True)
class CallerReceive:
    """Wait for bytes from the driver: ``bytes`` (some, not empty), or Ended."""


@dataclass(frozen=True, slots=True)
class ProviderAccept:
    """Wait for the driver's next connection to the provider. The first one is number 0."""


@dataclass(frozen=True, slots=True)
class ProviderSend:
    """As CallerSend, on this connection."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ProviderEnd:
    """As CallerEnd, on this connection."""

    number: int


@dataclass(frozen=True, slots=True)
class ProviderReset:
    """Close with RST, now."""

    number: int


@dataclass(frozen=True, slots=True)
class ProviderReceive:
    """As CallerReceive, on this connection."""

    number: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until nothing moves any more: neither what was given to be sent, nor the driver."""


@dataclass(frozen=True, slots=True)
class AwaitLedger:
    """Wait until the ledger's condition holds: ``opened`` records, ``ended`` of them."""

    opened: int
    ended: int


@dataclass(frozen=True, slots=True)
class AnswerFact:
    """The sink answers the open record that it held back last."""

    accepted: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """``drain()`` on the driver's machine."""


@dataclass(frozen=True, slots=True)
class Cut:
    """``cut(reason)`` on the driver's machine."""

    reason: DenyReason | None


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel the driver, as a server does that stops at once, and wait until it is gone."""


Command = (
    CallerConnect
    | CallerSend
    | CallerEnd
    | CallerReset
    | CallerReceive
    | ProviderAccept
    | ProviderSend
    | ProviderEnd
    | ProviderReset
    | ProviderReceive
    | Settle
    | AwaitLedger
    | AnswerFact
    | Drain
    | Cut
    | Stop
)

Script = Generator[Command, Any, None]
"""A scenario under way. What it is sent is the answer to the command that it yielded last."""
