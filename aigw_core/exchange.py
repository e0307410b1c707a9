"""One request and its response, for people who have HTTP parsed already (ASGI, h11, h2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aigw_core.effects import ConnectFailure, ExchangeEffect
from aigw_core.exchange_machine import ExchangeMachine
from aigw_core.port import EffectPort
from aigw_core.states import ExchangeState
from aigw_core.timers import Timer, Timers

if TYPE_CHECKING:
    from aigw_core.denyset import DenyReason
    from aigw_core.errors import RemoteProtocolError
    from aigw_core.gateway import Cuttable, Gateway
    from aigw_core.messages import RequestHead, ResponseHead


class Exchange:
    """The machine of one exchange.

    Every input takes ``now`` (monotonic seconds, never backwards) and returns the effects it causes, in the
    order in which they are to be carried out. Peer input never raises; misuse raises LocalProtocolError.
    The control inputs mean what :class:`~aigw_core.connection.Connection` says of them, which is the same
    machine for people with bytes and states the rules of driving.
    """

    __slots__ = ("__weakref__", "_machine", "_port")

    def __init__(
        self,
        gateway: Gateway,
        *,
        owner: Cuttable | None = None,
        timers: Timers | None = None,
        last_attempt: int = 0,
        is_paced: bool = False,
        peer: str | bytes | None = None,
    ) -> None:
        """``owner`` is what ``Gateway.apply_deny`` returns to be cut; ``last_attempt`` is the last number used.

        ``is_paced``: the driver calls ``resume`` while ``wants_resume``, so that no input reads more of a body than one
        turn should; ``Gateway.work`` says when. ``peer`` is the caller's address as text; without it limits that
        strangers share have no shares.
        """
        self._port = EffectPort()
        self._machine = ExchangeMachine(
            gateway,
            self._port,
            owner=owner,
            timers=timers if timers is not None else Timers(),
            last_attempt=last_attempt,
            is_paced=is_paced,
            peer=gateway.peer(peer),
        )

    # What a driver reads

    @property
    def id(self) -> str:
        """Made when the request head is complete; ``""`` before."""
        return self._machine.id

    @property
    def state(self) -> ExchangeState:
        return self._machine.state

    @property
    def attempt(self) -> int:
        """The number of the latest upstream attempt."""
        return self._machine.attempt

    @property
    def ended(self) -> bool:
        return self._machine.ended

    @property
    def wants_resume(self) -> bool:
        """A body is read on in a later turn: call ``resume`` then."""
        return self._machine.wants_resume

    @property
    def must_close(self) -> bool:
        """The connection below must not carry another exchange."""
        return self._machine.must_close

    @property
    def wants_request_body(self) -> bool:
        """Advice: what was read already is accepted."""
        return self._machine.wants_request_body

    @property
    def deadline(self) -> tuple[float, Timer] | None:
        """The earliest timer and its name; reading it changes nothing."""
        return self._machine.timers.deadline

    # The request

    def request_head(self, head: RequestHead, now: float) -> list[ExchangeEffect]:
        """The head of the request; authorizes it."""
        self._machine.request_head(head, now)
        return self._port.take()

    def request_malformed(self, error: RemoteProtocolError, now: float) -> list[ExchangeEffect]:
        """There is no request head to be had: answer and close."""
        self._machine.request_malformed(error, now)
        return self._port.take()

    def request_body(self, data: bytes, now: float) -> list[ExchangeEffect]:
        """Bytes of the request body, transfer framing removed."""
        self._machine.request_body(data, now)
        return self._port.take()

    def request_end(self, now: float) -> list[ExchangeEffect]:
        """The request body is complete; also to be called for a request without one."""
        self._machine.request_end(now)
        return self._port.take()

    def request(self, head: RequestHead, body: bytes, now: float) -> list[ExchangeEffect]:
        """A request that is there whole: head, body and end in one input."""
        self._machine.request(head, body, now)
        return self._port.take()

    def request_broken(self, error: RemoteProtocolError, now: float) -> list[ExchangeEffect]:
        """The framing of the request body is broken; nothing after it can be read."""
        self._machine.request_broken(error, now)
        return self._port.take()

    def fact_opened(self, fact_id: str, now: float) -> list[ExchangeEffect]:
        """The sink holds the open record: admitted."""
        self._machine.fact_opened(fact_id, now)
        return self._port.take()

    def fact_refused(self, fact_id: str, now: float) -> list[ExchangeEffect]:
        """The sink has no room: nobody is served whose usage could not be recorded."""
        self._machine.fact_refused(fact_id, now)
        return self._port.take()

    # Upstream

    def upstream_connected(self, attempt: int, reused: bool, now: float) -> list[ExchangeEffect]:
        """The attempt has a connection; ``reused`` if it carried another exchange before."""
        self._machine.upstream_connected(attempt, reused, now)
        return self._port.take()

    def upstream_failed(self, attempt: int, failure: ConnectFailure, now: float) -> list[ExchangeEffect]:
        """The attempt got no connection."""
        self._machine.upstream_failed(attempt, failure, now)
        return self._port.take()

    def upstream_lost(self, attempt: int, now: float, *, answered: bool = False) -> list[ExchangeEffect]:
        """The connection ended before the response did; ``answered`` if a byte of a head had arrived."""
        self._machine.upstream_lost(attempt, now, answered=answered)
        return self._port.take()

    def upstream_broken(self, attempt: int, now: float) -> list[ExchangeEffect]:
        """The provider's bytes are not HTTP/1.1, or came when none were due."""
        self._machine.upstream_broken(attempt, now)
        return self._port.take()

    # The response

    def response_head(self, attempt: int, head: ResponseHead, now: float) -> list[ExchangeEffect]:
        """A response head: 1xx are relayed, the final one begins the response."""
        self._machine.response_head(attempt, head, now)
        return self._port.take()

    def response_body(self, attempt: int, data: bytes, now: float) -> list[ExchangeEffect]:
        """Bytes of the response body, transfer framing removed; relayed in the same turn."""
        if data:
            self._machine.response_body(attempt, data, now)
        return self._port.take()

    def response_end(self, attempt: int, now: float, *, reusable: bool, by_close: bool = False) -> list[ExchangeEffect]:
        """The framing of the response has ended; ``by_close`` if only the end of the connection says so."""
        self._machine.response_end(attempt, now, reusable=reusable, by_close=by_close)
        return self._port.take()

    def response(
        self, attempt: int, head: ResponseHead, body: bytes, now: float, *, reusable: bool
    ) -> list[ExchangeEffect]:
        """A response that is there whole: final head, body and end in one input."""
        self._machine.response(attempt, head, body, now, reusable=reusable)
        return self._port.take()

    # Control

    def downstream_lost(self, now: float) -> list[ExchangeEffect]:
        """The caller left."""
        self._machine.downstream_lost(now)
        return self._port.take()

    def downstream_blocked(self, now: float) -> None:
        """The driver's queue is over its mark: silence upstream is our own doing from here."""
        self._machine.downstream_blocked(now)

    def downstream_writable(self, now: float) -> None:
        """The queue has drained."""
        self._machine.downstream_writable(now)

    def upstream_blocked(self, attempt: int, now: float) -> None:
        """The provider does not read: the caller's silence is our own doing from here."""
        self._machine.upstream_blocked(attempt, now)

    def upstream_writable(self, attempt: int, now: float) -> None:
        """The provider reads again."""
        self._machine.upstream_writable(attempt, now)

    def on_timer(self, timer: Timer, now: float) -> list[ExchangeEffect]:
        """One of the exchange's timers fired."""
        self._machine.on_timer(timer, now)
        return self._port.take()

    def tick(self, now: float) -> list[ExchangeEffect]:
        """Runs every timer that is due."""
        timers = self._machine.timers
        while (timer := timers.due(now)) is not None:
            self._machine.on_timer(timer, now)
        timers.settle()
        return self._port.take()

    def resume(self, now: float) -> list[ExchangeEffect]:
        """Reads on in a body of which an earlier input had more than one turn should read."""
        self._machine.resume(now)
        return self._port.take()

    def cut(self, reason: DenyReason | None, now: float) -> list[ExchangeEffect]:
        """Ends it: the tenant was cut off, or (None) the drain grace is over."""
        self._machine.cut(reason, now)
        return self._port.take()

    def abandon(self, now: float) -> list[ExchangeEffect]:
        """The driver gives up: what is still due to the ledger and the pool. Idempotent."""
        self._machine.abandon(now)
        return self._port.take()
