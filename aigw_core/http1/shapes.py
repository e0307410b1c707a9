"""What the response heads of one provider look like, so that the next one of a known look is read in one match.

A provider sends the same names in the same order, time after time; what differs are values that mean nothing to
the gateway: a date, an id, what is left of a limit. Such a head is recognised by a regular expression made of
earlier ones, and what follows from the rest of it is known. Whatever is known, the result is that of parsing.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from aigw_core.headers import HOP_BY_HOP, Field, Headers, hop_by_hop_of, says_close
from aigw_core.http1.heads import HEAD_MAX, LENGTH_DIGITS_MAX, parse_fields, split_lines
from aigw_core.messages import CHUNKED, Chunked, Framing, Length, ResponseHead

SHAPES_MAX: Final = 8
"""Shapes of one provider: an answer, a stream and an error, each as one or two kinds of its servers send them."""
SIGHTINGS: Final = 4
"""Heads of one look before its expression is made, which takes as long as parsing a hundred of them: 0.5 to 3 ms."""
SIGHTINGS_MAX: Final = 4_096
"""The same of a provider that has had more looks than are kept, time after time: its heads are better parsed."""
SIGHTED_MAX: Final = 64
"""Looks that are counted at a time."""
LEARNED_SIZE_MAX: Final = 4_096
"""Bytes of a head worth learning from: those of providers have 400 to 1,500."""
LEARNED_FIELDS_MAX: Final = 48
"""Fields of a head worth learning from: those of providers have 10 to 30, and each makes the expression longer."""
_DECIDING: Final = frozenset({b"content-type", b"content-encoding"})
"""Fields that cross and whose value decides something, so that it belongs to the look."""
JSON_LABEL: Final = b"application/json"
_BLANK_LINE: Final = b"\r\n\r\n"
_HEAD_WITH_END_MAX: Final = HEAD_MAX + len(_BLANK_LINE)
# A value without blanks around it (RFC 9110 §5.5). Possessive: no match goes back.
_VALUE: Final = rb"[!-~\x80-\xff][\t -~\x80-\xff]*+(?<![\t ])"
_DIGITS: Final = rb"[0-9]{1,%d}+" % LENGTH_DIGITS_MAX

Look = tuple["HeadShape", "re.Match[bytes]"]
"""A head that was recognised: by its shape, and where in the bytes each part of it stands."""


class HeadShape:
    """One look of a final response head, and what every head that has it says: a ``KnownShape``."""

    __slots__ = (
        "_length_at",
        "_reason",
        "_relayed_at",
        "_status",
        "closes",
        "content_encoding",
        "content_type",
        "has_length",
        "id_at",
        "is_plain_json",
        "keep_alive",
        "match",
        "names_cleared_by",
    )

    def __init__(self, status_line: bytes, head: ResponseHead, id_name: bytes | None) -> None:
        """Of a head that :func:`_has_shape`; ``id_name`` is the field whose value stands at ``id_at``."""
        headers = head.headers
        self._status, self._reason = head.status, head.reason
        self.names_cleared_by: object = None
        self.closes = says_close(headers)
        self.keep_alive = head.keep_alive
        self.content_type = headers.first.get(b"content-type", b"")
        self.content_encoding = headers.first.get(b"content-encoding", b"")
        self.is_plain_json = (
            head.status < 300 and self.content_type.startswith(JSON_LABEL) and not self.content_encoding
        )
        self._length_at = 0
        self.id_at = 0
        parts = [re.escape(status_line), rb"\r\n"]
        groups = 0
        relayed: list[int] = []
        in_relayed = False
        for lower, name, _, line, relayed_line in headers.fields:
            if in_relayed is not bool(relayed_line):
                in_relayed = not in_relayed
                parts.append(b"(" if in_relayed else b")")
                if in_relayed:
                    groups += 1
                    relayed.append(groups)
            if not relayed_line or lower in _DECIDING:
                parts.append(re.escape(line))
                continue
            value = _VALUE
            if lower == b"content-length":
                groups += 1
                self._length_at = groups
                value = b"(%b)" % _DIGITS
            elif lower == id_name and not self.id_at:
                groups += 1
                self.id_at = groups
                value = b"(%b)" % _VALUE
            parts += re.escape(name), rb": ", value, rb"\r\n"
        parts.append(rb")\r\n" if in_relayed else rb"\r\n")
        self._relayed_at = tuple(relayed)
        self.has_length = self._length_at > 0
        self.match = re.compile(b"".join(parts)).match

    def framing(self, match: re.Match[bytes]) -> Framing:
        at = self._length_at
        return Length(int(match[at])) if at else CHUNKED

    def head(self, match: re.Match[bytes], framing: Framing) -> ResponseHead:
        """What parsing would give; ``framing`` as of :meth:`framing`."""
        headers = Headers.lazy(partial(_fields, match))
        return ResponseHead(self._status, self._reason, headers, framing, False, None, (self, match))

    def relayed_lines(self, match: re.Match[bytes]) -> bytes:
        """As :meth:`Headers.relayed_lines`."""
        at = self._relayed_at
        return match[at[0]] if len(at) == 1 else b"".join(match.group(*at)) if at else b""


def _fields(match: re.Match[bytes]) -> list[Field]:
    block = match.string[: match.end() - len(_BLANK_LINE)]
    return parse_fields(split_lines(block)[1:]).fields


class ResponseShapes:
    """The shapes of one provider's heads: learned from those that had to be parsed."""

    __slots__ = ("_id_names", "_known", "_shapes", "_sighted", "_sightings")

    def __init__(self, id_names: tuple[bytes, ...]) -> None:
        """``id_names``: lower-case names; the first one that a head has is what ``HeadShape.id_at`` is of."""
        self._id_names = id_names
        self._shapes: dict[tuple[bytes, ...], HeadShape] = {}
        self._known: tuple[HeadShape, ...] = ()
        """The same, replaced as a whole: gateways in several threads may share a policy, and one reads, one learns."""
        self._sightings = SIGHTINGS
        self._sighted: dict[tuple[bytes, ...], int] = {}

    def find(self, data: bytes) -> Look | None:
        """The look of the final head at the beginning of ``data``; None where it is incomplete, or has to be parsed.

        Not for the answer to a HEAD request, which has no body whatever its head says.
        """
        for shape in self._known:
            match = shape.match(data)
            if match is not None:
                return (shape, match) if match.end() <= _HEAD_WITH_END_MAX else None
        return None

    def learn(self, block: bytes, head: ResponseHead) -> None:
        """A head that had to be parsed, and its bytes without the blank line."""
        fields = head.headers.fields
        if len(block) > LEARNED_SIZE_MAX or len(fields) > LEARNED_FIELDS_MAX:
            return
        status_line = block[: block.find(b"\r\n")] if fields else block
        look = (status_line, *map(_part_of_look, fields))
        shapes, sighted = self._shapes, self._sighted
        if look in shapes:
            return
        seen = sighted.get(look, 0) + 1
        if len(sighted) >= SIGHTED_MAX:
            sighted.clear()
        sighted[look] = seen
        if seen % self._sightings or not _has_shape(block, status_line, head):
            return
        if len(shapes) >= SHAPES_MAX:
            shapes.clear()
            self._sightings = min(2 * self._sightings, SIGHTINGS_MAX)
        names = head.headers.first
        shapes[look] = HeadShape(status_line, head, next((name for name in self._id_names if name in names), None))
        self._known = tuple(shapes.values())


def _part_of_look(field: Field) -> bytes:
    """The whole line where its value counts, else the name."""
    lower, name, _, line, relayed_line = field
    return line if not relayed_line or lower in _DECIDING else name


def _has_shape(block: bytes, status_line: bytes, head: ResponseHead) -> bool:
    """Whether all there is to a head follows from its look: final, HTTP/1.1, plainly framed and plainly written."""
    return (
        head.status >= 200
        and not head.http_1_0
        and isinstance(head.framing, Length | Chunked)
        and hop_by_hop_of(head.headers) is HOP_BY_HOP
        and block[len(status_line) + 2 :] + b"\r\n" == head.headers.lines()
    )
