"""Reading HTTP from what a rig received, by rules written down here once more: an oracle, not the codec under test."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from aigw_core.testing.commands import CallerReceive, Command, Ended, ProviderReceive

Waiting = Generator[Command, Any, Any]


@dataclass(slots=True)
class Answer:
    """One response as the caller saw it."""

    status: int
    head: bytes
    body: bytes = b""
    """Transfer framing removed."""
    complete: bool = False
    """The framing's end was seen, or, for a body that only the connection ends, an orderly end."""
    ended: Ended | None = None
    """How the connection ended, where it did so inside the answer."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of every line with this lower-case name."""
        lines = [line.partition(b":") for line in self.head.split(b"\r\n")[1:]]
        return [value.strip() for own, _, value in lines if own.lower() == name]


@dataclass(slots=True)
class Side:
    """What one end has received and not yet read."""

    receive: CallerReceive | ProviderReceive
    buffer: bytearray = field(default_factory=bytearray)
    ended: Ended | None = None

    def _more(self) -> Generator[Command, Any, bool]:
        """False at the end."""
        if self.ended is None:
            got = yield self.receive
            if isinstance(got, Ended):
                self.ended = got
            else:
                assert got, "a rig returns bytes, or Ended"
                self.buffer += got
        return self.ended is None

    def until(self, mark: bytes) -> Generator[Command, Any, bytes]:
        """Up to and with the mark."""
        while mark not in self.buffer:
            assert (yield from self._more()), f"ended before {mark!r}: {bytes(self.buffer[-200:])!r}"
        return self._take(self.buffer.index(mark) + len(mark))

    def exactly(self, size: int) -> Generator[Command, Any, bytes]:
        """``size`` bytes, or fewer at the end."""
        while len(self.buffer) < size and (yield from self._more()):
            pass
        return self._take(min(size, len(self.buffer)))

    def end(self) -> Generator[Command, Any, tuple[bytes, Ended]]:
        """Whatever still comes, and how it ends."""
        while (yield from self._more()):
            pass
        assert self.ended is not None
        return self._take(len(self.buffer)), self.ended

    def answer(self, *, head_only: bool = False) -> Generator[Command, Any, Answer]:
        """One response. An end inside its body leaves it incomplete."""
        head = yield from self.until(b"\r\n\r\n")
        found = Answer(int(head[9:12]), head[:-4])
        if head_only or found.status < 200 or found.status in (204, 304):
            found.complete = True
        elif found.values(b"transfer-encoding"):
            yield from self._chunks(found)
        elif lengths := found.values(b"content-length"):
            (length,) = lengths
            found.body = yield from self.exactly(int(length))
            found.complete = len(found.body) == int(length)
        else:
            found.body, how = yield from self.end()
            found.complete = how.orderly
        found.ended = self.ended
        return found

    def chunk(self) -> Generator[Command, Any, bytes | None]:
        """The data of the next chunk, empty for the last; None where the connection ends first."""
        while b"\r\n" not in self.buffer:
            if not (yield from self._more()):
                return None
        size = int(self._take(self.buffer.index(b"\r\n") + 2), 16)
        data = yield from self.exactly(size + 2)
        if len(data) < size + 2:
            self.buffer[:0] = data
            return None
        assert data.endswith(b"\r\n"), "a chunk does not end where its size says"
        return bytes(data[:-2])

    def _chunks(self, found: Answer) -> Generator[Command, Any, None]:
        while (data := (yield from self.chunk())) is not None:
            found.body += data
            if not data:
                found.complete = True
                return

    def request(self) -> Generator[Command, Any, tuple[bytes, bytes]]:
        """One request: head and body, transfer framing removed."""
        head = yield from self.until(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)\r\n", head, re.IGNORECASE)
        if re.search(rb"\r\ntransfer-encoding: *chunked\r\n", head, re.IGNORECASE):
            body = b""
            while piece := (yield from self.chunk()):
                body += piece
            return head, body
        return head, (yield from self.exactly(int(length[1]) if length else 0))

    def _take(self, size: int) -> bytes:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data


def caller() -> Side:
    """What the caller receives."""
    return Side(CallerReceive())


def provider(number: int = 0) -> Side:
    """What the provider receives on its connection of this number."""
    return Side(ProviderReceive(number))
