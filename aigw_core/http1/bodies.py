"""Reading bodies: one reader per framing, chosen when the head is complete.

``feed`` takes what arrived and returns (payload, rest): ``rest`` is None while the body goes on, and the
bytes after it once it is over. The payload of one call is one bytes object however many chunks it came in.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from aigw_core.errors import RemoteProtocolError
from aigw_core.http1.heads import find_head_end, parse_fields, split_lines
from aigw_core.messages import Chunked, Framing, Length, UntilClose

CHUNK_EXTENSIONS_MAX: Final = 16_384
"""Bytes of chunk extensions in one message: nobody needs any; without a sum they are an endless body of nothing."""
_CHUNK_LINE_MAX: Final = 4_096
"""Bytes of one chunk-size line with its extensions."""
_SIZE_DIGITS_MAX: Final = 16
_SIZE_MAX: Final = 2**63 - 1
"""The largest size that every peer can count with."""
_BAD_CHUNK_LINE: Final = "A chunk size line is malformed or too long."
_CR: Final = 13
_HEX = b"0123456789abcdefABCDEF"
_LINE_BYTES = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])


class BodyReader(Protocol):
    """What a connection drives until ``rest`` is not None."""

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Raises RemoteProtocolError (400, 431) for framing that is broken; its ``payload`` is what came before."""


class LengthReader:
    """Exactly n bytes (RFC 9112 §6.2); n must be above 0."""

    __slots__ = ("remaining",)

    def __init__(self, n: int) -> None:
        self.remaining = n

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            return data, None
        if size == self.remaining:
            self.remaining = 0
            return data, b""
        n, self.remaining = self.remaining, 0
        return data[:n], data[n:]


class UntilCloseReader:
    """Everything until the peer closes (RFC 9112 §6.3 rule 8)."""

    __slots__ = ()

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        return data, None


_USUAL_DIGITS_MAX: Final = 4
_USUAL_LINE_MAX: Final = _USUAL_DIGITS_MAX + len(b"\r\n")
_USUAL_SIZES_MAX: Final = 16_384
"""Spellings of a chunk's size that are remembered: those of events, whose sizes are much alike."""
_usual_sizes: dict[bytes, int] = {}

_TINY_MAX: Final = 15
"""Bytes of a chunk whose size has one digit: writers that do not buffer send runs of them, and so does whoever wants
each byte to cost a step."""
_TINY: Final = re.compile(
    rb"(?:0{0,%d}(?:%b)\r\n)++"
    % (_SIZE_DIGITS_MAX - 1, b"|".join(rb"[%x%X]\r\n[\x00-\xff]{%d}" % (n, n, n) for n in range(1, _TINY_MAX + 1)))
)
"""A run of whole tiny chunks."""
_TINY_DATA: Final = re.compile(
    rb"0{0,%d}[1-9a-fA-F]\r\n(%b)\r\n"
    % (
        _SIZE_DIGITS_MAX - 1,
        b"|".join(rb"(?<=[%x%X]\r\n)[\x00-\xff]{%d}" % (n, n, n) for n in range(1, _TINY_MAX + 1)),
    )
)
"""Of such a run the data of each chunk. An expression with a group for each size would give as many for each chunk."""

