"""One request and its response, as parsed HTTP: admission, guards, header rewriting, metering, the fact."""

from __future__ import annotations

from aigw_core import leg, states, timers
from aigw_core.auth import Admitted, Refused, authorize, check_deny, denied_rejection
from aigw_core.denyset import DenyReason
from aigw_core.effects import (
    ConnectFailure,
    OpenFact,
    ReleaseUpstream,
)
from aigw_core.errors import LocalProtocolError, Reason, Rejection, RemoteProtocolError, rejection_of
from aigw_core.exchange_base import CONNECT_RETRIES_MAX, ExchangeBase
from aigw_core.facts import COMPLETE, Outcome
from aigw_core.forwarding import informational_head, upstream_request_head
from aigw_core.headers import Headers
from aigw_core.messages import NO_BODY, RequestHead, ResponseHead
from aigw_core.policy import OnClientAbort
from aigw_core.requestside import RequestSide
from aigw_core.responseside import INFORMATIONAL_MAX, pool_key_of
from aigw_core.settlement import open_record
from aigw_core.states import EXCHANGE_TABLE
from aigw_core.timers import NEVER, Timer
from aigw_core.usage.request import RequestFault

_CONTINUE = ResponseHead(100, b"Continue", Headers([]), NO_BODY)


class ExchangeMachine(ExchangeBase):
    """The inputs of an exchange; what each causes goes to the port before it returns.

    :class:`~aigw_core.exchange.Exchange` makes effects of that, :class:`~aigw_core.connection.Connection` bytes.
    """

    __slots__ = ()

    def request(self, head: RequestHead, body: bytes, now: float) -> None:
        """A request that is there whole: head, body and end in one input."""
        if self._begin_request(head, body, now):
            # All of it is there and is held, until the sink answers.
            assert self.inbound is not None
            self.inbound.done = True
            return
        if body and self.state is not states.ENDED:
            self.request_body(body, now)
        self.request_end(now)

    def request_head(self, head: RequestHead, now: float) -> None:
        """The head of the request; authorizes it."""
        self._begin_request(head, b"", now)

    def _begin_request(self, head: RequestHead, whole: bytes, now: float) -> bool:
        """``whole``: the body, if it is there; True if it is taken by that."""
        if self.inbound is not None:
            raise LocalProtocolError("an exchange has one request head")
        request = self.inbound = RequestSide(head)
        self._started_at = now
        gateway = self.gateway
        wall_ms = gateway.clock.wall_ms(now)
        self.id = gateway.ids.make(wall_ms)
        decision = authorize(head, self._policy, gateway, now, self.peer)
        if isinstance(decision, Refused):
            self._dialect = decision.dialect
            self._refused_route = decision.route
            self._reject_new(decision.rejection, now)
            return False
        self._authorized = decision
        self._dialect = decision.route.dialect
        gateway.active += 1
        if decision.caller is None:
            self._move(states.ADMIT)
            self._admitted = Admitted(decision, None, None)
            self._connect(now)
            self._after_admission(request, now)
            return False
        is_taken = request.judge_by(decision, self._policy, whole)
        self._record = open_record(self.id, gateway.clock.text(wall_ms), decision, gateway, now)
        self.state = EXCHANGE_TABLE[self.state][states.AUTHORIZE]
        self.timers.set(timers.OPENING, now + self._policy.timeouts.opening)
        self.port.open_fact(OpenFact(self._record))
        self._connect(now)
        return is_taken

    def request_malformed(self, error: RemoteProtocolError, now: float) -> None:
        """There is no request head to be had: answer and close."""
        self._started_at = now
        self.id = self.gateway.new_id(now)
        self.must_close = True
        self._reject_new(rejection_of(error), now)

    def _reject_new(self, rejection: Rejection, now: float) -> None:
        self._move(states.REJECT)
        self._refused(rejection, now)

    def request_body(self, data: bytes, now: float) -> None:
        """Bytes of the request body, transfer framing removed."""
        request = self.inbound
        if request is None:
            raise LocalProtocolError("a body needs a head")
        if request.stopped or self.state >= states.DRAINING:
            return
        request.received += len(data)
        if self.state is not states.OPENING:
            self.timers.set(timers.CLIENT_BODY, now + self._policy.timeouts.client_body)
        if request.received > self._policy.max_request_bytes:
            self._fault(request, Rejection(Reason.TOO_LARGE), now)
        elif self._flowing(request):
            self._pass_body(request, data, now)
        else:
            request.hold(data)

    def request_end(self, now: float) -> None:
        """The request body is complete; also to be called for a request without one."""
        request = self.inbound
        if request is None or request.done:
            raise LocalProtocolError("a request ends once, after its head")
        request.done = True
        self.timers.at[timers.CLIENT_BODY] = NEVER
        if not request.stopped and self.state < states.DRAINING and self._flowing(request):
            self._finish_body(request, now)

    def request_broken(self, error: RemoteProtocolError, now: float) -> None:
        """The framing of the request body is broken; nothing after it can be read."""
        request = self.inbound
        self.must_close = True
        if request is not None and not request.stopped and self.state < states.DRAINING:
            self._fault(request, rejection_of(error), now)

    def _flowing(self, request: RequestSide) -> bool:
        """Body bytes need not be held: they go upstream, or into a collected body."""
        return self.state is states.REQUESTING or (self.state is states.ADMITTED and request.collecting)

    def _pass_body(self, request: RequestSide, data: bytes, now: float) -> None:
        try:
            piece = request.feed(data)
        except RequestFault as fault:
            self._fault(request, fault.rejection, now)
            return
        if piece:
            request.sent += len(piece)
            self.port.request_body(self.attempt, piece)

    def _pass_held(self, request: RequestSide, now: float) -> None:
        for data in request.take_held():
            if not request.stopped:
                self._pass_body(request, data, now)

    def _finish_body(self, request: RequestSide, now: float) -> None:
        try:
            rest = request.finish()
        except RequestFault as fault:
            self._fault(request, fault.rejection, now)
            return
        if self.state is states.ADMITTED:
            request.ready = rest
            self._try_start(request, now)
        else:
            self._send_end(request, rest, now)

    def _send_end(self, request: RequestSide, rest: bytes, now: float) -> None:
        if rest:
            request.sent += len(rest)
            self.port.request_body(self.attempt, rest)
        self.port.request_end(self.attempt)
        self.timers.set(timers.READ, now + self._policy.timeouts.read)

    def _fault(self, request: RequestSide, rejection: Rejection, now: float) -> None:
        """A body that strikes a rule. Rules strike after admission: before it, the verdict waits."""
        request.stopped = True
        self._end_now_or_later(Outcome.REFUSED, rejection, now)

    def fact_opened(self, fact_id: str, now: float) -> None:
        """The sink holds the open record: admitted."""
        authorized, request = self._authorized, self.inbound
        if fact_id != self.id or self.state is not states.OPENING or authorized is None or request is None:
            return
        self.timers.at[timers.OPENING] = NEVER
        self.state = EXCHANGE_TABLE[self.state][states.ADMIT]
        self._admitted = Admitted(authorized, fact_id, self.id)
        if authorized.caller is not None and self._owner is not None:
            self.gateway.register(self._owner, authorized.caller)
        if self._pending_end is not None:
            self._fail(*self._pending_end, now)
        else:
            self._after_admission(request, now)

    def fact_refused(self, fact_id: str, now: float) -> None:
        """The sink has no room: nobody is served whose usage could not be recorded."""
        if fact_id == self.id and self.state is states.OPENING:
            self._end_opening(Rejection(Reason.NO_LEDGER), now)

    def _after_admission(self, request: RequestSide, now: float) -> None:
        if not request.done:
            self.timers.set(timers.CLIENT_BODY, now + self._policy.timeouts.client_body)
            if request.expects_continue:
                self.continue_sent = True
                self.port.informational(_CONTINUE)
        if request.collecting:
            if request.held_size:
                self._pass_held(request, now)
            if request.done and self.state is states.ADMITTED:
                self._finish_body(request, now)
        elif self.state is states.ADMITTED:
            self._try_start(request, now)

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

    def _try_start(self, request: RequestSide, now: float) -> None:
        """Sends the request head once there is a connection and, where it is collected, the whole body."""
        admitted = self._admitted
        if admitted is None:
            raise LocalProtocolError("nothing goes upstream before admission")
        if self._leg is not leg.READY or (request.collecting and request.ready is None):
            return
        authorized = admitted.authorized
        if authorized.caller is not None:
            denied = check_deny(authorized.caller, self._policy, self.gateway)
            if denied is not None:
                self._fail(Outcome.GATEWAY_CUT, denied, now)
                return
        if request.done and request.empty:
            try:
                request.ready = request.finish()
            except RequestFault as fault:
                self._fault(request, fault.rejection, now)
                return
        self.state = EXCHANGE_TABLE[self.state][states.START]
        self._leg = leg.BUSY
        head = upstream_request_head(request.head, authorized, self._policy, request.forward_framing)
        ready = request.ready
        if ready is not None:
            request.ready = b""
            request.sent += len(ready)
            self.port.whole_request(self.attempt, head, ready)
            self.timers.set(timers.READ, now + self._policy.timeouts.read)
            return
        self.port.request_head(self.attempt, head)
        self._pass_held(request, now)
        if request.done and not request.stopped:
            self._finish_body(request, now)

    def upstream_lost(self, attempt: int, now: float, *, answered: bool = False) -> None:
        """The connection ended before the response did; ``answered`` if a byte of a head had arrived."""
        if attempt != self.attempt or self._leg in (leg.NONE, leg.RELEASED):
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
        if body and is_expected and request is not None and request.done and authorized is not None:
            # The usual answer: nothing of it is waited for, so no timer is set.
            response = self.outbound
            out = response.begin(head, authorized, request.body, self.id, whole=True)
            self.state = EXCHANGE_TABLE[self.state][states.RESPOND]
            response.status = head.status
            response.begun = True
            self.port.whole_response(out, response.whole(body, authorized, request.body, now), self.must_close)
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
                self.port.informational(informational_head(head, pool_key_of(authorized)))
            return
        self.timers.at[timers.READ] = NEVER
        self.timers.set(timers.STREAM_IDLE, now + self._policy.timeouts.stream_idle)
        out = response.begin(head, authorized, request.body, self.id)
        if self.state is not states.REQUESTING:
            return
        if not request.done:
            # An early answer: the rest of the request is nobody's business any more (RFC 9112 §9.3).
            request.stopped = True
            self.must_close = True
            self.timers.at[timers.CLIENT_BODY] = NEVER
        self._move(states.RESPOND)
        response.status = head.status
        response.begun = True
        self.port.response_head(out, self.must_close)

    def response_body(self, attempt: int, data: bytes, now: float) -> None:
        """Bytes of the response body, transfer framing removed; relayed in the same turn."""
        if attempt != self.attempt or self._leg is not leg.BUSY:
            return
        # As Timers.set(), without its call: this is once for each event.
        idle_at, running = now + self._policy.timeouts.stream_idle, self.timers
        running.at[timers.STREAM_IDLE] = idle_at
        if idle_at < running.wake_at:
            running.wake_at = idle_at
        data = self.outbound.feed(data, now)
        if self.state is states.DRAINING:
            if self.outbound.drained > self._policy.usage_drain_max_bytes:
                self._conclude(Outcome.CLIENT_ABORT, now)
        elif data:
            self.port.response_body(data)

    def response_end(self, attempt: int, now: float, *, reusable: bool, by_close: bool = False) -> None:
        """The framing of the response has ended; ``by_close`` if only the end of the connection says so."""
        response, request = self.outbound, self.inbound
        stale = attempt != self.attempt or self._leg is not leg.BUSY or response.upstream_status is None
        if stale or request is None:
            return
        rest = response.finish()
        if self.state is states.RESPONDING and rest:
            self.port.response_body(rest)
        if by_close and response.cut_short:
            self._release(reusable=False)
            self._fail(Outcome.UPSTREAM_ABORT, Rejection(Reason.UPSTREAM_BROKEN), now)
            return
        if self.state is states.RESPONDING:
            self.port.response_end()
        self._release(reusable=reusable and request.done and not by_close)
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
        return wanted and self.inbound.done and not (meter is not None and meter.terminal)

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
        elif timer is timers.CLIENT_BODY:
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
