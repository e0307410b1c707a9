"""The JSON grammar as expressions, against the reader of the standard library."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.grammar import (
    LENIENT,
    STRICT,
    STRING,
    VALUE,
    chosen_keys,
    elements_without,
    folded,
    skip_space,
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
SHALLOW = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def _depth(value: object) -> int:
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


@settings(deadline=None)
@given(SHALLOW.filter(lambda value: _depth(value) <= 2), st.booleans())
def test_a_shallow_value_is_one_match(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = VALUE.match(text + b",")
    assert found is not None
    assert found.end() == len(text)


@settings(deadline=None)
@given(st.text(alphabet='-+.0123456789eE"tfn', max_size=8))
def test_what_matches_whole_is_what_the_standard_reader_takes(text: str) -> None:
    try:
        json.loads(text)
        sound = not re.search(r"[NI]", text)
    except ValueError:
        sound = False
    found = VALUE.match(text.encode() + b",")
    assert (found is not None and found.end() == len(text)) is sound


@pytest.mark.parametrize("word", [b"NaN", b"Infinity", b"-Infinity"])
def test_words_that_only_the_lenient_know(word: bytes) -> None:
    assert LENIENT.whole.fullmatch(word) is not None
    assert STRICT.whole.fullmatch(word) is None


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_every_beginning_of_a_number_may_still_become_one(number: float) -> None:
    text = json.dumps(number).encode()
    for size in range(len(text)):
        assert STRICT.begun.fullmatch(text[:size]) is not None
        if size and text[:size].lstrip(b"-"):
            assert STRICT.begun.fullmatch(folded(text[:size])) is not None


def test_chosen_keys_are_found_in_every_spelling() -> None:
    keys = chosen_keys(frozenset({"usage", "model"}))
    for spelling in (b'"usage"', b'"\\u0075sage"', b'"us\\u0061ge"', b'"\\u0075\\u0073\\u0061\\u0067\\u0065"'):
        found = keys.key.fullmatch(spelling)
        assert found is not None
        assert found.lastgroup == "usage"
    assert keys.key.fullmatch(b'"usages"') is None
    assert keys.others.fullmatch(b', "other": 1, "usages": [2]') is not None
    stopped = keys.others.match(b',"other":1,"usage":2')
    assert stopped is not None
    assert stopped.end() == len(b',"other":1')


def test_only_plain_names_can_be_chosen() -> None:
    with pytest.raises(ValueError, match="plain ASCII"):
        chosen_keys(frozenset({"a b"}))


def test_elements_without_a_member_stop_at_the_one_that_has_it() -> None:
    pattern = elements_without("id")
    text = b', {"a": 1}, 5, {"id": 2}, {"b": 3}'
    found = pattern.match(text)
    assert found is not None
    assert found.end() == text.index(b', {"id"')


def test_space_is_that_of_json_alone() -> None:
    assert skip_space(b" \t\r\n\x0bx", 0, 6) == 4
    assert skip_space(b"    ", 1, 3) == 3


def test_a_string_ends_at_its_own_quote() -> None:
    assert STRING.match(b'"a\\"b" "c"') is not None
    found = STRING.match(b'"a\\"b" "c"')
    assert found is not None
    assert found[0] == b'"a\\"b"'
    assert STRING.match(b'"a\nb"') is None