# What of the chunked coding comes next; plain numbers, because an enum member costs a call at each look.
_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class ChunkedReader:
    """The chunked coding (RFC 9112 §7.1), CRLF only, extensions and trailers checked and dropped."""

    __slots__ = ("_at_chunk", "_extensions", "_part", "_partial", "_remaining")

    def __init__(self) -> None:
        self._at_chunk = True
        """The next byte begins a chunk, and nothing is left of those before."""
        self._part = _SIZE
        self._remaining = 0
        self._partial = b""
        self._extensions = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        if self._at_chunk:
            # One whole chunk, as most reads of a stream are: a tenth fewer bytecode instructions an event.
            eol = data.find(b"\r\n", 0, _USUAL_LINE_MAX)
            # Without a CRLF, eol is -1 and all bytes but the last are looked up: if these are digits, there is no CRLF
            # at the end either.
            size = _usual_sizes.get(data[:eol])
            if size is not None and eol + size + 4 == len(data) and data.endswith(b"\r\n"):
                return data[eol + 2 : -2], None
        pieces: list[bytes] = []
        try:
            rest = self._read(data, pieces)
        except RemoteProtocolError as error:
            error.payload = b"".join(pieces)
            raise
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), rest

    def _read(self, data: bytes, pieces: list[bytes]) -> bytes | None:
        searched = len(self._partial)
        if searched:
            data = self._partial + data
            self._partial = b""
        part, sizes = self._part, _usual_sizes
        pos = 0
        end = len(data)
        while pos < end:
            if part == _SIZE:
                eol = data.find(b"\r\n", pos, pos + _CHUNK_LINE_MAX)
                if eol < 0:
                    self._partial = self._check_partial_line(data[pos:])
                    break
                line = data[pos:eol]
                size = sizes.get(line) or self._size(line)
                pos = eol + 2
                if not size:
                    part = _TRAILERS
                    searched = 0
                    continue
                stop = pos + size
                if data[stop : stop + 2] == b"\r\n":
                    # A whole chunk, as nearly all are.
                    pieces.append(data[pos:stop])
                    pos = stop + 2
                    if size <= _TINY_MAX and (run := _TINY.match(data, pos)) is not None:
                        pieces += _TINY_DATA.findall(data, pos, run.end())
                        pos = run.end()
                    continue
                self._remaining = size
                part = _DATA
            elif part == _DATA:
                stop = pos + self._remaining
                pieces.append(data[pos:stop])
                if stop > end:
                    self._remaining = stop - end
                    break
                pos = stop
                part = _DATA_END
            elif part == _DATA_END:
                if end - pos < 2 and data[pos] == _CR:
                    self._partial = b"\r"
                    break
                if data[pos : pos + 2] != b"\r\n":
                    raise RemoteProtocolError("A chunk is longer than its size says.")
                pos += 2
                part = _SIZE
            else:
                rest = self._trailers(data[pos:], searched)
                if rest is None:
                    break
                return rest
        self._part = part
        self._at_chunk = part == _SIZE and not self._partial
        return None

    def _size(self, line: bytes) -> int:
        """The size on a whole line, or on what has arrived of one and holds at least a digit."""
        digits, semicolon, extension = line.partition(b";")
        if not 1 <= len(digits) <= _SIZE_DIGITS_MAX or digits.translate(None, _HEX):
            raise RemoteProtocolError(_BAD_CHUNK_LINE)
        size = int(digits, 16)
        if size > _SIZE_MAX:
            raise RemoteProtocolError(_BAD_CHUNK_LINE)
        if not semicolon and size and len(digits) <= _USUAL_DIGITS_MAX and len(_usual_sizes) < _USUAL_SIZES_MAX:
            _usual_sizes[digits] = size
        if semicolon:
            self._extensions += len(extension) + 1
            if self._extensions > CHUNK_EXTENSIONS_MAX or extension.translate(None, _LINE_BYTES):
                raise RemoteProtocolError(_BAD_CHUNK_LINE)
        return size

    def _check_partial_line(self, line: bytes) -> bytes:
        """What cannot become a size line any more is refused now, not waited for."""
        if len(line) >= _CHUNK_LINE_MAX:
            raise RemoteProtocolError(_BAD_CHUNK_LINE)
        counted = self._extensions
        self._size(line.removesuffix(b"\r"))
        self._extensions = counted
        return line

    def _trailers(self, section: bytes, searched: int) -> bytes | None:
        """The bytes after the trailer section, or None while it is incomplete."""
        if section.startswith(b"\r\n"):
            return section[2:]
        end = find_head_end(section, searched, "trailer section")
        if end < 0:
            self._partial = section
            return None
        parse_fields(split_lines(section[:end], "trailer section"))
        return section[end + 4 :]


def reader_for(framing: Framing) -> BodyReader | None:
    """The reader of a body, or None where there is no byte to read."""
    if isinstance(framing, Length):
        return LengthReader(framing.n) if framing.n else None
    if isinstance(framing, Chunked):
        return ChunkedReader()
    if isinstance(framing, UntilClose):
        return UntilCloseReader()
    return None
