"""The gateway inside your own ASGI application: Starlette in front, httpcore towards the providers.

    uvicorn --factory examples.asgi_app:create_app --no-server-header --no-date-header

Your server has parsed HTTP already, so this drives an Exchange. The rules are those of a Connection's driver:
effects in order, one at a time; what happens meanwhile is fed afterwards; nothing waits inside.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, Protocol

import anyio
import httpcore
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from aigw_core import (
    CHUNKED,
    NO_BODY,
    PROVIDERS,
    UNTIL_CLOSE,
    Connect,
    ConnectFailure,
    CutResponse,
    EmitFact,
    Exchange,
    ExchangeEffect,
    Gateway,
    Headers,
    KeyRing,
    Length,
    Limiter,
    OpenFact,
    OpenRecord,
    Policy,
    ProviderPolicy,
    ReleaseUpstream,
    RequestHead,
    ResponseHead,
    Secret,
    SendInformational,
    SendRequestBody,
    SendRequestEnd,
    SendRequestHead,
    SendResponseBody,
    SendResponseEnd,
    SendResponseHead,
    UsageFact,
    VoidFact,
    parse_origin,
)

QUEUE_HIGH: Final = 65_536
"""Bytes that wait for a slow caller, or a slow provider, before the other side is no longer read."""
CLOSE_SECS: Final = 1.0
"""For a provider connection to be closed."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
now = time.monotonic


class Sink(Protocol):
    """Where facts go. None of the methods waits."""

    def open(self, record: OpenRecord) -> bool: ...
    def emit(self, fact: UsageFact) -> None: ...
    def void(self, fact_id: str) -> None: ...


class PrintSink:
    """One line of JSON for each fact."""

    def open(self, record: OpenRecord) -> bool:  # noqa: ARG002  # there is always room
        return True

    def emit(self, fact: UsageFact) -> None:
        print(fact.encode().decode(), flush=True)

    def void(self, fact_id: str) -> None:
        """Nothing was written."""


class AnswerCut(Exception):
    """ASGI knows no other way to end a response that is not complete: the server closes the connection."""


class GatewayApp:
    """An ASGI application: one Exchange for each request."""

    def __init__(self, gateway: Gateway, sink: Sink) -> None:
        self.gateway = gateway
        self.sink = sink
        self.backend = httpcore.AnyIOBackend()
        self.tls = ssl.create_default_context()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await _Driver(self, receive, send).run(request_head(scope))


class _Queue:
    """Bytes from the machine, which never waits, to somebody who does."""

    def __init__(self, edge: Callable[[bool], None]) -> None:
        self._items: deque[Message | bytes] = deque()
        self._size = 0
        self._blocked = False
        self._over = False
        self._edge = edge
        self._stirred = anyio.Event()

    def put(self, item: Message | bytes, size: int = 0) -> None:
        self._items.append(item)
        self._size += size
        if self._size > QUEUE_HIGH and not self._blocked:
            self._blocked = True
            self._edge(True)
        self._stirred.set()

    def end(self) -> None:
        self._over = True
        self._stirred.set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while self._items or not self._over:
            if not self._items:
                if self._blocked:
                    self._blocked = False
                    self._edge(False)
                self._stirred = anyio.Event()
                await self._stirred.wait()
                continue
            item = self._items.popleft()
            yield item
            # Counted until it is taken, not until it is offered.
            self._size -= len(item) if isinstance(item, bytes) else len(item.get("body", b""))


