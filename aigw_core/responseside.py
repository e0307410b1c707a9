"""The response half of an exchange: what the caller sees of the provider's answer, and its Meter."""

from __future__ import annotations

from typing import Final

from aigw_core.auth import Authorized
from aigw_core.encodedanswer import EncodedAnswer
from aigw_core.forwarding import downstream_response_head
from aigw_core.http1.shapes import JSON_LABEL
from aigw_core.keymask import NO_SIGN, KeyMask, MaskedBody
from aigw_core.messages import CHUNKED, Framing, Length, NoBody, ResponseHead
from aigw_core.requestbody import ManagedBody
from aigw_core.settlement import upstream_request_id
from aigw_core.strangers import FORBIDDEN_STATUS, JUDGED_SIZE
from aigw_core.usage.answer import read_answer
from aigw_core.usage.decoding import is_encoded
from aigw_core.usage.meter import Meter, MeterResult
from aigw_core.wires import Wire

_OPAQUE: Final = Wire.OPAQUE
_PLAIN_CODINGS: Final = (b"", b"identity")
_PERCENT: Final = 0x25
_BACKSLASH: Final = 0x5C
_LINE_FEED: Final = 0x0A
INFORMATIONAL_MAX: Final = 16
"""1xx heads of one response: enough for any server that says something, not for one that never ends."""
METER_FEED_MAX: Final = 65_536
"""Bytes the Meter sees in one call, which bounds what it copies; drivers may hand on more."""


