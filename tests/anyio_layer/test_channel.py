"""A channel over anyio's own streams, which cannot send without waiting: the other path of every write."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener

from aigw_anyio.channel import QUEUE_HIGH, Channel
from aigw_anyio.readsize import READ_MAX, READ_MIN
from aigw_anyio.tlspipe import TlsPipe

pytestmark = pytest.mark.anyio
DEADLINE = 20.0


@dataclass
class Told:
    """What a channel's owner was told, in order."""

    events: list[object] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    def __call__(self, event: object) -> None:
        self.events.append(event)
        self.changed.set()

    async def wait_for(self, event: object) -> None:
        while event not in self.events:
            self.changed = anyio.Event()
            await self.changed.wait()

    @property
    def data(self) -> bytes:
        return b"".join(event for event in self.events if isinstance(event, bytes))


def told_by(channel: Channel) -> Told:
    told = Told()
    channel.on_data = told
    channel.on_edge = lambda blocked: told(("blocked", blocked))
    channel.on_gone = lambda error: told(("gone", error))
    return told


async def _pair() -> tuple[SocketStream, SocketStream]:
    listener: MultiListener[SocketStream] = await anyio.create_tcp_listener(local_host="127.0.0.1")
    accepted: list[SocketStream] = []
    async with anyio.create_task_group() as tasks:

        async def accept() -> None:
            accepted.append(await listener.listeners[0].accept())  # type: ignore[attr-defined]  # of a TCP listener

        tasks.start_soon(accept)
        ours = await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port))
    await listener.aclose()
    return ours, accepted[0]


async def test_edges_of_the_queue_and_its_order() -> None:
    ours, peer = await _pair()
    channel = Channel(ours)
    told = told_by(channel)
    data = bytes(range(256)) * 40_000
    with anyio.fail_after(DEADLINE):
        async with peer, anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run)
            await channel.established()
            channel.send(data[:QUEUE_HIGH])
            assert told.events == []
            channel.send(data[QUEUE_HIGH:])
            assert told.events == [("blocked", True)]
            got = b""
            while len(got) < len(data):
                got += await peer.receive()
            assert got == data
            await told.wait_for(("blocked", False))
            assert channel.is_empty
            channel.end()
            with pytest.raises(anyio.EndOfStream):
                await peer.receive()
            channel.send(b"nothing is sent behind the end")
            channel.close()
    assert not channel.is_open


async def test_pause_and_end_of_input() -> None:
    ours, peer = await _pair()
    channel = Channel(ours)
    told = told_by(channel)
    with anyio.fail_after(DEADLINE):
        async with peer, anyio.create_task_group() as tasks:
            channel.pause()
            tasks.start_soon(channel.run)
            await peer.send(b"a")
            await anyio.wait_all_tasks_blocked()
            assert told.events == []
            channel.resume()
            await told.wait_for(b"a")
            await peer.send_eof()
            await told.wait_for(b"")
            assert channel.is_open
            channel.close()
    assert told.events == [b"a", b""]


async def test_close_sends_what_is_queued_and_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw_anyio.channel.CLOSE_SECS", 0.05)
    ours, peer = await _pair()
    channel = Channel(ours)
    told = told_by(channel)
    with anyio.fail_after(DEADLINE):
        async with peer, anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run)
            await channel.established()
            channel.send(bytes(20_000_000))
            channel.close()
            channel.close()
    assert told.events == [("blocked", True)]


async def test_cancelled_at_any_time_it_closes() -> None:
    ours, peer = await _pair()
    channel = Channel(ours)
    told = told_by(channel)
    with anyio.fail_after(DEADLINE):
        async with peer, anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run)
            await channel.established()
            channel.send(bytes(20_000_000))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert not channel.is_open
    assert told.events == [("blocked", True)]


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def test_tls_from_both_ends(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    left, right = await _pair()
    client = Channel(left, TlsPipe(contexts[1], server_hostname="localhost"))
    server = Channel(right, TlsPipe(contexts[0], server_side=True))
    heard, asked = told_by(client), told_by(server)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run)
            tasks.start_soon(server.run)
            await client.established()
            client.send(b"question")
            await asked.wait_for(b"question")
            server.send(b"answer")
            await heard.wait_for(b"answer")
            server.end()
            await heard.wait_for(b"")
            client.close()
            await asked.wait_for(b"")
            server.close()


async def test_a_certificate_that_is_not_trusted(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    left, right = await _pair()
    client = Channel(left, TlsPipe(ssl.create_default_context(), server_hostname="localhost"))
    server = Channel(right, TlsPipe(contexts[0], server_side=True))
    heard, asked = told_by(client), told_by(server)
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run)
            tasks.start_soon(server.run)
            with pytest.raises(ssl.SSLCertVerificationError):
                await client.established()
            await asked.wait_for(("gone", True))
    assert heard.events == [("gone", True)]
    assert asked.data == b""


async def test_a_peer_that_ends_during_the_handshake(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    ours, peer = await _pair()
    channel = Channel(ours, TlsPipe(contexts[1], server_hostname="localhost"))
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run)
            await peer.receive()
            await peer.aclose()
            with pytest.raises(ConnectionResetError):
                await channel.established()


async def test_reads_are_of_the_size_that_the_last_ones_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    told: list[tuple[int, int]] = []

    class Stream:
        """Gives what is asked for, three times."""

        async def receive(self, max_bytes: int) -> bytes:
            asked.append(max_bytes)
            if len(asked) > 3:
                raise anyio.EndOfStream
            return b"x" * (READ_MIN - 1 if len(asked) == 2 else max_bytes)

        async def aclose(self) -> None:
            pass

    def next_size(size: int, taken: int, secs: float) -> int:
        assert secs >= 0
        told.append((size, taken))
        return size + 1

    monkeypatch.setattr("aigw_anyio.channel.next_read_size", next_size)
    channel = Channel(Stream())  # type: ignore[arg-type]  # all that a channel asks of a stream here
    ended = anyio.Event()
    channel.on_data = lambda data: None if data else ended.set()
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.run)
            await ended.wait()
            channel.close()
    # A small read is not timed.
    assert asked == [READ_MAX, READ_MAX + 1, READ_MAX + 1, READ_MAX + 2]
    assert told == [(READ_MAX, READ_MAX), (READ_MAX + 1, READ_MAX + 1)]
