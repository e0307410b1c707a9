"""Whether bytes that come in pieces are UTF-8 (RFC 3629)."""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder

_decoder = getincrementaldecoder("utf-8")


class Utf8Check:
    """Checks a text in any split; keeps at most the three bytes of a character that a piece cuts."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder: IncrementalDecoder | None = None

    def valid(self, data: bytes) -> int:
        """How many bytes of the next piece are UTF-8, or may become so with the one after it (RFC 8259 §8.1).

        Not to be called again once that is less than all of them.
        """
        decoder = self._decoder
        if decoder is None:
            if data.isascii():
                return len(data)
            decoder = self._decoder = _decoder()
        held: bytes = decoder.getstate()[0]
        if not held and data.isascii():
            return len(data)
        try:
            decoder.decode(data)
        except UnicodeDecodeError as error:
            return max(0, error.start - len(held))
        return len(data)
