"""Header fields as a message carried them: order, case, duplicates and values kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Field = tuple[bytes, bytes, bytes]
"""(lower-case name, name as received, value without surrounding SP and HTAB)."""


class Headers:
    """An ordered list of header fields with look-up by lower-case name. Do not change it once built.

    ``first`` maps each lower-case name to its first value; ``repeated`` says that some name occurs twice.
    Both are read directly where it matters: look-ups outnumber messages by ten to one and nearly all miss.
    """

    __slots__ = ("fields", "first", "repeated")

    first: dict[bytes, bytes]
    repeated: bool

    def __init__(self, fields: list[Field], first: dict[bytes, bytes] | None = None) -> None:
        self.fields = fields
        if first is not None:
            self.first = first
            self.repeated = len(first) != len(fields)

    def __getattr__(self, name: str) -> Any:
        # Heads that are only written need no index, so it is made when a slot is found empty.
        if name not in ("first", "repeated"):
            raise AttributeError(name)
        self.first = {lower: value for lower, _, value in reversed(self.fields)}
        self.repeated = len(self.first) != len(self.fields)
        return self.first if name == "first" else self.repeated

    @classmethod
    def of(cls, pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
        """From (name, value) pairs as ASGI, h11 and h2 give them."""
        return cls([(name.lower(), name, value) for name, value in pairs])

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return ((name, value) for _, name, value in self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.fields == other.fields

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        # Names only: values may hold credentials.
        return f"Headers({[lower.decode('latin-1') for lower, _, _ in self.fields]})"

    def get(self, lower: bytes) -> bytes | None:
        """The first value under a lower-case name, or None."""
        return self.first.get(lower)

    def __contains__(self, lower: object) -> bool:
        return lower in self.first

    def get_all(self, lower: bytes) -> list[bytes]:
        value = self.first.get(lower)
        if value is None:
            return []
        if not self.repeated:
            return [value]
        return [value for name, _, value in self.fields if name == lower]

    def tokens(self, lower: bytes) -> list[bytes]:
        """The comma-separated, lower-cased members of every line under a name (RFC 9110 §5.6.1)."""
        out: list[bytes] = []
        if lower not in self.first:
            return out
        for name, _, value in self.fields:
            if name == lower:
                for part in value.split(b","):
                    token = part.strip(b" \t").lower()
                    if token:
                        out.append(token)
        return out


HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""Fields about one connection, never about the message (RFC 9110 §7.6.1)."""

_NOMINATES_NOTHING = frozenset({b"", b"keep-alive", b"Keep-Alive", b"close", b"Close"})
"""What nearly every ``Connection`` says, if anything."""

_NEVER_NOMINATED = frozenset(
    {b"content-length", b"host", b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"content-encoding"}
)

OWN_PREFIX = b"x-aigw-"
DROPPED_PREFIXES = (OWN_PREFIX, b"proxy-")
"""Fields that never cross: ours are made by us only, ``Proxy-*`` speak to the next proxy."""


def hop_by_hop_of(headers: Headers) -> frozenset[bytes]:
    """What must not cross: the standard set and what ``Connection`` nominates.

    A nomination never removes framing, Host, credentials or ``x-aigw-*``: it would let one peer strip
    what the other relies on (CVE-2025-48865).
    """
    if headers.first.get(b"connection", b"") in _NOMINATES_NOTHING and not headers.repeated:
        return HOP_BY_HOP
    nominated = headers.tokens(b"connection")
    extra = [n for n in nominated if n not in _NEVER_NOMINATED and not n.startswith(OWN_PREFIX)]
    return HOP_BY_HOP.union(extra)
