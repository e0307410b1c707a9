"""The version of the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("aigw")
except PackageNotFoundError:
    # A source tree on the import path, not installed.
    VERSION = "0+source"
