"""Keys, their spellings, and a mask that looks at every place by itself: slow, and written from the rules."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Final

from hypothesis import strategies as st

KEY: Final = b"sk-Pool-7Qz/x~9_aB3%d0Zk"
"""Has what is special somewhere: a slash, a percent sign, and a tilde, for which base64 has its odd characters."""

_ORDINARY: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
KEYS: Final = st.one_of(
    st.text(_ORDINARY, min_size=8, max_size=24).map(str.encode),
    st.text('ab0u%\\/"?~', min_size=8, max_size=12).map(str.encode),
    st.just(KEY),
)


def _ways(byte: int) -> tuple[bytes, ...]:
    """Each way to write one byte, in the order in which they are tried."""
    own = bytes([byte])
    digits = f"{byte:02x}"
    cases = sorted({digits, digits.upper(), digits[0] + digits[1].upper(), digits[0].upper() + digits[1]})
    short = [b"\\" + own] * (own in b'/"\\')
    return (own, *(f"%{case}".encode() for case in cases), *short, *(f"\\u00{case}".encode() for case in cases))


def _escaped_end(key: bytes, data: bytes, at: int) -> int | None:
    if not key:
        return at
    for way in _ways(key[0]):
        if data.startswith(way, at):
            end = _escaped_end(key[1:], data, at + len(way))
            if end is not None:
                return end
    return None


def _texts(key: bytes) -> list[bytes]:
    """What base64 has of the key alone: the characters that are the same whatever stands around it."""
    texts = []
    for before in range(3):
        low, high = (base64.b64encode(bytes([fill]) * before + key + bytes([fill])) for fill in (0, 255))
        same = [i for i, (a, b) in enumerate(zip(low, high, strict=True)) if a == b != b"="[0]]
        first = next(index for index in same if all(later in same for later in range(index, same[-1])))
        texts.append(low[first : same[-1] + 1])
    return texts


def _as_standard(data: bytes) -> bytes:
    return data.replace(b"-", b"+").replace(b"_", b"/")


def mask_slowly(key: bytes, data: bytes, *, hexed: bool) -> bytes:
    """Every spelling overwritten, from left to right."""
    out, at = bytearray(), 0
    while at < len(data):
        end = _escaped_end(key, data, at)
        if end is None:
            for text in map(bytes, _texts(key)):
                stripped = text.lstrip(b"+/")
                if _as_standard(data[at : at + len(stripped)]) == stripped:
                    end = at + len(stripped)
                    break
        if end is None and hexed and data[at : at + 2 * len(key)].lower() == key.hex().encode():
            end = at + 2 * len(key)
        if end is None:
            out.append(data[at])
            at += 1
        else:
            out += b"*" * (end - at)
            at = end
    return bytes(out)


def spelled(key: bytes) -> Iterator[tuple[str, bytes]]:
    """The spellings that servers produce, by name; what is the key's own part in each is all of it."""
    text = key.decode()
    yield "plain", key
    yield "every byte of it escaped in JSON", b"".join(b"\\u%04x" % byte for byte in key)
    yield "the same in capitals", b"".join(b"\\u00%02X" % byte for byte in key)
    yield "some of it escaped in JSON", b"".join(b"\\u%04x" % b if i % 3 else bytes([b]) for i, b in enumerate(key))
    yield "a JSON string", json.dumps(text).replace("/", "\\/").encode()[1:-1]
    yield "every byte of it percent-encoded", b"".join(b"%%%02X" % byte for byte in key)
    yield "the same in small letters", b"".join(b"%%%02x" % byte for byte in key)
    yield "some of it percent-encoded", b"".join(b"%%%02x" % b if i % 2 else bytes([b]) for i, b in enumerate(key))
    yield "escaped in both ways", b"".join((b"%%%02x", b"\\u%04X")[i % 2] % b for i, b in enumerate(key))


def in_base64(key: bytes) -> Iterator[tuple[str, bytes]]:
    """Texts in base64 that hold the key, each at another place of a group, in both alphabets."""
    for name, before in (("base64", b""), ("base64 of Bearer", b"Bearer "), ("base64 of Basic", b"x:")):
        yield name, base64.b64encode(before + key + b" and more")
        yield f"{name}, for URLs", base64.urlsafe_b64encode(before + key)
