"""Fuzz targets: one module each, with a pure `check(data)` that raises AssertionError on a violation."""

from __future__ import annotations

from typing import Final

TARGETS: Final = (
    "sse",
    "scanner",
    "decoding",
    "meter",
    "request_body",
    "request_head",
    "response_head",
    "chunked",
    "virtual_key",
    "spool",
    "deny_entry",
    "snapshot",
    "configuration",
    "connection",
)
"""Module names in this package; seeds of each are in `seeds/<name>/`."""
