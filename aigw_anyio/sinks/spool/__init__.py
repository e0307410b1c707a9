"""Facts in segment files on disk."""

from aigw_anyio.sinks.spool.options import SpoolOptions
from aigw_anyio.sinks.spool.sink import SpoolSink

__all__ = ["SpoolOptions", "SpoolSink"]
