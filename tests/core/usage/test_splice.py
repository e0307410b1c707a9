"""The splice: edits of one stream_options value, and bytes on their way out with edits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.splice import SPLICE_MAX, Edit, Outgoing, StreamOptions, option_appended
from tests.core.usage.helpers import split_at
from tests.core.usage.json_texts import KEYS, Members, documents


def edited(text: bytes, edits: list[Edit]) -> bytes:
    outgoing = Outgoing()
    outgoing.edits += edits
    return outgoing.release(text, len(text))


@pytest.mark.parametrize(
    ("raw", "asks", "after"),
    [
        (b"null", False, b'{"include_usage":true}'),
        (b"{}", False, b'{"include_usage":true}'),
        (b"{ \n}", False, b'{ \n"include_usage":true}'),
        (b'{"a":[1]}', False, b'{"a":[1],"include_usage":true}'),
        (b'{"include_usage":false}', False, b'{"include_usage":true}'),
        (b'{"include_usage":null,"a":1}', False, b'{"include_usage":true,"a":1}'),
        (b'{"include_usage":{"include_usage":true}}', False, b'{"include_usage":true}'),
        (rb'{"\u0069nclude_us\u0061ge" : false }', False, rb'{"\u0069nclude_us\u0061ge" : true }'),
        (b'{"a":{"include_usage":true}}', False, b'{"a":{"include_usage":true},"include_usage":true}'),
        (b'{"include_usage":true,"include_usage":false}', False, b'{"include_usage":true,"include_usage":true}'),
        (b'{"include_usage":true}', True, b'{"include_usage":true}'),
        (b'{"include_usage":1}', True, b'{"include_usage":true}'),
        (b'{"include_usage":"yes"}', True, b'{"include_usage":true}'),
        (b'{"include_usage":false,"include_usage":true}', True, b'{"include_usage":true,"include_usage":true}'),
    ],
)
def test_options_are_completed_in_place(raw: bytes, asks: bool, after: bytes) -> None:
    options = StreamOptions(raw, 100)
    assert options.asks is asks
    shifted = [(begin - 100, end - 100, text) for begin, end, text in options.edits]
    assert edited(raw, shifted) == after
    assert options.growth == len(after) - len(raw)
    assert options.is_object == (raw != b"null")


@pytest.mark.parametrize("raw", [b"1", b'"include_usage"', b"[]", b"true"])
def test_options_of_another_type_are_left_to_the_provider(raw: bytes) -> None:
    options = StreamOptions(raw, 0)
    assert (options.asks, options.edits, options.is_object) == (False, [], False)


@settings(max_examples=100, deadline=None)
@given(
    raw=documents(
        st.lists(
            st.tuples(st.sampled_from(KEYS), st.sampled_from([True, False, None, 0, 1, "on", Members()])), max_size=4
        ).map(Members)
    )
)
def test_completed_options_say_true_for_any_choice_among_duplicates(raw: bytes) -> None:
    raw = raw.strip()
    options = StreamOptions(raw, 0)
    after = edited(raw, options.edits)
    pairs: list[tuple[str, object]] = json.loads(after, object_pairs_hook=list)
    before: list[tuple[str, object]] = json.loads(raw, object_pairs_hook=list)
    assert [value for key, value in pairs if key == "include_usage"] == [True] * max(
        1, sum(key == "include_usage" for key, _ in before)
    )
    assert [pair for pair in pairs if pair[0] != "include_usage"] == [
        pair for pair in before if pair[0] != "include_usage"
    ]


def test_the_longest_splice_is_the_whole_option() -> None:
    for empty, text in ((False, b'{"a":1}'), (True, b"{}")):
        after = edited(text, [option_appended(text.index(b"}"), empty_root=empty)])
        assert len(after) - len(text) == SPLICE_MAX - empty
        assert json.loads(after)["stream_options"] == {"include_usage": True}
    assert StreamOptions(b"null", 0).growth < SPLICE_MAX
    assert StreamOptions(b'{"a":1}', 0).growth < SPLICE_MAX


@settings(max_examples=200, deadline=None)
@given(
    text=st.binary(max_size=60),
    marks=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 6), st.binary(max_size=5)), max_size=4),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    lag=st.integers(0, 20),
)
def test_outgoing_bytes_are_the_edited_text_whatever_the_pieces_and_holds(
    text: bytes, marks: list[tuple[int, int, bytes]], cuts: list[int], lag: int
) -> None:
    edits: list[Edit] = []
    for begin, size, new in sorted(marks):
        if (not edits or begin >= edits[-1][1]) and begin + size <= len(text) and begin < len(text):
            edits.append((begin, begin + size, new))
    expected, at = b"", 0
    for begin, end, new in edits:
        expected += text[at:begin] + new
        at = end
    expected += text[at:]

    outgoing = Outgoing()
    outgoing.edits += edits
    out, seen = b"", 0
    for piece in split_at(text, cuts):
        seen += len(piece)
        out += outgoing.release(piece, max(0, seen - lag))
        assert expected.startswith(out)
        assert outgoing.released == len(out)
    out += outgoing.release(b"", seen)
    assert out == expected


def test_an_edit_waits_for_its_last_byte() -> None:
    outgoing = Outgoing()
    outgoing.edits += [(1, 5, b"X")]
    assert outgoing.release(b"abcdef", 4) == b"a"
    assert outgoing.release(b"", 5) == b"X"
    assert outgoing.release(b"g", 7) == b"fg"


def test_a_piece_with_nothing_to_wait_for_is_not_copied() -> None:
    outgoing = Outgoing()
    first, second = b"x" * 100, b"y" * 100
    assert outgoing.release(first, 100) is first
    assert outgoing.release(second, 200) is second
