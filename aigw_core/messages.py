"""Heads of messages, and how the end of a body is known."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from aigw_core.headers import Headers

_KEEP_ALIVE = re.compile(rb"(?:^|[,;\s])timeout=([0-9]{1,9})(?:$|[,;\s])", re.IGNORECASE)


@dataclass(slots=True, unsafe_hash=True)
class Length:
    """A body of exactly ``n`` bytes. Read-only; not frozen, since three are made for each exchange."""

    n: int


@dataclass(slots=True, frozen=True)
class Chunked:
    """A body in the chunked transfer coding (RFC 9112 §7.1), or whose length is not known beforehand."""


@dataclass(slots=True, frozen=True)
class UntilClose:
    """A response body that ends with the connection (RFC 9112 §6.3 rule 8)."""


@dataclass(slots=True, frozen=True)
class NoBody:
    """No body, whatever the headers say (RFC 9112 §6.3 rules 1 and 7)."""


Framing = Length | Chunked | UntilClose | NoBody
CHUNKED = Chunked()
UNTIL_CLOSE = UntilClose()
NO_BODY = NoBody()


@dataclass(slots=True, repr=False)
class HeadNotes:
    """What was worked out about a head that a connection repeats. Each part belongs to the module that made it."""

    closes: bool = False
    """``Connection`` says that this is the last request."""
    expects_continue: bool = False
    """``Expect`` says that the body is sent after 100 (RFC 9110 §10.1.1)."""
    auth: object = None
    content: object = None
    forwarding: object = None


@dataclass(slots=True)
class RequestHead:
    """A request line and headers; ``target`` is in origin-form."""

    method: bytes
    target: bytes
    headers: Headers
    framing: Framing
    http_1_0: bool = False
    notes: HeadNotes | None = field(default=None, repr=False, compare=False)
    lines: bytes | None = field(default=None, repr=False, compare=False)
    """The header fields as they are written, where that is known already."""


class KnownShape(Protocol):
    """What is known of a response head that was recognised; :class:`aigw_core.http1.shapes.HeadShape` is one."""

    content_type: bytes
    content_encoding: bytes
    has_length: bool
    is_plain_json: bool
    """A success, and labelled as a JSON document that is not encoded."""
    id_at: int
    """The group of a match that has the provider's id of the request; 0 where there is none."""
    names_cleared_by: object
    """Kept by :mod:`aigw_core.forwarding`: the mask for which neither a name nor the reason holds a key."""

    def relayed_lines(self, match: re.Match[bytes]) -> bytes:
        """As :meth:`aigw_core.headers.Headers.relayed_lines`."""


@dataclass(slots=True)
class ResponseHead:
    """A status line and headers."""

    status: int
    reason: bytes
    headers: Headers
    framing: Framing
    http_1_0: bool = False
    lines: bytes | None = field(default=None, repr=False, compare=False)
    """As of a request."""
    look: tuple[KnownShape, re.Match[bytes]] | None = field(default=None, repr=False, compare=False)
    """How it was recognised, and where in the bytes its parts stand; None where it had to be parsed."""

    @property
    def keep_alive(self) -> float | None:
        """Seconds for which the sender promises to keep the idle connection, less one for the way there.

        None where it has no ``Keep-Alive: timeout`` (RFC 2068 §19.7.1.1).
        """
        value = self.headers.first.get(b"keep-alive")
        found = _KEEP_ALIVE.search(value) if value else None
        return max(0.0, float(found[1]) - 1.0) if found else None
