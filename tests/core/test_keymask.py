"""The mask over a key: every spelling of it, in one piece or in many."""

from __future__ import annotations

import base64
import copy
import pickle
import traceback
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aigw_core.keymask import KEY_MIN, KeyMask, MaskedBody
from tests.core.http1.reading import cuts_in, pieces_of
from tests.core.keyspellings import KEY, KEYS, in_base64, mask_slowly, spelled

MASK = KeyMask(KEY)
ORDINARY_KEY = b"sk-proj-4fTq9ZbXw2LmVhK7cRjD0yUe"
"""As providers make them: there is a byte that all of its spellings have."""


def in_pieces(mask: KeyMask, pieces: list[bytes]) -> bytes:
    body = MaskedBody(mask)
    out = b"".join([body.feed(piece) for piece in pieces]) + body.finish()
    assert body.finish() == b""
    return out


def texts_with(key: bytes) -> st.SearchStrategy[bytes]:
    """Spellings of the key, whole and cut, between bytes that look like parts of them."""
    known = [text for _, text in (*spelled(key), *in_base64(key))] + [key.hex().encode(), key.hex().upper().encode()]
    whole = st.sampled_from(known)
    cut = st.tuples(whole, st.integers(0, 80), st.integers(0, 80)).map(lambda t: t[0][t[1] : len(t[0]) - t[2]])
    noise = st.one_of(st.sampled_from([b"\\", b"%", b"\\u00", b'","', b"\n", b"\n\n", b" "]), st.binary(max_size=4))
    own = st.lists(st.sampled_from([key[i : i + 1] for i in range(len(key))]), max_size=6).map(b"".join)
    return st.lists(st.one_of(whole, cut, noise, own), max_size=6).map(b"".join)


cases = KEYS.flatmap(lambda key: st.tuples(st.just(key), texts_with(key)))


@settings(max_examples=300, deadline=None)
@given(cases, st.booleans(), st.data())
@example((b"%25%25%25", b"%25%2525%2525%25%25"), False, None)
@example((b"\\\\\\\\\\\\\\\\", b"\\" * 23), False, None)
@example((b"aaaaaaaaa", b"a" * 8 + b"\\u0061" * 12), False, None)
def test_any_split_gives_what_looking_at_every_place_gives(
    case: tuple[bytes, bytes], errors: bool, draw: st.DataObject | None
) -> None:
    key, data = case
    mask = KeyMask(key).for_errors if errors else KeyMask(key)
    expected = mask_slowly(key, data, hexed=errors)
    assert len(expected) == len(data)
    assert mask.whole(data) == expected
    assert in_pieces(mask, [data[i : i + 1] for i in range(len(data))]) == expected
    assert in_pieces(mask, [data]) == expected
    if draw is not None:
        assert in_pieces(mask, list(pieces_of(data, draw.draw(cuts_in(len(data)))))) == expected


@pytest.mark.parametrize("before", [b"%", b"%%", b"\\", b"\\u", b"\\u0", b"\\u00", b"%\\u00", b"%%%%%%%%"])
@pytest.mark.parametrize(
    "key", [b"73abcdefgh1234", b"0073abcdefgh12", b"u0073abcdefgh1", b"373abcdefgh124", b'"/73abcdefgh12']
)
def test_a_text_before_the_key_that_makes_an_escape_of_its_beginning_does_not_hide_it(
    key: bytes, before: bytes
) -> None:
    mask = KeyMask(key)
    for escaped in range(1, len(key)):
        for escape in (b"%%%02x", b"\\u%04x"):
            rest = b"".join([escape % byte for byte in key[escaped:]])
            text = key[:escaped] + rest
            masked = mask.whole(before + text + b"\n")
            assert masked == mask_slowly(key, before + text + b"\n", hexed=False)
            assert masked.endswith(b"*" * len(text) + b"\n")
            assert mask.for_errors.whole(before + text + b"\n") == masked


@pytest.mark.parametrize("key", [KEY, ORDINARY_KEY, b"12345678"])
@pytest.mark.parametrize("end", [b"", b"\n\n"])
def test_each_spelling_is_overwritten_by_as_many_stars(key: bytes, end: bytes) -> None:
    mask = KeyMask(key)
    for name, text in spelled(key):
        data = b'data: {"a":"' + text + b'"}' + end
        masked = b'data: {"a":"' + b"*" * len(text) + b'"}' + end
        for one in (mask, mask.for_errors):
            assert not one.clears(data), name
            assert one.whole(data) == masked, name
            assert in_pieces(one, [data]) == masked, name
    for name, text in in_base64(key):
        masked = mask.whole(text)
        assert masked != text, name
        assert len(masked) == len(text)
        # What is left has bits of what stands around the key, and four of the key's on each side at most.
        left = base64.urlsafe_b64decode(masked.replace(b"*", b"A").translate(bytes.maketrans(b"+/", b"-_")))
        assert all(key[i : i + 3] not in left for i in range(1, len(key) - 3)), name


