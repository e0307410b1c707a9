"""JSON answers: short ones whole, long ones by their root, cut and broken ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.document import DOCUMENT_MAX, JSONDocument
from tests.core.usage.helpers import byte_by_byte, split_at

MEMBERS = frozenset({"usage", "model"})
USAGE = {"prompt_tokens": 3, "total_tokens": 3}


def document(pieces: list[bytes]) -> JSONDocument:
    result = JSONDocument(MEMBERS)
    for piece in pieces:
        result.feed(piece)
    result.read()
    return result


def answer(filler: int, *, tail: str = "") -> bytes:
    """A JSON answer of DOCUMENT_MAX + `filler` bytes, its usage last, decoys before."""
    head = '{"model":"m","x":{"usage":{"prompt_tokens":9}},"data":"'
    end = '","usage":' + json.dumps(USAGE) + tail + "}"
    return (head + "A" * (DOCUMENT_MAX + filler - len(head) - len(end)) + end).encode()


def test_a_short_answer_is_decoded_whole() -> None:
    read = document([answer(0)])
    assert read.size == DOCUMENT_MAX
    assert read.closed is True
    assert set(read.root) == {"model", "x", "data", "usage"}


def test_a_long_answer_gives_its_chosen_members() -> None:
    for pieces in ([answer(1)], split_at(answer(1), [5, 70_000, 150_000, DOCUMENT_MAX - 30])):
        read = document(pieces)
        assert read.closed is True
        assert read.root == {"model": "m", "usage": USAGE}


@pytest.mark.parametrize("filler", [0, 1, 50_000])
def test_short_and_long_answers_agree(filler: int) -> None:
    body = answer(filler)
    expected = json.loads(body)
    root = document([body]).root
    assert {name: root[name] for name in MEMBERS} == {name: expected[name] for name in MEMBERS}


@pytest.mark.parametrize("filler", [-1000, 1000])
def test_cut_answers_give_the_members_that_were_complete(filler: int) -> None:
    body = answer(filler, tail=',"more":"' + "x" * 30 + '"')
    whole_usage = body.rindex(b',"more"')
    read = document([body[: whole_usage + 1]])
    assert (read.closed, read.root) == (False, {"model": "m", "usage": USAGE})
    read = document([body[: whole_usage - 1]])
    assert (read.closed, read.root) == (False, {"model": "m"})


@pytest.mark.parametrize("filler", [-1000, 1000])
@pytest.mark.parametrize(
    "damage", [b'"broken utf-8 \xff",', b"tru,", b'"a\nb",', b"1 2,", b'"cut \xe4\xb8",', b'"\xed\xa0\x80",']
)
def test_broken_answers_give_nothing(filler: int, damage: bytes) -> None:
    body = answer(filler).replace(b'"model":', b'"y":' + damage + b'"model":')
    for pieces in ([body], split_at(body, [7, 9, 12, 20])):
        read = document(pieces)
        assert read.closed is False
        assert read.root == {}


@pytest.mark.parametrize("filler", [-1000, 1000])
def test_text_after_the_root(filler: int) -> None:
    assert document([answer(filler) + b" \r\n\t"]).closed is True
    assert document([answer(filler) + b" x"]).closed is False


@pytest.mark.parametrize("filler", [-1000, 1000])
def test_nan_and_long_integers_do_not_hide_usage(filler: int) -> None:
    body = answer(filler).replace(b'"model":', b'"seed":10570679248326920000,"y":[NaN,-Infinity],"model":')
    read = document([body])
    assert read.closed is True
    assert read.root["usage"] == USAGE


@pytest.mark.parametrize("body", [b"[1]", b"1", b'"x"', b"null", b"<html>", b""])
def test_a_root_that_is_no_object(body: bytes) -> None:
    read = document([body])
    assert (read.closed, read.root) == (False, {})


@pytest.mark.parametrize("filler", [-1000, 1000])
def test_statements_that_disagree(filler: int) -> None:
    assert document([answer(filler)]).states_twice("usage") is False
    twice = document([answer(filler, tail=',"us\\u0061ge":{"prompt_tokens":4}')])
    assert twice.root["usage"] == {"prompt_tokens": 4}
    assert twice.states_twice("usage") is True
    assert twice.states_twice("model") is False


def test_reading_early_does_not_spoil_reading_late() -> None:
    body = answer(1000)
    read = JSONDocument(MEMBERS)
    for piece in split_at(body, [10, 100, 1000, DOCUMENT_MAX, DOCUMENT_MAX + 900]):
        read.feed(piece)
        assert read.read() is True
        assert read.read() is False
    assert read.closed is True
    assert read.root["usage"] == USAGE


def test_memory_of_a_long_answer_is_let_go() -> None:
    read = document([answer(0)])
    assert len(read._body) == DOCUMENT_MAX
    read.feed(b" ")
    assert len(read._body) == 0
    read.read()
    assert read.root["usage"] == USAGE


def test_what_is_too_long_to_be_kept_is_true() -> None:
    body = json.dumps({"usage": {"note": "x" * 100_000}, "model": "m"}).encode()
    assert document([body]).root == {"usage": True, "model": "m"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["usage", "model", "data", "x"]), json_values), max_size=6),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 300_000), max_size=5),
)
def test_agrees_with_json_loads(
    members: list[tuple[str, object]], long: bool, ascii_only: bool, cuts: list[int]
) -> None:
    """Duplicate members, decoys and any text: the last root member wins, short or long, in any split."""
    parts = [json.dumps(name) + ":" + json.dumps(value, ensure_ascii=ascii_only) for name, value in members]
    if long:
        parts.insert(len(parts) // 2, '"pad":"' + "p" * DOCUMENT_MAX + '"')
    body = ("{" + ",".join(parts) + "}").encode("utf-8", "replace")
    expected = json.loads(body)
    read = document(split_at(body, cuts))
    assert read.closed is True
    assert {name: read.root[name] for name in MEMBERS if name in read.root} == {
        name: expected[name] for name in MEMBERS if name in expected
    }


def test_byte_by_byte() -> None:
    body = json.dumps({"model": "m", "usage": USAGE}, indent=1).encode()
    assert document(byte_by_byte(body)).root == {"model": "m", "usage": USAGE}
