"""One request and its response, as parsed HTTP: admission, guards, header rewriting, metering, the fact."""

from __future__ import annotations

from typing import Final

from aigw_core import leg, states, timers
from aigw_core.auth import denied_rejection
from aigw_core.denyset import DenyReason
from aigw_core.effects import ConnectFailure, ReleaseUpstream
from aigw_core.encodedanswer import EncodedAnswer, Withheld
from aigw_core.errors import Reason, Rejection
from aigw_core.exchange_base import CONNECT_RETRIES_MAX
from aigw_core.exchange_requests import ExchangeRequests
from aigw_core.facts import COMPLETE, Outcome
from aigw_core.forwarding import informational_head
from aigw_core.messages import ResponseHead
from aigw_core.policy import OnClientAbort
from aigw_core.responseside import INFORMATIONAL_MAX, ResponseSide, mask_of
from aigw_core.states import EXCHANGE_TABLE
from aigw_core.timers import NEVER, Timer

# For what an event of a stream runs through: one look-up each instead of two.
_BUSY: Final = leg.BUSY
_RESPONDING: Final = states.RESPONDING
_STREAM_IDLE: Final = timers.STREAM_IDLE


class ExchangeMachine(ExchangeRequests):
    """The inputs of an exchange; what each causes goes to the port before it returns.

    :class:`~aigw_core.exchange.Exchange` makes effects of that, :class:`~aigw_core.connection.Connection` bytes.
    """

    __slots__ = ()

    def resume(self, now: float) -> None:
        """Reads on in what was taken; ``wants_resume`` says whether there is more."""
        self._wait_no_more()
        request, response = self.inbound, self.outbound
        if self.ended or request is None:
            return
        if response.is_waiting():
            self._resume_response(now)
        elif request.is_waiting() and not request.stopped:
            self._resume_request(request, now)

    def _resume_response(self, now: float) -> None:
        encoded = self.outbound.encoded
        if encoded is None:
            return
        self._read_encoded(encoded, now)
        if not encoded.is_unread and encoded.end_due is not None:
            reusable, by_close = encoded.end_due
            self.response_end(self.attempt, now, reusable=reusable, by_close=by_close)

    # Upstream

    def upstream_connected(self, attempt: int, reused: bool, now: float) -> None:
        """The attempt has a connection; ``reused`` if it carried another exchange before."""
        if attempt != self.attempt or self._leg is not leg.CONNECTING:
            return
        self._leg = leg.READY
        self._reused = reused
        if not reused:
            self.gateway.stats.connects[self._provider] += 1
        self.timers.at[timers.CONNECT] = NEVER
        if self.state is states.ADMITTED and self.inbound is not None:
            self._try_start(self.inbound, now)

    def upstream_failed(self, attempt: int, failure: ConnectFailure, now: float) -> None:
        """The attempt got no connection."""
        if attempt != self.attempt or self._leg is not leg.CONNECTING:
            return
        self._leg = leg.RELEASED
        self.gateway.stats.connect_failures[self._provider, failure.name.lower()] += 1
        if not (failure.retryable and self._try_again(now)):
            rejection = Rejection(Reason.UPSTREAM_FAILED, failure.value, detail=failure.name.lower())
            self._end_now_or_later(Outcome.UPSTREAM_ERROR, rejection, now)

    def upstream_lost(self, attempt: int, now: float, *, answered: bool = False) -> None:
        """The connection ended before the response did; ``answered`` if a byte of a head had arrived."""
        if attempt != self.attempt or self._leg in (leg.NONE, leg.RELEASED):
            return
        encoded = self.outbound.encoded
        if encoded is not None and encoded.end_due is not None:
            # All of the answer is here, and is still being read.
            encoded.end_due = (False, encoded.end_due[1])
            return
        before_start = self._leg is not leg.BUSY
        self.port.release_upstream(ReleaseUpstream(self.attempt, False))
        self._leg = leg.RELEASED
        if before_start:
            # Known dead before a byte of the request was queued: nothing is lost.
            if not self._try_again(now):
                self._end_now_or_later(Outcome.UPSTREAM_ERROR, Rejection(Reason.UPSTREAM_FAILED), now)
        elif self.state is states.REQUESTING and self._may_repeat(answered):
            self._move(states.RETRY)
            self.timers.at[timers.READ] = NEVER
            self._try_again(now)
        else:
            self._fail(Outcome.UPSTREAM_ABORT, Rejection(Reason.UPSTREAM_BROKEN), now)

    def _may_repeat(self, answered: bool) -> bool:
        """RFC 9110 §9.2.2: only a safe method without a body, on a connection that may have been stale."""
        request = self.inbound
        answered = answered or self.outbound.upstream_status is not None
        if request is None or answered or not self._reused or self._tries >= CONNECT_RETRIES_MAX:
            return False
        return request.empty and request.head.method in (b"GET", b"HEAD")

    def upstream_broken(self, attempt: int, now: float) -> None:
        """The provider's bytes are not HTTP/1.1, or came when none were due."""
        if attempt != self.attempt:
            return
        if self._leg is not leg.BUSY:
            self.upstream_lost(attempt, now)
            return
        self._break(now)

    def _break(self, now: float) -> None:
        self._release(reusable=False)
        self._fail(Outcome.UPSTREAM_ABORT, Rejection(Reason.UPSTREAM_BROKEN), now)

    # The response

    def response(self, attempt: int, head: ResponseHead, body: bytes, now: float, *, reusable: bool) -> None:
        """A response that is there whole: final head, body and end in one input."""
        if attempt != self.attempt or self._leg is not leg.BUSY or self.outbound.upstream_status is not None:
            return
        request, authorized = self.inbound, self._authorized
        is_expected = self.state is states.REQUESTING and head.status >= 200
        if (
            body
            and is_expected
            and request is not None
            and request.done
            and not request.waits
            and authorized is not None
        ):
            # The usual answer: nothing of it is waited for, so no timer is set.
            response = self.outbound
            out = response.begin(head, authorized, request.body, self.id, whole=True)
            if response.encoded is not None:
                self.timers.at[timers.READ] = NEVER
                self.response_body(attempt, body, now)
                self.response_end(attempt, now, reusable=reusable)
                return
            relayed = response.whole(body, authorized, request.body, now)
            self.state = EXCHANGE_TABLE[self.state][states.RESPOND]
            response.status = head.status
            response.begun = True
            self.port.whole_response(out, relayed, self.must_close)
            self._release(reusable=reusable)
            self._conclude(COMPLETE, now)
            return
        self.response_head(attempt, head, now)
        if body:
            self.response_body(attempt, body, now)
        self.response_end(attempt, now, reusable=reusable, by_close=False)

    def response_head(self, attempt: int, head: ResponseHead, now: float) -> None:
        """A response head: 1xx are relayed, the final one begins the response."""
        request, response, authorized = self.inbound, self.outbound, self._authorized
        stale = attempt != self.attempt or self._leg is not leg.BUSY or response.upstream_status is not None
        if stale or request is None or authorized is None:
            return
        if head.status < 200:
            response.informational += 1
            if head.status == 101 or response.informational > INFORMATIONAL_MAX:
                self._break(now)
            elif head.status != 100 and self.state is states.REQUESTING and not request.head.http_1_0:
                self.port.informational(informational_head(head, mask_of(authorized)))
            return
        self.timers.at[timers.READ] = NEVER
        self.timers.set(timers.STREAM_IDLE, now + self._policy.timeouts.stream_idle)
        out = response.begin(head, authorized, request.body, self.id)
        if self.state is not states.REQUESTING:
            return
        if not request.is_sent:
            # An early answer: the rest of the request is nobody's business any more (RFC 9112 §9.3).
            request.stopped = True
            self.must_close = True
            self.timers.at[timers.CLIENT_BODY] = self.timers.at[timers.CLIENT_UPLOAD] = NEVER
        if not response.holds_head:
            self._begin_answer(out)

    def response_body(self, attempt: int, data: bytes, now: float) -> None:
        """At least one byte of the response body, transfer framing removed; relayed in the same turn."""
        if attempt != self.attempt or self._leg is not _BUSY:
            return
        # As Timers.set(), without its call: this is once for each event.
        idle_at, running = now + self._policy.timeouts.stream_idle, self.timers
        running.at[_STREAM_IDLE] = idle_at
        if idle_at < running.wake_at:
            running.wake_at = idle_at
        response = self.outbound
        if response.encoded is not None:
            is_reading = response.encoded.is_unread
            response.take(response.encoded, data, now)
            if not is_reading:
                self._read_encoded(response.encoded, now)
            return
        data = response.feed(data, now)
        if self.state is _RESPONDING:
            if data:
                self.port.response_body(data)
        elif self.state is states.DRAINING:
            self._drained(response, now)

    def _drained(self, response: ResponseSide, now: float) -> None:
        if response.drained > self._policy.usage_drain_max_bytes:
            self._conclude(Outcome.CLIENT_ABORT, now)

    def _read_encoded(self, encoded: EncodedAnswer, now: float) -> None:
        """One step, or all that was taken where the driver calls no ``resume``."""
        response = self.outbound
        try:
            data = response.step(encoded)
            while encoded.is_unread and not self._is_paced:
                data += response.step(encoded)
        except Withheld as why:
            self._withhold(why, now)
            return
        if encoded.is_unread:
            self._wait(self.gateway.answer_work)
        if self.state is states.DRAINING:
            self._drained(response, now)
        elif data:
            if (head := encoded.take_head()) is not None:
                self._begin_answer(head)
            self.port.response_body(data)

    def response_end(self, attempt: int, now: float, *, reusable: bool, by_close: bool = False) -> None:
        """The framing of the response has ended; ``by_close`` if only the end of the connection says so."""
        response, request = self.outbound, self.inbound
        stale = attempt != self.attempt or self._leg is not leg.BUSY or response.upstream_status is None
        if stale or request is None:
            return
        encoded = response.encoded
        if encoded is not None and encoded.is_unread:
            encoded.end_due = (reusable, by_close)
            return
        try:
            rest = response.finish()
        except Withheld as why:
            self._withhold(why, now)
            return
        if self.state is states.REQUESTING and (head := response.take_held_head()) is not None:
            self._begin_answer(head)
        if self.state is states.RESPONDING and rest:
            self.port.response_body(rest)
        if by_close and response.cut_short:
            self._release(reusable=False)
            self._fail(Outcome.UPSTREAM_ABORT, Rejection(Reason.UPSTREAM_BROKEN), now)
            return
        if self.state is states.RESPONDING:
            self.port.response_end()
        self._release(reusable=reusable and request.is_sent and not by_close)
        self._conclude(COMPLETE, now)

    # Control

    def downstream_lost(self, now: float) -> None:
        """The caller left."""
        request = self.inbound
        if request is not None:
            request.stopped = True
        if self.state is states.NEW:
            self._move(states.REJECT)
        elif self.state is states.OPENING:
            self._void(None, now)
        elif self.state < states.DRAINING:
            if self._may_drain():
                self._move(states.DETACH)
                self.outbound.left_at = self.outbound.relayed
                self.timers.set(timers.USAGE_DRAIN, now + self._policy.timeouts.usage_drain)
            else:
                self._conclude(Outcome.CLIENT_ABORT, now)

    def _may_drain(self) -> bool:
        authorized, meter = self._authorized, self.outbound.meter
        if authorized is None or self.inbound is None or not authorized.managed or self.state is states.ADMITTED:
            return False
        wanted = authorized.provider.on_client_abort is OnClientAbort.DRAIN
        return wanted and self.inbound.is_sent and not (meter is not None and meter.terminal)

    def downstream_blocked(self, now: float) -> None:  # noqa: ARG002  # every input takes the time
        """The driver's queue is over its mark: silence upstream is our own doing from here."""
        self.timers.clear(timers.STREAM_IDLE)

    def downstream_writable(self, now: float) -> None:
        """The queue has drained."""
        if self.state is states.RESPONDING:
            self.timers.set(timers.STREAM_IDLE, now + self._policy.timeouts.stream_idle)

    def upstream_blocked(self, attempt: int, now: float) -> None:
        """The provider does not read: the caller's silence is our own doing from here."""
        if attempt == self.attempt and self._leg is leg.BUSY and self.inbound is not None:
            self.inbound.blocked = True
            self.timers.at[timers.CLIENT_BODY] = NEVER
            self.timers.set(timers.UPSTREAM_WRITE, now + self._policy.timeouts.upstream_write)

    def upstream_writable(self, attempt: int, now: float) -> None:
        """The provider reads again."""
        request = self.inbound
        if attempt == self.attempt and request is not None:
            request.blocked = False
            self.timers.clear(timers.UPSTREAM_WRITE)
            if not request.done and not request.stopped and self.state is states.REQUESTING:
                self.timers.set(timers.CLIENT_BODY, now + self._policy.timeouts.client_body)

    def on_timer(self, timer: Timer, now: float) -> None:
        """One of the exchange's timers fired."""
        if self.state is states.OPENING and timer in (timers.OPENING, timers.CLIENT_WRITE):
            self._void(Rejection(Reason.NO_LEDGER), now)
        elif timer is timers.CLIENT_WRITE and self.state in (states.ADMITTED, states.REQUESTING):
            # An answer of ours would not be read either.
            self._conclude(Outcome.TIMEOUT, now, timer.name.lower())
        elif timer is timers.CONNECT:
            self.gateway.stats.connect_failures[self._provider, "timeout"] += 1
            self._release(reusable=False)
            self._end_now_or_later(Outcome.TIMEOUT, Rejection(Reason.UPSTREAM_TIMEOUT, detail=timer.name.lower()), now)
        elif timer in (timers.CLIENT_BODY, timers.CLIENT_UPLOAD):
            self.must_close = True
            self._fail(Outcome.TIMEOUT, Rejection(Reason.BODY_TIMEOUT), now)
        elif self.state is not states.ENDED:
            self._fail(Outcome.TIMEOUT, Rejection(Reason.UPSTREAM_TIMEOUT, detail=timer.name.lower()), now)

    def cut(self, reason: DenyReason | None, now: float) -> None:
        """Ends it: the tenant was cut off, or (None) the drain grace is over."""
        rejection = Rejection(Reason.SHUTTING_DOWN) if reason is None else denied_rejection(reason)
        self.must_close = True
        if self.state is states.OPENING:
            self._void(rejection, now)
        elif self.state not in (states.NEW, states.ENDED):
            self._fail(Outcome.GATEWAY_CUT, rejection, now)

    def abandon(self, now: float) -> None:
        """The driver gives up: what is still due to the ledger and the pool. Idempotent."""
        if self.state is states.OPENING:
            self._void(None, now)
        elif self.state is states.DRAINING:
            self._conclude(Outcome.CLIENT_ABORT, now)
        elif self.state not in (states.NEW, states.ENDED):
            self._conclude(Outcome.GATEWAY_CUT, now)
