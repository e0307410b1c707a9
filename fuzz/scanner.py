"""JSON root scanner: agrees with json.loads about every document, however it is split."""

from __future__ import annotations

import json
from typing import Final

from aigw_core.usage.scanner import RootScanner
from fuzz.inputs import case_of

TOKENS: Final = (
    b'"usage":', b'"model":"m"', b'"\\u0075sage":', b"{", b"}", b"[", b"]", b",", b"null", b"true", b"-1.5e+3", b"NaN",
    b"-Infinity", b"\\ud800", b"\xef\xbb\xbf", b'{"a":[', b"]}",
)  # fmt: skip
_KEYS: Final = frozenset({"model", "usage", "stream", "stream_options"})
_SMALL_CAPTURE: Final = 6
_BOM: Final = b"\xef\xbb\xbf"
Members = list[tuple[str, object]]


def check(data: bytes) -> None:
    case = case_of(data)
    lenient = bool(case.options & 1)
    capture_max = _SMALL_CAPTURE if case.options & 2 else 65_536
    whole = _scanned([case.data], lenient, capture_max)
    assert _outcome(_scanned(case.pieces, lenient, capture_max)) == _outcome(whole), "the split changes the outcome"
    for name, (begin, end) in whole.spans.items():
        raw = case.data[begin:end]
        assert (name in whole.truncated) == (len(raw) > capture_max)
        assert whole.captured.get(name) == (None if len(raw) > capture_max else raw)
    try:
        members = _members(case.data, lenient)
    except RecursionError:
        return
    assert whole.failed == (members is None), "json.loads judges the document differently"
    if members is None:
        return
    assert whole.closed
    assert whole.close_offset == len(case.data.rstrip(b" \t\r\n")) - 1
    assert whole.empty_root == (not members)
    chosen = [(name, value) for name, value in members if name in _KEYS]
    assert whole.counts == {name: sum(name == other for other, _ in chosen) for name, _ in chosen}
    for name, value in dict(chosen).items():
        raw_value = whole.captured.get(name)
        if raw_value is not None:
            assert repr(_loaded(raw_value, lenient)) == repr(value), "another value was captured"


def _scanned(pieces: list[bytes], lenient: bool, capture_max: int) -> RootScanner:
    scanner = RootScanner(_KEYS, capture_max=capture_max, lenient=lenient, log=True)
    for piece in pieces:
        scanner.feed(piece)
    scanner.finish()
    return scanner


def _outcome(scanner: RootScanner) -> tuple[object, ...]:
    return (
        scanner.failed,
        scanner.closed,
        scanner.close_offset,
        scanner.empty_root,
        scanner.captured,
        scanner.counts,
        scanner.spans,
        scanner.truncated,
        scanner.log,
    )


class _Object(Members):
    """An object as its members in order."""


def _refuse(_: str) -> object:
    raise ValueError


def _loaded(text: bytes, lenient: bool) -> object:
    # Latin-1 gives every byte a character, so a lenient reading does not look at UTF-8.
    return json.loads(
        text.decode("latin-1") if lenient else text.decode(),
        object_pairs_hook=_Object,
        parse_int=str,  # json.loads itself refuses integers of more than 4,300 digits
        parse_constant=str if lenient else _refuse,
    )


def _members(text: bytes, lenient: bool) -> Members | None:
    try:
        root = _loaded(text.removeprefix(_BOM) if lenient else text, lenient)
    except ValueError:
        return None
    return root if isinstance(root, _Object) else None
