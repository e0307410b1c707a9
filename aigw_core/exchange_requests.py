"""The request of an exchange, from its head to the last byte that goes upstream."""

from __future__ import annotations

from aigw_core import leg, states, timers
from aigw_core.auth import Admitted, Refused, authorize, check_deny
from aigw_core.effects import OpenFact
from aigw_core.errors import LocalProtocolError, Reason, Rejection, RemoteProtocolError, rejection_of
from aigw_core.exchange_base import ExchangeBase
from aigw_core.facts import Outcome
from aigw_core.forwarding import upstream_request_head
from aigw_core.headers import Headers
from aigw_core.messages import NO_BODY, RequestHead, ResponseHead
from aigw_core.requestside import RequestSide
from aigw_core.settlement import open_record
from aigw_core.states import EXCHANGE_TABLE
from aigw_core.timers import NEVER
from aigw_core.usage.request import RequestFault
from aigw_core.work import CHARGED_MIN

_CONTINUE = ResponseHead(100, b"Continue", Headers([]), NO_BODY)


class ExchangeRequests(ExchangeBase):
    """Takes the request; :class:`aigw_core.exchange_machine.ExchangeMachine` adds the other inputs."""

    __slots__ = ()

    def request(self, head: RequestHead, body: bytes, now: float) -> None:
        """A request that is there whole: head, body and end in one input."""
        if self._begin_request(head, body, now):
            # All of it is there and is held, until the sink answers.
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
            if whole and len(whole) <= self._policy.max_request_bytes and not request.expects_continue:
                request.hold(whole)
                request.received = len(whole)
                request.done = True
                return True
            self._after_admission(request, now)
            return False
        if len(whole) >= CHARGED_MIN and not self._may_read(len(whole)):
            whole = b""
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
        elif request.waits or not (self.state is states.REQUESTING or self._flowing(request)):
            request.hold(data)
        elif (len(data) >= CHARGED_MIN or request.is_encoded) and not self._may_read(request.reading_size(len(data))):
            request.hold(data)
            request.waits = True
            self._wait(self.gateway.work)
        else:
            self._pass_body(request, data, now)

    def request_end(self, now: float) -> None:
        """The request body is complete; also to be called for a request without one."""
        request = self.inbound
        if request is None or request.done:
            raise LocalProtocolError("a request ends once, after its head")
        request.done = True
        self.timers.at[timers.CLIENT_BODY] = self.timers.at[timers.CLIENT_UPLOAD] = NEVER
        if not (request.stopped or request.waits) and self.state < states.DRAINING and self._flowing(request):
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
        if self._record is None:
            # Of a body with the caller's own key nothing is read.
            request.sent += len(data)
            self.port.request_body(self.attempt, data)
            return
        if self.state is states.REQUESTING and request.is_whole and self._is_denied(now):
            return
        try:
            piece = request.feed(data)
            while request.waits and not self._is_paced:
                piece = request.resume()
        except RequestFault as fault:
            self._fault(request, fault.rejection, now)
            return
        if request.is_waiting():
            self._wait(self.gateway.work)
        elif piece:
            request.sent += len(piece)
            self.port.request_body(self.attempt, piece)

    def _pass_held(self, request: RequestSide, now: float, *, is_due: bool = False) -> None:
        """``is_due``: it is this exchange's turn, so that one piece is read even where the share is used up."""
        while request.held_size and not (request.is_waiting() or request.stopped):
            if self._record is not None and not (self._may_read(request.next_size) or is_due):
                request.waits = True
                self._wait(self.gateway.work)
                return
            is_due = False
            self._pass_body(request, request.next_held(), now)

    def _is_denied(self, now: float) -> bool:
        """Asked before a request is complete at the provider: whether its caller was denied since it began."""
        authorized = self._authorized
        if self.state is not states.REQUESTING or authorized is None or authorized.caller is None:
            return False
        denied = check_deny(authorized.caller, self._policy, self.gateway)
        if denied is not None:
            self.must_close = True
            self._fail(Outcome.GATEWAY_CUT, denied, now)
        return denied is not None

    def _resume_request(self, request: RequestSide, now: float) -> None:
        request.waits = False
        if request.is_whole and self._is_denied(now):
            return
        try:
            piece = request.resume()
        except RequestFault as fault:
            self._fault(request, fault.rejection, now)
            return
        if request.is_waiting():
            self._wait(self.gateway.work)
            return
        if piece:
            request.sent += len(piece)
            self.port.request_body(self.attempt, piece)
        self._pass_held(request, now, is_due=True)
        if request.is_waiting() or request.stopped or self.ended:
            return
        if request.done:
            self._finish_body(request, now)
        else:
            self.timers.set(timers.CLIENT_BODY, now + self._policy.timeouts.client_body)

    def _finish_body(self, request: RequestSide, now: float) -> None:
        try:
            rest = request.finish()
        except RequestFault as fault:
            self._fault(request, fault.rejection, now)
            return
        if self.state is states.ADMITTED:
            request.ready = rest
            self._try_start(request, now)
        elif self._record is None or not self._is_denied(now):
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
            times, running = self._policy.timeouts, self.timers
            running.set(timers.CLIENT_BODY, now + times.client_body)
            running.set(timers.CLIENT_UPLOAD, self._started_at + times.client_upload)
            if request.expects_continue:
                self.continue_sent = True
                self.port.informational(_CONTINUE)
        if request.collecting:
            if request.held_size:
                self._pass_held(request, now)
            if request.done and not request.waits and self.state is states.ADMITTED:
                self._finish_body(request, now)
        elif self.state is states.ADMITTED:
            self._try_start(request, now)

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
        if request.held_size:
            self._pass_held(request, now)
        if request.done and not (request.stopped or request.waits):
            self._finish_body(request, now)
