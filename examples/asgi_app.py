"""The gateway inside your own ASGI application: Starlette in front, httpcore towards the providers.

    uvicorn --factory examples.asgi_app:create_app --no-server-header --no-date-header

Your server has parsed HTTP already, so this drives an Exchange, through a Feeder that keeps the rules. Connections
to providers are kept: the sockets are httpcore's, the bookkeeping is the gateway's own pool.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

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
    DenyChange,
    DenyReason,
    Exchange,
    ExchangeEffect,
    FactSink,
    Feeder,
    Gateway,
    Headers,
    KeyRing,
    Length,
    Limiter,
    OpenRecord,
    Origin,
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
    UpstreamPool,
    UsageFact,
    parse_origin,
)

QUEUE_HIGH: Final = 65_536
"""Bytes that wait for a slow caller, or a slow provider, before the other side is no longer read."""
CLOSE_SECS: Final = 1.0
"""For connections to be closed."""
LOOK_SECS: Final = 1.0
"""Between two looks at the clock and at idle connections."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Upstream = httpcore.AsyncHTTP11Connection
now = time.monotonic


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
    """An ASGI application: one Exchange for each request. Its ``run`` belongs into the lifespan of yours."""

    def __init__(self, gateway: Gateway, sink: FactSink) -> None:
        self.gateway = gateway
        self.sink = sink
        self.pool = cast("UpstreamPool[Upstream]", gateway.pool)
        self.backend = httpcore.AnyIOBackend()
        self.tls = ssl.create_default_context()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await _Driver(self, receive, send).run(request_head(scope))

    async def run(self) -> None:
        """Tells the time, and closes idle connections that have ended; in the end all of them."""
        try:
            while True:
                self.gateway.set_clock(now(), time.time())
                ended = [upstream for upstream in self.pool if upstream.has_expired()]
                for upstream in ended:
                    self.pool.remove(upstream)
                await close([*ended, *self.pool.expire(now())])
                await anyio.sleep(LOOK_SECS)
        finally:
            await close(self.pool.drain())

    def apply_deny(self, changes: list[DenyChange] | None) -> None:
        """Ends what runs for those who are cut off; to be called when ``gateway.deny`` has changed."""
        for driver, reason in self.gateway.apply_deny(changes):
            driver.cut(reason, now())

    async def connect(self, origin: Origin, *, fresh: bool) -> tuple[Upstream, bool]:
        """A connection, and whether it was used before. Raises httpcore.ConnectError."""
        while not fresh and (idle := self.pool.checkout(origin, now())) is not None:
            if not idle.has_expired():
                return idle, True
            await close([idle])
        stream = await self.backend.connect_tcp(origin.host, origin.port)
        if origin.scheme == "https":
            try:
                stream = await stream.start_tls(self.tls, server_hostname=origin.host)
            except BaseException:
                # Also where nobody waits for the handshake any more.
                await close([stream])
                raise
        return Upstream(httpcore.Origin(origin.scheme.encode(), origin.host.encode(), origin.port), stream), False

    async def keep(self, origin: Origin, upstream: Upstream, seconds: float) -> None:
        """For another request, for so long at most; or closes it, where it is not fit for one."""
        seconds = seconds if upstream.is_idle() else 0.0
        await close(self.pool.checkin(origin, upstream, now(), idle_timeout=seconds))


async def close(connections: Iterable[Upstream | httpcore.AsyncNetworkStream]) -> None:
    for connection in connections:
        with anyio.move_on_after(CLOSE_SECS, shield=True):
            await connection.aclose()


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


@dataclass(eq=False)
class _Attempt:
    """One connection of an exchange, from Connect to ReleaseUpstream."""

    number: int
    origin: Origin
    fresh: bool
    called: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    head: RequestHead | None = None
    promised: float = float("inf")
    """Seconds for which the provider keeps it when it is idle."""
    keep: float = 0.0
    """Seconds for which it is kept; 0: it is closed."""


