"""Content decoding aside of the relay (RFC 9110, 8.4.1; zstd: RFC 8878 with the window of RFC 9659).

Only identity is asked for, so this reads answers of providers that compress all the same, and request
bodies under a body rule.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Final, Protocol

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

try:
    _brotli: ModuleType | None = import_module("brotli")
except ImportError:
    _brotli = None

PIECE_MAX: Final = 16 * 1024
"""Decoded bytes given at a time: small beside the buffers of a connection. brotli may give twice that."""
STEP_BYTES: Final = PIECE_MAX
"""Decoded bytes that one input reads at the most: as much as a driver reads from a socket at a time."""

RATIO_MAX: Final = 200
"""Decoded bytes per encoded byte, beyond RATIO_FREE: event streams of near-equal chunks reach some 30,
of equal ones 110, deflate bombs 1028."""

RATIO_FREE: Final = 1024 * 1024
"""Decoded bytes before the ratio counts: a repetitive answer of some thousand chunks is no bomb, and this
much is decoded within some milliseconds."""

REQUEST_RATIO_MAX: Final = 100
"""The same of a request, beyond REQUEST_RATIO_FREE: conversations of agents, which repeat their files and tools, are
compressed 5 to 60 times."""
REQUEST_RATIO_FREE: Final = 256 * 1024
"""Decoded bytes of a request before the ratio counts: a short body of few words is no bomb."""
_REQUEST_CODINGS: Final = frozenset({b"gzip", b"x-gzip", b"zstd"})
"""Codings that have one reading; deflate is bare or wrapped, and a body can be valid as both."""

DECODED_MAX: Final = 1024 * 1024 * 1024
"""Decoded bytes of one body: beyond any answer, so that a slow bomb ends."""

MEMBER_BYTES: Final = 1_024
"""Decoded bytes that the end of a member or frame counts as in a step: to begin the next one costs as much."""
MEMBERS_FREE: Final = 64
"""Members or frames of a request before their size counts."""
MEMBER_SIZE_MIN: Final = 128
"""Encoded bytes of a member or frame of a request on the average, beyond MEMBERS_FREE: a frame of zstd has 9 at the
least, and to begin one takes 9 µs. Clients send one, or some of megabytes."""

ZSTD_WINDOW_LOG_MAX: Final = 23
"""8 MiB, the largest window that RFC 9659 allows in this content coding; it bounds the decoder's memory."""


class DecodingError(ValueError):
    """The body is not what its coding says, or outgrew a limit. Nothing more can be decoded of it."""


class _Coding(Protocol):
    eof: bool
    """A member or frame ended, and nothing followed it so far."""

    def decode(self, data: bytes) -> Iterator[bytes]: ...


