"""From the bytes of a caller to the inputs of an exchange."""

from __future__ import annotations

from aigw_core import states, timers
from aigw_core.connection_base import REFUSED_MAX, ConnectionBase
from aigw_core.denyset import DenyReason
from aigw_core.effects import Effect
from aigw_core.errors import RemoteProtocolError
from aigw_core.exchange_machine import ExchangeMachine
from aigw_core.headers import says_close
from aigw_core.http1.bodies import LengthReader, reader_for
from aigw_core.http1.heads import HEAD_MAX, find_head_end
from aigw_core.messages import Length, RequestHead
from aigw_core.timers import NEVER


class ConnectionRequests(ConnectionBase):
    """Reads requests; :class:`aigw_core.connection.Connection` adds the inputs."""

    __slots__ = ()

    def cut(self, reason: DenyReason | None, now: float) -> list[Effect]:
        """What makes it the owner of its exchange: see Connection."""
        raise NotImplementedError

    def _advance(self, now: float) -> None:
        """Works off the buffer as far as the states allow; bounded, since each turn consumes bytes or stops."""
        refused = 0
        while self._buffer:
            state = self._state
            if state is states.DISCARDING:
                self._discard(now)
                continue
            waits = self._downstream_blocked or self._is_paused
            if waits or not (state is states.IDLE or state is states.HEAD) or not self._read_head(now):
                return
            # Whatever is admitted takes an input to be answered.
            refused += 1
            if refused >= REFUSED_MAX and self._buffer and self._state is states.IDLE:
                self._pause()
                return

    def _read_first(self, data: bytes, now: float) -> None:
        """The first bytes of a request, mostly all of it: nothing is copied where the head is whole."""
        end = data.find(b"\r\n\r\n", 0, HEAD_MAX + 4)
        if end < 0:
            # Counted where it is looked at for the first time, right after this.
            self._buffer += data
            return
        self._first_byte()
        try:
            head = self._memo.parse(data[:end])
        except RemoteProtocolError as error:
            self._malformed(error, now)
            return
        self._begin(head, data[end + 4 :], now)

    def _first_byte(self) -> None:
        self._move(states.BYTES)
        self._searched = 0
        self.timers.at[timers.KEEPALIVE] = NEVER

    def _read_head(self, now: float) -> bool:
        """True when a head was consumed, well-formed or not."""
        buffer = self._buffer
        if self._state is states.IDLE:
            if buffer.startswith(b"\r\n"):
                # RFC 9112 §2.2: one empty line before the request line is let pass; a second is not.
                del buffer[:2]
                if not buffer:
                    return False
            elif buffer == b"\r":
                return False
            self._first_byte()
        try:
            end = find_head_end(buffer, self._searched)
            if end < 0:
                self._searched = len(buffer)
                self._hold_head(len(buffer))
                if not self.timers.is_set(timers.CLIENT_HEAD):
                    self.timers.set(timers.CLIENT_HEAD, now + self._gateway.policy.timeouts.client_head)
                return False
            head = self._memo.parse(bytes(buffer[:end]))
        except RemoteProtocolError as error:
            self._malformed(error, now)
            return True
        rest = bytes(buffer[end + 4 :])
        buffer.clear()
        if self._held:
            self._release_head()
        self._begin(head, rest, now)
        return True

    def _hold_head(self, size: int) -> None:
        """Counts what is held. Raises RemoteProtocolError (503) where that is too much for all connections together."""
        more = size - self._held
        if not self._gateway.may_hold(size, more):
            raise RemoteProtocolError("Too many request heads are incomplete. Try again.", 503)
        self._gateway.heads_held += more
        self._held = size

    def _malformed(self, error: RemoteProtocolError, now: float) -> None:
        self._buffer.clear()
        if self._held:
            self._release_head()
        self.timers.clear(timers.CLIENT_HEAD)
        self._move(states.REQUEST)
        self._close_after = True
        self._request = None
        exchange = self._new_exchange()
        exchange.request_malformed(error, now)
        self._settle(exchange, now)

    def _new_exchange(self) -> ExchangeMachine:
        self._cut = False
        # By position, as all of what each exchange makes anew: by name a call to a class takes twice as long.
        exchange = ExchangeMachine(self._gateway, self, self, self.timers, self._last_attempt, True, self._peer)
        self._exchange = exchange
        return exchange

    def _begin(self, head: RequestHead, rest: bytes, now: float) -> None:
        self.timers.at[timers.CLIENT_HEAD] = NEVER
        self._move(states.REQUEST)
        self._request = head
        notes = head.notes
        if head.http_1_0 or (says_close(head.headers) if notes is None else notes.closes):
            self._close_after = True
        exchange = self._new_exchange()
        framing = head.framing
        if isinstance(framing, Length) and framing.n == len(rest):
            # The whole request is there and nothing else, as nearly always.
            self._body_reader = None
            exchange.request(head, rest, now)
            self._settle(exchange, now)
            return
        reader = self._body_reader = reader_for(framing)
        if reader is None or (isinstance(reader, LengthReader) and reader.remaining <= len(rest)):
            size = 0 if reader is None else reader.remaining
            self._body_reader = None
            self._buffer += rest[size:]
            exchange.request(head, rest[:size], now)
            self._settle(exchange, now)
            return
        exchange.request_head(head, now)
        if rest and not exchange.ended:
            self._read_body(rest, now)
            return
        if isinstance(reader, LengthReader):
            # What came with the head counts before the decision whether a refused request's connection is kept.
            reader.feed(rest)
        self._settle(exchange, now)

    def _read_body(self, data: bytes, now: float) -> None:
        reader, exchange = self._body_reader, self._exchange
        assert reader is not None
        assert exchange is not None
        try:
            payload, rest = reader.feed(data)
        except RemoteProtocolError as error:
            self._body_reader = None
            self._close_after = True
            if error.payload:
                exchange.request_body(error.payload, now)
            exchange.request_broken(error, now)
            self._settle(exchange, now)
            return
        if payload:
            exchange.request_body(payload, now)
        if rest is not None:
            self._body_reader = None
            exchange.request_end(now)
            if not self._close_after:
                self._buffer += rest
        self._settle(exchange, now)

    def _discard(self, now: float) -> None:
        reader = self._body_reader
        assert reader is not None
        _, rest = reader.feed(bytes(self._buffer))
        self._buffer.clear()
        if rest is not None:
            self._body_reader = None
            self.timers.clear(timers.CLIENT_BODY)
            self._buffer += rest
            self._next(now)
