"""The Meter: reads the usage of one answer as its bytes pass, and never stands in their way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from aigw_core.usage.decoding import DecodingError, SteppedDecoder, is_encoded, open_decoder
from aigw_core.usage.document import JSONDocument
from aigw_core.usage.estimate import TEXT_ANSWER_MAX, estimate_body, estimate_stream
from aigw_core.usage.jsontext import storable
from aigw_core.usage.profile import UsageProfile
from aigw_core.usage.readers import DOCUMENT_MEMBERS, Reader, name_text, reader_for, tokens_of
from aigw_core.usage.sse import SSEParser
from aigw_core.usage.strip import HELD_MAX, EventStrip
from aigw_core.usage.tokens import TokenClasses, server_tool_calls
from aigw_core.wires import Wire

_OPAQUE: Final = Wire.OPAQUE
_BLANKS_AND_BOM: Final = b" \t\r\n\xef\xbb\xbf"
_JSON_STARTS: Final = b"{["
_EVENT_STARTS: Final = b":deir"
"""First bytes of a comment and of the fields data, event, id and retry."""


class UsageStatus(StrEnum):
    """How far the numbers can be trusted."""

    FINAL = "final"
    PARTIAL = "partial"
    ABSENT = "absent"
    UNPARSED = "unparsed"
    NONE = "none"


# As in states.py.
_FINAL: Final = UsageStatus.FINAL
_PARTIAL: Final = UsageStatus.PARTIAL
_ABSENT: Final = UsageStatus.ABSENT


@dataclass(slots=True)
class MeterResult:
    """What one answer stated. `usage` is the provider's own object; `tokens` holds disjoint classes, only
    stated ones; `estimate` (`input`, `output`, `method`) stands where numbers are partial, absent or unparsed."""

    usage_status: UsageStatus
    usage: dict[str, object] | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    model: str | None = None
    service_tier: str | None = None
    server_tool_calls: dict[str, int] | None = None
    flags: set[str] = field(default_factory=set)
    estimate: dict[str, object] | None = None


def state_usage(result: MeterResult, usage: dict[str, object], classes: TokenClasses) -> None:
    """Write down what a provider's usage object says."""
    result.tokens = classes.counts
    result.server_tool_calls = server_tool_calls(usage)
    if classes.plain:
        result.usage = usage
    else:
        result.usage = storable(usage)
        if result.usage is not usage:
            result.flags.add("usage_truncated")
        if classes.saturated:
            result.flags.add("tokens_saturated")
        if classes.inconsistent:
            result.flags.add("tokens_inconsistent")
    if result.service_tier is None and "service_tier" in usage:
        result.service_tier = name_text(usage["service_tier"])


