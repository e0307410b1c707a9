"""The response half of an exchange: what the caller sees of the provider's answer, and its Meter."""

from __future__ import annotations

from collections import deque
from typing import Final

from aigw_core.auth import Authorized
from aigw_core.forwarding import KeyMask, downstream_response_head
from aigw_core.http1.shapes import JSON_LABEL
from aigw_core.messages import CHUNKED, Framing, Length, NoBody, ResponseHead
from aigw_core.requestbody import ManagedBody
from aigw_core.settlement import upstream_request_id
from aigw_core.strangers import FORBIDDEN_STATUS, JUDGED_SIZE
from aigw_core.usage.answer import read_answer
from aigw_core.usage.meter import Meter, MeterResult
from aigw_core.wires import Wire

_OPAQUE: Final = Wire.OPAQUE
_PLAIN_CODINGS: Final = (b"", b"identity")
INFORMATIONAL_MAX: Final = 16
"""1xx heads of one response: enough for any server that says something, not for one that never ends."""
METER_FEED_MAX: Final = 65_536
"""Bytes the Meter sees in one call, which bounds what it copies; drivers may hand on more."""


class ResponseSide:
    """Bytes of one response on their way to the caller; the Meter sees a copy, the pool key is masked."""

    __slots__ = (
        "_held",
        "_mask",
        "_opaque",
        "begun",
        "end_due",
        "first",
        "informational",
        "is_encoded",
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
        self.is_encoded = False
        """The answer is decoded for its Meter, which may take longer than to relay it."""
        self.end_due: tuple[bool, bool] | None = None
        """The answer is over but not read to its end: (its connection is reusable, only its close ended the answer)."""
        self._held: deque[bytes] = deque()
        self._mask: KeyMask | None = None
        self._opaque = False

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

        ``whole``: the body goes to whole(), nothing of it to feed().
        """
        self.upstream_status = head.status
        self._opaque = authorized.route.wire is _OPAQUE
        key = pool_key_of(authorized)
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
        out = downstream_response_head(head, framing, request_id, key)
        self.upstream_id = upstream_request_id(head, key)
        if key is not None and head.status >= 400 and encoding.lower() in _PLAIN_CODINGS:
            self._mask = KeyMask(key)
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
            meter.response_head(head.status, label, encoding)
            self.is_encoded = meter.is_encoded
        return framing if isinstance(framing, Length) and not strip else CHUNKED

    def _new_meter(self, authorized: Authorized, body: ManagedBody, *, strip: bool) -> Meter:
        meter = self.meter = Meter(authorized.route.wire, authorized.provider.usage, strip_usage_event=strip)
        meter.request_bytes_hint = body.text_bytes_hint
        return meter

    @property
    def drained(self) -> int:
        """Body bytes read after the caller had left."""
        return 0 if self.left_at is None else self.relayed - self.left_at

    def feed(self, data: bytes, now: float) -> bytes:
        """What may be relayed now."""
        if self.ttft_at is None:
            self.ttft_at = now
            if self.upstream_status == FORBIDDEN_STATUS:
                self.first = data[:JUDGED_SIZE]
        meter = self.meter
        if meter is not None:
            if len(data) <= METER_FEED_MAX:
                data = meter.feed(data)
            else:
                starts = range(0, len(data), METER_FEED_MAX)
                data = b"".join([meter.feed(data[i : i + METER_FEED_MAX]) for i in starts])
        if self._mask is not None:
            data = self._mask.feed(data)
        self.relayed += len(data)
        return data

    def is_waiting(self) -> bool:
        """What was taken is read on in a later turn; until then more of it is held."""
        return self.is_encoded and self.meter is not None and self.meter.is_unread

    def read_on(self) -> None:
        """Read all that was taken."""
        while self.is_waiting() and self.meter is not None:
            self.meter.resume()

    def hold(self, data: bytes) -> None:
        self._held.append(data)

    def next_held(self) -> bytes | None:
        """The piece that was held first."""
        return self._held.popleft() if self._held else None

    def whole(self, data: bytes, authorized: Authorized, body: ManagedBody | None, now: float) -> bytes:
        """As feed() of the whole body and finish(), after begin() was told that it comes."""
        if self.meter is None and body is not None:
            self.result = read_answer(authorized.route.wire, authorized.provider.usage, data)
            if self.result is not None:
                self.ttft_at = now
                self.relayed = len(data)
                return data
            self._new_meter(authorized, body, strip=False).response_head(200, JSON_LABEL, b"")
        return self.feed(data, now) + self.finish()

    def finish(self) -> bytes:
        """What was held back and must still be relayed."""
        rest = self.meter.finish(True) if self.meter is not None else b""
        if self._mask is not None:
            rest = self._mask.feed(rest) + self._mask.finish()
        self.relayed += len(rest)
        return rest

    @property
    def cut_short(self) -> bool:
        """Asked where only the end of the connection ended the body: is the answer visibly unfinished?"""
        meter = self.meter
        if meter is None or self.upstream_status is None or self.upstream_status >= 400 or self._opaque:
            return False
        return not (meter.terminal or meter.root_closed)


def pool_key_of(authorized: Authorized) -> bytes | None:
    """The secret that this exchange sends upstream for its caller; None for BYO."""
    key = authorized.provider.pool_key
    return None if key is None or authorized.caller is None else key.reveal()
