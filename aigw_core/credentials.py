"""Where a caller's credential may stand, and what must never travel (facts: keys §1)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from aigw_core.errors import Reason, Rejection
from aigw_core.headers import Headers

CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
_MANAGED_PREFIX = b"bai_"
_KEY_MARK = b"bai_v"


@dataclass(slots=True)
class Credential:
    """The one credential of a caller; never shown."""

    value: bytes
    managed: bool
    others: tuple[bytes, ...] = ()
    """What else a BYO caller sent as a credential, which is forwarded as well."""

    def __repr__(self) -> str:
        return f"Credential(managed={self.managed})"


def _bearer(value: bytes) -> bytes | None:
    """The token of a Bearer value, b"" where none follows, None for another scheme (RFC 6750 §2.1)."""
    if value[:6].lower() != b"bearer":
        return None
    if len(value) == 6:
        return b""
    return value[7:].strip(b" \t") if value[6:7] in (b" ", b"\t") else None


def find_credential(headers: Headers, target: bytes) -> Credential | Rejection | None:
    """The caller's credential; None where there is none.

    A ``bai_`` value in any of the four headers, on any line, makes the caller managed: taking the first
    header only once let a virtual key travel to a provider beside a junk ``x-api-key``. A virtual key that
    stands anywhere else is refused, whoever the caller is.
    """
    managed: bytes | None = None
    byo: list[bytes] = []
    for lower, _, value, _, _ in headers.fields:
        if lower in CREDENTIAL_HEADERS:
            token = _bearer(value) if lower == b"authorization" else value
            if token is None:
                token = value
            elif token.startswith(_MANAGED_PREFIX):
                if managed is not None and managed != token:
                    return Rejection(Reason.CONFLICTING_KEYS)
                managed = token
                continue
            if _KEY_MARK in value or token.startswith(_MANAGED_PREFIX):
                return Rejection(Reason.MISPLACED_KEY, "Send a virtual key as `Authorization: Bearer` or `x-api-key`.")
            if token:
                byo.append(token)
        elif _KEY_MARK in value:
            return Rejection(Reason.MISPLACED_KEY)
    if _in_target(target):
        return Rejection(Reason.MISPLACED_KEY, "A virtual key must not stand in the URL.")
    if managed is not None:
        return Credential(managed, True)
    return Credential(byo[0], False, tuple(byo[1:])) if byo else None


def _in_target(target: bytes) -> bool:
    plain = unquote_to_bytes(target) if b"%" in target else target
    if _KEY_MARK in plain:
        return True
    query = plain.partition(b"?")[2]
    return _MANAGED_PREFIX in query and any(
        part.partition(b"=")[2].startswith(_MANAGED_PREFIX) for part in query.replace(b";", b"&").split(b"&")
    )
