"""A caller for tests: one plain socket, bytes as given, answers read by rules written down here once more."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from tests.e2e import DEADLINE

Field = tuple[bytes, bytes]


@dataclass
class Answer:
    """One response as it stood on the wire."""

    head: bytes
    """Without the blank line."""
    body: bytes = b""
    """Transfer framing removed."""
    complete: bool = False
    """The framing's end was seen; never True for an answer that only the end of the connection ends."""
    ended: str = ""
    """How the connection ended, where that was waited for: ``orderly`` or ``reset``."""

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def headers(self) -> list[Field]:
        lines = self.head.split(b"\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def values(self, name: bytes) -> list[bytes]:
        return [value for own, value in self.headers if own.lower() == name]

    @property
    def request_id(self) -> str:
        (value,) = self.values(b"x-aigw-request-id")
        return value.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class Closed(Exception):
    """The gateway ended the connection: ``orderly`` or ``reset``."""


class Endpoint(Protocol):
    """Where a client connects to."""

    @property
    def address(self) -> tuple[str, int]: ...


class Client:
    """One connection to the gateway."""

    def __init__(
        self,
        gateway: Endpoint,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
        transcript: bytearray | None = None,
        source: str = "",
    ) -> None:
        """``transcript`` collects every byte received; ``source`` is the address that the connection comes from."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        sock.settimeout(DEADLINE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(gateway.address)
        except OSError:
            sock.close()
            raise
        self.sock: socket.socket = sock
        if tls is not None:
            self.sock = tls.wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False)
        self._buffer = bytearray()
        self._transcript = transcript

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_pieces(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.sock.sendall(piece)

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    # Reading

    def _receive(self) -> None:
        try:
            data = self.sock.recv(262_144)
        except ConnectionError:
            raise Closed("reset") from None
        except ssl.SSLEOFError:
            raise Closed("without close_notify") from None
        if not data:
            raise Closed("orderly")
        if self._transcript is not None:
            self._transcript += data
        self._buffer += data

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """Up to and with the mark."""
        searched = 0
        while (found := self._buffer.find(mark, searched)) < 0:
            searched = max(0, len(self._buffer) - len(mark))
            self._receive()
        return self._take(found + len(mark))

    def read_exactly(self, size: int) -> bytes:
        pieces: list[bytes] = []
        missing = size
        try:
            while missing:
                if not self._buffer:
                    self._receive()
                pieces.append(self._take(missing))
                missing -= len(pieces[-1])
        except Closed:
            self._buffer[:] = b"".join(pieces)
            raise
        return b"".join(pieces)

    def read_head(self) -> Answer:
        return Answer(self.read_until(b"\r\n\r\n")[:-4])

    def read_chunk(self) -> bytes:
        """The data of the next chunk; empty for the last one."""
        size = int(self.read_until(b"\r\n"), 16)
        data = self.read_exactly(size + 2)
        assert data.endswith(b"\r\n"), "a chunk does not end where its size says"
        return data[:-2]

    def read_stream_until(self, mark: bytes) -> bytes:
        """The data of as many chunks as it takes until the mark has been in it."""
        data = b""
        while mark not in data:
            piece = self.read_chunk()
            assert piece, f"the stream is over without {mark!r}"
            data += piece
        return data

    def read_answer(self, method: str = "POST") -> Answer:
        """A whole answer; 1xx count as answers. An end before its end leaves it incomplete and is noted."""
        answer = self.read_head()
        codings, lengths = answer.values(b"transfer-encoding"), answer.values(b"content-length")
        assert len(codings) + len(lengths) <= 1, "an answer has one framing"
        pieces: list[bytes] = []
        try:
            if method == "HEAD" or answer.status < 200 or answer.status in (204, 304):
                answer.complete = True
            elif codings:
                assert codings == [b"chunked"]
                while piece := self.read_chunk():
                    pieces.append(piece)
                answer.complete = True
            elif lengths:
                pieces.append(self.read_exactly(int(lengths[0])))
                answer.complete = True
            else:
                while True:
                    self._receive()
                    pieces.append(self._take(len(self._buffer)))
        except Closed as how:
            answer.ended = str(how)
            pieces.append(self._take(len(self._buffer)))
        answer.body = b"".join(pieces)
        return answer

    def read_end(self) -> tuple[bytes, str]:
        """Whatever comes until the connection ends, and how it ends."""
        try:
            while True:
                self._receive()
        except Closed as how:
            return self._take(len(self._buffer)), str(how)


def request(
    target: str, body: bytes = b"", *fields: Field, method: str = "POST", length: bool = True, version: str = "1.1"
) -> bytes:
    """A request with Host and, unless told otherwise, a Content-Length where there is a body."""
    lines = [b"%b %b HTTP/%b" % (method.encode(), target.encode(), version.encode()), b"Host: gateway.test"]
    lines += [b"%b: %b" % field for field in fields]
    if length and body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


def bearer(key: str) -> Field:
    return b"Authorization", b"Bearer " + key.encode()
