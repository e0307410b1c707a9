from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketStream

from aigw_anyio import httpd
from tests.anyio_layer.conftest import exchange, request_bytes

pytestmark = pytest.mark.anyio
DEADLINE = 10.0


@asynccontextmanager
async def serving(handler: httpd.Handler, limits: httpd.Limits) -> AsyncIterator[int]:
    listener = await httpd.listen("127.0.0.1", 0)
    port = httpd.bound_address(listener)[1]
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(httpd.serve, listener, handler, limits)
            yield port
            tasks.cancel_scope.cancel()


async def echo(request: httpd.Request, responder: httpd.Responder) -> None:
    if request.path == "/fail":
        raise RuntimeError("boom")
    if request.path == "/stream":
        await responder.start(200, [])
        for part in (b"a", b"bc"):
            await responder.send(part)
        await responder.end()
        return
    text = f"{request.method} {request.target} {request.headers.get('x-a')} ".encode()
    await responder.reply(200, [("content-type", "text/plain")], text + request.body)


async def test_one_exchange() -> None:
    async with serving(echo, httpd.Limits(8, 100)) as port:
        status, headers, body = await exchange(port, request_bytes("POST", "/x?y=1", {"X-A": "1"}, b"hello"))
        assert (status, body) == (200, b"POST /x?y=1 1 hello")
        assert headers["content-length"] == str(len(body))


async def test_pieces_are_chunks() -> None:
    async with serving(echo, httpd.Limits(8, 100)) as port:
        status, headers, body = await exchange(port, request_bytes("GET", "/stream"))
        assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"abc")


async def test_head_has_the_length_and_no_body() -> None:
    async with serving(echo, httpd.Limits(8, 100)) as port:
        status, headers, body = await exchange(port, request_bytes("HEAD", "/x"))
        assert (status, headers["content-length"], body) == (200, str(len("HEAD /x None ")), b"")


async def test_keep_alive_and_pipelining() -> None:
    async with serving(echo, httpd.Limits(8, 100)) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\n\r\n")
            data = b""
            while b"GET /2" not in data:
                data += await stream.receive()
        assert data.count(b"HTTP/1.1 200 OK\r\n") == 2


async def test_body_limit() -> None:
    async with serving(echo, httpd.Limits(8, 5)) as port:
        assert (await exchange(port, request_bytes("POST", "/", body=b"12345")))[0] == 200
        assert (await exchange(port, request_bytes("POST", "/", body=b"123456")))[0] == 413


async def test_expect_continue() -> None:
    async with serving(echo, httpd.Limits(8, 100)) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 100 ")
        await stream.send(b"hi")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000]
)
async def test_malformed_requests_are_refused(data: bytes) -> None:
    async with serving(echo, httpd.Limits(8, 100)) as port:
        status, _, body = await exchange(port, data)
        assert status in (400, 431)
        assert body == b""
        assert (await exchange(port, request_bytes("GET", "/")))[0] == 200


async def test_failing_handler_closes_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(echo, httpd.Limits(8, 100)) as port:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(request_bytes("GET", "/fail"))
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert (await exchange(port, request_bytes("GET", "/")))[0] == 200
    assert [entry.message for entry in caplog.records] == ["a connection ended by an error"]


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSED = (anyio.EndOfStream, anyio.BrokenResourceError)


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[SocketStream]]:
    """Connections of which each is known to the server before the next one is made."""
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(count):
            streams.append(await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port)))
            await ask(streams[-1])
        yield streams


async def ask(stream: SocketStream) -> None:
    await stream.send(GET)
    assert (await stream.receive()).startswith(b"HTTP/1.1 200")


async def test_at_the_limit_the_oldest_idle_connection_gives_way() -> None:
    async with serving(echo, httpd.Limits(3, 100)) as port, connected(port, 3) as (first, second, third):
        # Idle since its last answer, and it does not matter how much of the next request has come.
        await ask(first)
        await second.send(GET[:-2])
        async with await anyio.connect_tcp("127.0.0.1", port) as fourth:
            await ask(fourth)
            with pytest.raises(CLOSED):
                await second.receive()
            for stream in (third, first, fourth):
                await ask(stream)
        async with connected(port, 8) as streams:
            await ask(streams[-1])


async def test_a_request_in_progress_does_not_give_way() -> None:
    begun, may_end = anyio.Event(), anyio.Event()

    async def slow(request: httpd.Request, responder: httpd.Responder) -> None:
        begun.set()
        await may_end.wait()
        await echo(request, responder)

    async with serving(slow, httpd.Limits(1, 100)) as port, await anyio.connect_tcp("127.0.0.1", port) as running:
        await running.send(GET)
        await begun.wait()
        async with await anyio.connect_tcp("127.0.0.1", port) as refused:
            with pytest.raises(CLOSED):
                await refused.receive()
        may_end.set()
        assert (await running.receive()).startswith(b"HTTP/1.1 200")


async def test_who_does_not_take_an_answer_gives_way() -> None:
    started = anyio.Event()

    async def endless(request: httpd.Request, responder: httpd.Responder) -> None:
        if request.path == "/":
            await echo(request, responder)
            return
        await responder.start(200, [])
        started.set()
        while True:
            await responder.send(bytes(1_000_000))

    async with serving(endless, httpd.Limits(1, 100)) as port, await anyio.connect_tcp("127.0.0.1", port) as stuck:
        await stuck.send(GET.replace(b" / ", b" /endless "))
        await started.wait()
        # Its task may be between two pieces just now, where it is busy: then the next one has better luck.
        while True:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                try:
                    await ask(stream)
                except CLOSED:
                    continue
                break


async def test_silent_peer_is_closed() -> None:
    limits = httpd.Limits(8, 100, request_secs=0.01)
    async with serving(echo, limits) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET / HTT")
        with pytest.raises(CLOSED):
            await stream.receive()


async def test_idle_peer_is_closed_between_requests() -> None:
    limits = httpd.Limits(8, 100, request_secs=0.2)
    async with serving(echo, limits) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await ask(stream)
        with pytest.raises(CLOSED):
            await stream.receive()
