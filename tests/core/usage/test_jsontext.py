"""Decoding of JSON texts, and what makes a value storable."""

from __future__ import annotations

import json
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.jsontext import DEPTH_MAX, decode_json, has_conflicting_members, storable

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
blanks = st.text(" \t\r\n", max_size=3)


@settings(max_examples=100, deadline=None)
@given(values, blanks, blanks, st.booleans())
def test_reads_what_json_loads_reads(value: object, before: str, after: str, ascii_only: bool) -> None:
    text = before + json.dumps(value, ensure_ascii=ascii_only) + after
    data = text.encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(data)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            decode_json(data)
    else:
        assert decode_json(data) == expected == value


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30) | st.text('{}[]",:0123456789.eE+-tfnulrasNI\\ \n', max_size=30).map(str.encode))
def test_anything_else_is_a_value_error(data: bytes) -> None:
    try:
        value = decode_json(data)
    except ValueError:
        return
    assert repr(value) == repr(json.loads(data.decode()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  ",
        b"{} {}",
        b"{}x",
        b'{"a":1',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"a\nb"',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 5_000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_json(data)


def test_accepted_at_the_edges() -> None:
    assert decode_json(b'{"a":1,"a":2}') == {"a": 2}
    assert decode_json(b"10570679248326920000") == 10570679248326920000
    assert decode_json(b"1" * 4_000) == int("1" * 4_000)
    assert decode_json(b'"\\ud800"') == "\ud800"
    assert decode_json(b"[" * 200 + b"]" * 200) is not None
    assert decode_json(b"-1e999") == -math.inf
    assert repr(decode_json(b"[NaN,Infinity]")) == "[nan, inf]"


@pytest.mark.parametrize(
    ("data", "conflict"),
    [
        (b'{"usage":{"a":1},"usage":{"a":2}}', True),
        (b'{"usage":{"a":1},"usage":{"a":1}}', False),
        (b'{"usage":null,"usage":{"a":1}}', True),
        (b'{"usage":1,"us\\u0061ge":2}', True),
        (b'{"usage":1,"x":{"usage":2}}', False),
        (b'{"x":{"usage":1,"usage":2}}', True),
        (b'{"x":[{"usage":1},{"usage":2}]}', False),
        (b"[" * 100_000, False),
        (b"{", False),
    ],
)
def test_conflicting_members(data: bytes, conflict: bool) -> None:
    assert has_conflicting_members(data, "usage") is conflict


def nested(levels: int) -> dict[str, object]:
    inner: object = 1
    for _ in range(levels - 1):
        inner = [inner]
    return {"a": inner}


def test_what_encodes_is_given_back_itself() -> None:
    usage: dict[str, object] = {"a": 2**80, "b": [1.5, None, True, "\ud800"], "c": {"d": -3}}
    assert storable(usage) is usage
    deep = nested(DEPTH_MAX)
    assert storable(deep) is deep


def test_what_does_not_encode_is_replaced_and_nothing_else() -> None:
    largest = sys.float_info.max
    odd: dict[str, object] = {"a": math.inf, "b": [-math.inf, {"c": math.nan}], "d": 1}
    assert storable(odd) == {"a": largest, "b": [-largest, {"c": None}], "d": 1}
    assert odd["a"] == math.inf
    kept = storable(nested(DEPTH_MAX + 1))
    assert kept != nested(DEPTH_MAX + 1)
    assert json.dumps(kept).count("[") == DEPTH_MAX - 1
    assert "null" in json.dumps(kept)
    assert storable({"a": {"b": math.inf}, "c": nested(900)["a"]})["a"] == {"b": largest}


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), values | st.floats(), max_size=4))
def test_storable_objects_survive_a_strict_encoder(value: dict[str, object]) -> None:
    kept = storable(value)
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
