"""Header fields as a message carried them: order, case, duplicates and values kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any, Final

Field = tuple[bytes, bytes, bytes, bytes, bytes]
"""(lower-case name, name as received, value without surrounding SP and HTAB, line as written, line as relayed).

The last one is empty where the field never crosses from one side to the other, whatever the message: what
crosses of a head that needs no other change is then simply joined.
"""

_LINE: Final = itemgetter(3)
_RELAYED_LINE: Final = itemgetter(4)


def make_field(name: bytes, value: bytes) -> Field:
    """A field out of a valid name and value."""
    lower = name.lower()
    line = b"%b: %b\r\n" % (name, value)
    return lower, name, value, line, b"" if never_crosses(lower) else line


MEMBERS_MAX: Final = 64
"""Members of a list that are looked at: a ``Connection`` has one to three."""


class Headers:
    """An ordered list of header fields with look-up by lower-case name. Do not change it once built.

    ``first`` maps each lower-case name to its first value; ``repeated`` says that some name occurs twice.
    Both are read directly where it matters: look-ups outnumber messages by ten to one and nearly all miss.
    """

    __slots__ = ("_make", "fields", "first", "repeated")

    fields: list[Field]
    first: dict[bytes, bytes]
    repeated: bool
    _make: Callable[[], list[Field]]

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        # Heads that are only written need no index, and some no list: each is made when its slot is found empty.
        if name == "fields":
            self.fields = self._make()
            return self.fields
        if name not in ("first", "repeated"):
            raise AttributeError(name)
        self._index()
        return self.first if name == "first" else self.repeated

    @classmethod
    def parsed(cls, fields: list[Field]) -> Headers:
        """With the index: whoever has read a head looks into it, and an empty slot costs an exception first."""
        headers = cls(fields)
        headers._index()
        return headers

    def _index(self) -> None:
        fields = self.fields
        self.first = first = {field[0]: field[2] for field in reversed(fields)}
        self.repeated = len(first) != len(fields)

    @classmethod
    def of(cls, pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
        """From (name, value) pairs as ASGI, h11 and h2 give them."""
        return cls([make_field(name, value) for name, value in pairs])

    @classmethod
    def lazy(cls, make: Callable[[], list[Field]]) -> Headers:
        """Fields that are made when somebody looks: a relayed head is mostly just written."""
        headers = cls.__new__(cls)
        headers._make = make
        return headers

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return ((field[1], field[2]) for field in self.fields)

    def lines(self) -> bytes:
        """Every field, as it is written in a head."""
        return b"".join(map(_LINE, self.fields))

    def relayed_lines(self) -> bytes:
        """The same of the fields that cross, as far as their names decide."""
        return b"".join(map(_RELAYED_LINE, self.fields))

    def __len__(self) -> int:
        return len(self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.fields == other.fields

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        # Names only: values may hold credentials.
        return f"Headers({[field[0].decode('latin-1') for field in self.fields]})"

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
        return [field[2] for field in self.fields if field[0] == lower]

    def tokens(self, lower: bytes) -> list[bytes]:
        """The first MEMBERS_MAX comma-separated members of all lines under a name, in lower case (RFC 9110 §5.6.1)."""
        out: list[bytes] = []
        if lower not in self.first:
            return out
        for field in self.fields:
            if field[0] == lower:
                for part in field[2].split(b",", MEMBERS_MAX)[: MEMBERS_MAX - len(out)]:
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

_KEEPS = frozenset({b"keep-alive", b"Keep-Alive"})

_LETTERS_AND_DIGITS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
_FOLDED = bytes(byte if byte in _LETTERS_AND_DIGITS else ord("-") for byte in range(256))


def folded(lower: bytes) -> bytes:
    """The name as servers tell it apart that hand headers on as variables (RFC 3875 §4.1.18): ``x-api-key`` for
    ``x_api_key``."""
    return lower.translate(_FOLDED)


_NEVER_NOMINATED = frozenset(
    {b"content-length", b"host", b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"content-encoding"}
)

OWN_PREFIX = b"x-aigw-"
DROPPED_PREFIXES = (OWN_PREFIX, b"proxy-")
"""Fields that never cross: ours are made by us only, ``Proxy-*`` speak to the next proxy."""


def never_crosses(lower: bytes) -> bool:
    """Whether a field of that name stays on its side of the gateway, in every message."""
    return lower in HOP_BY_HOP or lower.startswith(DROPPED_PREFIXES)


def hop_by_hop_of(headers: Headers) -> frozenset[bytes]:
    """What must not cross: the standard set and what ``Connection`` nominates.

    A nomination never removes framing, Host, credentials or ``x-aigw-*``: it would let one peer strip
    what the other relies on (CVE-2025-48865).
    """
    if headers.first.get(b"connection", b"") in _NOMINATES_NOTHING and (
        not headers.repeated or len(headers.get_all(b"connection")) < 2
    ):
        return HOP_BY_HOP
    nominated = headers.tokens(b"connection")
    extra = [n for n in nominated if folded(n) not in _NEVER_NOMINATED and not folded(n).startswith(OWN_PREFIX)]
    return HOP_BY_HOP.union(extra)


def says_close(headers: Headers) -> bool:
    """Whether ``Connection`` ends the connection after this message (RFC 9112 §9.6)."""
    value = headers.first.get(b"connection")
    if value is None or (value in _KEEPS and not headers.repeated):
        return False
    return b"close" in headers.tokens(b"connection")
