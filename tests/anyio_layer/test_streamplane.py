"""The data plane on streams: what neither the end-to-end tests nor the kit can see from outside."""

from __future__ import annotations

import errno
import gc
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from aigw_anyio import streamplane
from aigw_anyio.channel import Channel
from aigw_anyio.plane import FULL_TOLD_SECS
from aigw_anyio.settings import load_settings
from aigw_anyio.streamplane import StreamDataPlane
from aigw_anyio.streams import StreamDriver
from aigw_anyio.testing import LedgerSink
from aigw_core.connection import Connection
from aigw_core.testing import Ledger, Scenario
from aigw_core.testing.commands import Script
from aigw_core.work import WorkShares

pytestmark = pytest.mark.anyio
DEADLINE = 20.0


def _nothing(_: Ledger) -> Script:
    yield from ()


@asynccontextmanager
async def running(**environ: str) -> AsyncIterator[tuple[StreamDataPlane, int]]:
    settings, _ = load_settings(config=None, environ={"AI_LISTEN_ADDR": "127.0.0.1:0", **environ})
    gateway = Scenario("", _nothing).gateway("http://127.0.0.1:9", anyio.current_time())
    plane = StreamDataPlane(gateway, LedgerSink(Ledger()), settings)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            _, port = await plane.start(tasks)
            yield plane, port
            await plane.aclose()
    assert plane.connections == 0


async def _answer(port: int) -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        async for piece in stream:
            data += piece
    return data


async def _is_accepting(port: int) -> bool:
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_closed_connection_needs_no_collector() -> None:
    """Its memory is free at once; the collector looks so rarely that ten thousand connections may wait for it.

    On asyncio, whose frontend has another data plane, the tasks of anyio are in cycles of their own.
    """

    def count() -> int:
        return sum(type(thing) in {Channel, Connection, StreamDriver} for thing in gc.get_objects())

    async with running() as (plane, port):
        gc.collect()
        gc.disable()
        try:
            counts = [count()]
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await stream.receive()).startswith(b"HTTP/1.1 4")
                counts.append(count())
            while plane.connections:
                await anyio.sleep(0)
            await anyio.wait_all_tasks_blocked()
            counts.append(count())
        finally:
            gc.enable()
    assert [number - counts[0] for number in counts] == [0, 3, 0]


async def test_a_fault_of_ours_ends_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = StreamDriver._arrived

    def faulty(driver: StreamDriver, data: bytes) -> None:
        if b"faulty" in data:
            raise RuntimeError("a fault of ours")
        original(driver, data)

    monkeypatch.setattr(StreamDriver, "_arrived", faulty)
    async with running() as (plane, port):
        async with await anyio.connect_tcp("127.0.0.1", port) as other:
            await other.send(b"GET / HT")
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"faulty")
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            await other.send(b"TP/1.1\r\nHost: x\r\n\r\n")
            assert (await other.receive()).startswith(b"HTTP/1.1 404 ")
        assert (await _answer(port)).startswith(b"HTTP/1.1 404 ")
        while plane.connections:
            await anyio.sleep(0.001)
    assert "a connection has failed" in caplog.text


async def test_connections_beyond_the_limit_are_closed() -> None:
    async with running(AI_MAX_CONNECTIONS="1") as (plane, port):
        async with await anyio.connect_tcp("127.0.0.1", port) as first:
            await first.send(b"GET")
            while not plane.connections:
                await anyio.sleep(0.001)
            async with await anyio.connect_tcp("127.0.0.1", port) as second:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await second.receive()
        while plane.connections:
            await anyio.sleep(0.001)
        assert await _answer(port)


async def test_a_flood_of_connections_beyond_the_limit_is_told_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as (plane, _):
        for at in (100.0, 100.1, 100.0 + FULL_TOLD_SECS - 0.1, 100.0 + FULL_TOLD_SECS):
            with monkeypatch.context() as patch:
                patch.setattr(type(plane), "now", lambda _, at=at: at)
                plane.note_full()
    told = [record.__dict__["fields"] for record in caplog.records if "max_connections" in record.getMessage()]
    assert told == [{"open": 0, "closed": 1}, {"open": 0, "closed": 3}]


async def test_accepting_goes_on_when_descriptors_are_free_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streamplane, "ACCEPT_PAUSE_SECS", 0.01)
    failures = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "aborted")]
    original = socket.socket.accept

    def accept(listener: socket.socket) -> Any:
        if failures and listener.getsockname()[1] == bound:
            raise failures.pop(0)
        return original(listener)

    async with running() as (_, bound):
        monkeypatch.setattr(socket.socket, "accept", accept)
        with caplog.at_level(logging.ERROR, "aigw.exchange"):
            assert (await _answer(bound)).startswith(b"HTTP/1.1 404 ")
    assert failures == []
    assert [record.getMessage() for record in caplog.records] == ["no connection can be accepted"]


async def test_no_more_accepting_while_connections_go_on() -> None:
    async with running() as (plane, port), await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET / HT")
        while not plane.connections:
            await anyio.sleep(0.001)
        plane.stop_accepting()
        while await _is_accepting(port):
            pass
        await stream.send(b"TP/1.1\r\nHost: x\r\n\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 404 ")


async def test_a_plane_that_never_started_closes() -> None:
    settings, _ = load_settings(config=None, environ={"AI_LISTEN_ADDR": "127.0.0.1:0"})
    gateway = Scenario("", _nothing).gateway("http://127.0.0.1:9", anyio.current_time())
    plane = StreamDataPlane(gateway, LedgerSink(Ledger()), settings)
    plane.stop_accepting()
    plane.drain()
    plane.cut()
    await plane.aclose()
    assert plane.connections == 0


class Resumed:
    """A connection that is resumed; ``fails``: by a bug."""

    def __init__(self, *, fails: bool) -> None:
        self.context = self
        self.fails = fails
        self.resumed = self.abandoned = False

    def resume(self) -> None:
        self.resumed = True
        if self.fails:
            raise RuntimeError("a bug")

    def abandon(self) -> None:
        self.abandoned = True


def test_a_bug_in_one_connection_keeps_no_other_from_reading_on(caplog: pytest.LogCaptureFixture) -> None:
    plane = object.__new__(StreamDataPlane)
    plane.driver_class = Resumed  # type: ignore[assignment]  # all that is asked of a driver here
    work = WorkShares(4, 0.0)
    connections = [Resumed(fails=fails) for fails in (False, True, False)]
    for number, connection in enumerate(connections):
        work.wait((1, number), connection)
    plane.begin_turn(work)
    assert [connection.resumed for connection in connections] == [True, True, True]
    assert [connection.abandoned for connection in connections] == [False, True, False]
    assert "a connection has failed as it read on" in caplog.text
