"""Heads and framings as values."""

from __future__ import annotations

import pytest

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
    ResponseHead,
    UntilClose,
)


def test_framings_are_values() -> None:
    assert Length(3) == Length(3) != Length(4)
    assert (Chunked(), UntilClose(), NoBody()) == (CHUNKED, UNTIL_CLOSE, NO_BODY)


@pytest.mark.parametrize(("value", "seconds"), [(b"timeout=5, max=9", 4.0), (b"max=9", None), (None, None)])
def test_a_response_says_how_long_its_connection_is_kept(value: bytes | None, seconds: float | None) -> None:
    fields = [(b"Keep-Alive", value)] if value is not None else []
    assert ResponseHead(200, b"OK", Headers.of(fields), NO_BODY).keep_alive == seconds


def test_notes_neither_compare_nor_show() -> None:
    headers = Headers.of([(b"Authorization", b"Bearer secret")])
    plain = RequestHead(b"GET", b"/", headers, NO_BODY)
    noted = RequestHead(b"GET", b"/", headers, NO_BODY, notes=HeadNotes(auth="secret"))
    assert plain == noted
    assert "secret" not in repr(noted)
    assert "secret" not in repr(HeadNotes(auth="secret"))
