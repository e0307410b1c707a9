"""What the inputs of an exchange share: its state, and every way to end it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aigw_core import leg, states
from aigw_core.answers import own_answer
from aigw_core.auth import Admitted, Authorized
from aigw_core.effects import (
    Connect,
    EmitFact,
    ReleaseUpstream,
    VoidFact,
)
from aigw_core.encodedanswer import Withheld
from aigw_core.errors import Dialect, Reason, Rejection
from aigw_core.facts import COMPLETE, OpenRecord, Outcome
from aigw_core.gateway import Cuttable
from aigw_core.http1.shapes import ResponseShapes
from aigw_core.limiter import Aggregate
from aigw_core.messages import ResponseHead
from aigw_core.peers import Peer
from aigw_core.port import Port
from aigw_core.requestside import REQUEST_HOLD_MAX, RequestSide
from aigw_core.responseside import ResponseSide
from aigw_core.routing import Route
from aigw_core.settlement import final_outcome, settle
from aigw_core.states import EXCHANGE_TABLE, ExchangeEvent, ExchangeState
from aigw_core.stats import BYO, MANAGED, ExchangeLog
from aigw_core.strangers import FORBIDDEN_STATUS, REFUSED_STATUS, names_the_key
from aigw_core.timers import CONNECT, NEVER, Timer, Timers
from aigw_core.trace import trace_id_of
from aigw_core.work import WorkShares

if TYPE_CHECKING:
    from aigw_core.gateway import Gateway

PROVEN_SECS: Final = 60.0
"""Seconds in which a credential that worked is not noted again: little against the hour for which it is remembered."""
_UNPROVING: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""Methods that some providers answer without looking at the key."""
_WITH_BODY: Final = frozenset({b"POST", b"PUT", b"PATCH"})
"""Methods whose body every server reads. The body of any other has no defined meaning (RFC 9110 §9.3), and a server
that leaves it unread takes it for the next request: that one must be nobody else's."""
CONNECT_RETRIES_MAX: Final = 2
"""Connections tried beyond the first; each takes the next address."""


_OPENAI: Final = Dialect.OPENAI


