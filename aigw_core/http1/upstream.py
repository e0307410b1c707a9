"""Reading the response on one upstream connection: heads, then the body, and whether it can be reused."""

from __future__ import annotations

from aigw_core.errors import RemoteProtocolError
from aigw_core.headers import says_close
from aigw_core.http1.bodies import BodyReader, UntilCloseReader, reader_for
from aigw_core.http1.heads import find_head_end, parse_response_head
from aigw_core.http1.shapes import ResponseShapes
from aigw_core.messages import Length, ResponseHead


class ResponseReader:
    """The responses to one request: any number of 1xx heads, one final head, one body."""

    __slots__ = (
        "_body",
        "_buffer",
        "_method",
        "_searched",
        "_shapes",
        "answered",
        "broken",
        "in_body",
        "keep_alive",
        "reusable",
    )

    def __init__(self, method: bytes, shapes: ResponseShapes | None = None) -> None:
        """``shapes``: what is known of the heads of this provider."""
        self._method = method
        # The answer to HEAD has no body, whatever its head says (RFC 9112 §6.3 rule 1).
        self._shapes = shapes if method != b"HEAD" else None
        self._buffer = b""
        self._searched = 0
        self._body: BodyReader | None = None
        self.in_body = False
        """The final head was read."""
        self.answered = False
        """A byte of a response has arrived."""
        self.broken = False
        """The framing of the body broke behind the payload that was returned last."""
        self.reusable = False
        """Meaningful once the body is over: the connection can carry another request."""
        self.keep_alive: float | None = None
        """That of the final head."""

    @property
    def until_close(self) -> bool:
        return isinstance(self._body, UntilCloseReader)

    def whole(self, data: bytes) -> tuple[ResponseHead, bytes] | None:
        """The final head and the body, where ``data`` is the whole response and its head is of a known look.

        None of it was taken in before, and nothing is to come after it; ``reusable`` and ``keep_alive`` hold.
        """
        shapes = self._shapes
        if shapes is None or self._buffer:
            return None
        look = shapes.find(data)
        if look is None:
            return None
        shape, match = look
        framing, end = shape.framing(match), match.end()
        if not isinstance(framing, Length) or len(data) - end != framing.n:
            return None
        self.reusable = not shape.closes
        self.keep_alive = shape.keep_alive
        return shape.head(match, framing), data[end:]

    def push(self, data: bytes) -> None:
        """Bytes while heads are read."""
        self.answered = True
        self._buffer = self._buffer + data if self._buffer else data

    def head(self) -> ResponseHead | None:
        """The next complete head, or None. Raises RemoteProtocolError."""
        buffer = self._buffer
        if not buffer:
            return None
        shapes, searched = self._shapes, self._searched
        # Of a head that comes in pieces only the whole of it is worth a look.
        if shapes is not None and (not searched or buffer.find(b"\r\n\r\n", max(0, searched - 3)) >= 0):
            look = shapes.find(buffer)
            if look is not None:
                shape, match = look
                framing = shape.framing(match)
                self._buffer = buffer[match.end() :]
                self._searched = 0
                self.in_body = True
                self._body = reader_for(framing)
                self.reusable = not shape.closes
                self.keep_alive = shape.keep_alive
                return shape.head(match, framing)
        end = find_head_end(buffer, searched)
        if end < 0:
            self._searched = len(buffer)
            return None
        block = buffer[:end]
        head = parse_response_head(block, self._method)
        self._buffer = buffer[end + 4 :]
        self._searched = 0
        if head.status >= 200:
            self.in_body = True
            self._body = reader_for(head.framing)
            self.reusable = not (head.http_1_0 or says_close(head.headers))
            if b"keep-alive" in head.headers.first:
                self.keep_alive = head.keep_alive
            if shapes is not None:
                shapes.learn(block, head)
        return head

    def first_body(self) -> tuple[bytes, bool]:
        """What came behind the final head, as :meth:`body`."""
        data, self._buffer = self._buffer, b""
        if self._body is None:
            self.reusable = self.reusable and not data
            return b"", True
        return self.body(data) if data else (b"", False)

    def body(self, data: bytes) -> tuple[bytes, bool]:
        """(payload, whether the body is over); see also ``broken``.

        Bytes beyond the response make the connection unusable: nobody asked for them.
        """
        reader = self._body
        if reader is None:
            self.reusable = False
            return b"", True
        try:
            payload, rest = reader.feed(data)
        except RemoteProtocolError as error:
            self.broken = True
            return error.payload, False
        if rest is None:
            return payload, False
        self._body = None
        if rest:
            self.reusable = False
        return payload, True