class _Driver:
    """One request."""

    def __init__(self, app: GatewayApp, receive: Receive, send: Send) -> None:
        self._app = app
        self._receive, self._send = receive, send
        self._exchange = Exchange(app.gateway)
        self._down = _Queue(self._downstream_edge)
        self._up = _Queue(self._upstream_edge)
        self._attempt = 0
        self._called: anyio.Event
        self._scope: anyio.CancelScope
        self._head: RequestHead
        self._pending: deque[Callable[[], list[ExchangeEffect]]] = deque()
        self._carrying = False
        self._moved = anyio.Event()
        self._is_blocked = False
        self._is_cut = False
        self._written = anyio.Event()
        self._tasks: TaskGroup

    async def run(self, head: RequestHead) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._write)
                self.feed(lambda: self._exchange.request_head(head, now()))
                self._tasks.start_soon(self._read_request)
                await self._keep_time()
                self._tasks.cancel_scope.cancel()
        finally:
            self.feed(lambda: self._exchange.abandon(now()))
        if self._is_cut:
            raise AnswerCut

    async def _keep_time(self) -> None:
        """Until the exchange is over and the caller has all of it, or is gone."""
        exchange = self._exchange
        while not exchange.ended:
            deadline = exchange.deadline
            with anyio.move_on_after(None if deadline is None else max(0.0, deadline[0] - now())):
                await self._moved.wait()
            self._moved = anyio.Event()
            self.feed(lambda: exchange.tick(now()))
        self._down.end()
        with anyio.move_on_after(self._app.gateway.policy.timeouts.client_write):
            await self._written.wait()

    # The caller

    async def _read_request(self) -> None:
        exchange, more = self._exchange, True
        while not exchange.ended:
            while more and not exchange.wants_request_body and not exchange.ended:
                moved = self._moved
                await moved.wait()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.feed(lambda: exchange.downstream_lost(now()))
                self._written.set()
                return
            body, ends = message.get("body", b""), not message.get("more_body", False)
            if body:
                self.feed(lambda body=body: exchange.request_body(body, now()))  # type: ignore[misc]  # bound at once
            if ends and more:
                more = False
                self.feed(lambda: exchange.request_end(now()))

    async def _write(self) -> None:
        async for message in self._down:
            await self._send(message)
        self._written.set()

    def _downstream_edge(self, blocked: bool) -> None:
        edge = self._exchange.downstream_blocked if blocked else self._exchange.downstream_writable
        edge(now())
        self._is_blocked = blocked
        self._moved.set()

    # The provider

    async def _upstream(self, effect: Connect, scope: anyio.CancelScope) -> None:
        """One attempt: connect, wait for the request, call, close."""
        origin, exchange, attempt = effect.origin, self._exchange, effect.attempt
        with scope:
            try:
                stream = await self._app.backend.connect_tcp(origin.host, origin.port)
                if origin.scheme == "https":
                    stream = await stream.start_tls(self._app.tls, server_hostname=origin.host)
            except httpcore.ConnectError as error:
                is_tls = isinstance(error.__cause__, ssl.SSLError)
                failure = ConnectFailure.TLS if is_tls else ConnectFailure.CONNECT
                self.feed(lambda: exchange.upstream_failed(attempt, failure, now()))
                return
            place = httpcore.Origin(origin.scheme.encode(), origin.host.encode(), origin.port)
            connection = httpcore.AsyncHTTP11Connection(place, stream)
            try:
                self.feed(lambda: exchange.upstream_connected(attempt, False, now()))
                await self._called.wait()
                await self._call(attempt, connection, place)
            finally:
                with anyio.move_on_after(CLOSE_SECS, shield=True):
                    await connection.aclose()

    async def _call(self, attempt: int, connection: httpcore.AsyncHTTP11Connection, place: httpcore.Origin) -> None:
        exchange, head, answered = self._exchange, self._head, False
        url = httpcore.URL(scheme=place.scheme, host=place.host, port=place.port, target=head.target)
        try:
            request = httpcore.Request(head.method, url, headers=list(head.headers), content=self._body())
            response = await connection.handle_async_request(request)
            answered = True
            told = response_head(head.method, response)
            self.feed(lambda: exchange.response_head(attempt, told, now()))
            async for piece in response.aiter_stream():
                self.feed(lambda piece=piece: exchange.response_body(attempt, piece, now()))  # type: ignore[misc]  # bound at once
                while self._is_blocked and not exchange.ended:
                    await self._moved.wait()
            by_close = told.framing is UNTIL_CLOSE
            self.feed(lambda: exchange.response_end(attempt, now(), reusable=False, by_close=by_close))
        except httpcore.RemoteProtocolError:
            self.feed(lambda: exchange.upstream_broken(attempt, now()))
        except httpcore.NetworkError:
            self.feed(lambda: exchange.upstream_lost(attempt, now(), answered=answered))

    async def _body(self) -> AsyncIterator[bytes]:
        async for piece in self._up:
            yield piece

    def _upstream_edge(self, blocked: bool) -> None:
        edge = self._exchange.upstream_blocked if blocked else self._exchange.upstream_writable
        edge(self._attempt, now())
        self._moved.set()

    # Driving

    def feed(self, machine_input: Callable[[], list[ExchangeEffect]]) -> None:
        """Feeds now, or after the effects that are being carried out."""
        self._pending.append(machine_input)
        if self._carrying:
            return
        self._carrying = True
        try:
            while self._pending:
                for effect in self._pending.popleft()():
                    self._carry_out(effect)
        finally:
            self._carrying = False
            self._moved.set()

    def _carry_out(self, effect: ExchangeEffect) -> None:
        exchange, sink = self._exchange, self._app.sink
        match effect:
            case OpenFact(record):
                answer = exchange.fact_opened if sink.open(record) else exchange.fact_refused
                self._pending.append(lambda: answer(record.id, now()))
            case EmitFact(fact):
                sink.emit(fact)
            case VoidFact(fact_id):
                sink.void(fact_id)
            case Connect():
                self._attempt, self._called, self._scope = effect.attempt, anyio.Event(), anyio.CancelScope()
                self._tasks.start_soon(self._upstream, effect, self._scope)
            case ReleaseUpstream():
                self._scope.cancel()
            case SendRequestHead(_, head):
                self._head = head
                self._called.set()
            case SendRequestBody(_, data):
                self._up.put(data, len(data))
            case SendRequestEnd():
                self._up.end()
            case SendInformational():
                pass  # The server answers Expect itself, and ASGI has no word for other 1xx.
            case SendResponseHead(head, close):
                fields = [(name.lower(), value) for name, value in head.headers]
                fields += [(b"connection", b"close")] if close else []
                self._down.put({"type": "http.response.start", "status": head.status, "headers": fields})
            case SendResponseBody(data):
                self._down.put({"type": "http.response.body", "body": data, "more_body": True}, len(data))
            case SendResponseEnd():
                self._down.put({"type": "http.response.body", "body": b"", "more_body": False})
            case CutResponse():
                self._is_cut = True


