"""An answer in a content coding, looked into before it is relayed: nobody can overwrite a key inside of it."""

from __future__ import annotations

from typing import Final

from aigw_core.keymask import NO_SIGN, KeyMask, MaskedBody
from aigw_core.messages import ResponseHead
from aigw_core.usage.decoding import DECODED_MAX, DecodingError, open_decoder

ERROR_HELD_MAX: Final = 64 * 1024
"""Encoded bytes of an error that are held, its head with them, until all of it was looked at: errors have some hundred,
and one that holds the key can be replaced as long as nothing of it is out."""
ERROR_DECODED_MAX: Final = 4 * 1024 * 1024
"""Decoded bytes of an error: far beyond any, so that nobody has to decode a bomb to learn that a request failed."""
OPEN_HELD_MAX: Final = 64 * 1024
"""Encoded bytes that are held while the text in them ends in what may begin the key: the next few bytes decide, and a
coding that needs more for them is up to something."""

ECHOED: Final = "the provider's answer holds the pool key in a content coding"
UNREADABLE: Final = "an error of the provider is in a content coding that cannot be read"


class Withheld(Exception):
    """An answer that must not be relayed, or not any further. Its text says why, and nothing of the answer."""


class EncodedAnswer:
    """As :class:`~aigw_core.keymask.MaskedBody`, for a body in a content coding; its methods may raise Withheld.

    Every piece is decoded aside and looked at before it is given out, and is held while the key might go on in the
    next one. An error is held until it is over, up to ERROR_HELD_MAX, and must be readable to its end. Any other
    answer that cannot be read is given out as it is: nobody who receives it can read it either. What is given out is
    masked as it stands, too, since labels lie.
    """

    __slots__ = ("_decoder", "_head", "_held", "_held_max", "_inside", "_is_error", "_outside", "sign")

    def __init__(self, mask: KeyMask, encoding: bytes, *, error_head: ResponseHead | None) -> None:
        """``error_head``: that of an error, which is to go downstream with the first byte given out."""
        self.sign = NO_SIGN
        self._head = error_head
        is_error = error_head is not None
        self._is_error = is_error
        self._decoder = open_decoder(encoding, decoded_max=ERROR_DECODED_MAX if is_error else DECODED_MAX)
        self._inside = MaskedBody(mask)
        self._outside = MaskedBody(mask)
        self._held: list[bytes] = []
        self._held_max = ERROR_HELD_MAX if is_error else 0
        """How many bytes are yet to be held whatever they are."""

    def feed(self, data: bytes) -> bytes:
        """What may be relayed now."""
        out = b""
        if self._held_max:
            # At this very byte, wherever the reads were split.
            first, data = data[: self._held_max], data[self._held_max :]
            self._look(first)
            self._held_max -= len(first)
            if self._held_max:
                return b""
            out = self._release()
        if data:
            self._look(data)
        return out + self._release()

    @property
    def holds_head(self) -> bool:
        """Whether the head of the error has not been taken yet."""
        return self._head is not None

    def take_head(self) -> ResponseHead | None:
        """The head of the error, once."""
        head, self._head = self._head, None
        return head

    def _look(self, data: bytes) -> None:
        self._held.append(data)
        decoder = self._decoder
        if decoder is not None:
            try:
                for piece in decoder.feed(data):
                    self._inside.feed(piece)
                    if self._inside.found:
                        raise Withheld(ECHOED)
            except DecodingError:
                self._decoder = None
        if self._decoder is None and self._is_error:
            raise Withheld(UNREADABLE)

    def _release(self) -> bytes:
        if self._decoder is not None and self._inside.holds:
            if sum(map(len, self._held)) > OPEN_HELD_MAX:
                raise Withheld(ECHOED)
            return b""
        held, self._held = self._held, []
        return self._outside.feed(b"".join(held))

    def finish(self) -> bytes:
        """What was held back, at the end of the body."""
        decoder = self._decoder
        if decoder is not None:
            self._inside.finish()
            if self._inside.found:
                raise Withheld(ECHOED)
            if self._is_error and not decoder.complete:
                raise Withheld(UNREADABLE)
        held, self._held = self._held, []
        return self._outside.feed(b"".join(held)) + self._outside.finish()
