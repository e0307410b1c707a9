"""A whole Connection in memory, with any bytes from both sides and any order of what drivers report.

The input is a script: its first byte chooses the way of driving, bytes below CONTROL go to the current side
in one piece, and the others act. LITERAL gives the byte behind it, whatever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from aigw_core.denyset import DenyReason
from aigw_core.effects import ConnectFailure
from aigw_core.errors import RemoteProtocolError
from aigw_core.http1.heads import find_head_end, parse_request_head
from aigw_core.policy import OnClientAbort, Policy
from aigw_core.usage.request import IncludeUsage
from tests.core.driver import POOL_KEY, VIRTUAL_KEY, MemoryDriver, make_gateway, make_policy

CONTROL: Final = 0xF0
DOWNSTREAM: Final = 0xF0
UPSTREAM: Final = 0xF1
LITERAL: Final = 0xFF
TOKENS: Final = (
    b"\xf0POST /openai/v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + VIRTUAL_KEY + b"\r\n",
    b"\xf0GET /openai/v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-x\r\n\r\n",
    b"\xf1HTTP/1.1 200 OK\r\n", b"\xf1HTTP/1.1 100 Continue\r\n\r\n", b"Content-Length: 3\r\n\r\nabc",
    b"Transfer-Encoding: chunked\r\n\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
    b"Content-Type: text/event-stream\r\n", b"0\r\n\r\n", b"data: [DONE]\n\n",
    *(bytes([code]) for code in range(CONTROL, 256)), b'{"model":"m","stream":true}',
)  # fmt: skip


def _with(policy: Policy, **changes: object) -> Policy:
    openai = replace(policy.providers["openai"], **changes)  # type: ignore[arg-type]  # each names a field
    return make_policy(providers={**policy.providers, "openai": openai})


_POLICIES: Final = (
    make_policy(),
    _with(make_policy(), on_client_abort=OnClientAbort.DRAIN),
    make_policy(include_usage=IncludeUsage.REQUIRE),
    make_policy(include_usage=IncludeUsage.VERBATIM),
)


class _Play:
    """One script through one driver."""

    def __init__(self, options: int) -> None:
        connect = ("auto", "reuse", "manual", "auto")[options & 3]
        sink = "hold" if options & 4 else "accept"
        self.gateway = make_gateway(_POLICIES[options >> 3 & 3])
        self.driver = MemoryDriver(self.gateway, connect=connect, sink=sink)
        self._answered: set[int] = set()
        self._blocked = False

    def act(self, code: int) -> None:
        action = _ACTIONS.get(code)
        if action is not None:
            action(self)

    def downstream(self, data: bytes) -> None:
        self.driver.receive(data)

    def upstream(self, data: bytes) -> None:
        if self._connected:
            self.driver.upstream(data)

    @property
    def _connected(self) -> bool:
        driver = self.driver
        return bool(driver.connects) and (driver.connect != "manual" or driver.attempt in self._answered)

    @property
    def _connecting(self) -> bool:
        driver = self.driver
        return bool(driver.connects) and driver.connect == "manual" and driver.attempt not in self._answered

    def upstream_ended(self) -> None:
        self.upstream(b"")

    def upstream_lost(self) -> None:
        if self._connected:
            self.driver.upstream_lost()

    def connected(self, *, reused: bool) -> None:
        if self._connecting:
            self._answered.add(self.driver.attempt)
            self.driver.connected(reused=reused)

    def connect_failed(self, failure: ConnectFailure) -> None:
        if self._connecting:
            self._answered.add(self.driver.attempt)
            self.driver.connect_failed(failure)

    def open_fact(self) -> None:
        if self.driver.ledger.answer == "hold" and set(self.driver.ledger.owed) - self.driver.ledger.answered:
            self.driver.fact_opened()

    def refuse_fact(self) -> None:
        driver = self.driver
        waiting = [id_ for id_ in driver.ledger.owed if id_ not in driver.ledger.answered]
        if driver.ledger.answer == "hold" and waiting:
            driver.ledger.refused.append(waiting[0])
            driver.run(driver.machine.fact_refused(waiting[0], driver.now))

    def block(self) -> None:
        machine, now = self.driver.machine, self.driver.now
        self._blocked = not self._blocked
        self.driver.run(machine.downstream_blocked(now) if self._blocked else machine.downstream_writable(now))

    def drain(self) -> None:
        self.gateway.drain()
        self.driver.run(self.driver.machine.drain(self.driver.now))

    def cut(self) -> None:
        self.driver.run(self.driver.machine.cut(DenyReason.FRAUD, self.driver.now))

    def finish(self) -> None:
        driver = self.driver
        for _ in range(2):
            driver.run(driver.machine.abandon(driver.now))
        assert driver.done(), "an abandoned connection is not done"
        driver.ledger.check()
        assert self.gateway.active == 0, "an exchange is still counted"


_ACTIONS: Final[dict[int, Callable[[_Play], object]]] = {
    0xF2: lambda play: play.downstream(b""),
    0xF3: _Play.upstream_ended,
    0xF4: _Play.upstream_lost,
    0xF5: lambda play: play.connected(reused=False),
    0xF6: lambda play: play.connected(reused=True),
    0xF7: lambda play: play.connect_failed(ConnectFailure.CONNECT),
    0xF8: lambda play: play.connect_failed(ConnectFailure.TLS),
    0xF9: _Play.open_fact,
    0xFA: _Play.refuse_fact,
    0xFB: lambda play: play.driver.advance(1.0),
    0xFC: lambda play: play.driver.advance(700.0),
    0xFD: _Play.block,
    0xFE: lambda play: play.driver.lost(),
}
_DRAIN_OR_CUT: Final = (_Play.drain, _Play.cut)


def _steps(script: bytes) -> Iterator[tuple[int, bytes]]:
    """(side, bytes) for data and (code, b"") for actions."""
    side, held, literal = DOWNSTREAM, bytearray(), False
    for byte in script:
        if literal or byte < CONTROL:
            held.append(byte)
            literal = False
        elif byte == LITERAL:
            literal = True
        else:
            if held:
                yield side, bytes(held)
                held.clear()
            if byte in (DOWNSTREAM, UPSTREAM):
                side = byte
            else:
                yield byte, b""
    if held:
        yield side, bytes(held)


def check(data: bytes) -> None:
    """Option bits: 0-1 connecting, 2 sink, 3-4 policy, 5 drain or cut at the end, 6 which of them."""
    options = data[0] if data else 0
    play = _Play(options)
    for code, piece in _steps(data[1:]):
        if play.driver.done():
            break
        if not piece:
            play.act(code)
        elif code == UPSTREAM:
            play.upstream(piece)
        else:
            play.downstream(piece)
    if options & 32:
        _DRAIN_OR_CUT[options >> 6 & 1](play)
    play.finish()
    for sent in play.driver.up.values():
        _assert_sound_upstream(sent)
    if POOL_KEY not in data:
        assert POOL_KEY not in play.driver.down, "the pool key leaves"


def _assert_sound_upstream(sent: bytes) -> None:
    try:
        end = find_head_end(sent, 0)
        assert end > 0, "half a head went upstream"
        parse_request_head(sent[:end])
    except RemoteProtocolError as error:
        raise AssertionError("no well-formed request went upstream") from error
    assert b"bai_v" not in sent[:end], "a virtual key travels"
