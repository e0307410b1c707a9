"""`Origin`: where an upstream connection goes (RFC 6454, RFC 9110 section 4.3.1)."""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
PORT_MAX: Final = 65_535
# RFC 1035 section 2.3.4, without the trailing dot.
HOST_SIZE_MAX: Final = 253

# Underscores are in no host name by RFC 1123, but in those of container networks.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Resolvers read these as numbers: `127.1` and `0x7f000001` are the loopback address.
_NUMERIC_END: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_FORBIDDEN: Final = re.compile(r"[^\x21-\x7e]|[\\%]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme (`http` or `https`), host (lower case, IPv6 without brackets), port, and a generation.

    The generation tells apart connections of different settings (addresses, TLS trust): equal places of
    different generations are different origins, so no connection outlives what it was made under.
    `authority` is what goes into Host: the port only where it is not the scheme's, IPv6 in brackets.
    """

    scheme: str
    host: str
    port: int
    generation: int = 0
    authority: str = field(init=False, repr=False, compare=False)
    # An origin is looked up for each exchange; the generated hash would build and hash a tuple each time.
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = DEFAULT_PORTS.get(self.scheme) == self.port
        object.__setattr__(self, "authority", host if is_default else f"{host}:{self.port}")
        object.__setattr__(self, "_hash", hash((self.scheme, self.host, self.port, self.generation)))

    def __hash__(self) -> int:
        return self._hash

    # Text hashes differ between processes, so the stored one must not travel.
    def __reduce__(self) -> tuple[type["Origin"], tuple[str, str, int, int]]:
        return type(self), (self.scheme, self.host, self.port, self.generation)


def parse_origin(text: str, generation: int = 0) -> Origin:
    """Read `https://host[:port]` or `http://host[:port]`.

    Raises ValueError that says what is wrong, for a path (`/` included), query, fragment, user or password,
    for a port outside 1 to 65535 and for a host that is no name, IPv4 address or bracketed IPv6 address. The
    text is never quoted, since a password may stand in it.
    """
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in DEFAULT_PORTS:
        raise ValueError("an origin starts with https:// or http://")
    for mark, name in (
        ("@", "user or password"),
        ("?", "query"),
        ("#", "fragment"),
        ("/", "path, not even /"),
    ):
        if mark in rest:
            raise ValueError(f"an origin has no {name}")
    if _FORBIDDEN.search(rest) is not None:
        raise ValueError("an origin has only visible ASCII, no backslash and no percent sign")
    host, port_text = _split_port(rest)
    port = DEFAULT_PORTS[scheme]
    if port_text is not None:
        if _PORT.fullmatch(port_text) is None or int(port_text) > PORT_MAX:
            raise ValueError(f"an origin's port is from 1 to {PORT_MAX}, without leading zeros")
        port = int(port_text)
    return Origin(scheme, _canonical_host(host), port, generation)


def _split_port(rest: str) -> tuple[str, str | None]:
    if rest.startswith("["):
        host, closing, tail = rest.partition("]")
        if not closing or (tail and not tail.startswith(":")):
            raise ValueError("an origin's IPv6 address is in brackets, followed by :port or nothing")
        return host + closing, tail[1:] if tail else None
    host, separator, port_text = rest.partition(":")
    if ":" in port_text:
        raise ValueError("an origin has one port, and an IPv6 address is in brackets")
    return host, port_text if separator else None


def _canonical_host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError("an origin's brackets hold an IPv6 address") from None
    host = host.lower()
    if len(host) > HOST_SIZE_MAX or _NAME.fullmatch(host) is None:
        raise ValueError("an origin's host is a name of letters, digits, hyphens and dots, or an address")
    if _NUMERIC_END.fullmatch(host) is not None:
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("an origin's host ends in a number but is no IPv4 address") from None
    return host
