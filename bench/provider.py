"""The mock provider, a process of its own: ``python -m bench.provider --port 9100``.

``POST`` of a body with ``"stream": true`` is answered by events at a fixed pace, any other by one fixed JSON
answer. Gateways rebuild requests, so pace and sizes do not stand in them: ``GET /_bench?events=200&delay_ms=10
&answer_bytes=593`` sets them, and answers with them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import signal
import ssl
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import parse_qsl

from bench import work

SNIFFED_MAX: Final = 65_536
"""Leading bytes of a body that are searched for ``stream``; the rest is only counted."""
TICK_SECS: Final = 0.001
"""Between looks for due events: a tenth of the usual delay between them."""
ANSWER_MAX: Final = 256 * 1024 * 1024
"""Bytes of the largest answer that may be asked for; it is held in memory once."""
BACKLOG: Final = 4_096

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_STREAM: Final = re.compile(rb'"stream"\s*:\s*true')


@dataclass(slots=True)
class Plan:
    """How requests are answered until the next change."""

    events: int = 200
    delay: float = 0.01
    """Seconds between two events of a stream."""
    answer: bytes = b""
    """The whole JSON response, head included."""

    def answer_with(self, size: int) -> None:
        body = work.chat_answer(min(size, ANSWER_MAX))
        self.answer = work.provider_head("application/json", len(body)) + body


class Provider:
    """What the connections share: the plan, and the streams that have something to send."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.plan = Plan()
        self.plan.answer_with(work.ANSWER_SIZE)
        self.stream_head = work.provider_head("text/event-stream", None)
        self.stream_end = work.chunked(work.STREAM_END) + work.LAST_CHUNK
        self._loop = loop
        self._due: dict[float, deque[tuple[float, Stream]]] = {}
        """By the delay, since streams of one delay stand in the order of time."""

    def begin_stream(self, transport: asyncio.Transport) -> None:
        """Each stream keeps the phase at which it began, so that load spreads like that of strangers."""
        stream = Stream(transport, self.plan.events, self.plan.delay)
        transport.write(self.stream_head)
        # At once, not by way of the queue: it would stand behind events that are due later.
        if stream.send_next(self.stream_end):
            queue = self._due.setdefault(stream.delay, deque())
            queue.append((self._loop.time() + stream.delay, stream))

    def tick(self) -> None:
        """Sends what is due."""
        now = self._loop.time()
        self._loop.call_later(TICK_SECS, self.tick)
        for delay, queue in list(self._due.items()):
            while queue and queue[0][0] <= now:
                at, stream = queue.popleft()
                if stream.send_next(self.stream_end):
                    queue.append((at + delay, stream))
            if not queue:
                del self._due[delay]

    def configure(self, query: str) -> bytes:
        """Changes the plan; returns it as JSON."""
        plan = self.plan
        for name, value in parse_qsl(query):
            if name == "events":
                plan.events = int(value)
            elif name == "delay_ms":
                plan.delay = float(value) / 1000
            elif name == "answer_bytes":
                plan.answer_with(int(value))
        body = {"events": plan.events, "delay_ms": plan.delay * 1000, "answer_bytes": len(plan.answer)}
        return json.dumps(body).encode()


class Stream:
    """One running event stream."""

    __slots__ = ("_events", "_sent", "_transport", "delay")

    def __init__(self, transport: asyncio.Transport, events: int, delay: float) -> None:
        self.delay = delay
        self._transport = transport
        self._events = events
        self._sent = 0

    def send_next(self, end: bytes) -> bool:
        """Whether more is to come."""
        transport = self._transport
        if transport.is_closing():
            return False
        if self._sent == self._events:
            transport.write(end)
            return False
        transport.write(work.chunked(work.event(self._sent, time.time_ns())))
        self._sent += 1
        return True


class ProviderConnection(asyncio.Protocol):
    """One connection: requests one after the other, nothing pipelined."""

    __slots__ = ("_buffer", "_chunked", "_head", "_provider", "_remaining", "_sniffed", "_transport")

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._head = b""
        self._sniffed = b""
        self._remaining = 0
        self._chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._head:
            data = self._buffer + data if self._buffer else data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return
            self._buffer = b""
            self._head = data[: end + 4]
            length = _LENGTH.search(self._head)
            self._remaining = int(length[1]) if length else 0
            self._chunked = length is None and _CHUNKED.search(self._head) is not None
            data = data[end + 4 :]
        self._read_body(data)

    def _read_body(self, data: bytes) -> None:
        if len(self._sniffed) < SNIFFED_MAX:
            self._sniffed += data[: SNIFFED_MAX - len(self._sniffed)]
        if self._chunked:
            # The last chunk is the end of a read from every client that was met.
            if not data.endswith(work.LAST_CHUNK):
                return
        else:
            self._remaining -= len(data)
            if self._remaining > 0:
                return
        head, sniffed = self._head, self._sniffed
        self._head = self._sniffed = b""
        self._answer(head, sniffed)

    def _answer(self, head: bytes, body: bytes) -> None:
        transport = self._transport
        assert transport is not None
        if head.startswith(b"GET /_bench"):
            query = head.split(b" ", 2)[1].partition(b"?")[2].decode()
            text = self._provider.configure(query)
            transport.write(work.provider_head("application/json", len(text)) + text)
        elif _STREAM.search(body):
            self._provider.begin_stream(transport)
        else:
            transport.write(self._provider.plan.answer)


async def serve(port: int, tls_port: int | None, tls: ssl.SSLContext | None) -> None:
    """Listens on loopback until SIGTERM; says its ports on stdout."""
    loop = asyncio.get_running_loop()
    provider = Provider(loop)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    plain = await loop.create_server(lambda: ProviderConnection(provider), "127.0.0.1", port, backlog=BACKLOG)
    ports = [plain.sockets[0].getsockname()[1]]
    if tls is not None:
        secure = await loop.create_server(
            lambda: ProviderConnection(provider), "127.0.0.1", tls_port or 0, backlog=BACKLOG, ssl=tls
        )
        ports.append(secure.sockets[0].getsockname()[1])
    provider.tick()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    print("listening", *ports, flush=True)
    await over.wait()


def main() -> int:
    """Serves until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9100, help="0 picks a free one")
    parser.add_argument("--tls-port", type=int, help="used with --certificate; default: a free one")
    parser.add_argument("--certificate", help="PEM file with chain and private key: serves TLS on a second port")
    arguments = parser.parse_args()
    tls = None
    if arguments.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(arguments.certificate)
    try:
        import uvloop  # optional: halves what the load side costs
    except ImportError:
        asyncio.run(serve(arguments.port, arguments.tls_port, tls))
    else:
        uvloop.run(serve(arguments.port, arguments.tls_port, tls))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
