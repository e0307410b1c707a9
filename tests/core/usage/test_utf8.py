"""UTF-8 that comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.usage.utf8 import Utf8Check
from tests.core.usage.helpers import byte_by_byte, split_at


def valid(pieces: list[bytes]) -> int:
    """Bytes before the first piece with a broken character, and its own up to that."""
    check, size = Utf8Check(), 0
    for piece in pieces:
        good = check.valid(piece)
        size += good
        if good < len(piece):
            break
    return size


@given(text=st.text(), cuts=st.lists(st.integers(0, 200), max_size=5))
def test_text_is_valid_in_any_split(text: str, cuts: list[int]) -> None:
    data = text.encode("utf-8", "replace")
    assert valid(split_at(data, cuts)) == valid(byte_by_byte(data)) == len(data)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc3(", b"\x80"])
def test_what_is_broken_stops_there(bad: bytes) -> None:
    text = b"ab\xc3\xa4" + bad + b"cd"
    assert valid([text]) == 4
    assert valid([text[:3], text[3:]]) == 4
    assert valid(byte_by_byte(text)) < len(text)
