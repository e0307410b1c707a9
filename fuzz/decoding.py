"""Content decoding: bounded pieces, one error class, the same bytes in any split and from the whole-body decoder."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from aigw_core.usage.decoding import DECODED_MAX, PIECE_MAX, DecodingError, open_decoder
from fuzz.inputs import case_of

_zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
_brotli = import_module("brotli") if find_spec("brotli") else None

TOKENS: Final = (
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", b"\x78\x9c", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18\x00\x00\x00\x00",
    b"\x03\x00", b"\x00\x00\x00\x00", b"\x01\x00\x00\xff\xff",
)  # fmt: skip
_SMALL_DECODED: Final = 48


def _deflated(data: bytes) -> bytes:
    wrapped = data[:1] and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    inflater = zlib.decompressobj(wbits=15 if wrapped else -15)
    out = inflater.decompress(data)
    if not inflater.eof or inflater.unused_data:
        raise ValueError
    return out


def _gunzipped(data: bytes) -> bytes:
    # gzip.decompress lets reserved flags pass, which RFC 1952 (2.3.1.2) forbids.
    out = b""
    while data:
        member = zlib.decompressobj(wbits=31)
        out += member.decompress(data)
        if not member.eof:
            raise ValueError
        data = member.unused_data.lstrip(b"\x00")
    return out


_WHOLE: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"gzip": _gunzipped,
    b"deflate": _deflated,
    b"zstd": _zstd.decompress,
}
_ENCODE: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"gzip": lambda data: gzip.compress(data, mtime=0),
    b"deflate": zlib.compress,
    b"zstd": _zstd.compress,
}
if _brotli is not None:
    _WHOLE[b"br"] = _brotli.decompress
    _ENCODE[b"br"] = _brotli.compress
_CODINGS: Final = tuple(_WHOLE)


def check(data: bytes) -> None:
    case = case_of(data)
    coding = _CODINGS[case.options % len(_CODINGS)]
    decoded_max = _SMALL_DECODED if case.options & 8 else DECODED_MAX
    whole = _decoded(coding, [case.data], decoded_max)
    sent = _decoded(coding, case.pieces, decoded_max)
    assert sent == whole or (None in (sent, whole) and _may_differ(coding, case.data, sent or whole)), (
        "the split changes the outcome"
    )
    if decoded_max == DECODED_MAX:
        _agree(coding, case.data, whole)
    encoded = _ENCODE[coding](case.data)
    expected = None if len(case.data) > decoded_max else (case.data, True)
    assert _decoded(coding, [encoded[:9], encoded[9:]], decoded_max) == expected, "a round trip failed"


def _may_differ(coding: bytes, data: bytes, read: tuple[bytes, bool] | None) -> bool:
    """Whether one split may refuse what another one reads: libraries judge by how much they see.

    A broken body may be refused at once or never become complete. libzstd takes a block that repeats a byte no times,
    which no encoder writes, for an end or for damage.
    """
    return read is None or not read[1] or (coding == b"zstd" and _has_empty_run(data))


def _has_empty_run(data: bytes) -> bool:
    """Whether a zstd frame has an RLE block of size 0 (RFC 8878 §3.1.1)."""
    while len(data) > 4:
        if 0x184D2A50 <= int.from_bytes(data[:4], "little") <= 0x184D2A5F:
            data = data[8 + int.from_bytes(data[4:8], "little") :]
            continue
        descriptor = data[4]
        is_single = bool(descriptor & 32)
        sizes = (1 if is_single else 0, 2, 4, 8)
        at = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3] + sizes[descriptor >> 6]
        is_last = False
        while not is_last and at + 3 <= len(data):
            header = int.from_bytes(data[at : at + 3], "little")
            is_last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            if kind == 1 and size == 0:
                return True
            at += 3 + (1 if kind == 1 else size)
        data = data[at + (4 if descriptor & 4 else 0) :]
    return False


def _complete(outcome: tuple[bytes, bool] | None) -> bool:
    return outcome is not None and outcome[1]


def _agree(coding: bytes, data: bytes, ours: tuple[bytes, bool] | None) -> None:
    if not data:
        return
    try:
        theirs = _WHOLE[coding](data)
    except Exception:  # noqa: BLE001  # any refusal, whose class each library names for itself
        # Ours may still go on waiting for the rest; a body that it calls complete must be one.
        assert not _complete(ours), "only we call this body complete"
        return
    assert ours == (theirs, True), "the whole-body decoder reads it differently"


def _decoded(coding: bytes, pieces: list[bytes], decoded_max: int) -> tuple[bytes, bool] | None:
    """The decoded bytes and whether the body may end; None where it was refused."""
    decoder = open_decoder(coding, decoded_max=decoded_max)
    assert decoder is not None
    out = b""
    try:
        for piece in pieces:
            for part in decoder.feed(piece):
                # An empty one says that a member or frame has ended.
                assert len(part) <= 2 * PIECE_MAX
                assert part or coding in (b"gzip", b"zstd")
                out += part
    except DecodingError:
        return None
    assert len(out) <= decoded_max
    return out, decoder.complete
