"""Closed-loop load on blocking and non-blocking sockets: JSON requests, new connections, large bodies."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from bench.answers import Answer
from bench.targets import ANSWER_SECS, CONNECT_SECS, Target

READ_SIZE: Final = 65_536
BODY_READ_SIZE: Final = 1 << 20
ERRORS_MAX: Final = 1_000
"""Failed requests after which a window ends early: the target is broken, not slow."""
IDLE_BATCH: Final = 20
"""Connections opened at a time towards the idle ones: memory is asked for, not a burst of load."""
SOURCES: Final = 200
"""Loopback addresses that new connections come from in turn: the ports of one, 28 thousand, last some seconds only
while closed connections stay in TIME_WAIT for a minute."""
_BIND_ADDRESS_NO_PORT: Final = 24
"""``IP_BIND_ADDRESS_NO_PORT`` of linux/in.h, which Python names from 3.13 on: choose the port at connect."""


@dataclass(slots=True)
class LoadResult:
    """What one window saw."""

    sent: int = 0
    requests: int = 0
    """Answered with 200."""
    errors: int = 0
    latencies: list[int] = field(default_factory=list)
    """Nanoseconds of each request, connecting included where it was new."""


def percentile(values: list[int], share: float, unit: float) -> float | None:
    """The value that ``share`` of all do not exceed, in ``unit``; sorts in place."""
    if not values:
        return None
    values.sort()
    return values[min(len(values) - 1, int(share * len(values)))] / unit


class _Client:
    """One connection at a time, one request at a time."""

    __slots__ = ("answer", "began", "sock")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.answer = Answer()
        self.began = 0


class ClosedLoop:
    """``connections`` clients that each send the next request when the last one was answered."""

    def __init__(self, target: Target, request: bytes, *, connections: int, fresh: bool = False) -> None:
        """``fresh``: every request on a connection of its own."""
        self._address = target.address
        self._request = request
        self._clients = [_Client() for _ in range(connections)]
        self._fresh = fresh
        self._by_fd: dict[int, _Client] = {}
        self._epoll = select.epoll()
        self._opened = 0
        self.result = LoadResult()

    def run(self, seconds: float) -> LoadResult:
        """One window; connections are closed at its end. Raises OSError where nobody listens."""
        result = self.result
        end = time.perf_counter() + seconds
        try:
            for client in self._clients:
                self._begin(client)
            # A window has an answer, however busy the machine is: without one it says nothing.
            while (left := (end if result.requests else end + ANSWER_SECS) - time.perf_counter()) > 0:
                for fd, _ in self._epoll.poll(left):
                    self._readable(self._by_fd[fd])
                if result.errors >= ERRORS_MAX:
                    break
        finally:
            for client in self._clients:
                self._close(client)
            self._epoll.close()
        return result

    @contextmanager
    def idle_connections(self) -> Iterator[Callable[[], int]]:
        """Connections that each had one answer and stay open; gives a function that counts the open ones."""
        deadline = time.monotonic() + ANSWER_SECS
        try:
            for at in range(0, len(self._clients), IDLE_BATCH):
                batch = self._clients[at : at + IDLE_BATCH]
                for client in batch:
                    self._begin(client)
                while not all(client.answer.complete for client in batch) and time.monotonic() < deadline:
                    for fd, _ in self._epoll.poll(1.0):
                        client = self._by_fd[fd]
                        assert client.sock is not None
                        client.answer.feed(client.sock.recv(READ_SIZE))
            yield self._count_open
        finally:
            for client in self._clients:
                self._close(client)
            self._epoll.close()

    def _count_open(self) -> int:
        """Those that can carry another request: nothing to read, not even an end."""
        unquiet = {fd for fd, _ in self._epoll.poll(0)}
        return sum(fd not in unquiet and client.answer.status == 200 for fd, client in self._by_fd.items())

    def _begin(self, client: _Client) -> None:
        client.began = time.perf_counter_ns()
        client.answer = Answer()
        sock = client.sock
        if sock is None:
            sock = client.sock = self._open()
            self._by_fd[sock.fileno()] = client
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        # Some kilobytes into an empty socket buffer: never a partial write.
        sock.send(self._request)
        self.result.sent += 1

    def _open(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(CONNECT_SECS)
        if self._fresh and self._address[0].startswith("127."):
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.1.{1 + self._opened % SOURCES}", 0))
        self._opened += 1
        sock.connect(self._address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        return sock

    def _close(self, client: _Client) -> None:
        sock, client.sock = client.sock, None
        if sock is not None:
            self._by_fd.pop(sock.fileno(), None)
            sock.close()

    def _readable(self, client: _Client) -> None:
        sock = client.sock
        if sock is None:
            return
        try:
            data = sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        result, answer = self.result, client.answer
        if not data:
            result.errors += 1
            self._close(client)
        elif not answer.feed(data):
            return
        elif answer.status == 200:
            result.requests += 1
            result.latencies.append(time.perf_counter_ns() - client.began)
        else:
            result.errors += 1
        if self._fresh or answer.close:
            self._close(client)
        self._begin(client)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One large body that went through."""

    seconds: float
    status: int


def transfer(target: Target, request: bytes) -> Transfer:
    """One request and its answer of any size on a blocking connection of its own. Raises OSError."""
    with target.connect() as sock:
        begin = time.perf_counter()
        sock.sendall(request)
        answer = Answer()
        deadline = begin + ANSWER_SECS
        while not answer.complete:
            data = sock.recv(BODY_READ_SIZE)
            if not data or time.perf_counter() > deadline:
                raise ConnectionResetError("closed before the answer was complete, or too slow")
            answer.feed(data)
        return Transfer(time.perf_counter() - begin, answer.status)
