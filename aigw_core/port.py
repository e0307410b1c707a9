"""Where an exchange puts what it has to say: the one seam between parsed HTTP and bytes."""

from __future__ import annotations

from typing import Protocol

from aigw_core.effects import (
    Connect,
    CutResponse,
    EmitFact,
    ExchangeEffect,
    OpenFact,
    ReleaseUpstream,
    SendInformational,
    SendRequestBody,
    SendRequestEnd,
    SendRequestHead,
    SendResponseBody,
    SendResponseEnd,
    SendResponseHead,
    VoidFact,
)
from aigw_core.messages import RequestHead, ResponseHead


class Port(Protocol):
    """One method for each effect of an exchange, called in the order in which they are to be carried out.

    A connection implements it and writes bytes; :class:`EffectPort` makes effects of it. An event of a stream
    passes here, so there is no object between the exchange and the bytes.
    """

    def open_fact(self, effect: OpenFact) -> None: ...
    def end_fact(self, effect: EmitFact | VoidFact) -> None:
        """Goes in front of everything that is due."""

    def connect(self, effect: Connect) -> None: ...
    def release_upstream(self, effect: ReleaseUpstream) -> None: ...
    def request_head(self, attempt: int, head: RequestHead) -> None: ...
    def request_body(self, attempt: int, data: bytes) -> None: ...
    def request_end(self, attempt: int) -> None: ...
    def whole_request(self, attempt: int, head: RequestHead, body: bytes) -> None:
        """Head, body and end in one; the head says a length, or there is no body."""

    def informational(self, head: ResponseHead) -> None: ...
    def response_head(self, head: ResponseHead, close: bool) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_end(self) -> None: ...
    def whole_response(self, head: ResponseHead, body: bytes, close: bool) -> None:
        """Head, body and end in one."""

    def cut_response(self) -> None: ...


class EffectPort:
    """Collects effects for those who drive an exchange by itself."""

    __slots__ = ("_effects",)

    def __init__(self) -> None:
        self._effects: list[ExchangeEffect] = []

    def take(self) -> list[ExchangeEffect]:
        """What was put here since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def open_fact(self, effect: OpenFact) -> None:
        self._effects.append(effect)

    def end_fact(self, effect: EmitFact | VoidFact) -> None:
        self._effects.insert(0, effect)

    def connect(self, effect: Connect) -> None:
        self._effects.append(effect)

    def release_upstream(self, effect: ReleaseUpstream) -> None:
        self._effects.append(effect)

    def request_head(self, attempt: int, head: RequestHead) -> None:
        self._effects.append(SendRequestHead(attempt, head))

    def request_body(self, attempt: int, data: bytes) -> None:
        self._effects.append(SendRequestBody(attempt, data))

    def request_end(self, attempt: int) -> None:
        self._effects.append(SendRequestEnd(attempt))

    def whole_request(self, attempt: int, head: RequestHead, body: bytes) -> None:
        self.request_head(attempt, head)
        if body:
            self.request_body(attempt, body)
        self.request_end(attempt)

    def informational(self, head: ResponseHead) -> None:
        self._effects.append(SendInformational(head))

    def response_head(self, head: ResponseHead, close: bool) -> None:
        self._effects.append(SendResponseHead(head, close))

    def response_body(self, data: bytes) -> None:
        self._effects.append(SendResponseBody(data))

    def response_end(self) -> None:
        self._effects.append(SendResponseEnd())

    def whole_response(self, head: ResponseHead, body: bytes, close: bool) -> None:
        self.response_head(head, close)
        if body:
            self.response_body(body)
        self.response_end()

    def cut_response(self) -> None:
        self._effects.append(CutResponse())
