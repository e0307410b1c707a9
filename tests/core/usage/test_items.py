"""Stored items in `input`: the scanner against a model over decoded documents."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.items import STORED_ITEM, InputItemScanner
from tests.core.usage.helpers import byte_by_byte, split_at
from tests.core.usage.json_texts import Members, documents, loaded, values

KEYS = frozenset({"model"})

item_values: st.SearchStrategy[object] = st.sampled_from(
    [None, "item_reference", "message", "reasoning", "image_generation_call", "x", 1, []]
)
items = st.lists(
    st.sampled_from(["id", "id", "type", "type", "role", "content", "encrypted_content", "result", "a"]).flatmap(
        lambda key: st.tuples(st.just(key), item_values | values)
    ),
    max_size=4,
).map(lambda members: Members({(key, repr(value)): (key, value) for key, value in members}.values()))
inputs = st.lists(items | values, max_size=4) | items | st.just("text")
roots = st.lists(
    st.one_of(
        st.tuples(st.just("input"), inputs),
        st.tuples(st.just("model"), st.just("m")),
        st.tuples(st.just("x"), inputs),
    ),
    max_size=4,
).map(Members)


def is_stored(item: Members) -> bool:
    stated = {key: value for key, value in item if value is not None}
    watched = [key for key, _ in item if key in ("id", "type", "role", "content", "encrypted_content", "result")]
    if "id" in watched and len(set(watched)) < len(watched):
        return True
    if "id" not in stated:
        return False
    kind = stated.get("type")
    if not isinstance(kind, str):
        return "role" not in stated or "content" not in stated
    if kind == "reasoning":
        return "encrypted_content" not in stated and "content" not in stated
    return kind == "item_reference" or (kind == "image_generation_call" and "result" not in stated)


def has_stored(root: Members) -> bool:
    for key, value in root:
        if key == "input" and (
            isinstance(value, Members)
            or (isinstance(value, list) and any(isinstance(item, Members) and is_stored(item) for item in value))
        ):
            return True
    return False


def scanned(pieces: list[bytes]) -> InputItemScanner:
    scanner = InputItemScanner(KEYS)
    for piece in pieces:
        scanner.feed(piece)
    scanner.finish()
    return scanner


def found(scanner: InputItemScanner) -> bool:
    assert scanner.log is not None
    return any(name == STORED_ITEM for name, *_ in scanner.log)


def decoded(text: bytes) -> Members:
    """The document with its members in order, repeated ones included."""
    root = json.loads(text, object_pairs_hook=Members)
    assert isinstance(root, Members)
    return root


@settings(max_examples=200, deadline=None)
@given(text=documents(roots), cuts=st.lists(st.integers(0, 1_000), max_size=5))
def test_stored_items_are_found_as_in_the_decoded_document(text: bytes, cuts: list[int]) -> None:
    for pieces in ([text], split_at(text, cuts), byte_by_byte(text)):
        scanner = scanned(pieces)
        assert not scanner.failed
        assert found(scanner) == has_stored(decoded(text))
        assert ("model" in scanner.captured) == any(key == "model" for key, _ in decoded(text))


@settings(max_examples=150, deadline=None)
@given(
    text=documents(roots),
    at=st.integers(0, 1_000),
    junk=st.sampled_from([b"", b"]", b"}", b"{", b"[", b",", b'"', b":", b"1"]),
    drop=st.integers(0, 2),
)
def test_it_is_as_strict_as_the_root_scanner(text: bytes, at: int, junk: bytes, drop: int) -> None:
    at %= len(text)
    text = text[:at] + junk + text[at + drop :]
    readable = loaded(text) is not None
    for pieces in ([text], byte_by_byte(text)):
        scanner = scanned(pieces)
        assert scanner.failed == (not readable)
        if readable:
            assert found(scanner) == has_stored(decoded(text))


_MEMBERS = [
    *(
        b'"id":1',
        b'"id":null',
        b'"ID":"x"',
        b'"\\u0069d":"y"',
        b'"id":1',
        b'"Type":1',
        b'"re\xc5\xbfult":1',
        b'"type":"item_reference"',
    ),
    *(
        b'"type":"message"',
        b'"type":"reasoning"',
        b'"type":2',
        b'"role":"user"',
        b'"content":[[[[{"id":1}]]]]',
        b'"content":1',
    ),
    *(b'"a":1', b'"a":{"ID":1}', b'"result":null', b'"result":"]},{"'),
]
_spelt_items = st.lists(st.sampled_from(_MEMBERS), max_size=4).map(lambda members: b"{" + b",".join(members) + b"}")
_elements = _spelt_items | st.sampled_from([b"1", b"[[[[[1]]]]]", b"{}", b'" ,{"', b" [ ] ", b'{"type":"message"}'])


@settings(max_examples=200, deadline=None)
@given(
    elements=st.lists(_elements, max_size=30),
    harmless=st.integers(0, 40),
    junk=st.sampled_from([b"", b"", b"]", b"}", b"x", b",", b'"', b"[" * 130]),
    cuts=st.lists(st.integers(0, 2_000), max_size=4),
)
def test_items_are_judged_alike_one_by_one_and_many_at_once(
    elements: list[bytes], harmless: int, junk: bytes, cuts: list[int]
) -> None:
    """Items whose members differ in case alone included: they matter beside an id, however the body is split."""
    filler = [b'{"id":"x","type":"message","content":[[[[]]]]}'] * harmless
    text = b'{"input":[%b],"model":"m"}' % (b",".join([*filler, *elements, *filler]) + junk)
    outcomes = []
    for pieces in (byte_by_byte(text), [text], split_at(text, cuts)):
        scanner = scanned(pieces)
        outcomes.append((scanner.failed, scanner.failed or found(scanner), scanner.failed or scanner.misspelt is None))
    assert outcomes[1:] == outcomes[:1] * 2
