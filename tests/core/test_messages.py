"""Heads and framings as values."""

from __future__ import annotations

from aigw_core.headers import Headers
from aigw_core.messages import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    Chunked,
    HeadNotes,
    Length,
    NoBody,
    RequestHead,
    UntilClose,
)


def test_framings_are_values() -> None:
    assert Length(3) == Length(3) != Length(4)
    assert (Chunked(), UntilClose(), NoBody()) == (CHUNKED, UNTIL_CLOSE, NO_BODY)


def test_notes_neither_compare_nor_show() -> None:
    headers = Headers.of([(b"Authorization", b"Bearer secret")])
    plain = RequestHead(b"GET", b"/", headers, NO_BODY)
    noted = RequestHead(b"GET", b"/", headers, NO_BODY, notes=HeadNotes(auth="secret"))
    assert plain == noted
    assert "secret" not in repr(noted)
    assert "secret" not in repr(HeadNotes(auth="secret"))
