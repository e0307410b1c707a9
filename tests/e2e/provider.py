"""A provider for tests: threads and plain sockets, no HTTP library, so that every byte is exactly as scripted."""

from __future__ import annotations

import itertools
import json
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from tests.e2e import DEADLINE, answers

CASE_HEADER: Final = b"x-test-case"
STALL_SECS: Final = 0.7
"""A peer that takes nothing for this long while more is offered has stopped reading."""
_RESET: Final = struct.pack("ii", 1, 0)


class PeerClosed(Exception):
    """The gateway ended the connection."""


@dataclass
class Received:
    """One request as it stood on the wire, and the connection to answer it on."""

    connection: ProviderConnection
    head: bytes
    """Without the blank line."""
    raw_body: bytearray = field(default_factory=bytearray)
    """With its transfer framing."""
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    """Its end was seen."""

    @property
    def request_line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def target(self) -> str:
        return self.request_line.split(b" ")[1].decode()

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def values(self, name: bytes) -> list[bytes]:
        return [value for own, value in self.headers if own.lower() == name]

    def json(self) -> Any:
        return json.loads(self.read())

    # For scripts

    def read(self) -> bytes:
        """The whole body, framing removed."""
        while not self.complete:
            self.read_some()
        return bytes(self.body)

    def read_some(self) -> None:
        """A little more of the body."""
        if self.values(b"transfer-encoding"):
            self._read_chunk()
            return
        length = int((self.values(b"content-length") or [b"0"])[0])
        missing = length - len(self.raw_body)
        if missing:
            data = self.connection.take(missing)
            self.raw_body += data
            self.body += data
        self.complete = len(self.raw_body) == length

    def _read_chunk(self) -> None:
        line = self.connection.take_until(b"\r\n")
        size = int(line, 16)
        data = self.connection.take_exactly(size + 2)
        assert data.endswith(b"\r\n"), "a chunk of the gateway does not end where its size says"
        self.raw_body += line + data
        self.body += data[:-2]
        self.complete = size == 0


def offer(sock: socket.socket, total: int, piece: bytes) -> int:
    """Sends the piece over and over, up to ``total`` bytes, until none is taken for a while; returns how many were."""
    sent = 0
    view = memoryview(piece)
    sock.setblocking(False)
    try:
        while sent < total and select.select([], [sock], [], STALL_SECS)[1]:
            start = sent % len(piece)
            sent += sock.send(view[start : start + total - sent])
    finally:
        sock.settimeout(DEADLINE)
    return sent


class ProviderConnection:
    """One connection that the gateway opened."""

    def __init__(self, sock: socket.socket, transcript: bytearray | None) -> None:
        self.sock = sock
        self.transcript = transcript
        self.bytes_received = 0
        self.requests = 0
        self.awaits_request = False
        self.closed = False
        self.tls_version: str | None = sock.version() if isinstance(sock, ssl.SSLSocket) else None
        self._buffer = bytearray()
        sock.settimeout(DEADLINE)

    # Reading

    def _receive(self) -> None:
        try:
            data = self.sock.recv(262_144)
        except ConnectionError:
            raise PeerClosed("reset") from None
        except ssl.SSLEOFError:
            raise PeerClosed("without close_notify") from None
        if not data:
            raise PeerClosed("orderly")
        self.bytes_received += len(data)
        if self.transcript is not None:
            self.transcript += data
        self._buffer += data

    def take(self, most: int) -> bytes:
        """At least one byte."""
        if not self._buffer:
            self._receive()
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        return data

    def take_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        return self.take(size) if size else b""

    def take_until(self, mark: bytes) -> bytes:
        """Up to and with the mark."""
        while (found := self._buffer.find(mark)) < 0:
            self._receive()
        return self.take(found + len(mark))

    def wait_closed(self) -> str:
        """Reads on until the gateway ends the connection: ``orderly`` or ``reset``."""
        try:
            while True:
                self._buffer.clear()
                self._receive()
        except PeerClosed as how:
            return str(how)

    # Writing

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except ConnectionError:
            raise PeerClosed("reset") from None

    def send_until_stalled(self, total: int, piece: bytes) -> int:
        """Offers ``total`` bytes; returns how many were taken when the gateway stopped reading for a while."""
        return offer(self.sock, total, piece)

    def close(self) -> None:
        """FIN, at once."""
        self.closed = True
        self.sock.close()

    def reset(self) -> None:
        """RST."""
        self.closed = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()


