"""The body of one managed request on its way to the provider: read, judged, spliced, never stored whole.

Three ways, chosen from the head alone:

- no rule in force: bytes pass untouched; model and stream are read beside them, and failing that is silent;
- a declared length of at most ``collect_max``: collected, judged and spliced before anything is sent;
- longer or chunked: relayed while it is scanned, the last byte (of a chunked body the latest one) withheld
  until the verdict, so that no provider ever holds a refused body whole.

The splice of a body that is relayed works on positions, never on how the bytes arrived. A `stream_options`
that lacks include_usage is held from its first byte until `stream` is known, at most HOLD_MAX bytes. Past
them an object is completed (if `stream` then never comes, a provider that refuses the option refuses the
client's own as well), and a null is left: replacing it would break a request that does not stream, so a
`stream` that comes later still is refused.
"""

from __future__ import annotations

from typing import Final

from aigw_core.errors import Rejection
from aigw_core.usage.decoding import DecodingError, SteppedDecoder, is_encoded, open_request_decoder
from aigw_core.usage.items import INPUT, STORED_ITEM, InputItemScanner
from aigw_core.usage.rules import (
    NOT_JSON,
    BodyRules,
    IncludeUsage,
    RequestFault,
    content_type_fault,
    is_off,
    is_true_text,
    struck,
    text_of,
    too_large,
    unreadable,
)
from aigw_core.usage.scanner import Occurrence, RootScanner
from aigw_core.usage.splice import SPLICE_MAX, Outgoing, StreamOptions, option_appended
from aigw_core.usage.textsize import TextSize
from aigw_core.usage.wholebody import STORED_NAMES, WholeBody, read_whole_body, usage_required

__all__ = ["BodyRules", "IncludeUsage", "RequestBody", "RequestFault"]

_INJECT: Final = IncludeUsage.INJECT
_REQUIRE: Final = IncludeUsage.REQUIRE

HOLD_MAX: Final = 65_536
"""Bytes held for one undecided `stream_options`, and the longest value of a member that a rule reads."""

_KEYS: Final = frozenset({"model", "stream", "stream_options"})
_BACKGROUND_KEYS: Final = _KEYS | {"background"}
_STORED_KEYS: Final = _BACKGROUND_KEYS | STORED_NAMES
_RESEND: Final = "Send the content itself."
for _keys in (_KEYS, _BACKGROUND_KEYS):
    RootScanner(_keys, any_case=True)  # compiles the expressions for this set
InputItemScanner(_STORED_KEYS)


