"""Many event streams at once: how late each event arrives, and whether all of them do."""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bench import work
from bench.answers import CHUNKED
from bench.targets import CONNECT_SECS, Target

READ_SIZE: Final = 65_536
RAMP_SECS: Final = 0.5
"""Over which streams begin: they are independent in life, so their events must not come in step."""
LOOK_SECS: Final = 0.25
_TAIL_MAX: Final = 512
"""Bytes kept to find marks and ends that a read cuts: more than two events."""
_SO_TIMESTAMPNS: Final = 35
"""Linux: the kernel says when bytes arrived, so that a busy load generator does not look like a slow gateway."""
_TIMESPEC: Final = struct.Struct("@qq")
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(_TIMESPEC.size)


class StreamClient:
    """One stream and what has arrived of it."""

    __slots__ = (
        "_in_body",
        "_is_over",
        "_left",
        "_raw",
        "_tail",
        "began",
        "events",
        "first_ns",
        "in_order",
        "sock",
        "terminal",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.began = time.time_ns()
        self.first_ns: int | None = None
        """Nanoseconds from the request to the first event."""
        self.events = 0
        self.in_order = True
        self.terminal = False
        self._in_body = False
        self._is_over = False
        self._left = 0
        """Of the current chunk, with the line end behind it."""
        self._raw = b""
        """A head or the size of a chunk, as far as it has arrived."""
        self._tail = b""

    @property
    def ended(self) -> bool:
        """Its last event and its last chunk were there."""
        return self.terminal and self._is_over

    def feed(self, data: bytes, arrived: int, latencies: list[int]) -> None:
        """Bytes of the response and when they arrived (ns since the epoch)."""
        # Not searched as they came: who relays in chunks of his own may cut an event anywhere.
        data = self._tail + self._content(data)
        at = 0
        for mark in work.MARK_PATTERN.finditer(data):
            self.in_order &= int(mark[1]) == self.events
            self.events += 1
            latencies.append(arrived - int(mark[2]))
            at = mark.end()
        if self.first_ns is None and self.events:
            self.first_ns = arrived - self.began
        rest = data[at:]
        if b"[DONE]" in rest:
            self.terminal = True
        self._tail = rest[-_TAIL_MAX:]

    def _content(self, data: bytes) -> bytes:
        """What is inside the chunks; an answer without chunks is never over."""
        data, at, left = self._raw + data if self._raw else data, 0, self._left
        self._raw = b""
        if not self._in_body:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._raw = data
                return b""
            self._in_body, at = True, end + 4
            if CHUNKED.search(data, 0, at) is None:
                left = sys.maxsize
        pieces: list[bytes] = []
        while at < len(data) and not self._is_over:
            if left:
                taken = data[at : at + left]
                pieces.append(taken[: max(0, left - 2)])
                at += len(taken)
                left -= len(taken)
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                self._raw = data[at:]
                break
            size = int(data[at:end].partition(b";")[0], 16)
            self._is_over = size == 0
            at, left = end + 2, size + 2
        self._left = left
        return b"".join(pieces)


@dataclass(slots=True)
class StreamsResult:
    """What one window saw."""

    latencies: list[int] = field(default_factory=list)
    """Nanoseconds from the provider's write to the arrival here, of each event."""
    first: list[int] = field(default_factory=list)
    """Nanoseconds from the request to the first event, of each stream."""
    events: int = 0
    complete: int = 0
    """Streams with every event in order and their end."""


class StreamLoad:
    """``count`` streams, opened over RAMP_SECS and read to their ends."""

    def __init__(self, target: Target, count: int, *, timeout: float, ramp: float = RAMP_SECS) -> None:
        self._address = target.address
        self._request = target.request(work.chat_request(stream=True), stream=True)
        self._count = count
        self._timeout = timeout
        self._ramp = ramp
        self.clients: list[StreamClient] = []
        self.result = StreamsResult()
        self._running: dict[int, StreamClient] = {}

    def run(self, events: int, *, look: Callable[[], None] | None = None) -> StreamsResult:
        """Until every stream has ended or ``timeout`` is over. ``events``: how many each is to have.

        ``look`` is called every LOOK_SECS. Raises OSError where nobody listens.
        """
        begin = time.monotonic()
        deadline, next_look = begin + self._timeout, begin + LOOK_SECS
        epoll = select.epoll()
        try:
            while (now := time.monotonic()) < deadline:
                due = min(self._count, int(self._count * (now - begin) / self._ramp) + 1)
                while len(self.clients) < due:
                    self._open(epoll)
                if not self._running and len(self.clients) == self._count:
                    break
                pause = 0.001 if len(self.clients) < self._count else 0.1
                for fd, _ in epoll.poll(pause):
                    self._readable(self._running[fd])
                if look is not None and now >= next_look:
                    next_look = now + LOOK_SECS
                    look()
        finally:
            for client in self.clients:
                client.sock.close()
            epoll.close()
        result = self.result
        result.first += [client.first_ns for client in self.clients if client.first_ns is not None]
        result.events = sum(client.events for client in self.clients)
        result.complete = sum(c.ended and c.in_order and c.events == events for c in self.clients)
        return result

    def _open(self, epoll: select.epoll) -> None:
        sock = socket.create_connection(self._address, CONNECT_SECS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setblocking(False)
        client = StreamClient(sock)
        self.clients.append(client)
        self._running[sock.fileno()] = client
        epoll.register(sock.fileno(), select.EPOLLIN)
        sock.send(self._request)

    def _readable(self, client: StreamClient) -> None:
        sock = client.sock
        try:
            data, ancillary, _, _ = sock.recvmsg(READ_SIZE, _ANCILLARY_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        if data:
            client.feed(data, _arrival(ancillary), self.result.latencies)
        if not data or client.ended:
            del self._running[sock.fileno()]
            sock.close()


def _arrival(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return time.time_ns()