Script = Callable[[Received], None]
"""Answers one request; may leave its body unread, and may end the connection."""


class Case:
    """One test's own corner of the provider: requests that carry its name are answered by its script."""

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self.script = script
        self.received: list[Received] = []
        self.failures: list[BaseException] = []
        self._arrived = threading.Condition()

    @property
    def header(self) -> tuple[bytes, bytes]:
        return CASE_HEADER, self.name.encode()

    @property
    def headers(self) -> dict[str, str]:
        return {CASE_HEADER.decode(): self.name}

    def add(self, received: Received) -> None:
        with self._arrived:
            self.received.append(received)
            self._arrived.notify_all()

    def wait(self, count: int = 1) -> Received:
        """The ``count``-th request, as soon as its head is there."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.received) >= count, DEADLINE):
                raise AssertionError(f"the provider got {len(self.received)} requests, not {count}")
            return self.received[count - 1]


class Provider:
    """Listens, and hands every request to a script."""

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        transcript: bytearray | None = None,
        script: Script = answers.by_path,
    ) -> None:
        """``transcript`` collects every byte of every connection; ``script`` answers what names no case."""
        self._script = script
        self._tls = tls
        self._transcript = transcript
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        # Left to itself the kernel takes 32 MiB for a provider that does not read, and back-pressure comes late.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[ProviderConnection] = []
        self.handshake_failures: list[ssl.SSLError | OSError] = []
        self._cases: dict[str, Case] = {}
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def bytes_received(self) -> int:
        """Of all connections ever, TLS removed."""
        return sum(connection.bytes_received for connection in self.connections)

    @property
    def is_quiet(self) -> bool:
        """Whether every request that has arrived has been seen."""
        poll = select.poll()
        for connection in self.connections:
            number = connection.sock.fileno()
            if connection.awaits_request and number >= 0:
                poll.register(number, select.POLLIN)
        return not poll.poll(0)

    def case(self, script: Script | bytes) -> Case:
        """A new case; bytes are sent as they are once the request is complete."""
        case = Case(f"case-{next(self._numbers)}", script if callable(script) else replying(script))
        self._cases[case.name] = case
        return case

    def close(self) -> None:
        self._listener.close()
        for connection in self.connections:
            if not connection.closed:
                connection.sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        if self._tls is not None:
            sock.settimeout(DEADLINE)
            try:
                sock = self._tls.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)
            except (ssl.SSLError, OSError) as error:
                self.handshake_failures.append(error)
                sock.close()
                return
        connection = ProviderConnection(sock, self._transcript)
        self.connections.append(connection)
        try:
            while not connection.closed and self._serve_one(connection):
                pass
        except (PeerClosed, TimeoutError, OSError):
            # Between requests every end is a good one, and the suite's end closes sockets under their threads.
            pass
        finally:
            if not connection.closed:
                connection.close()

    def _serve_one(self, connection: ProviderConnection) -> bool:
        connection.awaits_request = True
        received = Received(connection, connection.take_until(b"\r\n\r\n")[:-4])
        connection.awaits_request = False
        connection.requests += 1
        received.complete = not received.values(b"transfer-encoding") and received.values(b"content-length") in (
            [],
            [b"0"],
        )
        names = received.values(CASE_HEADER)
        case = self._cases.get(names[0].decode()) if names else None
        if case is None:
            self._script(received)
            return received.complete
        case.add(received)
        try:
            case.script(received)
        except BaseException as error:
            case.failures.append(error)
            raise
        return received.complete


def replying(answer: bytes) -> Script:
    """Reads the request to its end, then sends these bytes."""

    def script(received: Received) -> None:
        received.read()
        received.connection.send(answer)

    return script
