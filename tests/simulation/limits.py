"""Bounds of the harness itself."""

from typing import Final

BYTEWISE_MAX: Final = 450
"""Bytes of a message that are sent one by one: each is an input, so long ones would be most of a run."""
TRANSCRIPT_MAX: Final = 30
"""Inputs of a connection that are kept for whoever reads a failure."""