def request_head(scope: Message) -> RequestHead:
    """The head of an ASGI request, below whatever path the application is mounted at."""
    target = scope["raw_path"].removeprefix(scope.get("root_path", "").encode())
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    headers = Headers.of(scope["headers"])
    length = headers.get(b"content-length")
    framing = Length(int(length)) if length is not None else CHUNKED if b"transfer-encoding" in headers else NO_BODY
    return RequestHead(scope["method"].encode(), target, headers, framing, scope["http_version"] == "1.0")


def response_head(method: bytes, response: httpcore.Response) -> ResponseHead:
    """The head of httpcore's response, with the framing that its headers mean (RFC 9112 §6.3)."""
    headers = Headers.of(response.headers)
    length = headers.get(b"content-length")
    reason = response.extensions.get("reason_phrase", b"")
    if method == b"HEAD" or response.status in (204, 304):
        return ResponseHead(response.status, reason, headers, NO_BODY)
    if b"transfer-encoding" in headers:
        return ResponseHead(response.status, reason, headers, CHUNKED)
    return ResponseHead(response.status, reason, headers, UNTIL_CLOSE if length is None else Length(int(length)))


def create_app(gateway: Gateway | None = None, sink: Sink | None = None) -> Starlette:
    """Your application, with the gateway at ``/llm``."""
    app = GatewayApp(gateway or gateway_of_environment(), sink or PrintSink())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async def tell_time() -> None:
            while True:
                app.gateway.set_clock(now(), time.time())
                await anyio.sleep(1.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell_time)
            yield
            tasks.cancel_scope.cancel()

    async def health(_: object) -> PlainTextResponse:
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/healthz", health), Mount("/llm", app=app)], lifespan=lifespan)


def gateway_of_environment() -> Gateway:
    """OpenAI, with its key in ``POOL_KEY`` and the public key of your virtual keys in ``SIGNING_KEY``.

    ``PROVIDER`` is another place to find it at.
    """
    try:
        pool_key, signing_key = Secret(os.environ["POOL_KEY"]), os.environ["SIGNING_KEY"]
    except KeyError as missing:
        sys.exit(f"{missing} is not set")
    openai = replace(ProviderPolicy.of(PROVIDERS["openai"]), pool_key=pool_key)
    if "PROVIDER" in os.environ:
        openai = replace(openai, origin=parse_origin(os.environ["PROVIDER"]))
    policy = Policy(providers={"openai": openai}, keyring=KeyRing({1: signing_key}))
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    return Gateway(policy, entropy=os.urandom(32), limiter=limiter, now=now(), wall=time.time())
