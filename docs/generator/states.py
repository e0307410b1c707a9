"""The state diagrams, drawn from the live transition tables, and the timers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar

from aigw_core.policy import Timeouts
from aigw_core.states import (
    CONNECTION_TABLE,
    EXCHANGE_TABLE,
    ConnectionEvent,
    ConnectionState,
    ExchangeEvent,
    ExchangeState,
)
from aigw_core.timers import Timer
from docs.generator.markdown import code, member_docs, table

_StateT = TypeVar("_StateT", bound=IntEnum)
_EventT = TypeVar("_EventT", bound=IntEnum)


def exchange_diagram() -> str:
    return _diagram(EXCHANGE_TABLE, ExchangeState.NEW)


def connection_diagram() -> str:
    return _diagram(CONNECTION_TABLE, ConnectionState.IDLE)


def exchange_states() -> str:
    return _words(ExchangeState, ExchangeEvent)


def connection_states() -> str:
    return _words(ConnectionState, ConnectionEvent)


def _diagram(transitions: Mapping[_StateT, Mapping[_EventT, _StateT]], start: IntEnum) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start.name}"]
    for state, events in transitions.items():
        lines += [f"    {state.name} --> {target.name}: {event.name}" for event, target in events.items()]
        if not events:
            lines.append(f"    {state.name} --> [*]")
    return "\n".join([*lines, "```"])


def _words(states: type[IntEnum], events: type[IntEnum]) -> str:
    state_docs, event_docs = member_docs(states), member_docs(events)
    state_rows = [(code(state.name), state_docs.get(state.name, "Left by nothing.")) for state in states]
    event_rows = [(code(event.name), event_docs[event.name]) for event in events]
    return f"{table(('state', 'meaning'), state_rows)}\n\n{table(('event', 'meaning'), event_rows)}"


_TIMERS = {
    Timer.CLIENT_HEAD: (
        "client_head",
        "no complete request head",
        "408 and close; closed in silence before the first byte",
    ),
    Timer.CLIENT_WRITE: ("client_write", "the caller does not read", "cut"),
    Timer.KEEPALIVE: ("keepalive", "no further request on an idle connection", "closed"),
    Timer.LINGER: ("linger", "a half-closed caller still sends or does not close", "closed"),
    Timer.CLIENT_BODY: ("client_body", "silence in a request body", "408, or a cut"),
    Timer.CLIENT_UPLOAD: ("client_upload", "a request body that takes too long in all", "408, or a cut"),
    Timer.OPENING: ("opening", "no answer of the fact sink", "503 without a fact"),
    Timer.CONNECT: ("connect", "no connection: look-up, connect and TLS with all retries", "504"),
    Timer.UPSTREAM_WRITE: ("upstream_write", "the provider does not read", "504, or a cut"),
    Timer.READ: ("read", "no final response head after the request", "504"),
    Timer.STREAM_IDLE: ("stream_idle", "silence in a response body", "cut"),
    Timer.USAGE_DRAIN: ("usage_drain", "the answer of a caller who left does not end", "given up"),
}


def timers() -> str:
    """Every named timer, in the order of the enum."""
    defaults = {field.name: field.default for field in dataclasses.fields(Timeouts)}
    rows = []
    for timer in Timer:
        name, fires, then = _TIMERS[timer]
        rows.append((code(timer.name), f"{defaults.pop(name):g} s", fires, then))
    assert not defaults, f"timeouts without a timer: {defaults}"
    return table(("timer", "default", "fires on", "then"), rows)
