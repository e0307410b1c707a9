"""The supervisor builds a new client for every doubt, says so once, and hands secrets to nobody."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from nats import errors

from aigw_anyio.nats.connection import LinkTimeout, NatsLink, NatsSupervisor, Pace, reason_of
from aigw_anyio.nats.hosting import LoopHost
from aigw_anyio.nats.options import parse_nats_url
from aigw_core.secrets import Secret
from tests.nats.proxy import Proxy
from tests.nats.server import NatsServer, free_port

FAST = Pace(connect=2.0, probe=0.2, close=1.0, backoff_first=0.02, backoff_longest=0.2, settled=5.0)
PATIENCE = 30.0
"""For a loaded machine; nothing waits so long unless it has failed."""


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * PATIENCE):
            await main()

    asyncio.run(bounded())


class Sessions:
    """Counts sessions; each waits until its connection is lost."""

    def __init__(self, work: Callable[[NatsLink], Awaitable[None]] | None = None) -> None:
        self.links: list[NatsLink] = []
        self.started = asyncio.Condition()
        self._work = work

    async def __call__(self, link: NatsLink) -> None:
        async with self.started:
            self.links.append(link)
            self.started.notify_all()
        if self._work is not None:
            await self._work(link)
        else:
            link.settled()
        await link.lost()

    async def wait_for(self, number: int) -> NatsLink:
        async with self.started, asyncio.timeout(PATIENCE):
            await self.started.wait_for(lambda: len(self.links) >= number)
        return self.links[number - 1]


class Supervised:
    """A supervisor running in the background."""

    def __init__(self, supervisor: NatsSupervisor, sessions: Sessions) -> None:
        self.supervisor = supervisor
        self.sessions = sessions

    async def __aenter__(self) -> Sessions:
        self._task = asyncio.create_task(self.supervisor.run(self.sessions))
        return self.sessions

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        done, _ = await asyncio.wait({self._task}, timeout=PATIENCE)
        assert done, "the supervisor does not stop"
        assert self._task.cancelled()
        left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task() and not t.done()]
        if left:
            await asyncio.wait(left, timeout=1.0)
        assert [t for t in left if not t.done()] == []


def supervise(url: str, sessions: Sessions, pace: Pace = FAST, **options: Any) -> Supervised:
    return Supervised(NatsSupervisor(parse_nats_url(Secret(url), **options), name="test", pace=pace), sessions)


def test_a_session_speaks_to_the_server(shared_server: NatsServer) -> None:
    async def main() -> None:
        async with supervise(shared_server.url, Sessions()) as sessions:
            link = await sessions.wait_for(1)
            reply = await link.call(link.client.request("$JS.API.INFO", timeout=5), 5.0)
            assert b'"streams"' in reply.data

    run(main)


def test_a_killed_server_is_found_again(
    new_server: Callable[..., NatsServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = new_server()
    caplog.set_level(logging.INFO, "aigw.nats")

    async def main() -> None:
        async with supervise(server.url, Sessions()) as sessions:
            for number in range(1, 4):
                await sessions.wait_for(number)
                await asyncio.to_thread(server.kill)
                # Many attempts fail meanwhile.
                await asyncio.sleep(0.5)
                await asyncio.to_thread(server.start)
            await sessions.wait_for(4)

    run(main)
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("connected to NATS") == 4
    assert lines.count("lost the connection to NATS, trying again") == 3
    # One line for each reason, and a refused port is one reason.
    assert lines.count("cannot connect to NATS, trying again") <= 6


def test_a_server_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", port=free_port())

    async def main() -> None:
        async with supervise(server.url, Sessions()) as sessions:
            await asyncio.sleep(0.5)
            assert sessions.links == []
            await asyncio.to_thread(server.start)
            await sessions.wait_for(1)

    try:
        run(main)
    finally:
        server.stop()


def test_a_silent_server_is_noticed(new_server: Callable[..., NatsServer]) -> None:
    server = new_server()

    async def main() -> None:
        supervised = supervise(server.url, Sessions())
        async with supervised as sessions:
            link = await sessions.wait_for(1)
            server.send(signal.SIGSTOP)
            try:
                assert await asyncio.wait_for(link.lost(), PATIENCE) == "no answer to a ping"
            finally:
                server.send(signal.SIGCONT)
            await sessions.wait_for(2)

    run(main)


def test_a_client_that_stopped_reading_is_replaced(shared_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """nats-py ends its read loop on an unexpected exception, stays "connected", and its flush succeeds."""

    async def main() -> None:
        async with supervise(shared_server.url, Sessions()) as sessions:
            link = await sessions.wait_for(1)

            async def broken(data: bytes) -> None:
                raise KeyError("a bug")

            monkeypatch.setattr(link.client._ps, "parse", broken)
            await asyncio.wait_for(link.lost(), PATIENCE)
            await sessions.wait_for(2)

    run(main)


def test_a_ping_that_is_late_behind_a_flood_is_no_loss(
    shared_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with supervise(shared_server.url, Sessions()) as sessions:
            link = await sessions.wait_for(1)

            real, reading = link.client._process_pong, link.client._reading_task
            late: list[bool] = []

            async def process_pong() -> None:
                # The answer is not looked at for a while, and messages come in the meantime.
                for _ in range(30):
                    link.client.stats["in_msgs"] += 1
                    await asyncio.sleep(0.05)
                await real()
                late.append(True)

            monkeypatch.setattr(link.client, "_process_pong", process_pong)
            async with asyncio.timeout(PATIENCE):
                while len(late) < 2:
                    await asyncio.sleep(0.01)
            assert not link.is_lost
            assert link.client._reading_task is reading
            assert reading is not None
            assert not reading.done()

    run(main)


def test_a_closed_client_is_replaced(shared_server: NatsServer) -> None:
    """Whatever makes nats-py close for good, such as an expired login or too many connections."""

    async def main() -> None:
        async with supervise(shared_server.url, Sessions()) as sessions:
            link = await sessions.wait_for(1)
            await link.client._process_err("'maximum connections exceeded'")
            assert await asyncio.wait_for(link.lost(), PATIENCE) == "maximum connections exceeded"
            await sessions.wait_for(2)

    run(main)


def test_a_connection_that_breaks_with_something_to_send_is_told_of(shared_server: NatsServer) -> None:
    async def main() -> None:
        proxy = Proxy(shared_server.port)
        try:
            async with supervise(proxy.url, Sessions(), pace=replace(FAST, probe=PATIENCE)) as sessions:
                client = (await sessions.wait_for(1)).client
                flusher = client._flusher_task
                assert flusher is not None
                # What it would have sent stays where it is.
                flusher.cancel()
                await asyncio.wait({flusher})
                client._pending.append(b"PING\r\n" * 10_000)
                client._pending_data_size += 60_000
                await asyncio.to_thread(proxy.cut)
                await sessions.wait_for(2)
        finally:
            await asyncio.to_thread(proxy.close)

    # A task of the library that ends by an exception would be told of here.
    run(main)


def test_a_session_that_fails_or_returns_gets_a_new_connection(shared_server: NatsServer) -> None:
    async def fail(link: NatsLink) -> None:
        if len(sessions.links) == 1:
            raise RuntimeError("a bug")
        if len(sessions.links) == 2:
            link.fail("no good")

    sessions: Sessions

    async def main() -> None:
        nonlocal sessions
        sessions = Sessions(fail)
        supervised = supervise(shared_server.url, sessions)
        async with supervised:
            await sessions.wait_for(3)
            assert (supervised.supervisor.status.connects, supervised.supervisor.status.failures) == (3, 2)
            assert supervised.supervisor.status.reason == "no good"

    run(main)


def test_an_error_handler_that_raises_does_not_leave_the_client_half_way(shared_server: NatsServer) -> None:
    async def main() -> None:
        async with supervise(shared_server.url, Sessions()) as sessions:
            link = await sessions.wait_for(1)

            def handler(error: Exception) -> None:
                raise KeyError("a bug")

            link.on_error = handler
            await link.client._process_err("'permissions violation for subscription to x'")
            assert await asyncio.wait_for(link.lost(), PATIENCE) == "the error handler failed"
            await sessions.wait_for(2)

    run(main)


def test_a_call_that_does_not_return_is_left_behind(shared_server: NatsServer) -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed.append(True)
                if len(swallowed) > 1:
                    raise

    swallowed: list[bool] = []

    async def main() -> None:
        async with supervise(shared_server.url, Sessions()) as sessions:
            link = await sessions.wait_for(1)
            with pytest.raises(LinkTimeout):
                await link.call(stubborn(), 0.05)
            await asyncio.sleep(0)
            assert swallowed == [True]
            for task in asyncio.all_tasks():
                if "stubborn" in repr(task):
                    task.cancel()

    run(main)


def test_the_host_stops_what_it_runs_in_a_cancelled_scope(shared_server: NatsServer) -> None:
    async def main() -> None:
        sessions = Sessions()
        supervisor = NatsSupervisor(parse_nats_url(Secret(shared_server.url)), name="test", pace=FAST)

        async def nats_main() -> None:
            await supervisor.run(sessions)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(LoopHost().run, nats_main)
            link = await sessions.wait_for(1)
            tasks.cancel_scope.cancel()
        assert link.client.is_closed
        assert link.is_lost

    run(main)


def test_tls_is_used_and_checked(new_server: Callable[..., NatsServer], tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = f'tls {{ cert_file: "{tmp_path / "cert.pem"}", key_file: "{tmp_path / "key.pem"}" }}'
    secure, plain = new_server(tls), new_server("authorization { token: t0ken }")

    async def main() -> None:
        url = secure.url.replace("nats:", "tls:")
        async with supervise(url, Sessions(), ca_file=tmp_path / "ca.pem") as sessions:
            link = await sessions.wait_for(1)
            assert link.client._transport._io_writer.get_extra_info("ssl_object") is not None  # type: ignore[union-attr]

        stranger = supervise(url, Sessions())
        async with stranger:
            while not stranger.supervisor.status.reason:
                await asyncio.sleep(0.01)
        assert "certificate" in stranger.supervisor.status.reason

        # A server without TLS gets no login.
        downgraded = supervise(plain.url.replace("nats://", "tls://t0ken@"), Sessions(), ca_file=tmp_path / "ca.pem")
        async with downgraded:
            while not downgraded.supervisor.status.reason:
                await asyncio.sleep(0.01)
        assert downgraded.supervisor.status.reason == "the server does not offer TLS"
        assert downgraded.supervisor.status.connects == 0

    run(main)


@pytest.mark.parametrize(
    ("config", "good", "bad"),
    [
        ('authorization { token: "to/k:en" }', "to%2Fk%3Aen@", "other@"),
        ('authorization { user: u, password: "p@ss" }', "u:p%40ss@", "u:wrong@"),
    ],
    ids=["token", "password"],
)
def test_credentials_of_the_address(
    new_server: Callable[..., NatsServer], caplog: pytest.LogCaptureFixture, config: str, good: str, bad: str
) -> None:
    server = new_server(config)
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with supervise(server.url.replace("//", f"//{good}"), Sessions()) as sessions:
            await sessions.wait_for(1)
        refused = supervise(server.url.replace("//", f"//{bad}"), Sessions())
        async with refused:
            while not refused.supervisor.status.reason:
                await asyncio.sleep(0.01)
        assert refused.supervisor.status.reason == "Authorization Violation"

    run(main)
    assert [word for word in ("to/k:en", "p@ss", "wrong", "other") if word in caplog.text] == []


def test_alternating_reasons_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = NatsSupervisor(parse_nats_url(Secret("nats://127.0.0.1:1")), name="test", pace=FAST)
    for attempt in range(100):
        supervisor._note_lost(f"reason {attempt % 2}")
    assert len(caplog.records) == 2
    for attempt in range(100):
        supervisor._note_lost(f"reason {attempt}")
    assert len(caplog.records) == 8


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.Error("nats: 'Authorization Violation'"), "Authorization Violation"),
        (
            errors.Error('nats: permissions violation for publish to "a.b"'),
            'permissions violation for publish to "a.b"',
        ),
        (errors.Error("nats: ''"), "Error"),
        (errors.TimeoutError(), "no answer in time"),
        (OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 4222)"), "Connection refused"),
        (OSError("Multiple exceptions: one, another"), "Multiple exceptions: one, another"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (ValueError("the secret s3cret"), "ValueError"),
        (errors.Error("x" * 500), "x" * 200),
    ],
)
def test_reasons_are_short_and_free_of_secrets(error: Exception, expected: str) -> None:
    assert reason_of(error) == expected