class Meter:
    """Observes one upstream answer: response_head() once, feed() with every body piece, finish() at its end.

    feed() and finish() return the bytes to relay: the very bytes they were given, less the one event that
    an injected `include_usage` caused where `strip_usage_event` is set. Nothing that arrives raises.
    Memory is bounded by document.DOCUMENT_MAX, sse.LONG_EVENT, strip.HELD_MAX and the window of a content coding.
    Any split of the body gives the same relayed bytes and the same result; only of an answer whose content
    coding breaks, how much was read before the break depends on the split.
    """

    __slots__ = (
        "_clean",
        "_decoder",
        "_document",
        "_finished",
        "_flags",
        "_has_read",
        "_mode",
        "_parser",
        "_profile",
        "_reader",
        "_status",
        "_strip",
        "_undecoded",
        "event_stream",
        "request_bytes_hint",
        "wire",
    )

    def __init__(self, wire: Wire, profile: UsageProfile, *, strip_usage_event: bool = False) -> None:
        self.request_bytes_hint = 0
        """Text bytes of the request, for the estimate of its tokens; 0 where unknown."""
        self.event_stream = False
        """Whether the answer is an event stream: by its label, then by its first bytes."""
        self.wire = wire
        """What the answer is read as."""
        self._profile = profile
        self._reader: Reader = reader_for(wire, profile)
        self._strip = EventStrip() if strip_usage_event else None
        self._status = 0
        # A plain function: a bound method would tie the Meter into a reference cycle.
        self._mode: Callable[[Meter, bytes], bytes] = Meter._pass
        self._decoder: SteppedDecoder | None = None
        self._undecoded = False  # the content coding is unknown, broken, or was cut
        self._parser: SSEParser | None = None
        self._document: JSONDocument | None = None
        self._has_read = False  # the reader holds what an earlier state of the document said
        self._finished = False
        self._clean = False
        self._flags: set[str] = set()

    def response_head(self, status: int, content_type: bytes, content_encoding: bytes, *, decodes: bool = True) -> None:
        """The final response head: its status and the values of two fields, empty where absent.

        Without ``decodes`` somebody else decodes an encoded body: read() takes its pieces, and feed() is not called.
        """
        self._status = status
        if self.wire is _OPAQUE:
            return
        self.event_stream = content_type.partition(b";")[0].strip().lower() == b"text/event-stream"
        if status >= 400:
            self._strip = None
        if content_encoding and is_encoded(content_encoding):
            self._flags.add("response_encoded")
            self._strip = None
            if decodes:
                decoder = open_decoder(content_encoding)
                if decoder is None:
                    self._undecoded = True
                    return
                self._decoder = SteppedDecoder(decoder)
        self._mode = Meter._sniff

    @property
    def is_unread(self) -> bool:
        """Bytes were taken whose reading goes on with resume(); until then feed() is not called."""
        return self._decoder is not None and self._decoder.is_unread

    def feed(self, data: bytes) -> bytes:
        """Observe body bytes, at most 64 KiB a call; returns the bytes to relay now.

        That is `data` itself unless an event is held back or taken out.
        """
        if self._decoder is None:
            return self._mode(self, data)
        self._decoder.feed(data)
        self.resume()
        return data

    def resume(self) -> None:
        """Read on in an encoded answer, one step."""
        if self._decoder is None:
            return
        try:
            for piece in self._decoder.step():
                self._mode(self, piece)
        except DecodingError:
            self._decoder = None
            self.undecodable()

    def read(self, piece: bytes) -> bytes:
        """As feed(), of a body without a content coding, or of what somebody else has decoded."""
        return self._mode(self, piece)

    def undecodable(self) -> None:
        """The rest of an encoded answer cannot be decoded, or is missing."""
        self._undecoded = True
        self._mode = Meter._pass

    def finish(self, clean: bool) -> bytes:
        """The body ended, properly by its framing (`clean`) or not; returns the bytes still held back."""
        if self._finished:
            return b""
        self._finished = True
        self._clean = clean
        self._mode = Meter._pass
        if self._decoder is not None:
            self._undecoded = not self._decoder.complete
            self._decoder = None
        if self._document is None and self._parser is not None:
            tail = self._parser.finish()
            if tail is not None:
                self._reader.event(*tail)
        return b"" if self._strip is None else self._strip.release()

    @property
    def terminal(self) -> bool:
        """Whether the terminal event of the wire has passed."""
        return self._reader.terminal

    @property
    def root_closed(self) -> bool:
        """Whether this is a JSON answer whose root object has closed. Ask at ends, not for every piece."""
        self._read_document()
        return self._document is not None and self._document.closed

    @property
    def error_only(self) -> bool:
        """Whether a 200 carried an error and neither content nor usage."""
        if self._document is not None:
            self._read_document()
        reader = self._reader
        return self._status < 400 and reader.error and not reader.content and reader.usage is None

    def result(self) -> MeterResult:
        """What is known so far; callable at any moment, also without finish() (the caller left)."""
        self._read_document()
        reader = self._reader
        flags = self._flags.copy()
        if not self.wire.billable:
            return MeterResult(UsageStatus.NONE, None, {}, None, None, None, flags)
        status = self._usage_status()
        result = MeterResult(status, None, {}, reader.model, reader.service_tier, None, flags)
        if reader.conflict:
            result.flags.add("usage_conflict")
        if reader.usage is not None:
            state_usage(result, reader.usage, tokens_of(self.wire, self._profile, reader.usage))
        if status is _PARTIAL or status is _ABSENT or status is UsageStatus.UNPARSED:
            result.estimate = self._estimate()
        return result

    def _usage_status(self) -> UsageStatus:
        reader = self._reader
        document = self._document
        closed = document is not None and document.closed
        ended = reader.terminal or closed or (self._finished and self._clean)
        if reader.usage is not None:
            settled = reader.settled if document is None else closed
            return _FINAL if ended and settled else _PARTIAL
        if not 200 <= self._status < 300 or self.error_only:
            return UsageStatus.NONE if self._status else _ABSENT
        return UsageStatus.UNPARSED if ended and self._unreadable() else _ABSENT

    def _unreadable(self) -> bool:
        """Whether something came that could have stated numbers, and could not be read."""
        if self._undecoded:
            return True
        if self._document is not None:
            return self._document.size > 0 and not self._document.closed
        return self._reader.undecodable > 0

    def _estimate(self) -> dict[str, object] | None:
        document, reader = self._document, self._reader
        if self.event_stream:
            return estimate_stream(self.request_bytes_hint, reader.text_bytes, reader.tool_calls, reader.deltas)
        body: int | None = None
        if document is not None and document.size <= TEXT_ANSWER_MAX and self.wire is not Wire.EMBEDDINGS:
            # Embeddings have no output at all.
            body = document.size
        return estimate_body(self.request_bytes_hint, body)

    def _read_document(self) -> None:
        document = self._document
        if document is None or not document.read():
            return
        if self._has_read:
            self._reader = reader_for(self.wire, self._profile)
        self._has_read = True
        reader = self._reader
        reader.document(document.root)
        if reader.usage is not None:
            reader.conflict = document.states_twice("usage")

    # The modes: what feed() does with decoded bytes, chosen when the body shows its kind.

    def _pass(self, data: bytes) -> bytes:
        return data

    def _sniff(self, data: bytes) -> bytes:
        """Labels lie: an event stream may be labelled JSON and the other way round."""
        text = data.lstrip(_BLANKS_AND_BOM)
        first = text[:1]
        if first and (first in _JSON_STARTS or not (self.event_stream or first in _EVENT_STARTS)):
            self.event_stream = False
            self._document = JSONDocument(DOCUMENT_MEMBERS)
            self._mode = Meter._collect
            self._collect(text)
            return data
        if self._parser is None:
            self._parser = SSEParser(long_data=self._reader.long_event)
        if not first:
            self._parser.feed(data)
            return data
        self.event_stream = True
        self._mode = Meter._read_events if self._strip is None else Meter._strip_events
        return self._mode(self, data)

    def _collect(self, data: bytes) -> bytes:
        if self._document is not None:
            self._document.feed(data)
        return data

    def _read_events(self, data: bytes) -> bytes:
        if self._parser is not None:
            event = self._reader.event
            for name, payload, _, _ in self._parser.feed(data):
                event(name, payload)
        return data

    def _strip_events(self, data: bytes) -> bytes:
        if self._parser is None or self._strip is None:
            return data
        removed: list[tuple[int, int]] = []
        for name, payload, start, end in self._parser.feed(data):
            is_usage = self._reader.event(name, payload)
            if end - start > HELD_MAX:
                self._flags.add("strip_overflow")
            elif is_usage:
                removed.append((start, end))
        return self._strip.relay(data, removed, self._parser.open_at)
