"""The gateway on trio: the same machine as everywhere, on the stream driver of :mod:`aigw_anyio`."""

from __future__ import annotations

from aigw_anyio.cli import frontend_main
from aigw_trio.server import TrioDataPlane

__all__ = ["TrioDataPlane", "main"]


def main(argv: list[str] | None = None) -> int:
    """The command ``python -m aigw_trio``; returns the exit code."""
    return frontend_main(TrioDataPlane, "trio", argv, make_clock=_make_clock)


def _make_clock() -> object:
    # Trio may be missing, and who starts this is told so.
    from aigw_trio.clock import MonotonicClock

    return MonotonicClock()
