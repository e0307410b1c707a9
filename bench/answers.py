"""Reading responses as a load generator must: fast, and only as strict as telling their end needs."""

from __future__ import annotations

import re
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_LAST_CHUNK: Final = b"0\r\n\r\n"


class Answer:
    """One response, with a length or chunked; anything else is never ``complete``."""

    __slots__ = ("_buffer", "_chunked", "_in_body", "_keep", "_pieces", "_remaining", "close", "complete", "status")

    def __init__(self, *, keep: bool = False) -> None:
        self.status = 0
        self.complete = False
        self.close = False
        """The server will close the connection."""
        self._keep = keep
        self._pieces: list[bytes] = []
        self._buffer = b""
        self._in_body = False
        self._chunked = False
        self._remaining = 0

    def feed(self, data: bytes) -> bool:
        """Whether the answer is complete now."""
        if not self._in_body:
            data = self._buffer + data if self._buffer else data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = data
                return False
            self._read_head(data[: end + 4])
            self._buffer = b""
            data = data[end + 4 :]
        if self._keep:
            self._pieces.append(data)
        if self._chunked:
            tail = self._buffer + data[-5:]
            self._buffer = tail[-5:]
            self.complete = self._buffer == _LAST_CHUNK
        else:
            self._remaining -= len(data)
            self.complete = self._remaining == 0
        return self.complete

    def _read_head(self, head: bytes) -> None:
        self._in_body = True
        self.status = int(head[9:12])
        self.close = _CLOSE.search(head) is not None
        length = _LENGTH.search(head)
        if length is not None:
            self._remaining = int(length[1])
        else:
            self._chunked = CHUNKED.search(head) is not None
            self._remaining = -1

    @property
    def body(self) -> bytes:
        """The payload, where it was kept."""
        data = b"".join(self._pieces)
        return _unchunked(data) if self._chunked else data


def _unchunked(data: bytes) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        size = int(data[at:end].partition(b";")[0], 16)
        if not size:
            break
        pieces.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(pieces)
