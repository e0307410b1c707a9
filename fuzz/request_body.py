"""Request body: a refused one never passes whole, an accepted one has the promised length, in any split."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from typing import Final

from aigw_core.usage import request as request_module
from aigw_core.usage.request import BodyRules, IncludeUsage, RequestBody, RequestFault
from aigw_core.usage.rules import is_true
from aigw_core.usage.splice import SPLICE_MAX
from fuzz.inputs import Case, case_of, limits, split

TOKENS: Final = (
    b'"stream":true', b'"stream":false', b'"stream_options":{"include_usage":true}', b'"stream_options":{}',
    b'"stream_options":null', b'"include_usage":false', b'"model":"m"', b'"background":true',
    b'"previous_response_id":"r"', b'"input":[{"type":"item_reference","id":"x"}]', b'"\\u0073tream":true', b",",
    b"{", b"}", b"NaN", b'"on"', b"1.0",
)  # fmt: skip
_MAX_BYTES: Final = 1_048_576
_FREE: Final = BodyRules(
    None, refuse_background=False, refuse_stored_refs=False, on_model=None, max_bytes=_MAX_BYTES, collect_max=_MAX_BYTES
)
_RULES: Final = (
    replace(_FREE, include_usage=IncludeUsage.INJECT),
    replace(_FREE, include_usage=IncludeUsage.REQUIRE),
    replace(_FREE, refuse_background=True, refuse_stored_refs=True),
    _FREE,
)
_SMALL_HOLD: Final = 64


def check(data: bytes) -> None:
    """Option bits: 0-1 rules, 2 relayed, 3 chunked, 4 gzip, 5 at most 100 bytes, 6 small hold."""
    case = case_of(data)
    if case.options & 64:
        with limits((request_module, "HOLD_MAX", _SMALL_HOLD)):
            _check(case)
    else:
        _check(case)


class _Sent:
    """One body through a RequestBody."""

    def __init__(self, case: Case, rules: BodyRules, pieces: list[bytes]) -> None:
        self.given = b"".join(pieces)
        self.chunked = bool(case.options & 8)
        self.encoded = bool(case.options & 16)
        self.body = RequestBody(
            rules,
            declared_length=None if self.chunked else len(self.given),
            chunked=self.chunked,
            content_type=b"application/json",
            content_encoding=b"gzip" if self.encoded else b"",
        )
        self.promised = self.body.forward_length
        self.out = b""
        self.fault: RequestFault | None = None
        collecting = self.body.collecting
        try:
            for piece in pieces:
                self.out += self.body.feed(piece)
                assert not (collecting and self.out), "a collected body left before its verdict"
            self.out += self.body.end()
        except RequestFault as fault:
            self.fault = fault
            assert not (collecting and self.out)
            return
        assert self.body.forward_length == (None if self.chunked else len(self.out)), "not the promised length"
        assert collecting or self.body.forward_length == self.promised

    @property
    def outcome(self) -> tuple[object, ...]:
        body = self.body
        if self.fault is not None:
            if self.encoded:
                # How much is decoded at a time decides which of two faults is met first.
                return (self.fault.status,)
            return (self.fault.status, self.fault.message, self.fault.param)
        return (
            self.out,
            body.forward_length,
            body.requested_model,
            body.streaming,
            body.client_asked_usage,
            body.injected,
        )


def _check(case: Case) -> None:
    rules = _RULES[case.options & 3]
    if case.options & 4:
        rules = replace(rules, collect_max=0)
    if case.options & 32:
        rules = replace(rules, max_bytes=100)
    body, pieces = case.data, case.pieces
    if case.options & 16:
        body = gzip.compress(body, mtime=0)
        pieces = split(body, len(case.data) % 256)
    whole = _Sent(case, rules, [body] if body else [])
    sent = _Sent(case, rules, pieces)
    for one in (whole, sent):
        _passes_rightly(case, rules, one)
    assert sent.outcome == whole.outcome, "the split changes the outcome"


def _passes_rightly(case: Case, rules: BodyRules, sent: _Sent) -> None:
    if sent.fault is not None:
        if sent.body.injected:
            limit = len(sent.given) + SPLICE_MAX if sent.promised is None else sent.promised
            assert len(sent.out) < limit, "a refused body passed whole"
        else:
            assert not sent.given or len(sent.out) < len(sent.given), "a refused body passed whole"
            assert sent.given.startswith(sent.out), "a refused body was altered"
        return
    if not sent.body.injected:
        assert sent.out.startswith(sent.given), "bytes were altered"
        assert not sent.out[len(sent.given) :].strip(b" "), "bytes were added"
    if not rules.active or not sent.given:
        return
    try:
        root = _root(case.data)
    except RecursionError:
        return
    assert sent.body.streaming == is_true(root.get("stream")), "another reading of `stream`"
    model = root.get("model")
    assert sent.body.requested_model == (model if isinstance(model, str) else None)
    if rules.refuse_background:
        assert root.get("background") in (None, False), "`background` passed"
        assert root.get("previous_response_id") is None, "stored content passed"
    if sent.body.injected:
        options = root.get("stream_options") or {}
        assert isinstance(options, dict)
        expected = root | {"stream_options": options | {"include_usage": True}}
        assert repr(sorted(_root(sent.out).items())) == repr(sorted(expected.items())), "the splice broke the body"
    elif rules.include_usage is not None and sent.body.streaming and "stream_options" not in root:
        raise AssertionError("a stream without usage passed")


def _refuse(_: str) -> object:
    raise ValueError("no JSON number")


def _root(data: bytes) -> dict[str, object]:
    """The root object. Raises AssertionError where the standard library reads no JSON object in UTF-8."""
    try:
        root = json.loads(data.decode(), parse_constant=_refuse, parse_int=_number)
    except ValueError as error:
        raise AssertionError("what is not JSON passed") from error
    assert isinstance(root, dict), "what is not an object passed"
    return root


def _number(digits: str) -> object:
    # json.loads itself refuses integers of more than 4,300 digits.
    return int(digits) if len(digits) < 4_000 else digits