class _Driver:
    """One request."""

    def __init__(self, app: GatewayApp, receive: Receive, send: Send) -> None:
        self._app = app
        self._receive, self._send = receive, send
        self._exchange = Exchange(app.gateway, owner=self)
        self._feeder: Feeder[ExchangeEffect] = Feeder(self._exchange, app.sink, self._carry_out, clock=now)
        self._down = _Queue(self._downstream_edge)
        self._up = _Queue(self._upstream_edge)
        self._attempt: _Attempt
        self._moved = anyio.Event()
        self._is_blocked = False
        self._is_cut = False
        self._written = anyio.Event()
        self._tasks: TaskGroup

    async def run(self, head: RequestHead) -> None:
        with self._feeder:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._write)
                self.feed(self._exchange.request_head, head)
                self._tasks.start_soon(self._read_request)
                await self._keep_time()
                self._tasks.cancel_scope.cancel()
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
            self._feeder.feed(exchange.tick)
        self._down.end()
        with anyio.move_on_after(self._app.gateway.policy.timeouts.client_write):
            await self._written.wait()

    def feed(self, machine_input: Callable[..., list[ExchangeEffect] | None], *values: object, **named: object) -> None:
        self._feeder.feed(machine_input, *values, **named)
        self._moved.set()

    def cut(self, reason: DenyReason | None, _: float) -> list[ExchangeEffect]:
        """As an owner of the exchange: what follows is carried out here."""
        self.feed(self._exchange.cut, reason)
        return []

    # The caller

    async def _read_request(self) -> None:
        exchange, more = self._exchange, True
        while not exchange.ended:
            while more and not exchange.wants_request_body and not exchange.ended:
                await self._moved.wait()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.feed(exchange.downstream_lost)
                self._written.set()
                return
            if body := message.get("body", b""):
                self.feed(exchange.request_body, body)
            if more and not message.get("more_body", False):
                more = False
                self.feed(exchange.request_end)

    async def _write(self) -> None:
        async for message in self._down:
            await self._send(message)
        self._written.set()

    def _downstream_edge(self, blocked: bool) -> None:
        self._is_blocked = blocked
        self.feed(self._exchange.downstream_blocked if blocked else self._exchange.downstream_writable)

    # The provider

    async def _upstream(self, attempt: _Attempt) -> None:
        """Connects, waits for the request, calls; then the connection is kept or closed."""
        exchange, number = self._exchange, attempt.number
        with attempt.scope:
            try:
                upstream, reused = await self._app.connect(attempt.origin, fresh=attempt.fresh)
            except httpcore.ConnectError as error:
                is_tls = isinstance(error.__cause__, ssl.SSLError)
                self.feed(exchange.upstream_failed, number, ConnectFailure.TLS if is_tls else ConnectFailure.CONNECT)
                return
            try:
                self.feed(exchange.upstream_connected, number, reused)
                await attempt.called.wait()
                await self._call(attempt, upstream)
            finally:
                # Nothing waits before it is in the pool: the caller's next request may be here already.
                await self._app.keep(attempt.origin, upstream, attempt.keep)

    async def _call(self, attempt: _Attempt, upstream: Upstream) -> None:
        exchange, number, head, answered = self._exchange, attempt.number, attempt.head, False
        assert head is not None
        place = attempt.origin
        url = httpcore.URL(scheme=place.scheme, host=place.host, port=place.port, target=head.target)
        try:
            request = httpcore.Request(head.method, url, headers=list(head.headers), content=self._up)
            response = await upstream.handle_async_request(request)
            answered = True
            told = response_head(head.method, response)
            attempt.promised = attempt.promised if told.keep_alive is None else told.keep_alive
            self.feed(exchange.response_head, number, told)
            async for piece in response.aiter_stream():
                self.feed(exchange.response_body, number, piece)
                while self._is_blocked and not exchange.ended:
                    await self._moved.wait()
            await response.aclose()
            by_close = told.framing is UNTIL_CLOSE
            self.feed(exchange.response_end, number, reusable=upstream.is_idle(), by_close=by_close)
        except httpcore.RemoteProtocolError as error:
            # Without a cause httpcore itself says that the provider has ended without a word.
            if answered or error.__cause__ is not None:
                self.feed(exchange.upstream_broken, number)
            else:
                self.feed(exchange.upstream_lost, number)
        except httpcore.NetworkError:
            self.feed(exchange.upstream_lost, number, answered=answered)

    def _upstream_edge(self, blocked: bool) -> None:
        edge = self._exchange.upstream_blocked if blocked else self._exchange.upstream_writable
        self.feed(edge, self._attempt.number)

    # Effects

    def _carry_out(self, effect: ExchangeEffect) -> None:
        match effect:
            case Connect(origin, number, fresh):
                self._attempt = _Attempt(number, origin, fresh)
                self._tasks.start_soon(self._upstream, self._attempt)
            case ReleaseUpstream(_, reusable, idle_timeout):
                self._attempt.keep = min(idle_timeout, self._attempt.promised) if reusable else 0.0
                self._attempt.scope.cancel()
            case SendRequestHead(_, head):
                self._attempt.head = head
                self._attempt.called.set()
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


def create_app(gateway: Gateway | None = None, sink: FactSink | None = None) -> Starlette:
    """Your application, with the gateway at ``/llm``."""
    app = GatewayApp(gateway or gateway_of_environment(), sink or PrintSink())

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.run)
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
