"""From the effects of an exchange to the bytes of a connection, and every way to close it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aigw_core import states, timers
from aigw_core.effects import (
    Close,
    CloseDownstream,
    Connect,
    Effect,
    EmitFact,
    OpenFact,
    ReleaseUpstream,
    SendDownstream,
    SendUpstream,
    VoidFact,
)
from aigw_core.exchange_machine import ExchangeMachine
from aigw_core.http1.bodies import BodyReader, LengthReader
from aigw_core.http1.memo import HeadMemo
from aigw_core.http1.upstream import ResponseReader
from aigw_core.http1.writing import LAST_CHUNK, chunk, request_head_bytes, response_head_bytes
from aigw_core.messages import Chunked, RequestHead, ResponseHead
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
REFUSED_MAX: Final = 8
"""Pipelined requests that are refused in one turn: a refusal takes 0.1 ms, and a read can hold some hundred."""
_BETWEEN: Final = (states.IDLE, states.HEAD)
_CARRYING: Final = (states.EXCHANGE, states.DETACHED)


class ConnectionBase:
    """The state of one connection and its output; :class:`aigw_core.connection.Connection` adds the inputs.

    It is the port of its exchange, so the methods named like effects are called by that alone.
    """

    __slots__ = (
        "__weakref__",
        "_body_reader",
        "_buffer",
        "_chunked_downstream",
        "_chunked_upstream",
        "_close_after",
        "_cut",
        "_discarded",
        "_down",
        "_downstream_blocked",
        "_eof",
        "_exchange",
        "_gateway",
        "_held",
        "_is_paused",
        "_keep_alive",
        "_last_attempt",
        "_memo",
        "_out",
        "_peer",
        "_request",
        "_searched",
        "_state",
        "_up",
        "_upstream",
        "context",
        "done",
        "timers",
    )

    def __init__(self, gateway: Gateway, now: float, *, peer: str | bytes | None = None) -> None:
        """``peer`` is the caller's address as text; without it limits that strangers share have no shares."""
        self._gateway = gateway
        self._peer = gateway.peer(peer)
        gateway.stats.connections_total += 1
        self.context: object = None
        """For the driver's own use."""
        self._state: ConnectionState = states.IDLE
        self.timers = Timers()
        """For a driver to read: ``wake_at`` and ``deadline``, the same as here."""
        self.done = False
        """The machine is through: close both sockets now, never before. Read-only."""
        self.timers.set(timers.CLIENT_HEAD, now + gateway.policy.timeouts.client_head)
        self._buffer = bytearray()
        self._held = 0
        """Bytes of an incomplete head, as far as the gateway counts them."""
        self._searched = 0
        self._memo = HeadMemo()
        self._request: RequestHead | None = None
        self._body_reader: BodyReader | None = None
        self._exchange: ExchangeMachine | None = None
        self._upstream: ResponseReader | None = None
        self._keep_alive: float | None = None
        self._last_attempt = 0
        self._close_after = False
        self._chunked_downstream = False
        self._chunked_upstream = False
        self._cut = False
        """The response ended before it was complete, which must be seen."""
        self._downstream_blocked = False
        self._discarded = 0
        self._is_paused = False
        """What was pipelined is read on in a later turn."""
        self._eof = False
        self._out: list[Effect] = []
        self._down: list[bytes] = []
        self._up: list[bytes] = []

    # What a driver reads

    @property
    def state(self) -> ConnectionState:
        return self._state

    @property
    def busy(self) -> bool:
        """An exchange runs."""
        return self._state in _CARRYING

    @property
    def responding(self) -> bool:
        """A provider's answer is on its way to the caller."""
        return self._exchange is not None and self._exchange.state is states.RESPONDING

    @property
    def deadline(self) -> tuple[float, Timer] | None:
        return self.timers.deadline

    @property
    def wake_at(self) -> float:
        return self.timers.wake_at

    @property
    def wants_downstream(self) -> bool:
        if self._state is not states.EXCHANGE:
            # Who does not read the answers gets no further ones.
            return not ((self._downstream_blocked or self._is_paused) and self._state in _BETWEEN)
        if self._body_reader is not None:
            return self._exchange is None or self._exchange.wants_request_body
        return len(self._buffer) < PIPELINE_MAX

    @property
    def wants_upstream(self) -> bool:
        exchange = self._exchange
        if exchange is not None and exchange.outbound.is_waiting():
            return False
        return not self._downstream_blocked or self._state is states.DETACHED

    @property
    def wants_resume(self) -> bool:
        """What was taken is read on in a later turn: call ``resume`` then."""
        return self._is_paused or (self._exchange is not None and self._exchange.wants_resume)

    # The port: what the exchange says, as bytes and effects

    def open_fact(self, effect: OpenFact) -> None:
        self._out.append(effect)

    def end_fact(self, effect: EmitFact | VoidFact) -> None:
        self._out.insert(0, effect)

    def connect(self, effect: Connect) -> None:
        self._out.append(effect)

    def release_upstream(self, effect: ReleaseUpstream) -> None:
        if self._keep_alive is not None:
            effect.idle_timeout = min(effect.idle_timeout, self._keep_alive)
        self._upstream = None
        self._out.append(effect)

    def request_head(self, attempt: int, head: RequestHead) -> None:  # noqa: ARG002  # as the port has it
        self._expect_response(head)
        self._up.append(request_head_bytes(head))

    def whole_request(self, attempt: int, head: RequestHead, body: bytes) -> None:  # noqa: ARG002
        self._expect_response(head)
        assert not self._chunked_upstream, "of a body that is there whole the length is known"
        self._up.append(request_head_bytes(head, body))

    def _expect_response(self, head: RequestHead) -> None:
        self._chunked_upstream = isinstance(head.framing, Chunked)
        exchange = self._exchange
        self._upstream = ResponseReader(head.method, None if exchange is None else exchange.response_shapes)
        self._keep_alive = None

    def request_body(self, attempt: int, data: bytes) -> None:  # noqa: ARG002
        self._up.append(chunk(data) if self._chunked_upstream else data)

    def request_end(self, attempt: int) -> None:  # noqa: ARG002
        if self._chunked_upstream:
            self._up.append(LAST_CHUNK)

    def informational(self, head: ResponseHead) -> None:
        self._down.append(response_head_bytes(head))

    def response_head(self, head: ResponseHead, close: bool) -> None:
        self._down.append(response_head_bytes(head, self._framing_lines(head, close)))

    def whole_response(self, head: ResponseHead, body: bytes, close: bool) -> None:
        lines = self._framing_lines(head, close)
        if not self._chunked_downstream:
            self._down.append(response_head_bytes(head, lines, body))
            return
        self._down.append(response_head_bytes(head, lines))
        if body:
            self._down.append(chunk(body))
        self._down.append(LAST_CHUNK)

    def _framing_lines(self, head: ResponseHead, close: bool) -> bytes:
        """Re-makes the transfer framing; HTTP/1.0 knows only the end of the connection (RFC 9112 §6.3)."""
        lines = b"\r\n"
        self._chunked_downstream = False
        if isinstance(head.framing, Chunked):
            request = self._request
            if request is not None and request.http_1_0:
                self._close_after = True
            else:
                self._chunked_downstream = True
                lines = b"Transfer-Encoding: chunked\r\n\r\n"
        if close or self._gateway.draining or (self._body_reader is not None and not self._may_continue()):
            self._close_after = True
        return b"Connection: close\r\n" + lines if self._close_after else lines

    def response_body(self, data: bytes) -> None:
        # As chunk(), without its call: this is once for each event.
        self._down.append(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked_downstream else data)

    def response_end(self) -> None:
        if self._chunked_downstream:
            self._down.append(LAST_CHUNK)

    def cut_response(self) -> None:
        self._cut = True

    def _settle(self, exchange: ExchangeMachine, now: float) -> None:
        """After each input of the exchange: what goes upstream, and, if it is over, what becomes of the connection."""
        if self._up:
            up, self._up = self._up, []
            if not exchange.ended:
                self._out.append(SendUpstream(exchange.attempt, up[0] if len(up) == 1 else b"".join(up)))
        if exchange.ended and self._state in _CARRYING:
            self._after_exchange(exchange, now)

    def _may_continue(self) -> bool:
        """Whether the rest of the request, if any, is bounded enough to be dropped."""
        exchange, request, reader = self._exchange, self._request, self._body_reader
        if exchange is None or request is None:
            return False
        if reader is None:
            return True
        waits_for_100 = b"100-continue" in request.headers.tokens(b"expect") and not exchange.continue_sent
        return isinstance(reader, LengthReader) and reader.remaining <= DISCARD_MAX and not waits_for_100

    def _after_exchange(self, exchange: ExchangeMachine, now: float) -> None:
        self._last_attempt = exchange.attempt
        self._upstream = None
        if self._state is states.DETACHED:
            self._finish()
        elif self._cut or not exchange.outbound.begun:
            self._abort()
        elif self._close_after:
            self._linger(now)
        elif self._body_reader is not None:
            self._exchange = None
            self._move(states.DISCARD)
            self.timers.set(timers.CLIENT_BODY, now + self._gateway.policy.timeouts.client_body)
        else:
            self._next(now)

    def _next(self, now: float) -> None:
        self._exchange = None
        self._request = None
        self._move(states.NEXT)
        if self._gateway.draining:
            self._linger(now)
        else:
            self.timers.set(timers.KEEPALIVE, now + self._gateway.policy.timeouts.keepalive)

    # Closing

    def _pause(self) -> None:
        """Waits for a turn. All connections that do so for their refused requests count as one tenant."""
        address = None if self._peer is None else self._peer.address
        self._is_paused = True
        self._gateway.work.wait(("strangers", address), self)

    def _go_on(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._gateway.work.forget(self)

    def _release_head(self) -> None:
        """The head is complete, or given up: nothing of it is held any more."""
        self._gateway.heads_held -= self._held
        self._held = 0

    def _linger(self, now: float) -> None:
        self._move(states.LINGER)
        self._go_on()
        if self._held:
            self._release_head()
        self._exchange = None
        self._body_reader = None
        self._buffer.clear()
        for timer in (timers.KEEPALIVE, timers.CLIENT_HEAD, timers.CLIENT_BODY):
            self.timers.clear(timer)
        if not self._downstream_blocked:
            self.timers.set(timers.LINGER, now if self._eof else now + self._gateway.policy.timeouts.linger)
        self._flush_down()
        self._out.append(CloseDownstream(Close.LINGER))

    def _abort(self) -> None:
        self._flush_down()
        self._out.append(CloseDownstream(Close.ABORT))
        self._finish()

    def _finish(self) -> None:
        if not self.done:
            self._move(states.CLOSE)
            self.done = True
            self._go_on()
        if self._held:
            self._release_head()
        self.timers.clear_all()
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
        out, down = self._out, self._down
        if down:
            self._down = []
            effect = SendDownstream(down[0] if len(down) == 1 else b"".join(down))
            if not out:
                return [effect]
            out.append(effect)
        self._out = []
        return out
