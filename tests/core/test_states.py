"""The transition tables: every pair, every end."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from itertools import product

import pytest

from aigw_core import states
from aigw_core.errors import LocalProtocolError
from aigw_core.states import (
    CONNECTION_TABLE,
    EXCHANGE_TABLE,
    ConnectionEvent,
    ConnectionState,
    ExchangeEvent,
    ExchangeState,
)

S, E, C, V = ExchangeState, ExchangeEvent, ConnectionState, ConnectionEvent

# Written out, so that a change of a table is a change of this test as well.
EXCHANGE = {
    (S.NEW, E.REJECT): S.ENDED,
    (S.NEW, E.AUTHORIZE): S.OPENING,
    (S.NEW, E.ADMIT): S.ADMITTED,
    (S.OPENING, E.ADMIT): S.ADMITTED,
    (S.OPENING, E.VOID): S.ENDED,
    (S.ADMITTED, E.START): S.REQUESTING,
    (S.ADMITTED, E.CONCLUDE): S.ENDED,
    (S.REQUESTING, E.RESPOND): S.RESPONDING,
    (S.REQUESTING, E.RETRY): S.ADMITTED,
    (S.REQUESTING, E.DETACH): S.DRAINING,
    (S.REQUESTING, E.CONCLUDE): S.ENDED,
    (S.RESPONDING, E.DETACH): S.DRAINING,
    (S.RESPONDING, E.CONCLUDE): S.ENDED,
    (S.DRAINING, E.CONCLUDE): S.ENDED,
}
CONNECTION = {
    (C.IDLE, V.BYTES): C.HEAD,
    (C.IDLE, V.LINGER): C.LINGERING,
    (C.IDLE, V.CLOSE): C.DONE,
    (C.HEAD, V.REQUEST): C.EXCHANGE,
    (C.HEAD, V.LINGER): C.LINGERING,
    (C.HEAD, V.CLOSE): C.DONE,
    (C.EXCHANGE, V.NEXT): C.IDLE,
    (C.EXCHANGE, V.DISCARD): C.DISCARDING,
    (C.EXCHANGE, V.LINGER): C.LINGERING,
    (C.EXCHANGE, V.LEAVE): C.DETACHED,
    (C.EXCHANGE, V.CLOSE): C.DONE,
    (C.DISCARDING, V.NEXT): C.IDLE,
    (C.DISCARDING, V.LINGER): C.LINGERING,
    (C.DISCARDING, V.CLOSE): C.DONE,
    (C.LINGERING, V.CLOSE): C.DONE,
    (C.DETACHED, V.CLOSE): C.DONE,
}


@pytest.mark.parametrize(("state", "event"), list(product(ExchangeState, ExchangeEvent)), ids=lambda one: one.name)
def test_every_pair_of_an_exchange(state: ExchangeState, event: ExchangeEvent) -> None:
    if (state, event) in EXCHANGE:
        assert EXCHANGE_TABLE[state][event] is EXCHANGE[state, event]
    else:
        with pytest.raises(LocalProtocolError, match=event.name):
            EXCHANGE_TABLE[state][event]


@pytest.mark.parametrize(("state", "event"), list(product(ConnectionState, ConnectionEvent)), ids=lambda one: one.name)
def test_every_pair_of_a_connection(state: ConnectionState, event: ConnectionEvent) -> None:
    if (state, event) in CONNECTION:
        assert CONNECTION_TABLE[state][event] is CONNECTION[state, event]
    else:
        with pytest.raises(LocalProtocolError, match=event.name):
            CONNECTION_TABLE[state][event]


Graph = Mapping[IntEnum, set[IntEnum]]
"""The states that follow each state."""


def reachable(graph: Graph, start: IntEnum) -> set[IntEnum]:
    seen, todo = {start}, [start]
    while todo:
        for state in graph[todo.pop()]:
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return seen


EXCHANGES: Graph = {state: {*row.values()} for state, row in EXCHANGE_TABLE.items()}
CONNECTIONS: Graph = {state: {*row.values()} for state, row in CONNECTION_TABLE.items()}


@pytest.mark.parametrize(
    ("graph", "states", "start", "end"),
    [(EXCHANGES, ExchangeState, S.NEW, S.ENDED), (CONNECTIONS, ConnectionState, C.IDLE, C.DONE)],
    ids=["exchange", "connection"],
)
def test_every_state_is_reached_and_reaches_the_end(
    graph: Graph, states: type[IntEnum], start: IntEnum, end: IntEnum
) -> None:
    assert set(graph) == set(states)
    assert reachable(graph, start) == set(states)
    assert not graph[end], "the end is left by nothing"
    for state in states:
        assert end in reachable(graph, state)


def test_the_rules_that_the_tables_promise() -> None:
    def into(state: ExchangeState) -> set[ExchangeState]:
        return {before for (before, _), after in EXCHANGE.items() if after is state}

    assert {state for state, event in EXCHANGE if event is E.VOID} == {S.OPENING}
    assert into(S.REQUESTING) == {S.ADMITTED}, "no byte goes upstream before admission"
    assert E.RESPOND not in EXCHANGE_TABLE[S.RESPONDING], "a final status is sent once"
    assert {event for state, event in EXCHANGE if EXCHANGE[state, event] is S.ENDED and state >= S.ADMITTED} == {
        E.CONCLUDE
    }, "from admission on the only end is the one that emits the fact"


@pytest.mark.parametrize("members", [S, E, C, V], ids=lambda one: one.__name__)
def test_every_member_stands_in_the_module_under_its_name(members: type[IntEnum]) -> None:
    assert all(getattr(states, member.name) is member for member in members)
