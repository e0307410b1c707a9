"""The request of an exchange: read in turns, and kept from the provider where its caller is denied meanwhile."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace

import pytest

from aigw_core.connection import Connection
from aigw_core.effects import Effect, EmitFact, OpenFact, ReleaseUpstream, SendDownstream, SendRequestBody, SendUpstream
from aigw_core.exchange import Exchange
from aigw_core.facts import Outcome
from aigw_core.gateway import Gateway
from aigw_core.headers import Headers
from aigw_core.messages import Length, RequestHead
from aigw_core.policy import Timeouts
from aigw_core.timers import Timer
from aigw_core.usage.decoding import STEP_BYTES
from aigw_core.work import CHARGED_MIN, TURN_BYTES
from tests.core.driver import (
    VIRTUAL_KEY,
    VIRTUAL_KEY_V2,
    MemoryDriver,
    json_response,
    make_gateway,
    make_policy,
    request,
)

PIECE = 16_384
TENANT = 1


def words(size: int) -> bytes:
    """JSON that compresses some three times."""
    text = "".join(random.Random(1).choices("abcdefgh ", k=size))
    return json.dumps({"model": "m-1", "input": text}).encode()


def encoded_request(body: bytes) -> tuple[bytes, bytes]:
    packed = gzip.compress(body, 1)
    whole = request(packed, target=b"/openai/v1/responses", headers=b"Content-Encoding: gzip\r\n")
    return whole, packed


class Paced:
    """A driver that resumes only when the test says so, as one of many connections would be."""

    def __init__(self, gateway: Gateway | None = None) -> None:
        self.gateway = gateway or make_gateway()
        self.machine = Connection(self.gateway, 0.0)
        self.up = self.down = b""

    def run(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendUpstream):
                self.up += effect.data
            elif isinstance(effect, SendDownstream):
                self.down += effect.data
            elif isinstance(effect, OpenFact):
                self.run(self.machine.upstream_connected(self.attempt, False, 0.0))
                self.run(self.machine.fact_opened(effect.record.id, 0.0))

    @property
    def attempt(self) -> int:
        return 1

    def receive(self, data: bytes) -> None:
        self.run(self.machine.receive_downstream(data, 0.0))

    def reading(self) -> bool:
        return self.machine.wants_downstream

    def waiting(self) -> bool:
        return self.machine.wants_resume

    def turn(self) -> bool:
        """One turn of reading; False where nobody waited."""
        owners = self.gateway.work.turn() or self.gateway.answer_work.turn()
        for owner in owners:
            assert owner is self.machine
            self.run(self.machine.resume(0.0))
        return bool(owners)


def test_a_decoded_body_is_read_a_step_at_a_time_and_goes_on_as_it_came() -> None:
    whole, packed = encoded_request(words(400_000))
    paced = Paced()
    sent = turns = 0
    while sent < len(whole):
        assert paced.reading()
        paced.receive(whole[sent : sent + PIECE])
        sent += PIECE
        while paced.waiting():
            if sent < len(whole):
                assert not paced.reading()
            assert paced.turn()
            turns += 1
    assert turns >= 400_000 // PIECE - 1
    head, _, body = paced.up.partition(b"\r\n\r\n")
    assert body == packed
    assert b"Content-Encoding: gzip" in head


def test_what_arrives_meanwhile_waits_in_order() -> None:
    whole, packed = encoded_request(words(300_000))
    paced = Paced()
    for at in range(0, len(whole), PIECE):
        paced.receive(whole[at : at + PIECE])
    assert paced.waiting()
    while paced.turn():
        pass
    assert not paced.waiting()
    assert paced.up.endswith(b"\r\n\r\n" + packed)
    paced.run(paced.machine.receive_upstream(1, json_response(b'{"usage":{"input_tokens":3}}'), 1.0))
    assert paced.down.startswith(b"HTTP/1.1 200")


def test_a_bomb_is_refused_after_few_turns() -> None:
    whole, packed = encoded_request(b'{"input":"' + b"x" * 8_000_000 + b'"}')
    assert len(packed) < 64_000
    paced = Paced()
    for at in range(0, len(whole), PIECE):
        paced.receive(whole[at : at + PIECE])
    turns = 0
    while paced.turn():
        turns += 1
    assert paced.down.startswith(b"HTTP/1.1 400")
    assert turns < 2_000_000 // PIECE
    assert b"POST" not in paced.up


def test_a_key_reads_its_share_and_waits_for_the_next_turn() -> None:
    body = b'{"model":"m","input":"' + b"x" * 300_000 + b'"}'
    whole = request(body, target=b"/openai/v1/responses")
    paced = Paced()
    for at in range(0, 2 * TURN_BYTES, PIECE):
        paced.receive(whole[at : at + PIECE])
    assert paced.waiting()
    assert not paced.reading()
    while paced.turn():
        pass
    for at in range(2 * TURN_BYTES, len(whole), PIECE):
        paced.receive(whole[at : at + PIECE])
        while paced.turn():
            pass
    assert paced.up.endswith(body)


def test_two_connections_of_a_key_share_and_another_key_does_not_wait() -> None:
    gateway = make_gateway()
    crowd = [Paced(gateway) for _ in range(6)]
    piece = request(b'{"input":"' + b"x" * 300_000, target=b"/openai/v1/responses")[: 2 * PIECE]
    for each in crowd:
        each.receive(piece)
    assert [each.machine.wants_resume for each in crowd] == [False] * 3 + [True] * 3
    other = Paced(gateway)
    other.receive(
        request(b'{"input":"' + b"x" * 300_000, target=b"/openai/v1/responses", key=VIRTUAL_KEY_V2)[: 2 * PIECE]
    )
    assert not other.machine.wants_resume


def test_an_exchange_that_is_not_paced_reads_at_once() -> None:
    _, packed = encoded_request(words(400_000))
    exchange = Exchange(make_gateway())
    fields = [(b"host", b"a"), (b"authorization", b"Bearer " + VIRTUAL_KEY), (b"content-encoding", b"gzip")]
    head = RequestHead(b"POST", b"/openai/v1/responses", Headers.of(fields), Length(len(packed)))
    effects = exchange.request(head, packed, 0.0)
    record = next(effect.record for effect in effects if isinstance(effect, OpenFact))
    exchange.fact_opened(record.id, 0.0)
    exchange.upstream_connected(1, False, 0.0)
    assert not exchange.wants_resume
    assert exchange.state.name == "REQUESTING"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("wire", [b"/openai/v1/responses", b"/anthropic/v1/messages", b"/mistral/v1/embeddings"])
def test_a_denial_keeps_the_end_of_an_upload_from_the_provider(wire: bytes, chunked: bool) -> None:
    body = b'{"model":"m","input":"' + b"x" * 100_000 + b'"}'
    driver = MemoryDriver()
    if chunked:
        head = request(b"", target=wire, headers=b"Transfer-Encoding: chunked\r\n", length=False)
        data = head + b"%x\r\n" % len(body) + body
        last = b"\r\n0\r\n\r\n"
    else:
        data, last = request(body, target=wire)[:-1], body[-1:]
    driver.receive(data)
    assert len(driver.sent_upstream) > 90_000
    driver.gateway.deny.put(f"blackhole.{TENANT}", b"spend", 1)
    driver.receive(last)
    assert driver.down.startswith(b"HTTP/1.1 402")
    assert driver.ledger.facts[0].outcome is Outcome.GATEWAY_CUT
    assert not driver.sent_upstream.endswith((body, b"0\r\n\r\n"))


def test_an_upload_has_a_total_bound_however_steadily_it_comes() -> None:
    timeouts = replace(Timeouts(), client_upload=100.0)
    driver = MemoryDriver(make_gateway(make_policy(timeouts=timeouts)))
    driver.receive(request(b'{"input":"' + b"x" * 100_000, target=b"/openai/v1/responses")[:20_000])
    for _ in range(10):
        driver.advance(9.9)
        driver.receive(b"x")
    assert driver.machine.deadline == (100.0, Timer.CLIENT_UPLOAD)
    driver.advance(1.0)
    assert driver.down.startswith(b"HTTP/1.1 408")
    assert driver.ledger.facts[0].outcome is Outcome.TIMEOUT


def test_a_caller_who_leaves_while_its_body_is_read_leaves_its_fact() -> None:
    whole, _ = encoded_request(words(300_000))
    driver = MemoryDriver()
    paced = Paced(driver.gateway)
    for at in range(0, len(whole), PIECE):
        paced.receive(whole[at : at + PIECE])
    assert paced.gateway.work.waiting == 1
    effects = paced.machine.downstream_lost(1.0)
    assert isinstance(effects[0], EmitFact)
    assert paced.gateway.work.waiting == 0
    assert paced.machine.done
    assert paced.machine.resume(2.0) == []


def test_an_answer_that_comes_before_the_request_is_read_ends_it() -> None:
    long = request(b'{"input":"' + b"x" * 300_000 + b'"}', target=b"/openai/v1/responses")
    paced = Paced()
    for at in range(0, len(long), PIECE):
        paced.receive(long[at : at + PIECE])
    assert paced.waiting()
    before = paced.up
    effects = paced.machine.receive_upstream(1, json_response(b'{"error":{}}', status=b"413 Too Large"), 1.0)
    released = [effect for effect in effects if isinstance(effect, ReleaseUpstream)]
    paced.run(effects)
    assert paced.down.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in paced.down
    assert [effect.reusable for effect in released] == [False]
    assert not paced.turn()
    assert paced.up == before


def test_bodies_that_come_whole_are_charged_to_their_key_and_wait_like_others() -> None:
    """A hundred connections of one key that each send a body in one piece read no more in a turn than one would."""
    gateway = make_gateway()
    body = words(20_000)
    waiting = 0
    for _ in range(8):
        paced = Paced(gateway)
        paced.receive(request(body, target=b"/openai/v1/responses"))
        waiting += paced.waiting()
    assert waiting == 8 - (TURN_BYTES + len(body)) // len(body)


def test_short_pieces_are_charged_what_they_may_decode_to() -> None:
    """A piece of a hundred bytes can hold as much as a step reads."""
    gateway = make_gateway()
    whole, packed = encoded_request(words(3_000))
    assert len(packed) < CHARGED_MIN
    waiting = 0
    for _ in range(2 * TURN_BYTES // STEP_BYTES):
        paced = Paced(gateway)
        paced.receive(whole)
        waiting += paced.waiting()
    assert waiting == TURN_BYTES // STEP_BYTES


def test_a_refused_request_is_not_read_on() -> None:
    """A driver that resumes for as long as the machine wants it comes to an end."""
    whole, _ = encoded_request(words(400_000))
    paced = Paced()
    paced.receive(whole[: len(whole) // 2])
    assert paced.waiting()
    paced.run(paced.machine.receive_upstream(paced.attempt, b"HTTP/1.1 400 Bad\r\nContent-Length: 5\r\n\r\nno", 0.0))
    assert not paced.waiting()


def test_a_caller_denied_while_the_body_waits_sends_none_of_the_rest() -> None:
    """On a wire without a rule the whole body would go with the last step of its reading."""
    gateway = make_gateway()
    exchange = Exchange(gateway, is_paced=True)
    packed = gzip.compress(words(400_000), 1)
    fields = [(b"Host", b"g"), (b"x-api-key", VIRTUAL_KEY), (b"Content-Encoding", b"gzip")]
    head = RequestHead(b"POST", b"/anthropic/v1/messages", Headers.of(fields), Length(len(packed)))
    exchange.request_head(head, 0.0)
    exchange.upstream_connected(exchange.attempt, False, 0.0)
    exchange.fact_opened(exchange.id, 0.0)
    exchange.request_body(packed, 0.0)
    exchange.request_end(0.0)
    assert exchange.wants_resume
    gateway.deny.put(f"blackhole.{TENANT}", b"spend", 1)
    sent: list[SendRequestBody] = []
    while _waits(exchange):
        sent += [effect for effect in exchange.resume(0.0) if isinstance(effect, SendRequestBody)]
    assert sent == []


def _waits(exchange: Exchange) -> bool:
    return exchange.wants_resume
