"""Where usage facts go."""

from aigw_anyio.sinks.protocol import BaseSink, FactSink, SinkError, SinkStats
from aigw_anyio.sinks.stdout import StdoutSink

__all__ = ["BaseSink", "FactSink", "SinkError", "SinkStats", "StdoutSink"]
