"""Bytes on a provider's connection that nobody asked for are found before a request goes out on it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from aigw_anyio.channel import Channel
from aigw_anyio.settings import load_settings
from aigw_anyio.sockets import Unread
from aigw_anyio.socketstream import SocketStream
from aigw_anyio.streamplane import StreamDataPlane
from aigw_anyio.testing import LedgerSink
from aigw_asyncio.server import AsyncioDataPlane
from aigw_core.facts import OpenRecord, UsageFact
from aigw_core.origin import parse_origin
from aigw_core.testing import Ledger
from tests.core.driver import CHAT, COMPLETION, json_response, make_gateway, make_policy, request

pytestmark = pytest.mark.anyio
DEADLINE = 20.0
LATE = json_response(b'{"whose": "nobody"}')


class SlowSink(LedgerSink):
    """Answers when the test does."""

    def __init__(self) -> None:
        super().__init__(Ledger())
        self.opened: list[str] = []

    def open(self, record: OpenRecord) -> None:
        self.opened.append(record.id)

    def accept(self) -> None:
        assert self.on_answer is not None
        self.on_answer(self.opened[-1], True)

    def emit(self, fact: UsageFact) -> None:
        pass

    def void(self, fact_id: str) -> None:
        pass


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await anyio.lowlevel.checkpoint()


async def read(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        await anyio.wait_readable(sock)
        data += sock.recv(65_536)
    return data


async def accepted(listener: socket.socket) -> socket.socket:
    await anyio.wait_readable(listener)
    sock, _ = listener.accept()
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("plane_class", [StreamDataPlane, AsyncioDataPlane])
async def test_what_came_while_the_sink_was_asked_is_not_the_answer(
    plane_class: type[StreamDataPlane] | type[AsyncioDataPlane], anyio_backend_name: str
) -> None:
    if plane_class is AsyncioDataPlane and anyio_backend_name != "asyncio":
        pytest.skip("a data plane of asyncio")
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    policy = make_policy()
    openai = replace(policy.providers["openai"], origin=parse_origin(f"http://127.0.0.1:{listener.getsockname()[1]}"))
    gateway = make_gateway(replace(policy, providers={**policy.providers, "openai": openai}))
    settings, _ = load_settings(config=None, environ={"AI_LISTEN_ADDR": "127.0.0.1:0"})
    sink = SlowSink()
    plane = plane_class(gateway, sink, settings)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            caller = socket.create_connection(await plane.start(tasks))
            caller.setblocking(False)
            caller.send(request(CHAT))
            await until(lambda: sink.opened)
            sink.accept()
            first = await accepted(listener)
            await read(first, CHAT)
            first.send(json_response(COMPLETION))
            await read(caller, COMPLETION)

            caller.send(request(CHAT))
            await until(lambda: len(sink.opened) == 2)
            # In one turn of the loop: it has had no chance to see the late answer before the sink's.
            first.send(LATE)
            sink.accept()
            second = await accepted(listener)
            await read(second, CHAT)
            second.send(json_response(COMPLETION))
            assert (await read(caller, COMPLETION)).count(b"HTTP/1.1 200") == 1
            for sock in (caller, first, second, listener):
                sock.close()
            await plane.aclose()
            tasks.cancel_scope.cancel()


async def test_a_channel_and_a_socket_tell_what_was_not_read() -> None:
    one, other = socket.socketpair()
    channel = Channel(SocketStream(one))
    look = Unread(one)
    assert (channel.has_input, look.is_there()) == (False, False)
    other.send(b"x")
    assert (channel.has_input, look.is_there()) == (True, True)
    one.recv(1)
    assert (channel.has_input, look.is_there()) == (False, False)
    other.close()
    assert (channel.has_input, look.is_there()) == (True, True), "an end is something to read"
    one.close()


def test_without_a_socket_there_is_nothing_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Unread(None).is_there()
    one, other = socket.socketpair()
    other.send(b"x")
    assert Unread(one).is_there()
    monkeypatch.delattr("select.poll")
    assert not Unread(one).is_there()
    one.close()
    other.close()
