"""The usual request body: a short JSON object that came in one piece, with nothing in it that needs a closer look."""

from __future__ import annotations

import json
from typing import Final

from aigw_core.usage.items import INPUT
from aigw_core.usage.jsontext import scan_with
from aigw_core.usage.rules import BodyRules, IncludeUsage, RequestFault, is_true, struck
from aigw_core.usage.splice import option_appended
from aigw_core.usage.textsize import text_size

WHOLE_MAX: Final = 65_536
"""Bytes decoded at once."""
STORED_NAMES: Final = frozenset({"previous_response_id", "conversation"})
"""Members of a Responses request that name stored content."""
_JUDGED_NAMES: Final = STORED_NAMES | {INPUT}
_INJECT: Final = IncludeUsage.INJECT
_REQUIRE: Final = IncludeUsage.REQUIRE
_ASKS: Final[object] = {"include_usage": True}


def _refuse_constant(_: str) -> object:
    raise ValueError("NaN and Infinity are not JSON")


_scan: Final = scan_with(json.JSONDecoder(parse_constant=_refuse_constant))


class WholeBody:
    """One managed request body on its way to the provider, read by :func:`read_whole_body`; as ``RequestBody``."""

    __slots__ = (
        "_data",
        "_is_empty_root",
        "_rules",
        "client_asked_usage",
        "collecting",
        "forward_length",
        "injected",
        "requested_model",
        "streaming",
    )

    def __init__(self, rules: BodyRules, data: bytes, root: dict[str, object]) -> None:
        model = root.get("model")
        self.requested_model: str | None = model if isinstance(model, str) else None
        stream = root.get("stream")
        self.streaming = stream is not None and is_true(stream)
        self.client_asked_usage = "stream_options" in root
        self.injected = False
        self.collecting = rules.active
        self.forward_length = len(data)
        self._rules = rules
        self._data = data
        self._is_empty_root = not root

    @property
    def text_bytes_hint(self) -> int:
        return text_size(self._data)

    def feed(self, data: bytes) -> bytes:
        """The body that was read, which is relayed now unless it is collected."""
        return b"" if self.collecting else data

    def end(self) -> bytes:
        """The verdict; returns what is relayed of a collected body. Raises RequestFault."""
        rules, data = self._rules, self._data
        if not self.collecting:
            return b""
        mode = rules.include_usage
        lacks_usage = self.streaming and not self.client_asked_usage
        if lacks_usage and mode is _REQUIRE:
            raise usage_required()
        if rules.on_model is not None:
            rejection = rules.on_model(self.requested_model)
            if rejection is not None:
                raise RequestFault(rejection)
        if lacks_usage and mode is _INJECT and rules.adds_option:
            at, _, option = option_appended(len(data) - 1, empty_root=self._is_empty_root)
            data = data[:at] + option + data[at:]
            self.injected = True
            self.forward_length = len(data)
        return data


def read_whole_body(rules: BodyRules, data: bytes) -> WholeBody | None:
    """Read a body with the decoder written in C; None: it has to be scanned.

    For a body that is not encoded and whose Content-Type is no fault.
    """
    if len(data) > WHOLE_MAX or len(data) > rules.max_bytes:
        return None
    try:
        text = data.decode()
        root, end = _scan(text, 0)
    except (StopIteration, ValueError, RecursionError):
        return None  # the scanner has wider limits, and tells what is wrong
    if end != len(text) or type(root) is not dict:
        return None  # blanks around the root are left to the scanner: no SDK sends them
    if rules.active:
        names = "".join(root)
        # In another case it could be one that a rule reads; no SDK sends that.
        if not (names.isascii() and names.islower()):
            return None
    if rules.refuse_background and "background" in root:
        return None
    if rules.refuse_stored_refs and not _JUDGED_NAMES.isdisjoint(root):
        return None
    if "stream_options" in root and not _asks_plainly(root["stream_options"], text):
        return None
    return WholeBody(rules, data, root)


def _asks_plainly(options: object, text: str) -> bool:
    """Whether these options ask for usage and nothing else, once: of two the decoder keeps the last."""
    if not isinstance(options, dict) or options != _ASKS or next(iter(options.values())) is not True:
        return False
    return not ("\\u" in text or text.count("include_usage") > 1 or text.count("stream_options") > 1)


def usage_required() -> RequestFault:
    """What ``require`` says of a stream that would not state its usage."""
    return struck('Streamed chat completions need `"stream_options": {"include_usage": true}` here.', "stream_options")
