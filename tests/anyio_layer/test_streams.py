"""The stream driver passes the scripted exchanges of the in-memory driver, over real sockets, on both backends."""

from __future__ import annotations

import re
from functools import partial

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener

from aigw_anyio.connecting import ConnectFailed
from aigw_anyio.settings import load_settings
from aigw_anyio.sinks import SinkStats
from aigw_anyio.streamplane import StreamDataPlane
from aigw_anyio.upstream import StreamUpstream
from aigw_core.effects import Close, ConnectFailure
from aigw_core.facts import OpenRecord, UsageFact
from aigw_core.gateway import Gateway
from aigw_core.origin import Origin
from tests.core.driver import CHAT, CHAT_STREAM, COMPLETION, MemoryDriver, json_response, make_gateway, request
from tests.core.test_connection import CHUNKED_SSE, EVENT, chunk
from tests.core.test_split_invariance import REQUESTS, RESPONSES

pytestmark = pytest.mark.anyio
DEADLINE = 20.0


class Facts:
    """A fact sink that accepts everything at once."""

    def __init__(self) -> None:
        self.facts: list[UsageFact] = []
        self.voids: list[str] = []
        self.owed: set[str] = set()
        self.on_answer = None
        self.stats = SinkStats()
        self.ended = anyio.Event()

    def open(self, record: OpenRecord) -> bool:
        self.owed.add(record.id)
        return True

    def emit(self, fact: UsageFact) -> None:
        self.owed.remove(fact.id)
        self.facts.append(fact)
        self.ended.set()

    def push(self) -> None:
        pass

    def void(self, fact_id: str) -> None:
        self.owed.remove(fact_id)
        self.voids.append(fact_id)


class Plane(StreamDataPlane):
    """The real data plane, but that every provider is the one of the test, or is not to be had at first."""

    def __init__(self, world: World) -> None:
        settings, _ = load_settings(config=None, environ={"AI_LISTEN_ADDR": "127.0.0.1:0"})
        super().__init__(world.gateway, world.sink, settings)  # type: ignore[arg-type]  # no background work
        self._world = world

    async def connect(self, origin: Origin, tries: int) -> StreamUpstream:
        if self._world.refuses > tries:
            raise ConnectFailed(ConnectFailure.CONNECT)
        return await super().connect(Origin("http", "127.0.0.1", self._world.port), tries)


class World:
    """A data plane on a real socket, and a provider that plays a script."""

    def __init__(self, answers: list[bytes], *, closes: bool = False, refuses: int = 0) -> None:
        self.gateway: Gateway = make_gateway()
        self.sink = Facts()
        self.answers = answers
        self.closes = closes
        self.refuses = refuses
        self.received: list[bytes] = []
        self.got_request = anyio.Event()
        self.provider_lost = anyio.Event()
        self.port = 0

    async def provider(self, stream: SocketStream) -> None:
        number = len(self.received)
        self.received.append(b"")
        async with stream:
            try:
                while not self._complete(self.received[number]):
                    self.received[number] += await stream.receive()
                self.got_request.set()
                await stream.send(self.answers[min(number, len(self.answers) - 1)])
                if not self.closes:
                    await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
            self.provider_lost.set()

    @staticmethod
    def _complete(data: bytes) -> bool:
        head, blank, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if not blank:
            return False
        return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n") or b"chunked" not in head

    async def serve(self, *, task_status: anyio.abc.TaskStatus[int]) -> None:
        providers: MultiListener[SocketStream] = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = providers.extra(SocketAttribute.local_port)
        async with providers, anyio.create_task_group() as tasks:
            tasks.start_soon(providers.serve, self.provider)
            plane = Plane(self)
            _, port = await plane.start(tasks)
            task_status.started(port)


