"""The request half of an exchange: what is held, what is judged, what goes upstream."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from aigw_core.auth import Authorized
from aigw_core.headers import Headers
from aigw_core.messages import CHUNKED, Chunked, Framing, Length, NoBody, RequestHead
from aigw_core.policy import Policy
from aigw_core.requestbody import ManagedBody, body_rules
from aigw_core.usage.decoding import STEP_BYTES, is_encoded
from aigw_core.usage.request import RequestBody
from aigw_core.usage.rules import BodyRules, content_type_fault
from aigw_core.usage.wholebody import read_whole_body

REQUEST_HOLD_MAX: Final = 65_536
"""Body bytes held while the exchange may not send yet; past it the driver is asked not to read on."""

HELD_JOINED_MAX: Final = 16_384
"""Bytes up to which held pieces are joined."""


class RequestSide:
    """Bytes of one request on their way to the provider, counted, judged and spliced where rules say so."""

    __slots__ = (
        "_held",
        "_rules",
        "blocked",
        "body",
        "collecting",
        "done",
        "empty",
        "head",
        "held_size",
        "is_encoded",
        "ready",
        "received",
        "sent",
        "stopped",
        "waits",
    )

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.body: ManagedBody | None = None
        """None: BYO; bytes pass and nothing is read. Also of a managed body as long as none of it has come."""
        self._rules: BodyRules | None = None
        """For a body that is to be read when it comes, because it is short and may come whole."""
        self.done = False
        """The caller sent all of it; the provider need not have it yet."""
        self.blocked = False
        """The provider does not read for now."""
        self.stopped = False
        """The rest is of no interest."""
        self.waits = False
        """What was taken is read on in a later turn; until then more of it is held."""
        self.ready: bytes | None = None
        """A collected body after its verdict."""
        self.received = 0
        self.sent = 0
        self.held_size = 0
        self.collecting = False
        """Nothing may go upstream before the whole body has its verdict."""
        framing = head.framing
        self.empty = framing.n == 0 if isinstance(framing, Length) else isinstance(framing, NoBody)
        self.is_encoded = False
        """It is decoded to be read, so that a few bytes may hold much."""
        self._held: deque[bytes | bytearray] = deque()

    def judge_by(self, authorized: Authorized, policy: Policy, whole: bytes = b"") -> bool:
        """Managed callers only: reads the body, under the rules that are in force.

        ``whole`` is all of it where it is there already, else empty. True: it is taken, and wants no feed().
        """
        framing = self.head.framing
        content = _content_of(self.head)
        rules = body_rules(authorized, policy)
        if whole and content.is_plain and rules.active:
            self.body = read_whole_body(rules, whole)
            if self.body is not None:
                self.collecting = True
                self.received = len(whole)
                self.done = True
                return True
        if rules.active and content.is_plain and isinstance(framing, Length) and 0 < framing.n <= rules.collect_max:
            self._rules = rules
            self.collecting = True
        else:
            self.collecting = self._scanned(rules, content).collecting
        return False

    def _scanned(self, rules: BodyRules, content: _Content, *, gathers: bool = True) -> RequestBody:
        """The body as one that is read as it comes."""
        framing = self.head.framing
        self.is_encoded = content.encoding != b"" and is_encoded(content.encoding)
        body = self.body = RequestBody(
            rules,
            declared_length=framing.n if isinstance(framing, Length) else None,
            chunked=isinstance(framing, Chunked),
            content_type=content.type,
            content_encoding=content.encoding,
            gathers=gathers,
        )
        return body

    @property
    def expects_continue(self) -> bool:
        """The caller waits for 100 (RFC 9110 §10.1.1) and has sent nothing yet."""
        head = self.head
        if head.http_1_0 or self.received:
            return False
        notes = head.notes
        return b"100-continue" in head.headers.tokens(b"expect") if notes is None else notes.expects_continue

    @property
    def forward_framing(self) -> Framing:
        framing = self.head.framing
        if self.body is None or self.empty:
            return framing
        length = self.body.forward_length
        if length is None:
            return CHUNKED
        return framing if isinstance(framing, Length) and framing.n == length else Length(length)

    @property
    def is_sent(self) -> bool:
        """All of it went upstream."""
        return self.done and not self.waits

    def hold(self, data: bytes) -> None:
        """Keeps a piece for later, joined to the one before where both are short: callers may send single bytes."""
        held = self._held
        if held and len(held[-1]) + len(data) <= HELD_JOINED_MAX:
            last = held[-1]
            if isinstance(last, bytes):
                held[-1] = last = bytearray(last)
            last += data
        else:
            held.append(data)
        self.held_size += len(data)

    def is_waiting(self) -> bool:
        """As ``waits``; a method, so that type checkers do not take it for unchanged."""
        return self.waits

    @property
    def next_size(self) -> int:
        """Bytes that reading the piece is charged that was held first."""
        return self.reading_size(len(self._held[0]))

    def reading_size(self, size: int) -> int:
        """Bytes that reading a piece of that size is charged: a step of decoding, however little it is encoded."""
        return max(size, STEP_BYTES) if self.is_encoded else size

    def next_held(self) -> bytes:
        """The piece that was held first."""
        data = self._held.popleft()
        self.held_size -= len(data)
        return bytes(data)

    def drop_held(self) -> None:
        self._held.clear()
        self.held_size = 0

    @property
    def is_whole(self) -> bool:
        """The last byte has come, as its framing says."""
        framing = self.head.framing
        return self.received >= framing.n if isinstance(framing, Length) else self.done

    def feed(self, data: bytes) -> bytes:
        """What may go upstream now; sets ``waits`` where the reading of it is not over. Raises RequestFault."""
        rules = self._rules
        if rules is not None:
            self._rules = None
            framing = self.head.framing
            is_whole = isinstance(framing, Length) and len(data) == framing.n
            if is_whole:
                self.body = whole = read_whole_body(rules, data)
                if whole is not None:
                    return whole.feed(data)
            if self.body is None:
                self._scanned(rules, _content_of(self.head), gathers=not is_whole)
        body = self.body
        if body is None:
            return data
        out = body.feed(data)
        self.waits = isinstance(body, RequestBody) and body.is_unread
        return out

    def resume(self) -> bytes:
        """As feed(), of what was taken last."""
        body = self.body
        if not isinstance(body, RequestBody) or not body.is_unread:
            return b""
        out = body.resume()
        self.waits = body.is_unread
        return out

    def finish(self) -> bytes:
        """The rest that may go upstream now that the body is complete. Raises RequestFault."""
        body = self.body
        if body is None:
            return b""
        if self.empty and isinstance(body, RequestBody):
            body.judge_empty()
            return b""
        return body.end()


@dataclass(slots=True)
class _Content:
    """What a head says of its body beside the framing."""

    type: bytes
    encoding: bytes
    is_plain: bool
    """Not encoded, and no label that forbids to read it as JSON in UTF-8."""


def _content_of(head: RequestHead) -> _Content:
    notes = head.notes
    if notes is not None and isinstance(notes.content, _Content):
        return notes.content
    label, encoding = _joined(head.headers, b"content-type"), _joined(head.headers, b"content-encoding")
    content = _Content(label, encoding, not is_encoded(encoding) and content_type_fault(label) is None)
    if notes is not None:
        notes.content = content
    return content


def _joined(headers: Headers, name: bytes) -> bytes:
    """The values of every line under a name, as RFC 9110 §5.3 lets a recipient combine them."""
    if not headers.repeated:
        return headers.first.get(name, b"")
    return b",".join(headers.get_all(name))
