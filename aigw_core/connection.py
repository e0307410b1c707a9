"""One downstream connection over HTTP/1.1 bytes: what drivers drive."""

from __future__ import annotations

from typing import Final

from aigw_core import states, timers
from aigw_core.connection_base import LINGER_MAX
from aigw_core.connection_requests import ConnectionRequests
from aigw_core.denyset import DenyReason
from aigw_core.effects import (
    Close,
    CloseDownstream,
    ConnectFailure,
    Effect,
    EmitFact,
    ReleaseUpstream,
    VoidFact,
)
from aigw_core.errors import RemoteProtocolError
from aigw_core.exchange_machine import ExchangeMachine
from aigw_core.http1.upstream import ResponseReader
from aigw_core.messages import ResponseHead
from aigw_core.timers import Timer

_LINE_ENDS = (b"\r", b"\n")
# For what an event of a stream runs through: one look-up instead of two.
_ENDED: Final = states.ENDED


class Connection(ConnectionRequests):
    """The machine of one downstream connection: strict HTTP/1.1, keep-alive, one exchange at a time.

    **Inputs.** Every one takes ``now`` (monotonic seconds, never backwards) and returns the effects it
    causes; nothing is called back.

    ======================================  ==============================================================
    ``receive_downstream(data, now)``       bytes from the caller; ``b""`` is EOF
    ``downstream_lost(now)``                the caller's connection is gone
    ``downstream_blocked/writable(now)``    edges of the driver's write queue for this socket
    ``upstream_connected(attempt, reused)`` the connection that ``Connect`` asked for is there
    ``upstream_failed(attempt, reason)``    … is not to be had
    ``receive_upstream(attempt, data)``     bytes from the provider; ``b""`` is EOF
    ``upstream_lost(attempt, error)``       the provider's connection is gone
    ``upstream_blocked/writable(attempt)``  as downstream
    ``fact_opened(id)``, ``fact_refused``   the sink's answer to ``OpenFact``
    ``opened_and_connected(id, attempt)``   ``upstream_connected(attempt, True)`` and ``fact_opened(id)`` in one
    ``tick(now)``                           call when ``deadline`` has passed
    ``resume(now)``                         read on in what was taken, while ``wants_resume``; see WorkShares
    ``cut(reason)``                         end the exchange: tenant denied, or (None) grace over
    ``drain()``                             finish what runs, then close
    ``abandon()``                           the driver gives up; returns what the ledger is still owed
    ======================================  ==============================================================

    **Effects** are carried out in order, all of them, before the next input. Inputs are never re-entrant:
    what happens while effects are carried out (a sink that answers at once, an idle connection that is
    there) is fed afterwards.

    * ``OpenFact(record)``: exactly one of these follows: ``fact_refused(id)`` from the sink, ``EmitFact``
      with that id, or ``VoidFact(id)``. Answers with another id are ignored. Without an answer the machine
      gives up after 5 seconds by itself.
    * ``EmitFact(fact)`` stands first in its batch and is carried out synchronously: a non-blocking put into
      room that the sink reserved when it accepted the record.
    * ``Connect(origin, attempt, …)``: answer with ``upstream_connected`` or ``upstream_failed``. ``attempt``
      counts over the life of the connection and is never reused; inputs of any other attempt are ignored,
      so a late ``connection_lost`` needs no care. Where the same batch has an ``OpenFact`` that the sink
      accepted at once, and an idle connection is there, ``opened_and_connected`` answers both.
    * ``ReleaseUpstream(attempt, reusable, idle_timeout)``: the machine is through with it. Pool it if
      reusable, else close it or stop connecting.
    * ``SendUpstream`` and ``SendDownstream`` go into one ordered, bounded write queue per socket, which is
      the driver's; the machine never sees a partial write. Relayed means returned in a ``SendDownstream``.
      Tell ``…_blocked`` when a queue passes its mark and ``…_writable`` when it has drained; the write
      timeout runs in between.
    * ``CloseDownstream(LINGER)``: flush, half-close (TLS: close_notify), and go on feeding input. Until the
      queue is empty the connection counts as blocked. The machine drops what arrives, up to 1 MiB or 2
      seconds, and is then ``done``. ``CloseDownstream(ABORT)``: drop the queue, reset. No ``SendDownstream``
      follows either of them.

    **What a driver reads.** ``deadline`` (time and name of the earliest timer, or None), ``wake_at`` (a
    cheap lower bound of it: arm for it, and when it fires call ``tick``), ``wants_downstream`` and
    ``wants_upstream`` (advice: what was read already is accepted, bounded by the driver's read size), and
    ``done``: close both sockets now, never before. ``timers`` has both times too, and stays the same object.
    All of it is read-only. An exchange may drain for its usage after the caller has
    left, so ``done`` can come after ``downstream_lost``.

    A driver calls ``abandon`` in its ``finally``; it is idempotent. Peer input never raises: it becomes a
    refusal or an abort, and a fact where one is due. Misuse raises LocalProtocolError. Any split of the
    incoming bytes gives the same bytes out, the same facts and the same final state.
    """

    __slots__ = ()

    # Downstream

    def receive_downstream(self, data: bytes, now: float) -> list[Effect]:
        """Bytes from the caller, or ``b""`` for EOF."""
        if not data:
            self._downstream_eof(now)
            return self._take()
        state = self._state
        if state is states.IDLE and not self._buffer and not data.startswith(_LINE_ENDS):
            self._read_first(data, now)
        elif state is states.EXCHANGE and self._body_reader is not None:
            self._read_body(data, now)
        elif state is states.LINGERING:
            self._discarded += len(data)
            if self._discarded > LINGER_MAX:
                self._finish()
        elif state not in (states.DONE, states.DETACHED) and not (state is states.EXCHANGE and self._close_after):
            self._buffer += data
        if self._buffer:
            self._advance(now)
        return self._take()

    def _downstream_eof(self, now: float) -> None:
        self._eof = True
        state = self._state
        if state is states.EXCHANGE:
            self._caller_left(now)
            self._out.append(CloseDownstream(Close.ABORT))
        elif state in (states.IDLE, states.HEAD, states.DISCARDING):
            self._linger(now)
        elif state is states.LINGERING and not self._downstream_blocked:
            self.timers.set(timers.LINGER, now)

    def downstream_lost(self, now: float) -> list[Effect]:
        """The caller's connection is gone; nothing can be sent any more."""
        if self._state is states.EXCHANGE:
            self._caller_left(now)
        elif self._state is not states.DETACHED:
            self._finish()
        self._down.clear()
        return self._take()

    def _caller_left(self, now: float) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._body_reader = None
        exchange.downstream_lost(now)
        # From here on nothing is said downstream, whether the exchange drains or is over.
        self._move(states.LEAVE)
        self._settle(exchange, now)
        self._down.clear()

    def downstream_blocked(self, now: float) -> list[Effect]:
        self._downstream_blocked = True
        self.timers.clear(timers.LINGER)
        if self._state not in (states.DONE, states.DETACHED):
            self.timers.set(timers.CLIENT_WRITE, now + self._gateway.policy.timeouts.client_write)
        if self._exchange is not None:
            self._exchange.downstream_blocked(now)
        return []

    def downstream_writable(self, now: float) -> list[Effect]:
        self._downstream_blocked = False
        self.timers.clear(timers.CLIENT_WRITE)
        if self._exchange is not None:
            self._exchange.downstream_writable(now)
        if self._state is states.LINGERING:
            self.timers.set(timers.LINGER, now if self._eof else now + self._gateway.policy.timeouts.linger)
        elif self._buffer:
            self._advance(now)
        return self._take()

    # Upstream

    def upstream_connected(self, attempt: int, reused: bool, now: float) -> list[Effect]:
        """A connection for the attempt; ``reused`` if it comes from the pool."""
        exchange = self._exchange
        if exchange is None:
            return []
        exchange.upstream_connected(attempt, reused, now)
        return self._follow(exchange, now)

    def upstream_failed(self, attempt: int, failure: ConnectFailure, now: float) -> list[Effect]:
        exchange = self._exchange
        if exchange is None:
            return []
        exchange.upstream_failed(attempt, failure, now)
        return self._follow(exchange, now)

    def receive_upstream(self, attempt: int, data: bytes, now: float) -> list[Effect]:
        """Bytes from the provider, or ``b""`` for EOF."""
        exchange, reader = self._exchange, self._upstream
        if exchange is None or attempt != exchange.attempt or exchange.ended:
            return []
        if not data:
            self._upstream_eof(exchange, reader, attempt, now)
            return self._take()
        if reader is None:
            # Bytes that nobody asked for (response-queue poisoning): this connection is worthless.
            exchange.upstream_broken(attempt, now)
            self._settle(exchange, now)
            return self._take()
        if reader.in_body:
            payload, over = reader.body(data)
            if payload and not (over or reader.broken):
                # An event of a stream, mostly: it is relayed, and nothing else comes of it.
                exchange.response_body(attempt, payload, now)
                if exchange.state is _ENDED:
                    self._settle(exchange, now)
                return self._take()
            self._response_body(exchange, reader, attempt, (payload, over), now)
            self._settle(exchange, now)
        else:
            try:
                self._read_response(exchange, reader, attempt, data, now)
            except RemoteProtocolError:
                exchange.upstream_broken(attempt, now)
                self._settle(exchange, now)
        if self._buffer:
            self._advance(now)
        return self._take()

    def _read_response(
        self, exchange: ExchangeMachine, reader: ResponseReader, attempt: int, data: bytes, now: float
    ) -> None:
        whole = reader.whole(data)
        if whole is not None:
            # The usual answer of a provider whose heads are known.
            self._upstream = None
            self._keep_alive = reader.keep_alive
            exchange.response(attempt, whole[0], whole[1], now, reusable=reader.reusable)
            self._settle(exchange, now)
            return
        reader.push(data)
        while self._upstream is reader and (head := reader.head()) is not None:
            self._keep_alive = reader.keep_alive
            if head.status >= 200:
                self._begin_response(exchange, reader, attempt, head, now)
                return
            exchange.response_head(attempt, head, now)
            self._settle(exchange, now)
            if exchange.ended:
                return

    def _begin_response(
        self, exchange: ExchangeMachine, reader: ResponseReader, attempt: int, head: ResponseHead, now: float
    ) -> None:
        payload, over = reader.first_body()
        if over and not reader.broken:
            self._upstream = None
            exchange.response(attempt, head, payload, now, reusable=reader.reusable)
        else:
            exchange.response_head(attempt, head, now)
            self._response_body(exchange, reader, attempt, (payload, over), now)
        self._settle(exchange, now)

    def _response_body(
        self, exchange: ExchangeMachine, reader: ResponseReader, attempt: int, read: tuple[bytes, bool], now: float
    ) -> None:
        """What was well-formed is relayed, even where the framing breaks right behind it."""
        payload, over = read
        if payload:
            exchange.response_body(attempt, payload, now)
        if exchange.ended:
            return
        if reader.broken:
            exchange.upstream_broken(attempt, now)
        elif over:
            self._upstream = None
            exchange.response_end(attempt, now, reusable=reader.reusable)

    def _upstream_eof(self, exchange: ExchangeMachine, reader: ResponseReader | None, attempt: int, now: float) -> None:
        self._upstream = None
        if reader is not None and reader.until_close:
            exchange.response_end(attempt, now, reusable=False, by_close=True)
        else:
            exchange.upstream_lost(attempt, now, answered=reader is not None and reader.answered)
        self._settle(exchange, now)
        self._advance(now)

    def upstream_lost(self, attempt: int, error: bool, now: float) -> list[Effect]:
        """The provider's connection is gone; ``error`` False is an orderly end, as EOF."""
        exchange, reader = self._exchange, self._upstream
        if exchange is None or attempt != exchange.attempt or exchange.ended:
            return []
        if not error:
            self._upstream_eof(exchange, reader, attempt, now)
        else:
            self._upstream = None
            exchange.upstream_lost(attempt, now, answered=reader is not None and reader.answered)
            self._settle(exchange, now)
            self._advance(now)
        return self._take()

    def upstream_blocked(self, attempt: int, now: float) -> list[Effect]:
        if self._exchange is not None:
            self._exchange.upstream_blocked(attempt, now)
        return []

    def upstream_writable(self, attempt: int, now: float) -> list[Effect]:
        if self._exchange is not None:
            self._exchange.upstream_writable(attempt, now)
        return []

    # Control

    def fact_opened(self, fact_id: str, now: float) -> list[Effect]:
        """The sink accepted the open record."""
        exchange = self._exchange
        if exchange is None:
            return []
        exchange.fact_opened(fact_id, now)
        return self._follow(exchange, now)

    def opened_and_connected(self, fact_id: str, attempt: int, now: float) -> list[Effect]:
        """Both answers at once: a connection of the pool for the attempt, and the record is accepted.

        What nearly every exchange gets; one input instead of two saves two of a hundred of its steps.
        """
        exchange = self._exchange
        if exchange is None:
            return []
        exchange.upstream_connected(attempt, True, now)
        exchange.fact_opened(fact_id, now)
        return self._follow(exchange, now)

    def fact_refused(self, fact_id: str, now: float) -> list[Effect]:
        """The sink has no room for the record."""
        exchange = self._exchange
        if exchange is None:
            return []
        exchange.fact_refused(fact_id, now)
        return self._follow(exchange, now)

    def tick(self, now: float) -> list[Effect]:
        """Runs every timer that is due."""
        while (timer := self.timers.due(now)) is not None:
            self._on_timer(timer, now)
            self._advance(now)
        self.timers.settle()
        return self._take()

    def _on_timer(self, timer: Timer, now: float) -> None:
        state = self._state
        if timer is timers.LINGER or state is states.LINGERING:
            self._finish()
        elif timer is timers.KEEPALIVE or (timer is timers.CLIENT_HEAD and state is states.IDLE):
            self._linger(now)
        elif timer is timers.CLIENT_HEAD:
            self._malformed(RemoteProtocolError("The request head did not arrive in time.", 408), now)
        elif timer is timers.CLIENT_WRITE:
            self._write_timeout(now)
        elif timer is timers.CLIENT_BODY and state is states.DISCARDING:
            self._linger(now)
        elif self._exchange is not None:
            self._exchange.on_timer(timer, now)
            self._settle(self._exchange, now)

    def _write_timeout(self, now: float) -> None:
        """The caller does not read: whatever is queued will never arrive."""
        exchange = self._exchange
        if exchange is not None and self._state is states.EXCHANGE:
            exchange.on_timer(timers.CLIENT_WRITE, now)
            self._move(states.LEAVE)
            self._settle(exchange, now)
            self._down.clear()
            self._out.append(CloseDownstream(Close.ABORT))
        elif self._state is not states.DONE:
            self._abort()

    def resume(self, now: float) -> list[Effect]:
        """Reads on in what an earlier input had more of than one turn should read: a body, or pipelined requests."""
        if self._is_paused:
            self._go_on()
            self._advance(now)
            return self._take()
        exchange = self._exchange
        if exchange is None:
            return []
        exchange.resume(now)
        return self._follow(exchange, now)

    def cut(self, reason: DenyReason | None, now: float) -> list[Effect]:
        """Ends a running exchange; a connection without one is closed."""
        self._close_after = True
        if self._state in (states.EXCHANGE, states.DETACHED) and self._exchange is not None:
            self._exchange.cut(reason, now)
            self._settle(self._exchange, now)
        elif self._state is states.LINGERING:
            self._finish()
        elif self._state is not states.DONE:
            self._abort()
        return self._take()

    def drain(self, now: float) -> list[Effect]:
        """Finish the running exchange, carry no other one, close."""
        if self._state in (states.IDLE, states.DISCARDING):
            self._linger(now)
        elif self._state is not states.DONE:
            self._close_after = True
        return self._take()

    def abandon(self, now: float) -> list[Effect]:
        """For the driver's ``finally``: the EmitFact or VoidFact still due, and what to release. Idempotent."""
        self._out.clear()
        if self._exchange is not None:
            self._exchange.abandon(now)
        due: list[Effect] = [
            effect for effect in self._out if isinstance(effect, EmitFact | VoidFact | ReleaseUpstream)
        ]
        self._finish()
        self._down.clear()
        self._up.clear()
        self._out.clear()
        return due

    def _follow(self, exchange: ExchangeMachine, now: float) -> list[Effect]:
        self._settle(exchange, now)
        if self._buffer:
            self._advance(now)
        return self._take()