class Decoder:
    """Decodes one body, fed in any split; made by open_decoder().

    Memory is bounded by the coding's window and PIECE_MAX, output by a ratio and `decoded_max`.
    """

    __slots__ = (
        "_coding",
        "_decoded",
        "_decoded_max",
        "_encoded",
        "_member_size_min",
        "_members",
        "_ratio_free",
        "_ratio_max",
    )

    def __init__(
        self,
        coding: _Coding,
        *,
        decoded_max: int = DECODED_MAX,
        ratio_max: int = RATIO_MAX,
        ratio_free: int = RATIO_FREE,
        member_size_min: int = 0,
    ) -> None:
        self._coding = coding
        self._members = 0
        self._member_size_min = member_size_min
        self._encoded = 0
        self._decoded = 0
        self._decoded_max = decoded_max
        self._ratio_max, self._ratio_free = ratio_max, ratio_free

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes of `data`, in pieces; exhaust the iterator before the next feed().

        An empty piece says that a member or frame has ended, which counts as MEMBER_BYTES in a step.
        Raises DecodingError, after which no call is allowed.
        """
        if not data:
            return
        self._encoded += len(data)
        allowed = min(max(self._ratio_free, self._ratio_max * self._encoded), self._decoded_max)
        try:
            for piece in self._coding.decode(data):
                if not piece:
                    self._end_member()
                self._decoded += len(piece)
                if self._decoded > allowed:
                    raise DecodingError("decoded body outgrew its limit")
                yield piece
        except (zlib.error, ZstdError, EOFError, _BrotliError) as error:
            raise DecodingError(str(error)) from error

    def _end_member(self) -> None:
        self._members += 1
        if self._members > MEMBERS_FREE and self._members * self._member_size_min > self._encoded:
            raise DecodingError("too many members")

    @property
    def complete(self) -> bool:
        """Whether the body may end here: every member or frame that began has ended."""
        return self._coding.eof or not self._encoded


def open_decoder(
    content_encoding: bytes,
    *,
    decoded_max: int = DECODED_MAX,
    ratio_max: int = RATIO_MAX,
    ratio_free: int = RATIO_FREE,
    member_size_min: int = 0,
) -> Decoder | None:
    """A decoder for a Content-Encoding value; None for a coding that is unknown, stacked or not installed.

    ``ratio_max`` decoded bytes for each encoded one may come, once there are more than ``ratio_free`` of them, and a
    member or frame for ``member_size_min`` encoded bytes, once there are more than MEMBERS_FREE. Call it only for
    values that name a coding: see is_encoded().
    """
    factory = _CODINGS.get(content_encoding.strip().lower())
    if factory is None:
        return None
    return Decoder(
        factory(),
        decoded_max=decoded_max,
        ratio_max=ratio_max,
        ratio_free=ratio_free,
        member_size_min=member_size_min,
    )


def open_request_decoder(content_encoding: bytes, *, decoded_max: int) -> SteppedDecoder | None:
    """A decoder for the body of a request; None for a coding that requests may not have."""
    if content_encoding.strip().lower() not in _REQUEST_CODINGS:
        return None
    decoder = open_decoder(
        content_encoding,
        decoded_max=decoded_max,
        ratio_max=REQUEST_RATIO_MAX,
        ratio_free=REQUEST_RATIO_FREE,
        member_size_min=MEMBER_SIZE_MIN,
    )
    return None if decoder is None else SteppedDecoder(decoder)


def is_encoded(content_encoding: bytes) -> bool:
    """Whether a Content-Encoding value (empty where the field is absent) names a coding."""
    return content_encoding.strip().lower() not in (b"", b"identity")


class SteppedDecoder:
    """A decoder whose work is done in steps of STEP_BYTES: what a bomb holds is not read in one go."""

    __slots__ = ("_decoder", "_pieces")

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._pieces: Iterator[bytes] | None = None

    @property
    def is_unread(self) -> bool:
        """There is more to decode of what was fed last; nothing is fed until there is not."""
        return self._pieces is not None

    @property
    def complete(self) -> bool:
        """Whether the body may end here."""
        return self._pieces is None and self._decoder.complete

    def feed(self, data: bytes) -> None:
        """Take the next piece, for step()."""
        self._pieces = self._decoder.feed(data)

    def step(self) -> Iterator[bytes]:
        """Some decoded pieces. Raises DecodingError, after which no call is allowed."""
        left = STEP_BYTES
        for piece in self._pieces or ():
            if piece:
                yield piece
            left -= len(piece) or MEMBER_BYTES
            if left <= 0:
                return
        self._pieces = None


class _Gzip:
    """RFC 1952: any number of members, zero bytes after the last one tolerated."""

    __slots__ = ("_inflater", "eof")

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=31)
        self.eof = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self.eof:
                data = data.lstrip(b"\x00")
                if not data:
                    return
                self._inflater = zlib.decompressobj(wbits=31)
                self.eof = False
            yield from _inflate(self._inflater, data)
            self.eof = self._inflater.eof
            data = self._inflater.unused_data
            if self.eof:
                yield b""


class _Deflate:
    """RFC 1950, or RFC 1951 bare, as some servers mean by "deflate" (RFC 9110, 8.4.1.2)."""

    __slots__ = ("_head", "_inflater", "eof")

    def __init__(self) -> None:
        self._inflater: zlib._Decompress | None = None
        self._head = b""
        self.eof = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._inflater is None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return
            wrapped = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._inflater = zlib.decompressobj(wbits=15 if wrapped else -15)
        if self.eof:
            raise DecodingError("bytes after the end of the deflate stream")
        yield from _inflate(self._inflater, data)
        self.eof = self._inflater.eof
        if self._inflater.unused_data:
            raise DecodingError("bytes after the end of the deflate stream")


def _inflate(inflater: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    while True:
        piece = inflater.decompress(data, PIECE_MAX)
        if piece:
            yield piece
        data = inflater.unconsumed_tail
        # A full piece may leave output inside the inflater even where all input is consumed.
        if inflater.eof or (not data and len(piece) < PIECE_MAX):
            return


class _Zstd:
    """RFC 8878: any number of frames."""

    __slots__ = ("_frame", "eof")

    def __init__(self) -> None:
        self._frame = self._new_frame()
        self.eof = False

    @staticmethod
    def _new_frame() -> ZstdDecompressor:
        return ZstdDecompressor(options={DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX})

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self.eof:
                self._frame = self._new_frame()
                self.eof = False
            frame = self._frame
            while True:
                piece = frame.decompress(data, PIECE_MAX)
                data = b""
                if piece:
                    yield piece
                if frame.eof or frame.needs_input:
                    break
            self.eof = frame.eof
            data = frame.unused_data if frame.eof else b""
            if self.eof:
                yield b""


class _Brotli:
    """RFC 7932; the large-window variant is not accepted by the decoder, so its window is 16 MiB at most."""

    __slots__ = ("_stream", "eof")

    def __init__(self, module: ModuleType) -> None:
        self._stream = module.Decompressor()
        self.eof = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self.eof:
            raise DecodingError("bytes after the end of the brotli stream")
        stream = self._stream
        while True:
            piece = stream.process(data, output_buffer_limit=PIECE_MAX)
            data = b""
            if piece:
                yield piece
            # All input may be consumed while output still waits, so only an empty piece ends it.
            if stream.is_finished() or (not piece and stream.can_accept_more_data()):
                break
        self.eof = stream.is_finished()


_CODINGS: Final[dict[bytes, Callable[[], _Coding]]] = {
    b"gzip": _Gzip,
    b"x-gzip": _Gzip,
    b"deflate": _Deflate,
    b"zstd": _Zstd,
}
_BrotliError: type[Exception] = DecodingError
if _brotli is not None:
    _CODINGS[b"br"] = partial(_Brotli, _brotli)
    _BrotliError = _brotli.error
