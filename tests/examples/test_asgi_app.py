"""The ASGI application keeps its connections to providers, as the core asks."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
import trustme
from openai import OpenAI

from aigw_anyio.testing import DEADLINE_SECS, POLL_SECS
from aigw_core import Policy, parse_origin
from aigw_core.testing import Ledger
from examples.asgi_app import GatewayApp, create_app
from tests.examples.conftest import make_gateway, virtual_key
from tests.examples.targets import Uvicorn

COMPLETION: Final = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }
).encode()
STREAM_BEGIN: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\na\r\ndata: {}\n\n\r\n"
)

Say = Callable[[socket.socket], bool]
"""Does something with a connection on which a request has come; whether another one may follow."""


def answer(*fields: bytes) -> Say:
    lines = b"".join(field + b"\r\n" for field in (b"Content-Type: application/json", *fields))

    def say(sock: socket.socket) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n%b" % (len(COMPLETION), lines, COMPLETION))
        return True

    return say


def end(_: socket.socket) -> bool:
    return False


def reset(sock: socket.socket) -> bool:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return False


def stream(sock: socket.socket) -> bool:
    sock.sendall(STREAM_BEGIN)
    return True


class Provider:
    """Takes one request after the other, each with the next word; notes on which connection each came."""

    def __init__(self, *words: Say, tls: ssl.SSLContext | None = None) -> None:
        self._words = iter(words)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests: list[int] = []
        """The number of its connection, for each."""
        self.ended = threading.Semaphore(0)
        """Released once for each connection that is over."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def origin(self, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self._listener.getsockname()[1]}"

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            for number in range(10):
                sock, _ = self._listener.accept()
                sock.settimeout(DEADLINE_SECS)
                if self._tls is not None:
                    sock = self._tls.wrap_socket(sock, server_side=True)
                with sock, contextlib.suppress(OSError):
                    while _has_request(sock):
                        self.requests.append(number)
                        if not next(self._words)(sock):
                            break
                self.ended.release()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_SECS)
        assert not self._thread.is_alive()


def _has_request(sock: socket.socket) -> bool:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65_536)
        if not piece:
            return False
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += sock.recv(65_536)
    return True