@pytest.mark.parametrize("text", [ORDINARY_KEY.hex().encode(), ORDINARY_KEY.hex().upper().encode()])
def test_hex_is_looked_for_in_errors_alone(text: bytes) -> None:
    mask = KeyMask(ORDINARY_KEY)
    for data in (text, b"%41%61\\u0041 " + text + ORDINARY_KEY):
        assert text in mask.whole(data)
        assert text in in_pieces(mask, [data[i : i + 1] for i in range(len(data))])
        assert text not in mask.for_errors.whole(data)
        assert text not in in_pieces(mask.for_errors, [data[i : i + 1] for i in range(len(data))])


def test_what_cannot_begin_a_spelling_is_not_held() -> None:
    body = MaskedBody(KeyMask(b"key-1-QX"))
    assert body.feed(b"{}") == b"{}"
    assert body.feed(b"a ke") == b"a "
    assert body.feed(b"x") == b"kex"
    assert body.feed(b"key-") == b""
    assert body.feed(b"2key-1-QXk") == b"key-2********"
    assert body.feed(b"\\u006") == b""
    assert body.feed(b"b\\u0065") == b"k"
    assert body.feed(b"z%") == b"\\u006b\\u0065z"
    assert body.feed(b"6b") == b""
    assert body.finish() == b"%6b"
    assert body.finish() == b""
    assert not MaskedBody(MASK).found


@given(texts_with(ORDINARY_KEY))
def test_an_event_that_ends_in_a_blank_line_is_never_held(data: bytes) -> None:
    """What is held at the end of a piece may begin the key, and a line feed is in no spelling."""
    for mask in (KeyMask(ORDINARY_KEY), KeyMask(ORDINARY_KEY).for_errors, MASK):
        body = MaskedBody(mask)
        held = data
        for piece in (data, b'"}\n\n', data, b"\r\n\r\n"):
            held = body.feed(piece)
        assert held.endswith(b"\r\n\r\n")
        assert body.finish() == b""


@given(texts_with(ORDINARY_KEY))
def test_what_is_said_of_a_piece_that_passes_holds(data: bytes) -> None:
    """``sign``: the rule by which a caller may leave feed() out."""
    for mask in (KeyMask(ORDINARY_KEY), MASK, KeyMask(b"12345678"), KeyMask(ORDINARY_KEY).for_errors):
        body = MaskedBody(mask)
        expected = in_pieces(mask, [data, b"!\n", data])
        out = b""
        for piece in (data, b"!\n", data):
            passes = piece[-1:] == b"\n" and not {body.sign, *b"%\\"} & set(piece)
            out += piece if passes else body.feed(piece)
        assert out + body.finish() == expected


def test_ordinary_keys_have_a_byte_in_every_spelling_and_most_events_lack_it() -> None:
    event = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":"Hi"}}]}\n\n'
    mask = KeyMask(ORDINARY_KEY)
    assert mask.sign not in event
    assert mask.sign != b"\n"[0]
    assert mask.clears(event)


def test_found_says_that_something_was_overwritten() -> None:
    body = MaskedBody(MASK)
    seen = []
    for piece in (KEY[:-1], KEY[-1:]):
        body.feed(piece)
        seen.append(body.found)
    assert seen == [False, True]
    body = MaskedBody(KeyMask(b"%25%25%2"))
    body.feed(b"%25%25%2")
    seen = [body.found]
    assert body.finish() == b"*" * 8
    assert [*seen, body.found] == [False, True]


@pytest.mark.parametrize("change", [bytes.lower, bytes.upper, bytes.swapcase, bytes.title])
def test_in_names_the_case_does_not_matter(change: Callable[[bytes], bytes]) -> None:
    for _, text in spelled(ORDINARY_KEY):
        name = b"X-" + change(text)
        mask = KeyMask(ORDINARY_KEY)
        assert not mask.clears_names([b"date", name])
        assert mask.name(name) == b"X-" + b"*" * len(text)
        assert mask.for_errors.name(name) == b"X-" + b"*" * len(text)
    assert KeyMask(ORDINARY_KEY).clears_names([b"date", b"x-ratelimit-remaining-requests", b"x" * 40])
    assert KeyMask(ORDINARY_KEY).clears_names([])


@pytest.mark.parametrize("key", [b"", b"1234567", b"sk-\nabcdefg", b"sk-\rabcdefg"])
def test_keys_that_are_not_masked(key: bytes) -> None:
    with pytest.raises(ValueError, match="a key that is masked") as caught:
        KeyMask(key)
    assert key == b"" or key.decode() not in str(caught.value)
    assert KEY_MIN == 8


def test_nothing_shows_the_key() -> None:
    mask = KeyMask(ORDINARY_KEY)
    body = MaskedBody(mask)
    body.feed(ORDINARY_KEY[:20])
    for shown in (mask, mask.for_errors, body):
        assert ORDINARY_KEY[:12].decode() not in f"{shown} {shown!r}"
    for one in (mask, mask.for_errors):
        assert "redacted" in repr(one)
        with pytest.raises(TypeError):
            pickle.dumps(one)
        with pytest.raises(TypeError):
            copy.copy(one)
    try:
        body.feed(None)  # type: ignore[arg-type]  # to see what a traceback with locals would show
    except TypeError as error:
        trace = traceback.TracebackException.from_exception(error, capture_locals=True)
        assert "data =" in "".join(trace.format())
        assert any("mask = KeyMask(<redacted>)" in line for line in trace.format())
