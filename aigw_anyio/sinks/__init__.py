"""Where usage facts go."""

from aigw_anyio.sinks.protocol import FactSink, SinkStats
from aigw_anyio.sinks.stdout import StdoutSink

__all__ = ["FactSink", "SinkStats", "StdoutSink"]
