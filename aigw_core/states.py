"""The states of an exchange and of a connection, and every transition that is allowed.

Rules, in the order in which they matter:

1. A transition is an (state, event) pair of the tables below: ``state = TABLE[state][event]``. What is not
   in the table is an error of ours, raised at once as LocalProtocolError; peers cannot cause one.
2. ``ENDED`` and ``DONE`` are left by nothing.
3. Only ``OPENING`` may end by a void; from ``ADMITTED`` on every end of a managed exchange emits its fact.
4. No byte goes upstream before ``REQUESTING``; ``REQUESTING`` is reached from ``ADMITTED`` only.
5. After ``RESPONDING`` the final status is out: any later failure cuts, it never answers.

This file knows no bytes, no roles and no time. The diagram in the docs is drawn from these tables.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeVar

from aigw_core.errors import LocalProtocolError

_EventT = TypeVar("_EventT", bound=IntEnum)
_StateT = TypeVar("_StateT", bound=IntEnum)


class ExchangeState(IntEnum):
    """How far one request and its response have come."""

    NEW = 0
    """The head has not been judged."""
    OPENING = 1
    """Authorized; the sink has not yet answered for the open record. Managed callers only."""
    ADMITTED = 2
    """May go upstream; waits for a connection, or for a body that is collected."""
    REQUESTING = 3
    """The request head went upstream; no final response head yet."""
    RESPONDING = 4
    """The final response head went downstream."""
    DRAINING = 5
    """The caller left; the answer is read on for its usage."""
    ENDED = 6


class ExchangeEvent(IntEnum):
    """What moves an exchange on."""

    REJECT = 0
    """Refused before an open record was due."""
    AUTHORIZE = 1
    """Managed: the open record is due."""
    ADMIT = 2
    """BYO at once; managed when the sink accepted the open record."""
    VOID = 3
    """Ended while the open record was unanswered, or refused by the sink."""
    START = 4
    """The request head goes upstream."""
    RETRY = 5
    """The connection was of no use and nothing was lost: another one."""
    RESPOND = 6
    """The final head goes downstream."""
    DETACH = 7
    """The caller left and the answer is still wanted."""
    CONCLUDE = 8
    """Over, for whatever reason; the fact is due."""


class _Row(dict[_EventT, _StateT]):
    """The transitions of one state; what is not in it is an error of ours."""

    def __missing__(self, event: _EventT) -> _StateT:
        raise LocalProtocolError(f"{event.name} is not allowed here: {', '.join(e.name for e in self) or 'the end'}")


_S, _E = ExchangeState, ExchangeEvent

EXCHANGE_TABLE: dict[ExchangeState, _Row[ExchangeEvent, ExchangeState]] = {
    _S.NEW: _Row({_E.REJECT: _S.ENDED, _E.AUTHORIZE: _S.OPENING, _E.ADMIT: _S.ADMITTED}),
    _S.OPENING: _Row({_E.ADMIT: _S.ADMITTED, _E.VOID: _S.ENDED}),
    _S.ADMITTED: _Row({_E.START: _S.REQUESTING, _E.CONCLUDE: _S.ENDED}),
    _S.REQUESTING: _Row(
        {
            _E.RESPOND: _S.RESPONDING,
            _E.RETRY: _S.ADMITTED,
            _E.DETACH: _S.DRAINING,
            _E.CONCLUDE: _S.ENDED,
        }
    ),
    _S.RESPONDING: _Row({_E.DETACH: _S.DRAINING, _E.CONCLUDE: _S.ENDED}),
    _S.DRAINING: _Row({_E.CONCLUDE: _S.ENDED}),
    _S.ENDED: _Row({}),
}


class ConnectionState(IntEnum):
    """What a downstream connection is busy with."""

    IDLE = 0
    """No byte of a next request has arrived."""
    HEAD = 1
    """Part of a request head has arrived."""
    EXCHANGE = 2
    """An exchange runs; further requests wait."""
    DISCARDING = 3
    """Refused; the declared rest of that body is read and dropped, then the connection goes on."""
    LINGERING = 4
    """Half-closed by us; input is dropped so that the caller gets to read our last answer."""
    DETACHED = 5
    """The caller is gone; the exchange drains."""
    DONE = 6


class ConnectionEvent(IntEnum):
    """What moves a connection on."""

    BYTES = 0
    """The first byte of a head."""
    REQUEST = 1
    """A head is complete, or refused."""
    NEXT = 2
    """The exchange is over and the connection can carry another."""
    DISCARD = 3
    """The exchange is over, but a bounded rest of its body is still to come."""
    LINGER = 4
    """Close in order."""
    LEAVE = 5
    """The caller left and the exchange goes on."""
    CLOSE = 6
    """Over at once: aborted, lost, or lingered long enough."""


_C, _V = ConnectionState, ConnectionEvent

CONNECTION_TABLE: dict[ConnectionState, _Row[ConnectionEvent, ConnectionState]] = {
    _C.IDLE: _Row({_V.BYTES: _C.HEAD, _V.LINGER: _C.LINGERING, _V.CLOSE: _C.DONE}),
    _C.HEAD: _Row({_V.REQUEST: _C.EXCHANGE, _V.LINGER: _C.LINGERING, _V.CLOSE: _C.DONE}),
    _C.EXCHANGE: _Row(
        {
            _V.NEXT: _C.IDLE,
            _V.DISCARD: _C.DISCARDING,
            _V.LINGER: _C.LINGERING,
            _V.LEAVE: _C.DETACHED,
            _V.CLOSE: _C.DONE,
        }
    ),
    _C.DISCARDING: _Row({_V.NEXT: _C.IDLE, _V.LINGER: _C.LINGERING, _V.CLOSE: _C.DONE}),
    _C.LINGERING: _Row({_V.CLOSE: _C.DONE}),
    _C.DETACHED: _Row({_V.CLOSE: _C.DONE}),
    _C.DONE: _Row({}),
}

# Every member under a name of this module: code that runs for each input says `states.OPENING`, because looking a
# member up on its class runs through a hook of the enum's metaclass in CPython 3.11 (165 ns against 10).
NEW: Final = ExchangeState.NEW
OPENING: Final = ExchangeState.OPENING
ADMITTED: Final = ExchangeState.ADMITTED
REQUESTING: Final = ExchangeState.REQUESTING
RESPONDING: Final = ExchangeState.RESPONDING
DRAINING: Final = ExchangeState.DRAINING
ENDED: Final = ExchangeState.ENDED

REJECT: Final = ExchangeEvent.REJECT
AUTHORIZE: Final = ExchangeEvent.AUTHORIZE
ADMIT: Final = ExchangeEvent.ADMIT
VOID: Final = ExchangeEvent.VOID
START: Final = ExchangeEvent.START
RETRY: Final = ExchangeEvent.RETRY
RESPOND: Final = ExchangeEvent.RESPOND
DETACH: Final = ExchangeEvent.DETACH
CONCLUDE: Final = ExchangeEvent.CONCLUDE

IDLE: Final = ConnectionState.IDLE
HEAD: Final = ConnectionState.HEAD
EXCHANGE: Final = ConnectionState.EXCHANGE
DISCARDING: Final = ConnectionState.DISCARDING
LINGERING: Final = ConnectionState.LINGERING
DETACHED: Final = ConnectionState.DETACHED
DONE: Final = ConnectionState.DONE

BYTES: Final = ConnectionEvent.BYTES
REQUEST: Final = ConnectionEvent.REQUEST
NEXT: Final = ConnectionEvent.NEXT
DISCARD: Final = ConnectionEvent.DISCARD
LINGER: Final = ConnectionEvent.LINGER
LEAVE: Final = ConnectionEvent.LEAVE
CLOSE: Final = ConnectionEvent.CLOSE
