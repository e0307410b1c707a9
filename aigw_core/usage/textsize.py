"""How much of a request body is text, for the estimate of its tokens: inline media must not count.

An inline image counted as text inflates the estimate a thousandfold. What looks like base64 anywhere else is text: a
prompt may be made of it.
"""

from __future__ import annotations

import re
from typing import Final

_WS: Final = rb"[ \t\r\n]{0,16}+"
_COLON: Final = _WS + rb":" + _WS
_SHORT_MEMBER: Final = rb'"[A-Za-z_]{1,20}+"' + _COLON + rb'"[^"\\]{0,64}+"' + _WS + rb"," + _WS
_MEDIA: Final = re.compile(
    # A data URI, wherever it stands.
    rb'"data:[^",\\]{0,256}?;base64,'
    # Anthropic's `source`, OpenAI's `input_audio`, Gemini's `inlineData`: an object that carries `data`.
    + rb'|"(?:source|input_audio|inline_data|inlineData)"'
    + _COLON
    + rb"\{"
    + _WS
    + rb"(?:"
    + _SHORT_MEMBER
    + rb'){0,4}?"data"'
    + _COLON
    + rb'"'
    # Members that hold nothing else, and an image that the provider made in an earlier turn.
    + rb'|"(?:b64_json|file_data)"'
    + _COLON
    + rb'"|"id"'
    + _COLON
    + rb'"ig_[A-Za-z0-9]{1,128}+"'
    + _WS
    + rb","
    + _WS
    + rb"(?:"
    + _SHORT_MEMBER
    + rb'){0,2}?"result"'
    + _COLON
    + rb'"'
)
"""What stands in front of inline media, up to their first byte."""
_SIGNS: Final = (b";base64,", b'"data"', b'"b64_json"', b'"file_data"', b'"result"')
"""One of these stands in every text that the expression matches; looking for them takes a tenth of the time."""
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/=\\]*+")
"""Base64 and the escapes that JSON may write its slashes and line breaks with. What follows is text again, such as that
of a document, or of a prompt that begins like media."""
TAIL: Final = 1_024
"""Bytes of the text before a piece that are looked at again with it: more than the expression matches."""


class TextSize:
    """Counts the bytes of a JSON body less its inline media: approximate, in constant memory."""

    __slots__ = ("_inside", "_media", "_tail", "_total")

    def __init__(self) -> None:
        self._total = 0
        self._media = 0
        self._inside = False  # the last piece ended in media
        self._tail = b""

    @property
    def text(self) -> int:
        """Bytes of text so far, JSON structure included."""
        return self._total - self._media

    def feed(self, data: bytes) -> None:
        """Count the next piece."""
        self._total += len(data)
        if self._inside:
            end = _end_of_base64(data, 0)
            self._media += end
            if end == len(data):
                return
            self._inside, data = False, data[end:]
        text = self._tail + data
        if any(text.find(sign) >= 0 for sign in _SIGNS):
            at = self._count_media(text, len(self._tail))
            if at < 0:
                self._inside, self._tail = True, b""
                return
            text = text[at:]
        self._tail = text[-TAIL:]

    def _count_media(self, text: bytes, new_from: int) -> int:
        """Count the media whose first byte is at ``new_from`` or later; where they end, negative if they go on."""
        at = 0
        while (start := _MEDIA.search(text, at)) is not None:
            at = start.end()
            if at < new_from:
                continue  # counted with an earlier piece
            end = _end_of_base64(text, at)
            self._media += end - at
            if end == len(text):
                return -1
            at = end
        return at


def _end_of_base64(text: bytes, at: int) -> int:
    match = _BASE64.match(text, at)
    assert match is not None
    return match.end()


def text_size(body: bytes) -> int:
    """The bytes of a whole JSON body less its inline media."""
    size = TextSize()
    size.feed(body)
    return size.text