class RequestBody:
    """One managed request body on its way to the provider.

    ``declared_length`` is the Content-Length, None where there is none; ``content_type`` and
    ``content_encoding`` are the fields' values, empty where absent, repeated ones joined by commas.
    """

    __slots__ = (
        "_active",
        "_declared",
        "_decoder",
        "_encoded",
        "_gathered",
        "_held_from",
        "_is_too_large",
        "_options",
        "_outgoing",
        "_readable",
        "_refused",
        "_root_end",
        "_rules",
        "_scanner",
        "_seen",
        "_size",
        "_splices",
        "_stream_stated",
        "_undecoded",
        "_whole",
        "client_asked_usage",
        "collecting",
        "forward_length",
        "injected",
        "requested_model",
        "streaming",
    )

    def __init__(
        self,
        rules: BodyRules,
        *,
        declared_length: int | None,
        chunked: bool,
        content_type: bytes,
        content_encoding: bytes,
        gathers: bool = True,
    ) -> None:
        """``gathers`` False: the body was seen whole, and has to be scanned."""
        self.requested_model: str | None = None
        """What `model` says; known after end() or as far as scanned."""
        self.streaming: bool | None = None
        """What `stream` says; None where the body could not be read."""
        self.client_asked_usage: bool | None = None
        """Whether the client's own include_usage is true."""
        self.injected = False
        """include_usage was added here, so the event that it causes is to be removed on the way back."""
        self._rules = rules
        self._declared = declared_length
        self._active = rules.active
        self._refused: Rejection | None = None
        """Not the fault itself: its traceback would hold this body, and this body it."""
        self._seen = 0
        self._whole: WholeBody | None = None
        self._stream_stated = False
        self._options: StreamOptions | None = None
        self._held_from: int | None = None
        self._root_end: tuple[int, bool] | None = None  # offset of the closing brace, whether the root is empty
        self._size: TextSize | None = None
        self._outgoing = Outgoing()
        self._scanner: RootScanner | None = None
        self._decoder: SteppedDecoder | None = None
        self._undecoded = b""
        self._is_too_large = False
        self._encoded = is_encoded(content_encoding)
        if self._encoded:
            self._decoder = open_request_decoder(content_encoding, decoded_max=rules.max_bytes)
        self._readable = not self._encoded or self._decoder is not None
        """The body can be read, as far as is known."""
        if self._active:
            fault = content_type_fault(content_type)
            if fault is None and not self._readable:
                fault = unreadable("A request body may be encoded with gzip or zstd here, alone.")
            if fault is not None:
                self._refused = fault.rejection
        short = not chunked and (declared_length or 0) <= rules.collect_max
        self.collecting = self._active and (short or self._refused is not None)
        """Nothing may be sent, not even the head, before end() has returned."""
        self._splices = rules.include_usage is _INJECT and not self._encoded
        can_gather = gathers and self.collecting and self._refused is None and not self._encoded
        self._gathered: bytearray | None = bytearray() if can_gather and declared_length else None
        self.forward_length = declared_length
        """The Content-Length to send; None: chunked. For a collected body it is exact once end() returned."""
        if self._splices and not self.collecting and declared_length is not None:
            self.forward_length = declared_length + (SPLICE_MAX if rules.adds_option else 0)

    @property
    def text_bytes_hint(self) -> int:
        """Bytes of text so far, inline media excluded; the bytes as sent where they were not scanned."""
        if self._whole is not None:
            return self._whole.text_bytes_hint
        return self._seen if self._size is None else self._size.text

    @property
    def is_unread(self) -> bool:
        """Bytes were taken whose reading goes on with resume(); until then neither feed() nor end() is called."""
        return self._decoder is not None and self._decoder.is_unread

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; returns the bytes to relay now. Raises RequestFault."""
        if self._refused is not None:
            raise RequestFault(self._refused)
        if not data:
            return b""
        before = self._seen
        room = self._rules.max_bytes - before
        piece = data if len(data) <= room else data[:room]
        self._seen = before + len(piece)
        self._is_too_large = piece is not data
        try:
            if self._gathered is not None:
                return self._gather(self._gathered, piece)
            if not before and self._read_whole(piece):
                return b"" if self._active else piece
            return self._read(piece)
        except RequestFault as fault:
            self._refuse(fault)
            raise

    def resume(self) -> bytes:
        """Read on, STEP_BYTES at the most; returns the bytes to relay now. Raises RequestFault."""
        try:
            return self._read_on()
        except RequestFault as fault:
            self._refuse(fault)
            raise

    def end(self) -> bytes:
        """The body is complete; returns the rest to relay. Raises RequestFault."""
        if self._refused is not None:
            raise RequestFault(self._refused)
        if not self._seen:
            self.judge_empty()
            return b""
        whole = self._whole
        if whole is None and self._readable:
            self._finish()
        if whole is not None:
            out = whole.end()
            self.injected, self.forward_length = whole.injected, whole.forward_length
            return out
        if not self._active:
            return b""
        self._judge()
        return self._rest()

    def judge_empty(self) -> None:
        """The request has no body. Raises RequestFault."""
        self._judge_model()

    def _refuse(self, fault: RequestFault) -> None:
        """Nothing more is read; what was kept for that is let go, a decoder's window of megabytes first."""
        self._refused = fault.rejection
        self._scanner = self._decoder = self._gathered = None
        self._undecoded = b""
        self._outgoing = Outgoing()

    # Reading.

    def _gather(self, gathered: bytearray, piece: bytes) -> bytes:
        """Keep a collected body until it is there, to be read whole."""
        gathered += piece
        if self._is_too_large:
            raise too_large(self._rules.max_bytes)
        if self._declared == self._seen:
            self._gathered = None
            data = bytes(gathered)
            if not self._read_whole(data):
                self._read(data)
        return b""

    def _read_whole(self, data: bytes) -> bool:
        """Read a small body that is there whole; False: scan it."""
        if len(data) != self._declared or self._encoded or (self._active and not self.collecting):
            return False
        whole = self._whole = read_whole_body(self._rules, data)
        if whole is None:
            return False
        self.requested_model, self.streaming = whole.requested_model, whole.streaming
        self.client_asked_usage = whole.client_asked_usage
        return True

    def _read(self, piece: bytes) -> bytes:
        if self._readable:
            if self._scanner is None:
                self._scanner, self._size = _scanner_for(self._rules), TextSize()
            if self._decoder is not None:
                self._undecoded = piece
                self._decoder.feed(piece)
                return self._read_on()
            self._scan(piece)
        return self._passed(piece)

    def _read_on(self) -> bytes:
        """Decode and scan what was taken last, as far as one step goes."""
        assert self._decoder is not None
        try:
            for decoded in self._decoder.step():
                self._scan(decoded)
        except DecodingError:
            self._decoder = None
            self._unreadable("The request body is not what its content encoding says, or too large decoded.")
        if self.is_unread:
            return b""
        piece, self._undecoded = self._undecoded, b""
        return self._passed(piece)

    def _passed(self, piece: bytes) -> bytes:
        """A piece that was read: what of it may leave."""
        if self._is_too_large:
            raise too_large(self._rules.max_bytes)
        return self._outgoing.release(piece, self._release_limit()) if self._active else piece

    def _scan(self, data: bytes) -> None:
        scanner, size = self._scanner, self._size
        assert scanner is not None
        assert size is not None
        size.feed(data)
        if not self._splices or self.collecting:
            self._scan_piece(scanner, data)
            return
        at = 0
        while at < len(data):
            # Where a hold ends is looked at neither earlier nor later, however the bytes came.
            begun = scanner.open_member
            end = at + HOLD_MAX
            if begun is not None and begun[0] == "stream_options":
                end = at + begun[1] + HOLD_MAX + 1 - scanner.offset
            self._scan_piece(scanner, data[at:end])
            at = end

    def _scan_piece(self, scanner: RootScanner, data: bytes) -> None:
        scanner.feed(data)
        if scanner.log:
            for occurrence in scanner.log:
                self._note(occurrence)
            scanner.log.clear()
        if self._active:
            if scanner.misspelt is not None:
                raise struck(f"Write the request member `{scanner.misspelt}` in lower case.", scanner.misspelt)
            if scanner.failed:
                self._unreadable(NOT_JSON)
            if self._splices and not self.collecting:
                self._follow(scanner)

    def _unreadable(self, message: str) -> None:
        """The body cannot be read: a refusal where a rule is in force, else nobody's business."""
        if self._active:
            raise struck(message)
        self._readable = False
        self.streaming = self.requested_model = self.client_asked_usage = None

    def _finish(self) -> None:
        scanner, decoder = self._scanner, self._decoder
        self._scanner = self._decoder = None
        if scanner is not None:
            scanner.finish()
            if decoder is not None and not decoder.complete:
                self._unreadable("The request body is cut inside its content encoding.")
                return
            if scanner.close_offset is None:
                self._unreadable(NOT_JSON)
                return
            self._root_end = (scanner.close_offset, scanner.empty_root)
        self.streaming = bool(self.streaming)
        self.client_asked_usage = bool(self.client_asked_usage)

    def _note(self, occurrence: Occurrence) -> None:
        """One chosen member is complete; the last of duplicates wins, a refusal strikes on any of them."""
        name, raw, begin, end = occurrence
        if self._active:
            self._strike(name, raw)
        if name == "model":
            self.requested_model = text_of(raw)
        elif name == "stream":
            self._note_stream(is_true_text(raw), end)
        elif name == "stream_options" and raw is not None:
            self._note_options(StreamOptions(raw, begin), end)

    def _note_stream(self, streaming: bool, end: int) -> None:
        if self._stream_stated and streaming is not self.streaming and self._options_settled:
            raise struck("`stream` is given more than once.", "stream")
        self.streaming = streaming
        self._stream_stated = True
        self._decide_held(end)

    def _strike(self, name: str, raw: bytes | None) -> None:
        if name == STORED_ITEM:
            raise struck(f"An item of `{INPUT}` names stored content, which is refused here. {_RESEND}", INPUT)
        if name in STORED_NAMES and raw != b"null":
            raise struck(f"`{name}` names stored content, which is refused here. {_RESEND}", name)
        if name == "background" and self._rules.refuse_background and not is_off(raw):
            raise struck("`background` is refused here: such a response states its usage only later.", name)
        if raw is None:
            raise struck(f"The request member `{name}` is too long.", name)

    def _note_options(self, options: StreamOptions, end: int) -> None:
        if self._active and options.is_misspelt:
            raise struck("Write the request member `include_usage` in lower case.", "stream_options")
        if self._splices and not self.collecting:
            if self._options is not None:
                raise struck("`stream_options` is given more than once.", "stream_options")
            self._held_from = options.offset
        self._options = options
        self.client_asked_usage = options.asks
        if self._stream_stated or options.asks or not options.edits:
            self._decide_held(end)

    # The splice of a body that is relayed.

    def _follow(self, scanner: RootScanner) -> None:
        """Decide what can be decided after a piece."""
        begun = scanner.open_member
        if begun is not None and begun[0] == "stream_options":
            if scanner.offset - begun[1] > HOLD_MAX:
                raise struck("The request member `stream_options` is too long.", "stream_options")
            self._held_from = begun[1]
        elif scanner.close_offset is not None:
            if self._root_end is None:
                self._root_end = (scanner.close_offset, scanner.empty_root)
                self._at_close(scanner.close_offset)
        elif self._held_from is not None and scanner.offset - self._held_from > HOLD_MAX:
            self._decide_held(scanner.offset)

    def _decide_held(self, offset: int) -> None:
        """``stream`` is known as of this offset, or the hold ends here."""
        held, options = self._held_from, self._options
        if held is None or options is None:
            return
        self._held_from = None
        known = offset - held <= HOLD_MAX
        if self.streaming if known else options.is_object:
            self._complete(options)

    @property
    def _options_settled(self) -> bool:
        """In a body that is relayed: whether to complete the options has been decided, and it mattered."""
        options = self._options
        if not self._splices or self.collecting or options is None or self._held_from is not None:
            return False
        return bool(options.edits) and not options.asks

    def _complete(self, options: StreamOptions) -> None:
        if options.asks or not options.edits or not (self._rules.adds_option or options.refuses):
            return
        if not self.collecting:
            self._fit(options)
        self._outgoing.edits += options.edits
        self.injected = True

    def _fit(self, options: StreamOptions) -> None:
        """The edits must fit into the length that is promised already."""
        if self._rules.adds_option:
            if options.growth > SPLICE_MAX:
                raise struck("`include_usage` is given more than once.", "stream_options")
        elif self._declared is not None:
            options.edits = [(begin, end, text.ljust(end - begin)) for begin, end, text in options.edits]
            if options.growth:
                raise struck("`include_usage` is true or false.", "stream_options")

    def _at_close(self, close_offset: int) -> None:
        self._decide_held(close_offset)
        if not self._lacks_usage or self.injected:
            return
        if self._options is not None:
            raise struck("`stream` must stand before `stream_options` in a long body.", "stream_options")
        self._append_option()

    def _append_option(self) -> None:
        assert self._root_end is not None
        close_offset, empty = self._root_end
        self._outgoing.edits.append(option_appended(close_offset, empty_root=empty))
        self.injected = True

    @property
    def _lacks_usage(self) -> bool:
        """The answer is a stream that states usage only if the option is added, and it can be."""
        options = self._options
        if not self.streaming or self.client_asked_usage:
            return False
        if not self._rules.adds_option:
            return options is not None and options.refuses
        return options is None or bool(options.edits)

    def _release_limit(self) -> int:
        """The absolute offset before which bytes may leave."""
        if self.collecting:
            return 0
        limit = self._seen
        if self._declared is None or limit >= self._declared:
            limit -= 1
        return limit if self._held_from is None else min(limit, self._held_from)

    # The verdict.

    def _judge(self) -> None:
        mode = self._rules.include_usage
        if mode is _REQUIRE and self.streaming and not self.client_asked_usage:
            raise usage_required()
        self._judge_model()
        if mode is not _INJECT or not self._lacks_usage:
            return
        if self._encoded:
            raise unreadable(
                "A streamed chat completion must be sent without Content-Encoding here, or with"
                ' `"stream_options": {"include_usage": true}`.'
            )
        if self.collecting and self._options is not None:
            self._complete(self._options)
        elif self.collecting:
            self._append_option()

    def _judge_model(self) -> None:
        hook = self._rules.on_model
        rejection = None if hook is None else hook(self.requested_model)
        if rejection is not None:
            raise RequestFault(rejection)

    def _rest(self) -> bytes:
        outgoing = self._outgoing
        rest = outgoing.release(b"", self._seen)
        if self.forward_length is None or not self._splices:
            return rest
        if self.collecting:
            self.forward_length = outgoing.released
            return rest
        return rest + b" " * (self.forward_length - outgoing.released)


def _scanner_for(rules: BodyRules) -> RootScanner:
    if rules.refuse_stored_refs:
        return InputItemScanner(_STORED_KEYS, capture_max=HOLD_MAX)
    keys = _BACKGROUND_KEYS if rules.refuse_background else _KEYS
    return RootScanner(keys, capture_max=HOLD_MAX, log=True, any_case=True)
