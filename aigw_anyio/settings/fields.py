"""Field types of the settings: each reads what TOML or an environment variable can hold.

No error text quotes its input: what was pasted into the wrong place may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer

from aigw_core.secrets import Secret

DURATION_MAX: Final = 86_400.0
"""Seconds. Longer than any exchange lasts, and short enough to catch milliseconds written for seconds."""

PROVIDER_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,30}[a-z0-9])?")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_BASE_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
_SCOPE_ENTRY: Final = re.compile(r"(?:[A-Z]{1,16} )?/[A-Za-z0-9._~!$&'()+,;=:@/-]*\*?")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_BETA_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{0,64}\*?")
_SUBJECT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,15}")
_STREAM: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_KID: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]{1,4096}")


class ListenAddr(NamedTuple):
    """Where to listen. Port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen_addr(value: object) -> ListenAddr:
    """``host:port``, an IPv6 address in brackets. Raises ValueError."""
    if isinstance(value, ListenAddr):
        return value
    if not isinstance(value, str):
        raise ValueError("is not text")
    host, colon, port = value.strip().rpartition(":")
    if not colon:
        raise ValueError("has no port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError("has no port from 0 to 65535 at its end")
    if host.startswith("[") and host.endswith("]"):
        try:
            return ListenAddr(str(IPv6Address(host[1:-1])), int(port))
        except ValueError:
            raise ValueError("has no IPv6 address in its brackets") from None
    if ":" in host:
        raise ValueError("has an IPv6 address without brackets")
    if _HOST_NAME.fullmatch(host) is None:
        raise ValueError("has no host before the port")
    return ListenAddr(host, int(port))


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is true or false, not a number")
    return value


def secret_of(value: object) -> Secret:
    """A key that can stand in a header: visible ASCII, surrounding whitespace dropped. Raises ValueError."""
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError("is not text")
    stripped = value.strip().encode("ascii", "replace")
    if not stripped:
        raise ValueError("is empty")
    if not value.isascii() or _VISIBLE.fullmatch(stripped) is None:
        raise ValueError("holds characters that no key has, or is longer than 4096")
    return Secret(stripped)


def _kid_of(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or _KID.fullmatch(value) is None or int(value) > 2**32 - 1:
        raise ValueError("a kid is a whole number from 0 to 4294967295 without leading zeros")
    return int(value)


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise ValueError(what)
        return value

    return check


def _scope_entry(value: object) -> str:
    if not isinstance(value, str) or _SCOPE_ENTRY.fullmatch(value) is None:
        raise ValueError("an entry is not METHOD /path")
    path = value.rpartition(" ")[2].removesuffix("*")
    if any(segment in ("", ".", "..") for segment in path.removesuffix("/").split("/")[1:]):
        raise ValueError("an entry has an empty or dotted segment")
    return value


def per_provider(value: object) -> object:
    """One value for all, or a table provider → value with ``default``: always the table."""
    return dict(value) if isinstance(value, Mapping) else {"default": value}


def plain_text(value: object) -> str:
    """Text for a path or an address: not empty, no control characters. Raises ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is not text, or is empty")
    if any(character < " " or character == "\x7f" for character in value):
        raise ValueError("holds control characters")
    return value


def _text(secret: Secret) -> str:
    return str(secret)


Addr = Annotated[ListenAddr, BeforeValidator(parse_listen_addr)]
Whole = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=2**32 - 1)]
Positive = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=2**40)]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=DURATION_MAX)]
SecondsOrZero = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=DURATION_MAX)]
Text = Annotated[str, BeforeValidator(plain_text)]
SecretText = Annotated[Secret, BeforeValidator(secret_of), PlainSerializer(_text)]
Kid = Annotated[int, BeforeValidator(_kid_of)]
ProviderName = Annotated[
    str,
    BeforeValidator(
        _matching(
            PROVIDER_NAME,
            "a provider name is up to 32 of a-z, 0-9, - and _, and begins and ends with a letter or digit",
        )
    ),
]
BasePath = Annotated[
    str, BeforeValidator(_matching(_BASE_PATH, "a base path is empty or begins, and does not end, with /"))
]
ScopeEntry = Annotated[str, BeforeValidator(_scope_entry)]
Subject = Annotated[str, BeforeValidator(_matching(_SUBJECT, "is no NATS subject of words and dots"))]
StreamName = Annotated[str, BeforeValidator(_matching(_STREAM, "is no name of a stream"))]
HeaderName = Annotated[str, BeforeValidator(_matching(_HEADER_NAME, "an entry is no header name"))]
BetaPattern = Annotated[str, BeforeValidator(_matching(_BETA_PATTERN, "an entry is no beta token"))]