class ExchangeBase:
    """The state of one exchange and its ends; :class:`aigw_core.exchange_machine.ExchangeMachine` adds the inputs."""

    __slots__ = (
        "_admitted",
        "_authorized",
        "_dialect",
        "_is_paced",
        "_leg",
        "_owner",
        "_pending_end",
        "_policy",
        "_record",
        "_refused_route",
        "_reused",
        "_started_at",
        "_tries",
        "attempt",
        "continue_sent",
        "ended",
        "gateway",
        "id",
        "inbound",
        "must_close",
        "outbound",
        "peer",
        "port",
        "state",
        "timers",
    )

    def __init__(
        self,
        gateway: Gateway,
        port: Port,
        owner: Cuttable | None,
        timers: Timers,
        last_attempt: int,
        is_paced: bool = False,
        peer: Peer | None = None,
    ) -> None:
        """``owner`` is what ``Gateway.apply_deny`` returns to be cut; ``last_attempt`` is the last number used.

        ``is_paced``: the driver calls ``resume``, so that no input reads more of a body than one turn should.
        """
        self.peer = peer
        self.gateway = gateway
        self.state: ExchangeState = states.NEW
        self.timers = timers
        self.id = ""
        self.inbound: RequestSide | None = None
        self.outbound = ResponseSide()
        self.must_close = False
        """The connection below must not carry another exchange."""
        self.continue_sent = False
        self._owner = owner
        self._is_paced = is_paced
        self._policy = gateway.policy
        self.port = port
        self._authorized: Authorized | None = None
        self._admitted: Admitted | None = None
        self._dialect = _OPENAI
        self._refused_route: Route | None = None
        """Where a request was to go that was not authorized."""
        self._record: OpenRecord | None = None
        self._pending_end: tuple[Outcome, Rejection] | None = None
        self.attempt = last_attempt
        """The number of the latest upstream attempt."""
        self.ended = False
        self._leg: leg.Leg = leg.NONE
        self._reused = False
        self._tries = 0
        self._started_at = 0.0

    @property
    def wants_request_body(self) -> bool:
        """Advice: what was read already is accepted."""
        request = self.inbound
        if request is None or request.stopped or request.blocked:
            return False
        return not request.is_waiting() and request.held_size < REQUEST_HOLD_MAX

    @property
    def wants_resume(self) -> bool:
        """A body was taken that is read on in a later turn: call ``resume`` then."""
        if self.ended:
            return False
        request = self.inbound
        return self.outbound.is_waiting() or (request is not None and request.is_waiting() and not request.stopped)

    @property
    def response_shapes(self) -> ResponseShapes | None:
        """What is known of the heads that its provider sends."""
        authorized = self._authorized
        return None if authorized is None else authorized.provider.response_shapes

    @property
    def deadline(self) -> tuple[float, Timer] | None:
        """The earliest timer and its name; reading it changes nothing."""
        return self.timers.deadline

    def _move(self, event: ExchangeEvent) -> None:
        """Any move; those of each exchange that do not end it are written out where they are made."""
        self.state = state = EXCHANGE_TABLE[self.state][event]
        self.ended = state is states.ENDED

    # Upstream

    def _connect(self, now: float, *, fresh: bool = False) -> None:
        assert self._authorized is not None
        self.attempt += 1
        self._leg = leg.CONNECTING
        if self.timers.at[CONNECT] == NEVER:
            self.timers.set(CONNECT, now + self._policy.timeouts.connect)
        self.port.connect(Connect(self._authorized.provider.origin, self.attempt, fresh, self._tries))

    def _try_again(self, now: float) -> bool:
        if self._tries >= CONNECT_RETRIES_MAX:
            return False
        self._tries += 1
        self.gateway.stats.retries[self._provider] += 1
        self._connect(now, fresh=True)
        return True

    def _release(self, *, reusable: bool) -> None:
        was, self._leg = self._leg, leg.RELEASED
        if was is leg.NONE or was is leg.RELEASED:
            return
        assert self._authorized is not None
        request = self.inbound
        if request is not None and request.head.method not in _WITH_BODY and not request.empty:
            reusable = False
        # A connection that never carried a byte of this exchange is as good as it was.
        reusable = reusable or was is leg.READY
        self.port.release_upstream(ReleaseUpstream(self.attempt, reusable, self._authorized.provider.idle_timeout))

    # Shares of reading

    def _may_read(self, size: int) -> bool:
        """Whether the share of this caller has room for that much in this turn."""
        share = self._share
        return share is None or not self._is_paced or self.gateway.work.take(share, size)

    def _wait(self, work: WorkShares) -> None:
        """Reading goes on with ``resume``, in a later turn."""
        share = self._share
        if self._owner is not None and share is not None:
            work.wait(share, self._owner)

    def _wait_no_more(self) -> None:
        if self._owner is not None:
            self.gateway.work.forget(self._owner)
            self.gateway.answer_work.forget(self._owner)

    @property
    def _share(self) -> tuple[int, int | None] | None:
        """Who is charged for reading; None for a BYO caller, whose bodies are not read."""
        caller = None if self._authorized is None else self._authorized.caller
        return None if caller is None else (caller.tenant_id, caller.key_id)

    # The answer

    def _begin_answer(self, head: ResponseHead) -> None:
        """The final head goes downstream."""
        response = self.outbound
        self._move(states.RESPOND)
        response.status = head.status
        response.begun = True
        self.port.response_head(head, self.must_close)

    def _withhold(self, why: Withheld, now: float) -> None:
        """The answer holds the pool key where it cannot be overwritten: ours in its place, or none of the rest."""
        response = self.outbound
        replaced_error = not response.begun and response.upstream_status is not None and response.upstream_status >= 400
        outcome = Outcome.UPSTREAM_ERROR if replaced_error else Outcome.UPSTREAM_ABORT
        self._release(reusable=False)
        self._fail(outcome, Rejection(Reason.UPSTREAM_WITHHELD, detail=str(why)), now)

    # Ends

    def _refused(self, rejection: Rejection, now: float) -> None:
        self._answer(rejection)
        self._log(rejection.reason.name.lower(), now, rejection.detail)

    def _void(self, rejection: Rejection | None, now: float) -> None:
        """Ends while ``opening``: no fact, and the sink is told so."""
        self.port.end_fact(VoidFact(self.id))
        self._end_opening(rejection, now)

    def _end_opening(self, rejection: Rejection | None, now: float) -> None:
        self._move(states.VOID)
        self._release(reusable=False)
        if rejection is not None:
            self._refused(rejection, now)
        self._close_books()

    def _end_now_or_later(self, outcome: Outcome, rejection: Rejection, now: float) -> None:
        """While ``opening`` the verdict waits for the sink: what was admitted ends in a fact."""
        if self.state is states.OPENING:
            self._pending_end = self._pending_end or (outcome, rejection)
        else:
            self._fail(outcome, rejection, now)

    def _fail(self, outcome: Outcome, rejection: Rejection, now: float) -> None:
        """Answers where no head is out yet, cuts where one is, and concludes."""
        if self.state is states.DRAINING:
            outcome = Outcome.CLIENT_ABORT
        elif self.state is states.RESPONDING:
            self.must_close = True
            self.port.cut_response()
        else:
            self._answer(rejection)
        self._conclude(outcome, now, rejection.why)

    def _conclude(self, outcome: Outcome, now: float, why: str = "") -> None:
        """The only way out for an admitted exchange: the fact first, then the connection is given back."""
        authorized, request, response = self._authorized, self.inbound, self.outbound
        assert authorized is not None
        assert request is not None
        reached = self.state > states.ADMITTED
        if response.meter is not None and outcome is not COMPLETE:
            response.abandon()
        if self._leg is not leg.RELEASED:
            self._release(reusable=False)
        self._move(states.CONCLUDE)
        if self._record is None:
            if response.upstream_status != 200 or now >= authorized.proven_until:
                self._learn(authorized, request, response, now)
            outcome = final_outcome(outcome, None, response.upstream_status)
            self.gateway.stats.count_byo(
                authorized.route.provider,
                authorized.route.wire,
                response.status,
                outcome,
                int((now - self._started_at) * 1000),
                self._ttft_ms,
            )
        else:
            fact = settle(
                self._record,
                authorized,
                request,
                response,
                outcome,
                reached_provider=reached,
                started_at=self._started_at,
                now=now,
            )
            outcome = fact.outcome
            self.port.end_fact(EmitFact(fact))
            self.gateway.stats.count_fact(fact)
        if outcome is not COMPLETE or self.gateway.stats.logs_all:
            self._log(outcome, now, why)
        if authorized.caller is not None and self._owner is not None:
            self.gateway.unregister(self._owner, authorized.caller)
        self._close_books()

    def _learn(self, authorized: Authorized, request: RequestSide, response: ResponseSide, now: float) -> None:
        """What the provider's answer says of a caller's own key."""
        status, strangers = response.upstream_status, self.gateway.strangers
        if status is None or authorized.caller is not None:
            return
        is_refused = status == REFUSED_STATUS
        if status == FORBIDDEN_STATUS and response.ttft_at is not None:
            is_refused = names_the_key(response.first)
        if is_refused:
            address = None if self.peer is None else self.peer.mark(Aggregate.BYO)
            strangers.refused(authorized.credential, address, self._started_at, now)
        elif status < 300 and request.head.method not in _UNPROVING:
            strangers.accepted(authorized.credential, now)
            authorized.proven_until = now + PROVEN_SECS

    def _close_books(self) -> None:
        self.gateway.active -= 1
        self.timers.clear_exchange()
        request = self.inbound
        if request is not None and (request.held_size or request.waits):
            request.drop_held()
            self._wait_no_more()
        elif self.outbound.encoded is not None:
            self._wait_no_more()

    def _answer(self, rejection: Rejection) -> None:
        """Our own response, in the caller's dialect."""
        request = self.inbound
        method = b"" if request is None else request.head.method
        if request is not None:
            request.stopped = True
        self.gateway.stats.count_rejection(rejection)
        self.outbound.status = rejection.status
        self.outbound.begun = True
        head, body = own_answer(rejection, self._dialect, self.id, method)
        self.port.response_head(head, self.must_close)
        if body:
            self.port.response_body(body)
        self.port.response_end()

    @property
    def _provider(self) -> str:
        assert self._authorized is not None
        return self._authorized.route.provider

    @property
    def _ttft_ms(self) -> int | None:
        at = self.outbound.ttft_at
        return None if at is None else int((at - self._started_at) * 1000)

    def _log(self, reason: str, now: float, detail: str = "") -> None:
        authorized, request, response = self._authorized, self.inbound, self.outbound
        route = authorized.route if authorized is not None else self._refused_route
        self.gateway.stats.failures.append(
            ExchangeLog(
                id=self.id,
                provider=route.provider if route is not None else None,
                wire=route.wire if route is not None else None,
                reason=reason,
                status=response.status,
                upstream_status=response.upstream_status,
                duration_ms=int((now - self._started_at) * 1000),
                detail=detail,
                caller=None if authorized is None else MANAGED if authorized.managed else BYO,
                ttft_ms=self._ttft_ms,
                request_bytes=request.sent if request is not None else 0,
                response_bytes=response.relayed - response.drained,
                trace_id=trace_id_of(request.head.headers) if request is not None else None,
            )
        )