async def read_at_least(stream: SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            break
    return data


def in_memory(asked: bytes, answered: bytes, *, closes: bool) -> MemoryDriver:
    driver = MemoryDriver().receive(asked)
    if driver.sent_upstream if driver.connects else False:
        driver.upstream(answered)
        if closes:
            driver.upstream(b"")
    return driver


def normal(data: bytes) -> bytes:
    """Without ids; chunk sizes follow the reads, what they carry must not."""
    plain = re.sub(rb"[0-9a-f]{32}", b"ID", data)
    return re.sub(rb"\r\n[0-9a-f]+\r\n(?!HTTP)", b"", plain)


PAIRS = [
    ("collected", "json", False),
    ("collected", "until close", True),
    ("collected", "garbage", False),
    ("collected", "bytes beyond", False),
    ("stream", "stream", False),
    ("stream", "stream in odd chunks", False),
    ("stream", "cut chunk", True),
    ("chunked", "stream", False),
    ("long", "json", False),
    ("byo", "1xx first", False),
    ("byo", "until close", True),
    ("background", "json", False),
    ("wrong key", "json", False),
    ("no key", "json", False),
    ("bare lf", "json", False),
    ("http/1.0", "stream", False),
    ("collected", "json error that echoes the key", False),
]


@pytest.mark.parametrize(("asked", "answered", "closes"), PAIRS)
async def test_scripted_exchanges_are_those_of_the_in_memory_driver(asked: str, answered: str, closes: bool) -> None:
    expected = in_memory(REQUESTS[asked], RESPONSES[answered], closes=closes)
    world = World([RESPONSES[answered]], closes=closes)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(world.serve)
            async with await anyio.connect_tcp("127.0.0.1", port) as caller:
                await caller.send(REQUESTS[asked])
                down = await read_at_least(caller, len(expected.down))
            if expected.ledger.facts:
                await world.sink.ended.wait()
            tasks.cancel_scope.cancel()
    if expected.closed is Close.ABORT:
        # A reset drops what was queued: the caller sees no more than what was relayed, and no end.
        assert normal(expected.down).startswith(normal(down))
    else:
        assert normal(down) == normal(expected.down)
    assert [normal(data) for data in world.received] == [normal(data) for data in expected.up.values()]
    assert [fact.outcome for fact in world.sink.facts] == [fact.outcome for fact in expected.ledger.facts]
    assert [fact.usage for fact in world.sink.facts] == [fact.usage for fact in expected.ledger.facts]
    assert not world.sink.owed


async def test_keep_alive_and_pipelining() -> None:
    world = World([json_response(COMPLETION)])
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(world.serve)
            async with await anyio.connect_tcp("127.0.0.1", port) as caller:
                await caller.send(request(CHAT) * 3)
                data = b""
                while data.count(COMPLETION) < 3:
                    data += await caller.receive()
            tasks.cancel_scope.cancel()
    assert data.count(b"HTTP/1.1 200 OK") == 3
    assert len(world.sink.facts) == 3


async def test_connect_is_tried_again() -> None:
    world = World([json_response(COMPLETION)], refuses=2)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(world.serve)
            async with await anyio.connect_tcp("127.0.0.1", port) as caller:
                await caller.send(request(CHAT))
                data = await read_at_least(caller, 100)
            tasks.cancel_scope.cancel()
    assert data.startswith(b"HTTP/1.1 200 OK")


async def test_caller_that_leaves_ends_the_upstream_at_once() -> None:
    world = World([CHUNKED_SSE + chunk(EVENT)])
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(world.serve)
            caller = await anyio.connect_tcp("127.0.0.1", port)
            await caller.send(request(CHAT_STREAM))
            await read_at_least(caller, 200)
            await caller.aclose()
            await world.provider_lost.wait()
            await world.sink.ended.wait()
            tasks.cancel_scope.cancel()
    assert [fact.outcome for fact in world.sink.facts] == ["client_abort"]


async def test_cancelled_driver_pays_what_it_owes() -> None:
    world = World([CHUNKED_SSE + chunk(EVENT)])
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(world.serve)
            caller = await anyio.connect_tcp("127.0.0.1", port)
            await caller.send(request(CHAT_STREAM))
            await read_at_least(caller, 200)
            tasks.cancel_scope.cancel()
        await caller.aclose()
    assert [fact.outcome for fact in world.sink.facts] == ["gateway_cut"]
    assert not world.sink.owed


async def test_slow_reader_is_waited_for() -> None:
    body = b'{"data":"' + b"z" * 3_000_000 + b'"}'
    world = World([json_response(body)])
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            port = await tasks.start(world.serve)
            async with await anyio.connect_tcp("127.0.0.1", port) as caller:
                await caller.send(request(CHAT, target=b"/openai/v1/embeddings"))
                await world.got_request.wait()
                await anyio.wait_all_tasks_blocked()
                take = partial(caller.receive, 8_192)
                data = b""
                while not data.endswith(body[-100:]):
                    data += await take()
            tasks.cancel_scope.cancel()
    assert data.endswith(b"\r\n\r\n" + body)
    assert world.sink.facts[0].response_bytes == len(body)
