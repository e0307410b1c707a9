"""What connections hold of incomplete heads: counted exactly however each ends, and bounded for all together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core import gateway as gateway_module
from aigw_core import states
from aigw_core.connection import Connection
from aigw_core.effects import Close, CloseDownstream, Effect, SendDownstream
from aigw_core.gateway import HEAD_SHARE_MAX, HEAD_SMALL_SIZE, HEADS_HELD_MAX, Gateway
from aigw_core.http1.heads import HEAD_MAX
from tests.core.driver import BYO_KEY, VIRTUAL_KEY, MemoryDriver, make_gateway

HEAD = b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n\r\n"
WHOLE = [HEAD % VIRTUAL_KEY, HEAD % BYO_KEY, b"POST" + (HEAD % b"x")[3:-2] + b"Content-Length: 3\r\n\r\nabc"]


def held(connections: list[Connection]) -> int:
    """Counts again what is there."""
    return sum(len(one._buffer) for one in connections if one.state is states.HEAD)


def answer_of(effects: list[Effect]) -> bytes:
    return b"".join(effect.data for effect in effects if isinstance(effect, SendDownstream))


PIECES = st.one_of(
    st.sampled_from(WHOLE).flatmap(lambda whole: st.integers(1, len(whole)).map(lambda n: whole[:n])),
    st.sampled_from([*WHOLE, b"\r\n", b"\r", b"GET", b"x\n", b"\x00", b"X: " + b"y" * 300, b"z" * (HEAD_MAX + 1)]),
)
STEPS = st.one_of(
    st.tuples(st.just("feed"), PIECES),
    st.sampled_from([("open", b""), ("eof", b""), ("lost", b""), ("tick", b""), ("cut", b""), ("drain", b"")]),
    st.just(("abandon", b"")),
)


@settings(max_examples=250, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 4), STEPS), max_size=60), bound=st.sampled_from([400, 2_500, 100_000]))
def test_the_sum_is_exact_and_within_its_bound(steps: list[tuple[int, tuple[str, bytes]]], bound: int) -> None:
    gateway = make_gateway()
    drivers = [MemoryDriver(gateway) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway_module, "HEADS_HELD_MAX", bound)
        patch.setattr(gateway_module, "HEAD_SMALL_SIZE", bound // 4)
        for number, (what, data) in steps:
            driver = drivers[number % len(drivers)]
            if what == "open":
                drivers.append(MemoryDriver(gateway))
            elif what == "feed":
                driver.receive(data)
            elif what == "eof":
                driver.receive(b"")
            elif what == "lost":
                driver.lost()
            elif what == "tick":
                driver.advance(40.0)
            else:
                call = {"cut": lambda d: d.machine.cut(None, d.now), "drain": lambda d: d.machine.drain(d.now)}
                driver.run(call.get(what, lambda d: d.machine.abandon(d.now))(driver))
            assert gateway.heads_held == held([one.machine for one in drivers]) <= bound
        for driver in drivers:
            driver.run(driver.machine.abandon(driver.now))
    assert gateway.heads_held == 0


def flood(gateway: Gateway, size: int) -> tuple[int, bytes]:
    """Connections with the beginning of a head of this size until one is refused: how many hold theirs, the answer."""
    count = 0
    while True:
        machine = Connection(gateway, 0.0)
        effects = machine.receive_downstream(b"GET / HTTP/1.1\r\nX: ".ljust(size, b"y"), 0.0)
        if effects:
            assert [effect.how for effect in effects if isinstance(effect, CloseDownstream)] == [Close.LINGER]
            return count, answer_of(effects)
        count += 1


def test_large_heads_are_refused_long_before_small_ones() -> None:
    gateway = make_gateway()
    large, answer = flood(gateway, HEAD_MAX)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"overloaded"' in answer
    assert b"retry-after: 1\r\n" in answer
    free = HEADS_HELD_MAX - large * HEAD_MAX
    assert free - HEAD_MAX < HEAD_MAX * HEAD_SHARE_MAX <= free
    small, answer = flood(gateway, HEAD_SMALL_SIZE)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert small == free // HEAD_SMALL_SIZE
    assert gateway.heads_held == large * HEAD_MAX + small * HEAD_SMALL_SIZE <= HEADS_HELD_MAX


def test_whole_heads_and_running_exchanges_need_no_room() -> None:
    gateway = make_gateway()
    running = MemoryDriver(gateway)
    running.receive(WHOLE[0])
    while flood(gateway, HEAD_SMALL_SIZE)[0]:
        pass
    gateway.heads_held = HEADS_HELD_MAX
    served = MemoryDriver(gateway)
    served.receive(WHOLE[0])
    for driver in (running, served):
        driver.upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        assert driver.down.startswith(b"HTTP/1.1 200 ")
    # Behind a running exchange bytes wait within a bound of their own; they are a head once it is over.
    running.receive(WHOLE[0] + b"GET /")
    assert running.machine.state is states.EXCHANGE
    running.upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert b"HTTP/1.1 503 " in running.down


def test_a_complete_head_gives_its_room_back() -> None:
    gateway = make_gateway()
    driver = MemoryDriver(gateway)
    driver.receive(WHOLE[0][:20])
    driver.receive(WHOLE[0][20:30])
    assert gateway.heads_held == 30
    driver.receive(WHOLE[0][30:])
    assert gateway.heads_held == 0
    driver.upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert driver.down.startswith(b"HTTP/1.1 200 ")
