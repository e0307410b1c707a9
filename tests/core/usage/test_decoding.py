"""Content decoding: every coding in any split, its ends, its limits."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.decoding import (
    MEMBER_SIZE_MIN,
    MEMBERS_FREE,
    PIECE_MAX,
    RATIO_FREE,
    RATIO_MAX,
    DecodingError,
    is_encoded,
    open_decoder,
)
from tests import zstd
from tests.core.usage.helpers import byte_by_byte, split_at

brotli = import_module("brotli") if find_spec("brotli") else None


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


def two_members(data: bytes) -> bytes:
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


def two_frames(data: bytes) -> bytes:
    half = len(data) // 2
    return zstd.compress(data[:half]) + zstd.compress(data[half:])


ENCODERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "gzip members": (b"x-gzip", two_members),
    "zlib": (b"deflate", zlib.compress),
    "raw deflate": (b"deflate", raw_deflate),
    "zstd": (b"zstd", zstd.compress),
    "zstd frames": (b"zstd", two_frames),
}
if brotli is not None:
    ENCODERS["br"] = (b"br", brotli.compress)
BOMB = 16 * 1024 * 1024
each_coding = pytest.mark.parametrize(("coding", "encode"), ENCODERS.values(), ids=ENCODERS)


def decode(coding: bytes, pieces: list[bytes]) -> tuple[bytes, bool]:
    decoder = open_decoder(coding)
    assert decoder is not None
    return b"".join(part for piece in pieces for part in decoder.feed(piece)), decoder.complete


@each_coding
@settings(max_examples=40, deadline=None)
@given(
    data=st.binary(max_size=300), repeat=st.sampled_from([1, 1, 400]), cuts=st.lists(st.integers(0, 5000), max_size=6)
)
def test_any_split_decodes_to_the_whole(
    coding: bytes, encode: Callable[[bytes], bytes], data: bytes, repeat: int, cuts: list[int]
) -> None:
    encoded = encode(data * repeat)
    assert decode(coding, split_at(encoded, cuts)) == (data * repeat, True)


@each_coding
def test_byte_by_byte(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    data = random.Random(7).randbytes(2_000) + b'{"usage": 1}' * 500
    assert decode(coding, byte_by_byte(encode(data))) == (data, True)


@each_coding
def test_a_cut_body_gives_what_it_has_and_is_not_complete(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    data = random.Random(7).randbytes(300_000)
    encoded = encode(data)
    got, complete = decode(coding, [encoded[:-1]])
    assert not complete
    assert data.startswith(got)
    assert len(got) > 100_000


@each_coding
def test_a_damaged_body_is_an_error(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    encoded = bytearray(encode(b"some text to be damaged" * 20))
    encoded[: len(encoded) // 2] = b"\xa5" * (len(encoded) // 2)
    decoder = open_decoder(coding)
    assert decoder is not None
    with pytest.raises(DecodingError):
        list(decoder.feed(bytes(encoded)))


@each_coding
def test_pieces_are_bounded(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    decoder = open_decoder(coding)
    assert decoder is not None
    sizes = [len(piece) for piece in decoder.feed(encode(bytes(1_000_000)))]
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= 2 * PIECE_MAX


@pytest.mark.parametrize("size", range(PIECE_MAX - 300, PIECE_MAX + 300, 7))
def test_output_that_waits_in_the_inflater_comes_out(size: int) -> None:
    """A match may straddle a full piece when all input is consumed already."""
    assert decode(b"deflate", [raw_deflate(b"x" * size)]) == (b"x" * size, True)


@each_coding
def test_a_bomb_ends_at_the_ratio(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    bomb = encode(bytes(BOMB))
    assert RATIO_MAX * len(bomb) < BOMB
    decoder = open_decoder(coding)
    assert decoder is not None
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(DecodingError, match="outgrew"):
            sizes.extend(len(piece) for piece in decoder.feed(bomb))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(sizes) <= max(RATIO_FREE, RATIO_MAX * len(bomb))
    assert peak < RATIO_FREE


def test_the_ratio_does_not_count_before_its_free_part() -> None:
    assert decode(b"gzip", [gzip.compress(bytes(RATIO_FREE))])[0] == bytes(RATIO_FREE)
    decoder = open_decoder(b"gzip")
    assert decoder is not None
    with pytest.raises(DecodingError):
        list(decoder.feed(gzip.compress(bytes(RATIO_FREE + 1))))


def test_total_limit() -> None:
    data = random.Random(1).randbytes(5_000)
    encoded = gzip.compress(data)
    decoder = open_decoder(b"gzip", decoded_max=5_000)
    assert decoder is not None
    assert b"".join(decoder.feed(encoded)) == data
    decoder = open_decoder(b"gzip", decoded_max=4_999)
    assert decoder is not None
    with pytest.raises(DecodingError, match="outgrew"):
        list(decoder.feed(encoded))


def test_zero_bytes_may_follow_the_last_gzip_member_and_other_bytes_may_not() -> None:
    assert decode(b"gzip", [gzip.compress(b"x") + bytes(20), bytes(3)]) == (b"x", True)
    decoder = open_decoder(b"gzip")
    assert decoder is not None
    with pytest.raises(DecodingError):
        list(decoder.feed(gzip.compress(b"x") + b"junk"))


@pytest.mark.parametrize("coding", [b"deflate", b"br"])
@pytest.mark.parametrize("together", [True, False])
def test_bytes_after_a_stream_without_members_are_an_error(coding: bytes, together: bool) -> None:
    decoder = open_decoder(coding)
    if decoder is None:
        pytest.skip("brotli is not installed")
    encoded = dict(ENCODERS.values())[coding](b"x" * 50)
    pieces = [encoded + b"junk"] if together else [encoded, b"junk"]
    with pytest.raises(DecodingError):
        b"".join(part for piece in pieces for part in decoder.feed(piece))


def test_a_zstd_window_beyond_the_rfc_is_refused() -> None:
    data = random.Random(1).randbytes(100_000)
    parameter = zstd.CompressionParameter

    def encoded(window_log: int) -> bytes:
        compressor = zstd.ZstdCompressor(options={parameter.window_log: window_log, parameter.content_size_flag: 0})
        return compressor.compress(data[:50_000]) + compressor.compress(data[50_000:], compressor.FLUSH_FRAME)

    assert decode(b"zstd", [encoded(23)]) == (data, True)
    decoder = open_decoder(b"zstd")
    assert decoder is not None
    with pytest.raises(DecodingError):
        list(decoder.feed(encoded(24)))


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"zstd"])
def test_no_body_is_complete(coding: bytes) -> None:
    assert decode(coding, []) == (b"", True)
    assert decode(coding, [b""]) == (b"", True)


@pytest.mark.parametrize("coding", [b"gzip", b" GZip ", b"X-GZIP", b"deflate", b"Zstd"])
def test_known_codings(coding: bytes) -> None:
    assert is_encoded(coding)
    assert open_decoder(coding) is not None


@pytest.mark.parametrize("coding", [b"gzip, br", b"gzip,gzip", b"compress", b"identity, gzip", b"\xff"])
def test_unknown_and_stacked_codings_have_no_decoder(coding: bytes) -> None:
    assert is_encoded(coding)
    assert open_decoder(coding) is None


@pytest.mark.parametrize("coding", [b"", b"identity", b" Identity "])
def test_identity_is_no_coding(coding: bytes) -> None:
    assert not is_encoded(coding)


@pytest.mark.skipif(brotli is None, reason="brotli is not installed")
def test_brotli_is_known_where_it_is_installed() -> None:
    assert open_decoder(b"br") is not None


def test_an_ended_member_counts_in_a_step() -> None:
    for coding, member in (("gzip", gzip.compress(b"")), ("zstd", zstd.compress(b""))):
        decoder = open_decoder(coding.encode())
        assert decoder is not None
        assert list(decoder.feed(member * 3)) == [b"", b"", b""]


def test_a_request_has_no_endless_run_of_tiny_frames() -> None:
    """To begin a frame takes 9 µs, and it can have nine bytes."""
    frame, large = zstd.compress(b""), zstd.compress(bytes(range(256)))
    decoder = open_decoder(b"zstd", member_size_min=MEMBER_SIZE_MIN)
    assert decoder is not None
    list(decoder.feed(frame * MEMBERS_FREE))
    with pytest.raises(DecodingError):
        list(decoder.feed(frame))
    decoder = open_decoder(b"zstd", member_size_min=MEMBER_SIZE_MIN)
    assert decoder is not None
    assert b"".join(decoder.feed(large * 200)) == bytes(range(256)) * 200
