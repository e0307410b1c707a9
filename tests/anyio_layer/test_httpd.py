from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

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


async def test_connection_limit() -> None:
    async with serving(echo, httpd.Limits(1, 100)) as port, await anyio.connect_tcp("127.0.0.1", port) as first:
        await first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first.receive()).startswith(b"HTTP/1.1 200")
        async with await anyio.connect_tcp("127.0.0.1", port) as second:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await second.receive()
        await first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await first.receive()).startswith(b"HTTP/1.1 200")


async def test_silent_peer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "REQUEST_SECS", 0.01)
    async with serving(echo, httpd.Limits(8, 100)) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET / HTT")
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
