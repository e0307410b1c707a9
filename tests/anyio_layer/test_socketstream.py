"""The socket stream, on both event loops, against plain sockets on the other end."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import anyio
import pytest
from anyio.abc import SocketAttribute

from aigw_anyio.sockets import KEEPALIVE_IDLE_S, reset_when_closed
from aigw_anyio.socketstream import SocketStream, bind_listeners, connect_socket

pytestmark = pytest.mark.anyio
DEADLINE = 20.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE)
        yield listening


async def _pair(listener: socket.socket) -> tuple[SocketStream, socket.socket]:
    stream = await connect_socket("127.0.0.1", listener.getsockname()[1])
    peer, _ = listener.accept()
    peer.settimeout(DEADLINE)
    return stream, peer


async def test_bytes_go_both_ways(listener: socket.socket) -> None:
    with anyio.fail_after(DEADLINE):
        stream, peer = await _pair(listener)
        with peer:
            await stream.send(b"hello")
            assert peer.recv(10) == b"hello"
            peer.sendall(b"world")
            assert await stream.receive(3) == b"wor"
            assert await stream.receive() == b"ld"
            await stream.send_eof()
            assert peer.recv(10) == b""
            peer.shutdown(socket.SHUT_WR)
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.aclose()


async def test_what_the_kernel_does_not_take_waits(listener: socket.socket) -> None:
    with anyio.fail_after(DEADLINE):
        stream, peer = await _pair(listener)
        with peer:
            block, total = bytes(1_000_000), 0
            while sent := stream.send_nowait(block):
                total += sent
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, block)
                await anyio.wait_all_tasks_blocked()
                got = 0
                while got < total + len(block):
                    got += len(await anyio.to_thread.run_sync(peer.recv, 1_000_000))
            stream.close()


async def test_a_reset_is_broken_not_ended(listener: socket.socket) -> None:
    with anyio.fail_after(DEADLINE):
        stream, peer = await _pair(listener)
        reset_when_closed(peer)
        peer.close()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            stream.send_nowait(b"x")
        stream.close()


async def test_closed_is_closed(listener: socket.socket) -> None:
    with anyio.fail_after(DEADLINE):
        stream, peer = await _pair(listener)
        with peer:
            stream.close()
            stream.close()
            for call in (stream.receive, stream.send_eof):
                with pytest.raises(anyio.ClosedResourceError):
                    await call()
            with pytest.raises(anyio.ClosedResourceError):
                stream.send_nowait(b"x")
            assert peer.recv(1) == b""


async def test_a_cancelled_receive_loses_nothing(listener: socket.socket) -> None:
    with anyio.fail_after(DEADLINE):
        stream, peer = await _pair(listener)
        with peer:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.receive()
            peer.sendall(b"kept")
            assert await stream.receive() == b"kept"
            stream.close()


async def test_options_and_attributes(listener: socket.socket) -> None:
    stream, peer = await _pair(listener)
    with peer:
        raw = stream.extra(SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
        assert stream.extra(SocketAttribute.family) == socket.AF_INET
        assert stream.extra(SocketAttribute.local_address) == peer.getpeername()
        assert stream.extra(SocketAttribute.remote_address) == peer.getsockname()
        stream.close()


async def test_connecting_to_nobody() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with anyio.fail_after(DEADLINE), pytest.raises(OSError, match="refused") as error:
            await connect_socket("127.0.0.1", bound.getsockname()[1])
    assert error.value.errno == errno.ECONNREFUSED


def test_listeners_are_bound_or_nothing_is() -> None:
    (first,) = bind_listeners("127.0.0.1", 0)
    port = first.getsockname()[1]
    with first, pytest.raises(OSError, match="in use") as error:
        bind_listeners("127.0.0.1", port)
    assert error.value.errno == errno.EADDRINUSE
