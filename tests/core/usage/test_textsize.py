"""How much of a body is text: inline media must not count, and nothing else may pass for them."""

from __future__ import annotations

import base64
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.textsize import TAIL, TextSize, text_size
from tests.core.usage.helpers import byte_by_byte

MEDIA = base64.b64encode(bytes(range(256)) * 40)
CARRIERS = (
    b'{"image_url":{"url":"data:image/png;base64,%b"}}',
    b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":"%b"}}',
    b'{"type":"image","source":{"data" : "%b","type":"base64"}}',
    b'{"type":"input_audio","input_audio": {"data":"%b","format":"wav"}}',
    b'{"inlineData":{"mimeType":"image/png","data":"%b"}}',
    b'{"type":"input_file","filename":"a.pdf","file_data":"%b"}',
    b'{"b64_json":"%b"}',
    b'{"type":"image_generation_call","id":"ig_0aF","status":"completed","result":"%b"}',
    b'{"id":"ig_0aF","result":"%b","status":"completed"}',
)


def text_of(*pieces: bytes) -> int:
    size = TextSize()
    for piece in pieces:
        size.feed(piece)
    return size.text


def test_text_counts_in_full() -> None:
    body = b'{"messages":[{"role":"user","content":"A short question about tyres."}]}'
    assert text_of(body) == text_size(body) == len(body)


@pytest.mark.parametrize("carrier", CARRIERS)
def test_inline_media_do_not_count(carrier: bytes) -> None:
    body = b'{"content":[' + carrier % MEDIA + b"," + carrier % MEDIA + b',"what is this?"]}'
    for pieces in ([body], byte_by_byte(body)):
        assert text_of(*pieces) == len(body) - 2 * len(MEDIA)


@pytest.mark.parametrize(
    "carrier",
    [
        b'{"content":"%b"}',
        b'{"data":"%b"}',
        b'{"input":{"data":"%b"}}',
        b'{"source":"data","x":"%b"}',
        b'{"source":{"data":{"x":"%b"}}}',
        b'{"id":"msg_1","result":"%b"}',
        b'{"text":"data:text/plain,%b"}',
        b'{"text":"\\"b64_json\\":\\"%b"}',
    ],
)
def test_base64_anywhere_else_is_text(carrier: bytes) -> None:
    body = carrier % MEDIA
    assert text_of(body) == len(body)
    assert text_of(*byte_by_byte(body)) == len(body)


def test_a_prompt_joined_by_underscores_is_text() -> None:
    body = b'{"content":"' + b"_".join([b"word"] * 50_000) + b'"}'
    assert text_of(body) == len(body)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 40_000), max_size=6), st.sampled_from(CARRIERS))
def test_a_split_does_not_move_the_count(cuts: list[int], carrier: bytes) -> None:
    body = b'{"a":[' + carrier % MEDIA + b',"some text",' + carrier % b"" + b"," + carrier % MEDIA + b"]}"
    places = [0, *sorted({cut % len(body) for cut in cuts}), len(body)]
    assert text_of(*[body[a:b] for a, b in pairwise(places)]) == text_of(body)


def test_little_is_kept() -> None:
    size = TextSize()
    for _ in range(100):
        size.feed(b'{"source":{' + b" " * 1_000)
        assert len(size._tail) <= TAIL


@pytest.mark.parametrize(
    "opening",
    [
        '{"content":"data:;base64, ',
        '{"content":[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"',
    ],
)
def test_text_that_begins_like_media_is_text(opening: str) -> None:
    """Media are base64; a document of plain text is billed as text, and so is a prompt dressed as a data URI."""
    prompt = "all of this is read " * 1_000
    body = (opening + prompt + '"}').encode()
    assert text_size(body) >= len(prompt) - 8
    size = TextSize()
    for piece in byte_by_byte(body):
        size.feed(piece)
    assert size.text == text_size(body)
