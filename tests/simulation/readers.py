"""HTTP/1.1 read by the model: small, strict, and nobody else's code.

Both readers take what the gateway writes, so whatever they do not understand is the gateway's fault.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.faults import Violation, require

Fields = list[tuple[bytes, bytes]]


def read_head(head: bytes) -> tuple[bytes, Fields]:
    """The first line and the fields (names lower-cased) of a head without its empty line."""
    lines = head.split(b"\r\n")
    fields: Fields = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        require(colon and name and not name[-1:].isspace() and b"\n" not in line and b"\r" not in line, "a bad field")
        fields.append((name.lower(), value.strip(b" \t")))
    return lines[0], fields


def values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for lower, value in fields if lower == name]


class Body:
    """A body under one framing: ``length`` bytes, chunked where it is None, to the close where it is -1."""

    __slots__ = ("_buffer", "_chunk", "_state", "left", "length", "over")

    def __init__(self, length: int | None) -> None:
        self.length = length
        self.left = length or 0
        self.over = length == 0
        self._buffer = b""
        self._chunk = 0
        self._state = "size"

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(payload, what lies behind the end of the body)."""
        if self.length == -1:
            return data, b""
        if self.length is not None:
            payload, rest = data[: self.left], data[self.left :]
            self.left -= len(payload)
            self.over = self.left == 0
            return payload, rest
        return self._feed_chunked(data)

    def _feed_chunked(self, data: bytes) -> tuple[bytes, bytes]:
        buffer = self._buffer + data if self._buffer else data
        payload: list[bytes] = []
        at = 0
        while not self.over:
            if self._state == "data":
                piece = buffer[at : at + self._chunk]
                payload.append(piece)
                at += len(piece)
                self._chunk -= len(piece)
                if self._chunk or len(buffer) < at + 2:
                    break
                require(buffer[at : at + 2] == b"\r\n", "a chunk does not end in CRLF")
                at += 2
                self._state = "size"
                continue
            end = buffer.find(b"\r\n", at)
            if end < 0:
                break
            line = buffer[at:end]
            at = end + 2
            if self._state == "end":
                require(not line, "trailers that nobody sent")
                self.over = True
                break
            self._chunk = int(line, 16)
            self._state = "data" if self._chunk else "end"
        self._buffer = b"" if self.over else buffer[at:]
        return b"".join(payload), buffer[at:] if self.over else b""


def framing_of(fields: Fields, *, request: bool) -> int | None:
    """As Body wants it. A message has one framing at most."""
    lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
    require(len(lengths) + len(codings) <= 1, "two framings")
    if codings:
        require(codings == [b"chunked"], "a coding that is not chunked")
        return None
    if lengths:
        return int(lengths[0])
    return 0 if request else -1


class AnswerReader:
    """What a caller reads: any number of answers, each to the method that ``on_final`` returns."""

    def __init__(
        self,
        on_final: Callable[[int, bytes, Fields], bytes],
        on_interim: Callable[[int, Fields], None],
        on_body: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._on_final, self._on_interim, self._on_body, self._on_end = on_final, on_interim, on_body, on_end
        self._buffer = b""
        self.body: Body | None = None

    def feed(self, data: bytes) -> None:
        while data:
            if self.body is None:
                self._buffer += data
                data = self._heads()
                continue
            body = self.body
            payload, data = body.feed(data)
            if payload:
                self._on_body(payload)
            if body.over:
                self.body = None
                self._on_end()

    def _heads(self) -> bytes:
        head, mark, rest = self._buffer.partition(b"\r\n\r\n")
        if not mark:
            return b""
        self._buffer = b""
        line, fields = read_head(head)
        version, _, tail = line.partition(b" ")
        require(version == b"HTTP/1.1" and tail[:3].isdigit() and tail[3:4] == b" ", "a bad status line")
        status = int(tail[:3])
        if status < 200:
            self._on_interim(status, fields)
            return rest
        method = self._on_final(status, tail[4:], fields)
        framing = 0 if method == b"HEAD" or status in (204, 304) else framing_of(fields, request=False)
        self.body = Body(framing)
        if self.body.over:
            self.body = None
            self._on_end()
        return rest

    def closed(self) -> bool:
        """The connection ended in order here: whether an answer that ran is complete by that."""
        if self.body is None:
            if self._buffer:
                raise Violation("half an answer head")
            return True
        return self.body.length == -1
