"""What a key looks like in an answer: what base64 has of it, and the expression for every spelling."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.spellings import (
    HEX_GROUP,
    UNFINISHED_ESCAPE,
    alphabet_of,
    base64_of,
    escape_marks,
    expression_of,
    longest_of,
)
from tests.core.keyspellings import KEY, KEYS, in_base64, spelled

STOP = b"\n"
FIND = re.compile(expression_of(KEY)).search


@given(KEYS, st.binary(max_size=7), st.binary(max_size=4))
def test_base64_of_a_key_stands_in_that_of_any_text_around_it(key: bytes, before: bytes, after: bytes) -> None:
    whole = base64.b64encode(before + key + after)
    assert any(text in whole for text in base64_of(key))


def test_base64_has_all_that_the_key_alone_decides() -> None:
    # Sixteen characters; where the key begins in the middle of a group, those at both ends have other bits, too.
    assert base64_of(b"sk-key-12345") == (b"c2sta2V5LTEyMzQ1", b"NrLWtleS0xMjM0N", b"zay1rZXktMTIzND")


def test_base64_that_is_all_odd_characters_is_not_looked_for() -> None:
    assert base64_of(b"\xff" * 9) == ()


@pytest.mark.parametrize("name", dict(spelled(KEY)))
def test_a_spelling_is_found_whole(name: str) -> None:
    text = dict(spelled(KEY))[name]
    found = FIND(b'x"' + text + b'"y' + STOP)
    assert found is not None
    assert found.span() == (2, 2 + len(text))
    assert found.lastindex is not None
    assert found.lastgroup is None
    assert len(text) <= longest_of(KEY)
    assert set(text) <= set(alphabet_of(KEY))


@pytest.mark.parametrize("text", [KEY.hex().encode(), KEY.hex().upper().encode()])
def test_hex_is_found_and_named(text: bytes) -> None:
    found = FIND(b" " + text + STOP)
    assert found is not None
    assert found.span() == (1, 1 + len(text))
    assert found.lastgroup == HEX_GROUP


@pytest.mark.parametrize("name", dict(in_base64(KEY)))
def test_base64_is_found_in_both_alphabets(name: str) -> None:
    text = dict(in_base64(KEY))[name]
    found = FIND(text + STOP)
    assert found is not None
    assert found.lastindex is not None
    assert found.end() - found.start() in {len(part) for part in base64_of(KEY)}
    assert set(found[0]) <= set(alphabet_of(KEY))


@pytest.mark.parametrize("name", dict(spelled(KEY)))
def test_whatever_begins_a_spelling_is_found_as_unfinished(name: str) -> None:
    text = dict(spelled(KEY))[name]
    for size in range(1, len(text)):
        data = b'x"' + text[:size]
        escape = UNFINISHED_ESCAPE.search(data)
        end = len(data) if escape is None else escape.start()
        found = FIND(data, 0, end)
        assert (found.start() if found is not None else end) == 2
        assert found is None or found.lastindex is None


@pytest.mark.parametrize(
    "data", [b"a" + KEY[:-1] + b"!", KEY[1:], b"%7", KEY[:5] + b"%4" + KEY[6:], KEY[:3] + b"\\u0150" + KEY[4:]]
)
def test_what_is_no_spelling_is_not_found(data: bytes) -> None:
    assert FIND(data + STOP) is None


@given(KEYS)
def test_every_escape_has_its_mark(key: bytes) -> None:
    in_json, in_percent = (re.compile(mark).search for mark in escape_marks(key))
    for byte in key:
        assert in_json(b"\\u%04x" % byte)
        assert in_json(b"\\u00%02X" % byte)
        assert in_percent(b"%%%02x" % byte)
        assert in_percent(b"%%%02X" % byte)
    assert in_json(b"\\u0001 \\n \\u00e9") is None
    assert in_percent(b"50 % of %0A %20") is None


def test_bytes_beyond_ascii_have_no_escape_of_their_own_in_json() -> None:
    in_json, in_percent = (re.compile(mark).search for mark in escape_marks(b"\xc3\xa9" * 4))
    assert in_json(b"\\u00c3\\u00a9") is None
    assert in_percent(b"%C3%a9")
    assert re.compile(expression_of(b"\xc3\xa9" * 4)).search(b"%C3%a9" * 4 + STOP)
