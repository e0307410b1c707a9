"""How much of a body is text: inline media must not count."""

from __future__ import annotations

import base64
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.textsize import MEDIA_MIN, TextSize, names_media

MEDIA = base64.b64encode(bytes(range(256)) * 40)


def text_of(*pieces: bytes) -> int:
    size = TextSize()
    for piece in pieces:
        size.feed(piece)
    return size.text


def test_text_counts_in_full() -> None:
    body = b'{"messages":[{"role":"user","content":"A short question about tyres."}]}'
    assert text_of(body) == len(body)


@pytest.mark.parametrize("prefix", [b"", b"data:image/png;base64,"])
def test_inline_media_does_not_count(prefix: bytes) -> None:
    body = b'{"url":"' + prefix + MEDIA + b'","text":"what is this?"}'
    assert text_of(body) == len(body) - len(MEDIA)


@pytest.mark.parametrize(("length", "counts"), [(MEDIA_MIN - 1, True), (MEDIA_MIN, False)])
def test_both_sides_of_the_limit(length: int, counts: bool) -> None:
    body = b'{"id":"' + b"x" * length + b'"}'
    assert text_of(body) == (len(body) if counts else len(body) - length)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 15_000), max_size=6))
def test_a_split_moves_the_count_by_no_more_than_the_head_of_a_data_uri(cuts: list[int]) -> None:
    body = b'{"a":"' + MEDIA + b'","b":"some text","c":"data:image/png;base64,' + MEDIA + b'"}'
    places = [0, *sorted({cut % len(body) for cut in cuts}), len(body)]
    pieces = [body[a:b] for a, b in pairwise(places)]
    assert abs(text_of(*pieces) - text_of(body)) <= 2 * len(b'"data:image/png;base64,')


def test_media_are_named_by_either_dialect() -> None:
    assert names_media(b'{"url":"data:image/png;base64,AAAA"}')
    assert names_media(b'{"source":{"type":"x","data":"AAAA"}}')
    assert not names_media(b'{"content":"data and base"}')
