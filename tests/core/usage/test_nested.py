"""Members one object below the root: the scanner against a model over decoded documents."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.nested import NestedScanner
from aigw_core.usage.scanner import REPEATS_MAX
from tests.core.usage.helpers import byte_by_byte, split_at
from tests.core.usage.json_texts import Members, documents, values

KEYS = frozenset({"type", "usage"})
NESTED = {"response": frozenset({"usage", "model"})}

names = st.sampled_from(["type", "usage", "response", "model", "x"])
objects = st.lists(st.tuples(names, values), max_size=4).map(Members)
roots = st.lists(st.tuples(names, objects | values), max_size=4).map(Members)


def scan(pieces: list[bytes], *, capture_max: int = 65_536) -> NestedScanner:
    scanner = NestedScanner(KEYS, NESTED, capture_max=capture_max, lenient=True)
    for piece in pieces:
        scanner.feed(piece)
    scanner.finish()
    return scanner


def model(text: bytes) -> tuple[dict[str, object], dict[str, int]]:
    """What is captured and counted, read literally."""
    root = json.loads(text, object_pairs_hook=Members)
    captured: dict[str, object] = {}
    counts: dict[str, int] = {}
    for name, value in root:
        if name == "response" and isinstance(value, Members):
            captured[name] = Members({key: (key, inner) for key, inner in value if key in NESTED[name]}.values())
            for key, _ in value:
                if key in NESTED[name]:
                    counts[f"response.{key}"] = counts.get(f"response.{key}", 0) + 1
        elif name in KEYS or name in NESTED:
            captured[name] = value
        else:
            continue
        counts[name] = counts.get(name, 0) + 1
    return captured, counts


@settings(max_examples=80, deadline=None)
@given(documents(roots), st.lists(st.integers(0, 10_000), max_size=6))
def test_agrees_with_a_decoded_document(text: bytes, cuts: list[int]) -> None:
    captured, counts = model(text)
    for pieces in ([text], split_at(text, cuts), byte_by_byte(text)):
        scanner = scan(pieces)
        assert not scanner.failed
        assert {name: json.loads(raw, object_pairs_hook=Members) for name, raw in scanner.captured.items()} == captured
        assert scanner.counts == counts


def test_a_value_that_is_no_object_is_kept_as_it_is() -> None:
    for value in (b"null", b"[1]", b'"text"', b"7"):
        assert scan([b'{"response":' + value + b"}"]).captured == {"response": value}


def test_the_last_object_counts_and_so_does_each_repetition() -> None:
    scanner = scan([b'{"response":{"usage":1,"usage":2,"model":"a"},"response":{"usage":3}}'])
    assert scanner.captured == {"response": b'{"usage":3}'}
    assert scanner.counts == {"response": 2, "response.usage": 3, "response.model": 1}


def test_an_object_that_is_not_closed_says_nothing() -> None:
    scanner = NestedScanner(KEYS, NESTED, lenient=True)
    scanner.feed(b'{"type":"t","response":{"usage":1,')
    assert scanner.captured == {"type": b'"t"'}


def test_what_is_too_long_is_left_out_inside_and_named_outside() -> None:
    scanner = scan([b'{"usage":"123456789","response":{"usage":"123456789","model":"m"}}'], capture_max=8)
    assert scanner.captured == {"response": b'{"model":"m"}'}
    assert scanner.truncated == {"usage"}


@pytest.mark.parametrize("text", [b'{"response":{"usage":1]}', b'{"response":{"usage" 1}}', b'{"response":{,}}'])
def test_what_is_broken_inside_is_broken(text: bytes) -> None:
    assert scan([text]).failed
    assert scan(byte_by_byte(text)).failed


def test_repetitions_are_bounded() -> None:
    members = b",".join([b'"usage":1'] * (REPEATS_MAX + 1))
    assert scan([b'{"response":{' + members + b"}}"]).failed