class Served:
    """The application on a server, in front of a provider that says these words."""

    def __init__(self, policy: Policy, *words: Say) -> None:
        self.provider = Provider(*words)
        self.ledger = Ledger()
        openai = replace(policy.providers["openai"], origin=parse_origin(self.provider.origin()))
        self.gateway = make_gateway(replace(policy, providers={"openai": openai}))
        self._server = Uvicorn(create_app(self.gateway, self.ledger), lifespan="on")
        self.address = self._server.address
        self._stopped = False

    def ask(self, method: str = "POST") -> tuple[int, bytes]:
        """On a connection of its own; status and body."""
        connection = http.client.HTTPConnection(*self.address, timeout=DEADLINE_SECS)
        path, body = ("chat/completions", b'{"model":"m","messages":[]}') if method == "POST" else ("models", None)
        fields = {"Authorization": f"Bearer {virtual_key(7)}", "Content-Type": "application/json"}
        try:
            connection.request(method, f"/llm/openai/v1/{path}", body, fields)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def outcomes(self, number: int) -> list[str]:
        """Of so many exchanges, whose last byte may have come before their end."""
        wait_until(lambda: len(self.ledger.ended) == number)
        return [fact.outcome.value for fact in self.ledger.facts]

    def stop_serving(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._server.stop()

    def stop(self) -> None:
        self.stop_serving()
        self.provider.stop()


@pytest.fixture
def served(policy: Policy) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(*words: Say) -> Served:
        made.append(Served(policy, *words))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    """For what another thread brings about. Raises AssertionError where it does not."""
    end_of_wait = time.monotonic() + DEADLINE_SECS
    while not condition():
        assert time.monotonic() < end_of_wait
        time.sleep(POLL_SECS)


def test_two_requests_of_an_sdk_go_over_one_connection(served: Callable[..., Served]) -> None:
    app = served(answer(), answer())
    base_url = f"http://127.0.0.1:{app.address[1]}/llm/openai/v1"
    for _ in range(2):
        with OpenAI(base_url=base_url, api_key=virtual_key(7), max_retries=0) as client:
            whole = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        assert whole.choices[0].message.content == "Hello."
    assert app.provider.requests == [0, 0]
    assert app.outcomes(2) == ["complete", "complete"]


@pytest.mark.parametrize("dies", [end, reset])
def test_a_get_on_a_reused_connection_that_dies_is_sent_again(served: Callable[..., Served], dies: Say) -> None:
    app = served(answer(), dies, answer())
    assert app.ask("GET") == (200, COMPLETION)
    assert app.ask("GET") == (200, COMPLETION)
    assert app.provider.requests == [0, 0, 1]
    assert app.outcomes(2) == ["complete", "complete"]


@pytest.mark.parametrize("dies", [end, reset])
def test_a_post_on_a_reused_connection_that_dies_is_not(served: Callable[..., Served], dies: Say) -> None:
    app = served(answer(), dies, answer())
    assert app.ask()[0] == 200
    assert app.ask()[0] == 502
    assert app.ask()[0] == 200
    assert app.provider.requests == [0, 0, 1]
    assert app.outcomes(3) == ["complete", "upstream_abort", "complete"]


@pytest.mark.parametrize("dies", [end, reset])
def test_a_get_on_a_new_connection_that_dies_is_not_sent_again(served: Callable[..., Served], dies: Say) -> None:
    app = served(dies)
    assert app.ask("GET")[0] == 502
    assert (app.provider.requests, app.outcomes(1)) == ([0], ["upstream_abort"])


def test_what_the_provider_promises_is_obeyed(served: Callable[..., Served]) -> None:
    """A connection that it keeps for one second more is not worth keeping."""
    app = served(answer(b"Keep-Alive: timeout=1"), answer())
    assert [app.ask()[0], app.ask()[0]] == [200, 200]
    assert app.provider.requests == [0, 1]


@pytest.mark.parametrize("field", [b"Connection: close", b"Connection: keep-alive, Close"])
def test_a_provider_that_closes_is_not_kept(served: Callable[..., Served], field: bytes) -> None:
    app = served(answer(field), answer())
    assert [app.ask()[0], app.ask()[0]] == [200, 200]
    assert app.provider.requests == [0, 1]


def test_idle_connections_are_closed_in_the_end(served: Callable[..., Served]) -> None:
    app = served(answer())
    assert app.ask()[0] == 200
    wait_until(lambda: app.gateway.pool.idle_count == 1)
    app.stop_serving()
    assert app.provider.ended.acquire(timeout=DEADLINE_SECS)
    assert app.gateway.pool.idle_count == 0


def test_connections_behind_tls_are_kept_too(policy: Policy) -> None:
    authority, tls, ledger = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Ledger()
    authority.issue_cert("localhost").configure_cert(tls)
    provider = Provider(answer(), answer(), tls=tls)
    openai = replace(policy.providers["openai"], origin=parse_origin(provider.origin("https", "localhost")))
    app = GatewayApp(make_gateway(replace(policy, providers={"openai": openai})), ledger)
    authority.configure_trust(app.tls)
    server = Uvicorn(app, lifespan="off", beside=app.run)
    for _ in range(2):
        with OpenAI(
            base_url=f"http://127.0.0.1:{server.address[1]}/openai/v1", api_key=virtual_key(7), max_retries=0
        ) as client:
            whole = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        assert whole.choices[0].message.content == "Hello."
    assert provider.requests == [0, 0]
    server.stop()
    provider.stop()


def test_a_caller_who_leaves_during_the_handshake_takes_the_connection_along(policy: Policy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_SECS)
        origin = parse_origin(f"https://127.0.0.1:{listener.getsockname()[1]}")
        openai, ledger = replace(policy.providers["openai"], origin=origin), Ledger()
        app = GatewayApp(make_gateway(replace(policy, providers={"openai": openai})), ledger)
        server = Uvicorn(app, lifespan="off", beside=app.run)
        connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE_SECS)
        connection.request("GET", "/openai/v1/models", headers={"Authorization": f"Bearer {virtual_key(7)}"})
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(DEADLINE_SECS)
            assert sock.recv(65_536)
            connection.close()
            assert sock.recv(65_536) == b""
        server.stop()
    assert [fact.outcome for fact in ledger.facts] == ["client_abort"]


def test_who_is_cut_off_is_cut(policy: Policy) -> None:
    """Between two turns of the application, as a deny feed does it."""
    provider, ledger = Provider(stream), Ledger()
    openai = replace(policy.providers["openai"], origin=parse_origin(provider.origin()))
    gateway = make_gateway(replace(policy, providers={"openai": openai}))
    app = GatewayApp(gateway, ledger)
    denied: list[int] = []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        async def seen(message: Any) -> None:
            await send(message)
            if message.get("body") and not denied:
                denied.append(1)
                gateway.deny.put("blackhole.7", b"fraud", revision=1)
                app.apply_deny(None)

        await app(scope, receive, seen)

    server = Uvicorn(asgi, lifespan="off", beside=app.run)
    connection = http.client.HTTPConnection(*server.address, timeout=DEADLINE_SECS)
    body = b'{"model":"m","messages":[],"stream":true}'
    fields = {"Authorization": f"Bearer {virtual_key(7)}", "Content-Type": "application/json"}
    connection.request("POST", "/openai/v1/chat/completions", body, fields)
    response = connection.getresponse()
    with pytest.raises(http.client.HTTPException):
        response.read()
    connection.close()
    server.stop()
    provider.stop()
    assert [fact.outcome for fact in ledger.facts] == ["gateway_cut"]
