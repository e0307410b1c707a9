"""How a key can stand in an answer: as it is, escaped, percent-encoded, in base64 or in hex.

Servers quote a credential in the text of an error, echo request headers as JSON, put a text into a URL, or dump an
``Authorization`` line in base64. Whoever knows the spelling can read the key in each of them.
"""

from __future__ import annotations

import base64
import re
from typing import Final

ESCAPE_LENGTH: Final = 6
r"""Bytes of the longest spelling of one byte: ``\u00XX``."""
HEX_GROUP: Final = "hex"
"""The group that a match of the key in hex has."""
UNFINISHED_ESCAPE: Final = re.compile(rb"(?:%[0-9A-Fa-f]?|\\(?:u(?:0(?:0[0-7]?)?)?)?)\Z")
r"""An escape that the end of a text has cut."""
_SHORT_ESCAPES: Final = b'/"\\'
r"""Bytes that JSON may write as a backslash and themselves: ``\/``."""
_BASE64_TWINS: Final = {0x2B: rb"[+\-]", 0x2F: rb"[/_]"}
"""Characters that the two alphabets of RFC 4648 write differently."""
_BASE64_ODD: Final = bytes(_BASE64_TWINS)
_BASE64_MIN: Final = 4
"""Characters below which a text is not worth looking for; only a key of such odd characters has a shorter one."""
_BASE64_SKIPPED: Final = (0, 2, 3)
"""Characters of base64 text in which the bytes before the key have a part, by how many they are."""


def base64_of(key: bytes) -> tuple[bytes, ...]:
    """What base64 text has of the key, for each of the three places in a group of bytes where it can begin.

    Only the characters that the key alone decides: the ones at both ends may have bits of what stands next to it.
    """
    texts = []
    for before, skipped in enumerate(_BASE64_SKIPPED):
        text = base64.b64encode(bytes(before) + key)[skipped : 8 * (before + len(key)) // 6].lstrip(_BASE64_ODD)
        if len(text) >= _BASE64_MIN:
            texts.append(text)
    return tuple(texts)


def longest_of(key: bytes) -> int:
    """Bytes of the longest spelling."""
    return ESCAPE_LENGTH * len(key)


def alphabet_of(key: bytes) -> bytes:
    """Every byte that stands in some spelling."""
    return bytes(sorted({*key, *b"".join(base64_of(key)), *rb"0123456789abcdefABCDEF+-/_%\u"}))


def escape_marks(text: bytes) -> tuple[bytes, bytes]:
    r"""Expressions for the beginning of an escaped byte of the text: one for JSON, one for percent-encoding.

    Each begins with the one byte that all such escapes begin with, which is what a search is quick for.
    """
    short = b"".join(re.escape(bytes([byte])) for byte in _SHORT_ESCAPES if byte in text)
    in_json = [b"u00(?:%b)" % _any_number({byte for byte in text if byte < 0x80})] + [b"[%b]" % short] * bool(short)
    return rb"\\(?=%b)" % b"|".join(in_json), b"%%(?=%b)" % _any_number(set(text))


def _any_number(values: set[int]) -> bytes:
    """Grouped by the first digit, so that a number that is none of them is soon told."""
    groups: dict[int, bytes] = {}
    for value in sorted(values):
        first, second = value >> 4, f"{value & 15:x}"
        groups[first] = groups.get(first, b"") + "".join(sorted({second, second.upper()})).encode()
    return b"|".join(_digit(f"{first:x}") + b"[%b]" % seconds for first, seconds in groups.items()) or rb"\Z."


def escapes_of(text: bytes) -> list[tuple[bytes, bytes]]:
    """Every way to escape a byte of the text in JSON or in percent-encoding, and the byte."""
    escapes: list[tuple[bytes, bytes]] = []
    for value in sorted(set(text)):
        byte = bytes([value])
        digits = f"{value:02x}"
        numbers = {
            (first + second).encode()
            for first in {digits[0], digits[0].upper()}
            for second in {digits[1], digits[1].upper()}
        }
        starts = [b"%"] + [b"\\u00"] * (value < 0x80)
        escapes += [(start + number, byte) for start in starts for number in sorted(numbers)]
        if value in _SHORT_ESCAPES:
            escapes.append((b"\\" + byte, byte))
    return escapes


def expression_of(key: bytes) -> bytes:
    """An expression for every spelling, and for what begins one and ends with the text.

    A match of a whole spelling has a group (HEX_GROUP for hex), an unfinished one has none. An escape that is
    not there to its end counts as no part of the text: UNFINISHED_ESCAPE finds it. The alternatives at a place are
    tried in the same order whether the text ends or goes on, so the matches do not depend on how a text came in
    pieces. The expression begins with a set of bytes, since a search for one is quick.
    """
    rows = [_row(_escaped_start(key[0]), [_escaped(byte) for byte in key[1:]])]
    starts = {key[0], *rb"\%"}
    for text in base64_of(key):
        rows.append(_fixed([_BASE64_TWINS.get(byte, bytes([byte])) for byte in text]))
        starts.add(text[0])
    in_hex = key.hex()
    rows.append(_fixed([_digit(digit) for digit in in_hex]).replace(b"()", b"(?P<hex>)"))
    starts |= {*in_hex[0].encode(), *in_hex[0].upper().encode()}
    return b"[%b](?:%b)" % (b"".join(re.escape(bytes([byte])) for byte in sorted(starts)), b"|".join(rows))


def _row(start: bytes, others: list[bytes]) -> bytes:
    """One kind of spelling; each byte may be missing where the text has ended."""
    *middle, last = others
    return b"%b%b(?:(?:%b)()|\\Z)" % (start, b"".join(b"(?:%b|\\Z)" % byte for byte in middle), last)


def _fixed(characters: list[bytes]) -> bytes:
    return _row(b"(?<=%b)" % characters[0], characters[1:])


def _escaped_start(byte: int) -> bytes:
    """The first byte, of which the first byte has been read."""
    kinds = [b"(?<=%b)" % re.escape(bytes([byte])), b"(?<=%%)%b" % b"".join(_digits(byte))]
    return b"(?:%b)" % b"|".join([*kinds, *(rb"(?<=\\)" + tail for tail in _json_escapes(byte))])


def _escaped(byte: int) -> bytes:
    kinds = [re.escape(bytes([byte])), b"%%%b" % b"".join(_digits(byte))]
    return b"|".join([*kinds, *(rb"\\" + tail for tail in _json_escapes(byte))])


def _json_escapes(byte: int) -> list[bytes]:
    """What follows the backslash; no byte of a character beyond ASCII has an escape of its own."""
    short = [re.escape(bytes([byte]))] * (byte in _SHORT_ESCAPES)
    return [*short, b"u00" + b"".join(_digits(byte))] if byte < 0x80 else []


def _digits(byte: int) -> tuple[bytes, bytes]:
    return _digit(f"{byte >> 4:x}"), _digit(f"{byte & 15:x}")


def _digit(digit: str) -> bytes:
    """In either case."""
    upper = digit.upper()
    return (digit if upper == digit else f"[{digit}{upper}]").encode()
