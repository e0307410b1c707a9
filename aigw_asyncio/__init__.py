"""The reference server: aigw on asyncio protocols."""

from __future__ import annotations

from aigw_anyio.cli import frontend_main
from aigw_asyncio.server import AsyncioDataPlane

__all__ = ["AsyncioDataPlane", "main"]


def main(argv: list[str] | None = None) -> int:
    """The command ``python -m aigw_asyncio``; returns the exit code."""
    return frontend_main(AsyncioDataPlane, "asyncio", argv)
