"""The gateway as its users meet it: a real process, real sockets, real SDKs, real TLS."""

from typing import Final

DEADLINE: Final = 60.0
"""Seconds after which a wait has failed. Generous: what is waited for takes milliseconds."""
