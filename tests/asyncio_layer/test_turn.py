"""What is written at the end of a turn of the event loop, and what at once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from aigw_asyncio.reading import ReadBuffer
from aigw_asyncio.turn import WRITES_MAX, Turn
from aigw_asyncio.upstream import Upstream
from aigw_core.origin import Origin

pytestmark = pytest.mark.anyio

Log = list[tuple[str, bytes]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class _Socket:
    """Takes options, and is never looked at."""

    family = socket.AF_INET

    def fileno(self) -> int:
        return 0

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        pass


class _Transport:
    """Notes what is written, and how it ends, under a name."""

    def __init__(self, name: str, log: Log, on_write: Callable[[], None] | None = None) -> None:
        self.name = name
        self.log = log
        self.on_write = on_write
        self.is_lost = False

    def write(self, data: bytes) -> None:
        self.log.append((self.name, data))
        if self.on_write is not None:
            on_write, self.on_write = self.on_write, None
            on_write()

    def is_closing(self) -> bool:
        return self.is_lost

    def get_write_buffer_size(self) -> int:
        self.log.append((self.name, b"size"))
        return 0

    def get_extra_info(self, _name: str) -> _Socket:
        return _Socket()

    def close(self) -> None:
        self.log.append((self.name, b"close"))

    def abort(self) -> None:
        self.close()


def _transport(name: str, log: Log, on_write: Callable[[], None] | None = None) -> asyncio.Transport:
    return cast(asyncio.Transport, _Transport(name, log, on_write))


def made() -> tuple[Log, asyncio.AbstractEventLoop, Turn]:
    """A log of the writes and pushes of a turn of this loop."""
    log: Log = []
    loop = asyncio.get_running_loop()
    return log, loop, Turn(loop, lambda: log.append(("push", b"")))


async def _turn_is_over() -> None:
    # One turn for what was begun in this one, and one for its end.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_writes_of_one_turn_are_made_at_its_end_in_order() -> None:
    log, loop, turn = made()
    one, other = _transport("one", log), _transport("other", log)
    for transport, data in ((one, b"1"), (other, b"2"), (one, b"3")):
        loop.call_soon(turn.write, transport, data)
    loop.call_soon(turn.push_soon)
    loop.call_soon(lambda: log.append(("turn", b"")))
    await _turn_is_over()
    assert log == [("turn", b""), ("one", b"1"), ("other", b"2"), ("one", b"3"), ("push", b"")]
    assert turn.flushes == 1


async def test_the_only_write_of_a_turn_is_made_at_once() -> None:
    log, _, turn = made()
    transport = _transport("one", log)
    turn.write(transport, b"1")
    assert log == [("one", b"1")]
    turn.push_soon()
    turn.write(transport, b"2")
    assert log == [("one", b"1"), ("one", b"2")]
    await _turn_is_over()
    assert log[2:] == [("push", b"")]
    assert turn.flushes == 0


async def test_a_long_turn_writes_in_between() -> None:
    log, loop, turn = made()
    transport = _transport("one", log)
    seen = []
    for number in range(WRITES_MAX + 1):
        loop.call_soon(turn.write, transport, b"%d" % number)
        loop.call_soon(lambda: seen.append(len(log)))
    await _turn_is_over()
    assert seen == [*[0] * (WRITES_MAX - 1), WRITES_MAX, WRITES_MAX]
    assert [data for _, data in log] == [b"%d" % number for number in range(WRITES_MAX + 1)]


@pytest.mark.parametrize("is_flushed", [False, True])
async def test_what_a_write_causes_comes_behind_what_is_due(is_flushed: bool) -> None:
    log, loop, pushed = list[tuple[str, bytes]](), asyncio.get_running_loop(), asyncio.Event()
    turn = Turn(loop, pushed.set)
    other = _transport("other", log)

    def blocked() -> None:
        turn.write(other, b"3")
        if is_flushed:
            turn.flush()
            log.append(("flushed", b""))

    loop.call_soon(turn.write, _transport("one", log, blocked), b"1")
    loop.call_soon(turn.write, other, b"2")
    # Nothing else is ready when they are made: this test waits for the push.
    loop.call_soon(turn.push_soon)
    await pushed.wait()
    assert log == [("one", b"1"), ("other", b"2"), ("other", b"3"), *[("flushed", b"")] * is_flushed]


async def test_what_is_due_to_one_that_is_lost_meanwhile_is_dropped() -> None:
    log, loop, turn = made()
    lost = _Transport("lost", log)
    loop.call_soon(turn.write, cast(asyncio.Transport, lost), b"1")
    loop.call_soon(turn.write, _transport("other", log), b"2")
    loop.call_soon(setattr, lost, "is_lost", True)
    await _turn_is_over()
    turn.write(cast(asyncio.Transport, lost), b"3")
    assert log == [("other", b"2")]


async def test_a_write_that_fails_keeps_nothing_from_others() -> None:
    def fails() -> None:
        raise RuntimeError("the handle is closed")

    log, loop, turn = made()
    told: list[str] = []
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    loop.call_soon(turn.write, _transport("bad", log, fails), b"1")
    loop.call_soon(turn.push_soon)
    loop.call_soon(turn.write, _transport("other", log), b"2")
    await _turn_is_over()
    await _turn_is_over()
    assert log == [("bad", b"1"), ("push", b""), ("other", b"2")]
    assert told == ["the handle is closed"]


async def test_a_loop_that_does_not_tell_what_is_ready_is_written_to_at_once() -> None:
    log: Log = []
    loop = asyncio.get_running_loop()
    quiet = cast(asyncio.AbstractEventLoop, SimpleNamespace(call_soon=loop.call_soon))
    turn = Turn(quiet, lambda: log.append(("push", b"")))
    turn.push_soon()
    loop.call_soon(turn.write, _transport("one", log), b"1")
    loop.call_soon(turn.write, _transport("other", log), b"2")
    await _turn_is_over()
    assert sorted(log) == [("one", b"1"), ("other", b"2"), ("push", b"")]
    assert turn.flushes == 0


async def test_flushed_before_the_end() -> None:
    log, loop, turn = made()
    loop.call_soon(turn.write, _transport("one", log), b"1")
    loop.call_soon(turn.flush)
    loop.call_soon(lambda: log.append(("turn", b"")))
    await _turn_is_over()
    assert log == [("one", b"1"), ("turn", b"")]


@pytest.mark.parametrize(
    ("end", "noted"),
    [(Upstream.close, b"close"), (Upstream.abort, b"close"), (lambda upstream: upstream.usable, b"size")],
)
async def test_what_is_due_goes_out_before_an_upstream_connection_is_closed_or_kept(
    end: Callable[[Upstream], object], noted: bytes
) -> None:
    log, loop, turn = made()
    upstream = Upstream(Origin("http", "a", 80), None, loop, ReadBuffer(loop), turn)
    upstream.connection_made(_transport("one", log))
    loop.call_soon(upstream.send, b"1")
    loop.call_soon(end, upstream)
    loop.call_soon(lambda: None)
    await _turn_is_over()
    assert log == [("one", b"1"), ("one", noted)]


async def test_whether_an_upstream_connection_may_be_kept_makes_nobody_elses_write() -> None:
    log, loop, turn = made()
    upstream = Upstream(Origin("http", "a", 80), None, loop, ReadBuffer(loop), turn)
    upstream.connection_made(_transport("one", log))
    loop.call_soon(upstream.send, b"1")
    loop.call_soon(lambda: None)
    await _turn_is_over()
    loop.call_soon(turn.write, _transport("other", log), b"2")
    loop.call_soon(lambda: upstream.usable)
    loop.call_soon(lambda: None)
    await _turn_is_over()
    assert log == [("one", b"1"), ("one", b"size"), ("other", b"2")]