class ResponseSide:
    """Bytes of one response on their way to the caller: the pool key is masked, and the Meter sees what is left."""

    __slots__ = (
        "_mask",
        "_masked",
        "begun",
        "encoded",
        "first",
        "informational",
        "left_at",
        "meter",
        "relayed",
        "result",
        "status",
        "ttft_at",
        "upstream_id",
        "upstream_status",
    )

    def __init__(self) -> None:
        self.begun = False
        """A final head went downstream, the provider's or our own."""
        self.status: int | None = None
        self.upstream_status: int | None = None
        self.upstream_id: str | None = None
        self.ttft_at: float | None = None
        self.first: bytes
        """There once bytes of a 403's body have come, the first of them: they may say that it is about the key."""
        self.relayed = 0
        """Body bytes for the caller."""
        self.left_at: int | None = None
        """How many of them there were when the caller left; what came later was read for its usage alone."""
        self.informational = 0
        self.meter: Meter | None = None
        self.result: MeterResult | None = None
        """What was read of an answer that needed no Meter."""
        self.encoded: EncodedAnswer | None = None
        """Reads the body of an answer in a content coding: take() and step() do what feed() does otherwise."""
        self._mask: KeyMask | None = None
        """Over a body that comes whole."""
        self._masked: MaskedBody | None = None

    def begin(
        self,
        head: ResponseHead,
        authorized: Authorized,
        body: ManagedBody | None,
        request_id: str,
        *,
        whole: bool = False,
    ) -> ResponseHead:
        """The provider's final head as the caller gets it; starts metering and masking for managed callers.

        ``whole``: the body is there, and goes to whole() unless it is ``encoded``; nothing of it goes to feed().
        """
        self.upstream_status = head.status
        mask = None if authorized.caller is None else authorized.provider.mask
        if mask is not None and head.status >= 400:
            mask = mask.for_errors
        look = head.look
        if look is not None and whole and look[0].is_plain_json and body is not None and not body.injected:
            framing, encoding = head.framing, b""
        else:
            if look is not None:
                label, encoding = look[0].content_type, look[0].content_encoding
            else:
                first = head.headers.first
                label, encoding = first.get(b"content-type", b""), first.get(b"content-encoding", b"")
            framing = self._start_meter(head, authorized, body, label, encoding, whole=whole)
        out = downstream_response_head(head, framing, request_id, mask)
        self.upstream_id = upstream_request_id(head, mask)
        if mask is None:
            return out
        if encoding and is_encoded(encoding):
            is_error = head.status >= 400
            held_head = out if is_error or whole else None
            self.encoded = EncodedAnswer(mask, encoding, self.meter, is_error=is_error, held_head=held_head)
        elif whole and mask.sign != NO_SIGN:
            self._mask = mask
        else:
            self._masked = MaskedBody(mask)
        return out

    def _start_meter(
        self,
        head: ResponseHead,
        authorized: Authorized,
        body: ManagedBody | None,
        label: bytes,
        encoding: bytes,
        *,
        whole: bool,
    ) -> Framing:
        framing = head.framing
        if isinstance(framing, NoBody):
            return framing
        if body is None:
            return framing if isinstance(framing, Length) else CHUNKED
        strip = body.injected and head.status < 300 and encoding.lower() in _PLAIN_CODINGS
        is_usual = whole and 200 <= head.status < 300 and label.startswith(JSON_LABEL) and not (strip or encoding)
        if not is_usual:
            meter = self._new_meter(authorized, body, strip=strip)
            meter.response_head(head.status, label, encoding, decodes=False)
        return framing if isinstance(framing, Length) and not strip else CHUNKED

    def _new_meter(self, authorized: Authorized, body: ManagedBody, *, strip: bool) -> Meter:
        meter = self.meter = Meter(authorized.route.wire, authorized.provider.usage, strip_usage_event=strip)
        meter.request_bytes_hint = body.text_bytes_hint
        return meter

    def take_held_head(self) -> ResponseHead | None:
        """The head that was held so that one of ours could replace it; it is held no longer."""
        return None if self.encoded is None else self.encoded.take_head()

    @property
    def holds_head(self) -> bool:
        """Whether the head is to wait until take_held_head() is called."""
        return self.encoded is not None and self.encoded.holds_head

    @property
    def drained(self) -> int:
        """Body bytes read after the caller had left."""
        return 0 if self.left_at is None else self.relayed - self.left_at

    def feed(self, data: bytes, now: float) -> bytes:
        """What may be relayed now of at least one byte of a body that is not ``encoded``."""
        if self.ttft_at is None:
            self._begin_body(data, now)
        masked = self._masked
        # What MaskedBody.sign says of a piece that passes as it is: nearly every event of a stream.
        if masked is not None and (
            _PERCENT in data or _BACKSLASH in data or masked.sign in data or data[-1] != _LINE_FEED
        ):
            data = masked.feed(data)
            if not data:
                return data
        meter = self.meter
        if meter is not None:
            if len(data) <= METER_FEED_MAX:
                data = meter.read(data)
            else:
                data = b"".join([meter.read(data[i : i + METER_FEED_MAX]) for i in range(0, len(data), METER_FEED_MAX)])
        self.relayed += len(data)
        return data

    def _begin_body(self, data: bytes, now: float) -> None:
        self.ttft_at = now
        if self.upstream_status == FORBIDDEN_STATUS:
            self.first = data[:JUDGED_SIZE]

    def take(self, encoded: EncodedAnswer, data: bytes, now: float) -> None:
        """As feed(), for a body that is ``encoded``: step() reads it."""
        if self.ttft_at is None:
            self._begin_body(data, now)
        encoded.take(data)

    def step(self, encoded: EncodedAnswer) -> bytes:
        """What may be relayed after one more step of reading. Raises Withheld."""
        data = encoded.step()
        self.relayed += len(data)
        return data

    def is_waiting(self) -> bool:
        """What was taken is read on in a later turn."""
        return self.encoded is not None and self.encoded.is_unread

    def whole(self, data: bytes, authorized: Authorized, body: ManagedBody | None, now: float) -> bytes:
        """Returns what feed() of the whole body and finish() would, after begin(whole=True), unless ``encoded``."""
        mask = self._mask
        if mask is not None:
            if mask.probe(data) is not None or _PERCENT in data or _BACKSLASH in data:
                data = mask.whole(data)
        elif (masked := self._masked) is not None:
            self._masked = None
            data = masked.feed(data) + masked.finish()
        if self.meter is None and body is not None:
            self.result = read_answer(authorized.route.wire, authorized.provider.usage, data)
            if self.result is not None:
                self.ttft_at = now
                self.relayed = len(data)
                return data
            self._new_meter(authorized, body, strip=False).response_head(200, JSON_LABEL, b"")
        relayed = self.feed(data, now) if data else data
        return relayed + self.finish()

    def finish(self) -> bytes:
        """What was held back and must still be relayed. Raises Withheld."""
        meter, rest = self.meter, b""
        if self._masked is not None:
            rest = self._masked.finish()
            if rest and meter is not None:
                rest = meter.read(rest)
        elif self.encoded is not None:
            rest = self.encoded.finish()
        if meter is not None:
            rest += meter.finish(True)
        self.relayed += len(rest)
        return rest

    def abandon(self) -> None:
        """No more of the answer comes, or none of it is wanted."""
        if self.encoded is not None:
            self.encoded.abandon()
        if self.meter is not None:
            self.meter.finish(False)

    @property
    def cut_short(self) -> bool:
        """Asked where only the end of the connection ended the body: is the answer visibly unfinished?"""
        meter = self.meter
        if meter is None or self.upstream_status is None or self.upstream_status >= 400 or meter.wire is _OPAQUE:
            return False
        return not (meter.terminal or meter.root_closed)


def mask_of(authorized: Authorized) -> KeyMask | None:
    """The mask over the secret that this exchange sends upstream for its caller; None for BYO."""
    return None if authorized.caller is None else authorized.provider.mask
