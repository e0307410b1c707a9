"""Where a caller's credential may stand, and what must never travel (facts: keys §1)."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from aigw_core.errors import Reason, Rejection
from aigw_core.headers import Headers

CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
_MANAGED_PREFIX = b"bai_"
_KEY_MARK = b"bai_v"
_HEX_MARK = _KEY_MARK.hex().encode()


# "bai_v" in base64, as far as it does not depend on what stands around it, for each place among groups of three bytes.
_BASE64_MARK_0 = b64encode(_KEY_MARK)[:6]
_BASE64_MARK_1 = b64encode(b"?" + _KEY_MARK)[2:8]
_BASE64_MARK_2 = b64encode(b"??" + _KEY_MARK)[3:9]


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


def _coded(text: str) -> str:
    """A pattern for lower-case text of which any character may stand as a percent code, however often encoded again."""
    parts = []
    for character in text:
        codes = {f"{ord(character):02x}", f"{ord(character.upper()):02x}"}
        parts.append(f"(?:{re.escape(character)}|%(?:25)*(?:{'|'.join(sorted(codes))}))")
    return "".join(parts)


# Each code begins with a percent sign of its own, so that no byte is looked at more than a few times.
_CODED_MARK: Final = re.compile(_coded(_KEY_MARK.decode()).encode())
_CODED_VALUE: Final = re.compile(_coded("=" + _MANAGED_PREFIX.decode()).encode())
_CODED_DIGIT: Final = re.compile(rb"%(?:25)*3[0-9]")
"""Digits need no code: who encodes them encodes everything, and so the codes themselves when it is done again."""


_CODE: Final = re.compile(rb"%([0-9a-f]{2})")
_BYTE_OF: Final = {b"%02x" % byte: bytes([byte]) for byte in range(256)}


def find_credential(headers: Headers, target: bytes, method: bytes = b"") -> Credential | Rejection | None:
    """The caller's credential; None where there is none.

    A ``bai_`` value in any of the four headers, on any line, makes the caller managed: taking the first
    header only once let a virtual key travel to a provider beside a junk ``x-api-key``. A virtual key that
    stands anywhere else, method and names of headers included, is refused, whoever the caller is.
    """
    managed: bytes | None = None
    lines_of_key = 0
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
                lines_of_key += 1
                continue
            if token:
                byo.append(token)
    text = b"%b %b\n%b" % (method, target, headers.lines())
    if managed is not None:
        text = text.replace(managed, b"", lines_of_key)
    if _looks_odd(text):
        misplaced = _misplaced(headers, target, method)
        if misplaced is not None:
            return misplaced
    if managed is not None:
        return Credential(managed, True)
    return Credential(byo[0], False, tuple(byo[1:])) if byo else None


def _looks_odd(text: bytes) -> bool:
    """Whether a virtual key may stand in this text, in whatever spelling; False is certain, and quick."""
    lower = text.lower()
    return (
        _MANAGED_PREFIX in lower
        or b"%" in lower
        or _HEX_MARK in lower
        or _BASE64_MARK_0 in text
        or _BASE64_MARK_1 in text
        or _BASE64_MARK_2 in text
    )


def _misplaced(headers: Headers, target: bytes, method: bytes) -> Rejection | None:
    """Why a request is refused that has a virtual key where none belongs."""
    if not spells_key(_all_but_keys(headers, target, method)):
        return _begins_misplaced(headers, target, method)
    if _begins_like_key(method) or spells_key(method):
        return Rejection(Reason.MISPLACED_KEY)
    for lower, name, value, _, _ in headers.fields:
        if lower.startswith(_MANAGED_PREFIX) or spells_key(name):
            return Rejection(Reason.MISPLACED_KEY)
        if lower not in CREDENTIAL_HEADERS:
            if spells_key(value):
                return Rejection(Reason.MISPLACED_KEY)
            continue
        token = _bearer(value) if lower == b"authorization" else value
        if token is not None and token.startswith(_MANAGED_PREFIX):
            # In its place; were there another one, the caller would have been refused for that.
            continue
        if _begins_like_key(value if token is None else token) or spells_key(value):
            return _misused()
    if _in_target(target):
        return _in_url()
    return None


def _all_but_keys(headers: Headers, target: bytes, method: bytes) -> bytes:
    """Everything that a key must not stand in, one text a line: no spelling of a key goes over a line break.

    One look at it costs what a look at each field would cost for every one of 128 of them.
    """
    parts = [method, target]
    for lower, name, value, _, _ in headers.fields:
        parts.append(name)
        if lower not in CREDENTIAL_HEADERS:
            parts.append(value)
            continue
        token = _bearer(value) if lower == b"authorization" else value
        if token is None or not token.startswith(_MANAGED_PREFIX):
            parts.append(value)
    return b"\n".join(parts)


def _begins_misplaced(headers: Headers, target: bytes, method: bytes) -> Rejection | None:
    """The same where no text spells a whole mark: what begins like a key is left."""
    if _begins_like_key(method):
        return Rejection(Reason.MISPLACED_KEY)
    for lower, _, value, _, _ in headers.fields:
        if lower.startswith(_MANAGED_PREFIX):
            return Rejection(Reason.MISPLACED_KEY)
        if lower in CREDENTIAL_HEADERS:
            token = _bearer(value) if lower == b"authorization" else value
            in_place = token is not None and token.startswith(_MANAGED_PREFIX)
            if not in_place and _begins_like_key(value if token is None else token):
                return _misused()
    if _is_coded(_CODED_VALUE, target.lower()):
        return _in_url()
    return None


def _misused() -> Rejection:
    return Rejection(Reason.MISPLACED_KEY, "Send a virtual key as `Authorization: Bearer` or `x-api-key`.")


def _in_url() -> Rejection:
    return Rejection(Reason.MISPLACED_KEY, "A virtual key must not stand in the URL.")


def _begins_like_key(text: bytes) -> bool:
    return text[: len(_MANAGED_PREFIX)].lower() == _MANAGED_PREFIX


def spells_key(text: bytes) -> bool:
    """Whether a virtual key may stand in this text: in any case, percent-encoded, in hexadecimal or in base64."""
    lower = text.lower()
    if (
        _KEY_MARK in lower
        or _HEX_MARK in lower
        or _BASE64_MARK_0 in text
        or _BASE64_MARK_1 in text
        or _BASE64_MARK_2 in text
    ):
        return True
    return b"%" in lower and _is_coded(_CODED_MARK, lower)


def _is_coded(pattern: re.Pattern[bytes], lower: bytes) -> bool:
    if pattern.search(lower) is not None:
        return True
    return _CODED_DIGIT.search(lower) is not None and pattern.search(_decoded(lower).lower()) is not None


def _decoded(lower: bytes) -> bytes:
    """Each percent code replaced by its byte, in a few steps however many there are."""
    parts = _CODE.split(lower)
    parts[1::2] = map(_BYTE_OF.__getitem__, parts[1::2])
    return b"".join(parts)


def _in_target(target: bytes) -> bool:
    return spells_key(target) or _is_coded(_CODED_VALUE, target.lower())
