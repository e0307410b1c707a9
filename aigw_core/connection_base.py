"""From the effects of an exchange to the bytes of a connection, and every way to close it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aigw_core import states, timers
from aigw_core.effects import (
    Close,
    CloseDownstream,
    Connect,
    CutResponse,
    Effect,
    EmitFact,
    ExchangeEffect,
    OpenFact,
    ReleaseUpstream,
    SendDownstream,
    SendInformational,
    SendRequestBody,
    SendRequestEnd,
    SendRequestHead,
    SendResponseBody,
    SendResponseEnd,
    SendResponseHead,
    SendUpstream,
    VoidFact,
)
from aigw_core.exchange import Exchange
from aigw_core.http1.bodies import BodyReader, LengthReader
from aigw_core.http1.memo import HeadMemo
from aigw_core.http1.upstream import ResponseReader
from aigw_core.http1.writing import LAST_CHUNK, chunk, request_head_bytes, response_head_bytes
from aigw_core.messages import Chunked, RequestHead
from aigw_core.states import CONNECTION_TABLE, ConnectionEvent, ConnectionState
from aigw_core.timers import Timer, Timers

if TYPE_CHECKING:
    from aigw_core.gateway import Gateway
PIPELINE_MAX: Final = 65_536
"""Bytes of further requests that wait behind a running one; past it ``wants_downstream`` is False."""
DISCARD_MAX: Final = 262_144
"""Declared rest of a refused body that is read and dropped to keep the connection."""
LINGER_MAX: Final = 1_048_576
"""Bytes dropped while lingering, so that the caller gets to read our answer instead of a reset."""


class ConnectionBase:
    """The state of one connection and its output; :class:`aigw_core.connection.Connection` adds the inputs."""

    __slots__ = (
        "__weakref__",
        "_body_reader",
        "_buffer",
        "_chunked_downstream",
        "_chunked_upstream",
        "_close_after",
        "_discarded",
        "_down",
        "_downstream_blocked",
        "_eof",
        "_exchange",
        "_gateway",
        "_keep_alive",
        "_last_attempt",
        "_memo",
        "_out",
        "_request",
        "_response_open",
        "_searched",
        "_state",
        "_timers",
        "_up",
        "_upstream",
        "context",
    )

    def __init__(self, gateway: Gateway, now: float) -> None:
        self._gateway = gateway
        gateway.stats.connections_total += 1
        self.context: object = None
        """For the driver's own use."""
        self._state: ConnectionState = states.IDLE
        self._timers = Timers()
        self._timers.set(timers.CLIENT_HEAD, now + gateway.policy.timeouts.client_head)
        self._buffer = bytearray()
        self._searched = 0
        self._memo = HeadMemo()
        self._request: RequestHead | None = None
        self._body_reader: BodyReader | None = None
        self._exchange: Exchange | None = None
        self._upstream: ResponseReader | None = None
        self._keep_alive: float | None = None
        self._last_attempt = 0
        self._close_after = False
        self._chunked_downstream = False
        self._chunked_upstream = False
        self._response_open = False
        self._downstream_blocked = False
        self._discarded = 0
        self._eof = False
        self._out: list[Effect] = []
        self._down: list[bytes] = []
        self._up: list[bytes] = []

    # What a driver reads

    @property
    def state(self) -> ConnectionState:
        return self._state

    @property
    def done(self) -> bool:
        return self._state is states.DONE

    @property
    def busy(self) -> bool:
        """An exchange runs."""
        return self._state in (states.EXCHANGE, states.DETACHED)

    @property
    def deadline(self) -> tuple[float, Timer] | None:
        return self._timers.deadline

    @property
    def wake_at(self) -> float:
        return self._timers.wake_at

    @property
    def wants_downstream(self) -> bool:
        if self._state is not states.EXCHANGE:
            return True
        if self._body_reader is not None:
            return self._exchange is None or self._exchange.wants_request_body
        return len(self._buffer) < PIPELINE_MAX

    @property
    def wants_upstream(self) -> bool:
        return not self._downstream_blocked or self._state is states.DETACHED

    # From exchange effects to bytes

    def _carry(self, effects: list[ExchangeEffect], now: float) -> None:
        """Translates; then, if the exchange is over, decides what becomes of the connection."""
        cut = False
        for effect in effects:
            if type(effect) is SendResponseBody:
                # By far the most frequent one: an event of a stream.
                self._down.append(chunk(effect.data) if self._chunked_downstream else effect.data)
            elif type(effect) is CutResponse:
                cut = True
            else:
                _TRANSLATE[type(effect)](self, effect)
        exchange = self._exchange
        if self._up and exchange is not None:
            up, self._up = self._up, []
            if not exchange.ended:
                self._out.append(SendUpstream(exchange.attempt, up[0] if len(up) == 1 else b"".join(up)))
        if exchange is not None and exchange.ended and self._state in (states.EXCHANGE, states.DETACHED):
            self._after_exchange(exchange, cut, now)

    def _pass(self, effect: OpenFact | VoidFact | Connect) -> None:
        self._out.append(effect)

    def _emit_fact(self, effect: EmitFact) -> None:
        self._out.insert(0, effect)

    def _release_upstream(self, effect: ReleaseUpstream) -> None:
        if self._keep_alive is not None:
            effect.idle_timeout = min(effect.idle_timeout, self._keep_alive)
        self._upstream = None
        self._out.append(effect)

    def _send_request_body(self, effect: SendRequestBody) -> None:
        self._up.append(chunk(effect.data) if self._chunked_upstream else effect.data)

    def _send_request_end(self, _: SendRequestEnd) -> None:
        if self._chunked_upstream:
            self._up.append(LAST_CHUNK)

    def _send_response_end(self, _: SendResponseEnd) -> None:
        if self._chunked_downstream:
            self._down.append(LAST_CHUNK)

    def _send_informational(self, effect: SendInformational) -> None:
        self._down.append(response_head_bytes(effect.head))

    def _send_request_head(self, effect: SendRequestHead) -> None:
        self._chunked_upstream = isinstance(effect.head.framing, Chunked)
        self._upstream = ResponseReader(effect.head.method)
        self._keep_alive = None
        self._up.append(request_head_bytes(effect.head))

    def _send_response_head(self, effect: SendResponseHead) -> None:
        """Re-makes the transfer framing; HTTP/1.0 knows only the end of the connection (RFC 9112 §6.3)."""
        head, request = effect.head, self._request
        lines = b"\r\n"
        self._chunked_downstream = False
        self._response_open = True
        if isinstance(head.framing, Chunked):
            if request is not None and request.http_1_0:
                self._close_after = True
            else:
                self._chunked_downstream = True
                lines = b"Transfer-Encoding: chunked\r\n\r\n"
        if effect.close or self._gateway.draining or (self._body_reader is not None and not self._may_continue()):
            self._close_after = True
        if self._close_after:
            lines = b"Connection: close\r\n" + lines
        self._down.append(response_head_bytes(head, lines))

    def _may_continue(self) -> bool:
        """Whether the rest of the request, if any, is bounded enough to be dropped."""
        exchange, request, reader = self._exchange, self._request, self._body_reader
        if exchange is None or request is None:
            return False
        if reader is None:
            return True
        waits_for_100 = b"100-continue" in request.headers.tokens(b"expect") and not exchange.continue_sent
        return isinstance(reader, LengthReader) and reader.remaining <= DISCARD_MAX and not waits_for_100

    def _after_exchange(self, exchange: Exchange, cut: bool, now: float) -> None:
        self._last_attempt = exchange.attempt
        self._upstream = None
        if self._state is states.DETACHED:
            self._finish()
        elif cut or not exchange.outbound.begun:
            self._abort()
        elif self._close_after:
            self._linger(now)
        elif self._body_reader is not None:
            self._exchange = None
            self._move(states.DISCARD)
            self._timers.set(timers.CLIENT_BODY, now + self._gateway.policy.timeouts.client_body)
        else:
            self._next(now)

    def _next(self, now: float) -> None:
        self._exchange = None
        self._request = None
        self._move(states.NEXT)
        if self._gateway.draining:
            self._linger(now)
        else:
            self._timers.set(timers.KEEPALIVE, now + self._gateway.policy.timeouts.keepalive)

    # Closing

    def _linger(self, now: float) -> None:
        self._move(states.LINGER)
        self._exchange = None
        self._body_reader = None
        self._buffer.clear()
        for timer in (timers.KEEPALIVE, timers.CLIENT_HEAD, timers.CLIENT_BODY):
            self._timers.clear(timer)
        if not self._downstream_blocked:
            self._timers.set(timers.LINGER, now if self._eof else now + self._gateway.policy.timeouts.linger)
        self._flush_down()
        self._out.append(CloseDownstream(Close.LINGER))

    def _abort(self) -> None:
        self._flush_down()
        self._out.append(CloseDownstream(Close.ABORT))
        self._finish()

    def _finish(self) -> None:
        if self._state is not states.DONE:
            self._move(states.CLOSE)
        self._timers.clear_all()
        self._body_reader = None
        self._upstream = None
        self._buffer.clear()

    def _move(self, event: ConnectionEvent) -> None:
        self._state = CONNECTION_TABLE[self._state][event]

    def _flush_down(self) -> None:
        if self._down:
            down, self._down = self._down, []
            self._out.append(SendDownstream(down[0] if len(down) == 1 else b"".join(down)))

    def _take(self) -> list[Effect]:
        if self._down:
            self._flush_down()
        out, self._out = self._out, []
        return out


_TRANSLATE: dict[type[ExchangeEffect], Callable[[ConnectionBase, Any], None]] = {
    OpenFact: ConnectionBase._pass,
    VoidFact: ConnectionBase._pass,
    Connect: ConnectionBase._pass,
    EmitFact: ConnectionBase._emit_fact,
    ReleaseUpstream: ConnectionBase._release_upstream,
    SendRequestHead: ConnectionBase._send_request_head,
    SendRequestBody: ConnectionBase._send_request_body,
    SendRequestEnd: ConnectionBase._send_request_end,
    SendInformational: ConnectionBase._send_informational,
    SendResponseHead: ConnectionBase._send_response_head,
    SendResponseEnd: ConnectionBase._send_response_end,
}
"""Each method takes the effect type of its key, which the type of a dict cannot say."""
