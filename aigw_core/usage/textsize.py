"""How much of a request body is text, for the estimate of its tokens: inline media must not count.

An inline image counted as text inflates the estimate a thousandfold.
"""

from __future__ import annotations

import re
from typing import Final

MEDIA_MIN: Final = 512
"""Bytes of base64 in a row that make a string inline media: text has blanks, identifiers are shorter."""

_SEMICOLON: Final = 59
_WHOLE = re.compile(rb'"(?:data:[^",\\ ]{0,256},)?([A-Za-z0-9+/=_\\-]{%d,}+)' % MEDIA_MIN)
_RUN = re.compile(rb"[A-Za-z0-9+/=_\\:;,.-]*+")  # with what the head of a data URI is made of


def names_media(data: bytes) -> bool:
    """Whether a small body may carry inline media: data URIs and the media objects of both dialects say so."""
    return data.find(b'"data"') >= 0 or (_SEMICOLON in data and data.find(b";base64") >= 0)


class TextSize:
    """Counts the bytes of a JSON body less its base64 strings: approximate, in constant memory."""

    __slots__ = ("_media", "_run", "_total")

    def __init__(self) -> None:
        self._total = 0
        self._media = 0
        self._run = -1  # bytes so far of the media that the last piece may have ended in; -1: none

    @property
    def text(self) -> int:
        """Bytes of text so far, JSON structure included."""
        return self._total - self._media - (self._run if self._run >= MEDIA_MIN else 0)

    def feed(self, data: bytes) -> None:
        """Count the next piece."""
        size = len(data)
        self._total += size
        begin = 0
        if self._run >= 0:
            run = _RUN.match(data)
            assert run is not None
            begin = run.end()
            self._run += begin
            if begin == size:
                return
            if self._run >= MEDIA_MIN:
                self._media += self._run
            self._run = -1
        quote = data.rfind(b'"', begin)
        for media in _WHOLE.finditer(data, begin, max(quote, begin)):
            self._media += len(media[1])
        if quote >= 0 and _RUN.fullmatch(data, quote + 1) is not None:
            self._run = size - quote - 1
