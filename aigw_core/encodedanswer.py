"""An answer in a content coding, looked into before it is relayed: nobody can overwrite a key inside of it."""

from __future__ import annotations

from collections import deque
from typing import Final

from aigw_core.keymask import KeyMask, MaskedBody
from aigw_core.messages import ResponseHead
from aigw_core.usage.decoding import DECODED_MAX, DecodingError, SteppedDecoder, open_decoder
from aigw_core.usage.meter import Meter

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
    """Decodes a body in a content coding aside, for the mask and the Meter, and gives out what was looked at.

    Every piece is held until all of it was read, in steps of STEP_BYTES, and while the key might go on in the next
    one. An error is held until it is over, up to ERROR_HELD_MAX, and must be readable to its end. Any other answer
    that cannot be read is given out as it is: nobody who receives it can read it either. What is given out is masked
    as it stands, too, since labels lie.
    """

    __slots__ = (
        "_decoder",
        "_head",
        "_held",
        "_held_max",
        "_inside",
        "_is_error",
        "_meter",
        "_outside",
        "_taken",
        "end_due",
    )

    def __init__(
        self,
        mask: KeyMask,
        encoding: bytes,
        meter: Meter | None = None,
        *,
        is_error: bool,
        held_head: ResponseHead | None = None,
    ) -> None:
        """``held_head`` is to go downstream with the first byte given out; ``meter`` gets what is decoded."""
        self.end_due: tuple[bool, bool] | None = None
        """The answer is over but not read to its end: (its connection is reusable, only its close ended the answer)."""
        self._head = held_head
        self._is_error = is_error
        decoder = open_decoder(encoding, decoded_max=ERROR_DECODED_MAX if is_error else DECODED_MAX)
        self._decoder = None if decoder is None else SteppedDecoder(decoder)
        self._inside = MaskedBody(mask)
        self._outside = MaskedBody(mask)
        self._meter = meter
        if meter is not None and decoder is None:
            meter.undecodable()
        self._taken: deque[bytes] = deque()
        self._held: list[bytes] = []
        self._held_max = ERROR_HELD_MAX if is_error else 0
        """How many bytes are yet to be held whatever they are."""

    def take(self, data: bytes) -> None:
        """Takes the next piece, for step()."""
        self._taken.append(data)

    @property
    def is_unread(self) -> bool:
        """There is more to read of what was taken."""
        return bool(self._taken) or (self._decoder is not None and self._decoder.is_unread)

    def step(self) -> bytes:
        """Reads on, one step; returns what may be relayed now. Raises Withheld."""
        if self._decoder is None or not self._decoder.is_unread:
            self._begin_piece()
        if self._decoder is not None and not self._read(self._decoder):
            return b""
        if self._decoder is None and self._is_error:
            raise Withheld(UNREADABLE)
        return b"" if self._held_max else self._release()

    def _begin_piece(self) -> None:
        data = self._taken.popleft()
        if self._held_max:
            # At this very byte, wherever the reads were split.
            data, rest = data[: self._held_max], data[self._held_max :]
            self._held_max -= len(data)
            if rest:
                self._taken.appendleft(rest)
        self._held.append(data)
        if self._decoder is not None:
            self._decoder.feed(data)

    def _read(self, decoder: SteppedDecoder) -> bool:
        """Reads one step; returns whether that was the last of the piece."""
        try:
            for piece in decoder.step():
                self._read_piece(self._inside.feed(piece))
        except DecodingError:
            self._decoder = None
            if self._meter is not None:
                self._meter.undecodable()
            return True
        return not decoder.is_unread

    def _read_piece(self, masked: bytes) -> None:
        if self._inside.found:
            raise Withheld(ECHOED)
        if masked and self._meter is not None:
            self._meter.read(masked)

    @property
    def holds_head(self) -> bool:
        """Whether the head is to wait and has not been taken yet."""
        return self._head is not None

    def take_head(self) -> ResponseHead | None:
        """The head that waited, once."""
        head, self._head = self._head, None
        return head

    def _release(self) -> bytes:
        if self._decoder is not None and self._inside.holds:
            if sum(map(len, self._held)) > OPEN_HELD_MAX:
                raise Withheld(ECHOED)
            return b""
        held, self._held = self._held, []
        return self._outside.feed(b"".join(held))

    def finish(self) -> bytes:
        """What was held back, at the end of a body that was read to its end. Raises Withheld."""
        if self._decoder is not None:
            self._read_piece(self._inside.finish())
            if self._is_error and not self._decoder.complete:
                raise Withheld(UNREADABLE)
        self.abandon()
        held, self._held = self._held, []
        return self._outside.feed(b"".join(held)) + self._outside.finish()

    def abandon(self) -> None:
        """No more of the body comes, or none of it is wanted."""
        if self._meter is not None and self._decoder is not None and not self._decoder.complete:
            self._meter.undecodable()
        self._taken.clear()
        self._decoder = None
