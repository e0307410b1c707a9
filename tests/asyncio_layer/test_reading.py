"""Connections read into one buffer, and no more than they take in quickly."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

from aigw_anyio.readsize import LONG_SECS, READ_MAX, READ_MIN
from aigw_asyncio.reading import ReadBuffer, Reading


class Slow(Reading):
    """Takes a second for so many bytes, on a clock of its own."""

    def __init__(self, buffer: ReadBuffer, bytes_per_sec: float) -> None:
        super().__init__(buffer)
        self.now = 0.0
        buffer.loop_time = lambda: self.now
        self.bytes_per_sec = bytes_per_sec
        self.pieces: list[bytes] = []

    def received(self, data: bytes) -> None:
        self.pieces.append(data)
        self.now += len(data) / self.bytes_per_sec


def read(protocol: Reading, data: bytes) -> None:
    """As an event loop reads what is there."""
    at = 0
    while at < len(data):
        view = protocol.get_buffer(-1)
        size = min(len(view), len(data) - at)
        view[:size] = data[at : at + size]
        protocol.buffer_updated(size)
        at += size


def test_what_is_read_is_handed_on_and_not_shared() -> None:
    buffer = ReadBuffer(Mock(spec=asyncio.AbstractEventLoop))
    one, other = Slow(buffer, 1e9), Slow(buffer, 1e9)
    read(one, b"first")
    read(other, b"SECOND")
    read(one, b"third")
    assert (one.pieces, other.pieces) == ([b"first", b"third"], [b"SECOND"])


def test_reads_follow_the_cost_of_their_bytes() -> None:
    data = bytes(range(256)) * 8_192
    quick = Slow(ReadBuffer(Mock(spec=asyncio.AbstractEventLoop)), 1e9)
    read(quick, data)
    assert set(map(len, quick.pieces)) == {READ_MAX}
    slow = Slow(ReadBuffer(Mock(spec=asyncio.AbstractEventLoop)), 2e6)
    read(slow, data)
    assert max(map(len, slow.pieces[2:])) <= LONG_SECS * 2e6
    assert min(map(len, slow.pieces[:-1])) >= READ_MIN
    assert b"".join(quick.pieces) == b"".join(slow.pieces) == data


def test_small_reads_ask_for_no_time() -> None:
    buffer = ReadBuffer(Mock(spec=asyncio.AbstractEventLoop))
    protocol = Slow(buffer, 1.0)
    clock = Mock(return_value=0.0)
    buffer.loop_time = clock
    read(protocol, b"x" * (READ_MIN - 1))
    assert clock.call_count == 0
    read(protocol, b"x" * READ_MIN)
    assert clock.call_count == 2
