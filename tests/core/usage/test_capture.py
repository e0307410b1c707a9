"""Keeping the text of one value while it passes."""

from __future__ import annotations

import pytest

from aigw_core.usage.capture import Capture


def captured(pieces: list[bytes], limit: int) -> bytes | None:
    """The value of `x:` in a text that ends with it."""
    capture = Capture(limit)
    capture.begin(pieces[0].index(b":") + 1)
    for piece in pieces[:-1]:
        capture.take(piece, len(piece))
    return capture.end(pieces[-1], len(pieces[-1]))


@pytest.mark.parametrize("pieces", [[b"x:12345"], [b"x:", b"12345"], [b"x:1", b"23", b"45"], [b"x:12345", b""]])
def test_both_sides_of_the_limit_in_any_split(pieces: list[bytes]) -> None:
    assert captured(pieces, 5) == b"12345"
    assert captured(pieces, 4) is None


def test_a_later_value_begins_empty() -> None:
    capture = Capture(9)
    capture.begin(0)
    capture.take(b"12", 2)
    assert capture.end(b"3,4", 1) == b"123"
    capture.begin(2)
    assert capture.end(b"3,4", 3) == b"4"


def test_little_is_kept_of_a_long_value() -> None:
    capture = Capture(10)
    capture.begin(0)
    for _ in range(100):
        capture.take(b"x" * 1_000, 1_000)
        assert capture._part is not None
        assert len(capture._part) <= 11
