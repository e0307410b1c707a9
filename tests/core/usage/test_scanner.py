"""The root scanner against the standard library's decoder, and case by case."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.usage.scanner import DEPTH_MAX, REPEATS_MAX, SLICE, RootScanner
from tests.core.usage.helpers import byte_by_byte, split_at
from tests.core.usage.json_texts import broken_documents, documents, loaded

KEYS = frozenset({"model", "stream", "usage"})


def scanned(pieces: bytes | list[bytes], *, capture_max: int = 65_536, lenient: bool = False) -> RootScanner:
    scanner = RootScanner(KEYS, capture_max=capture_max, lenient=lenient, log=True)
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        scanner.feed(piece)
    scanner.finish()
    return scanner


def outcome(scanner: RootScanner) -> tuple[object, ...]:
    return (
        scanner.captured,
        scanner.counts,
        scanner.spans,
        scanner.truncated,
        scanner.closed,
        scanner.close_offset,
        scanner.empty_root,
        scanner.failed,
        scanner.log,
    )


@settings(max_examples=300, deadline=None)
@given(text=documents() | broken_documents())
def test_it_reads_what_the_standard_library_reads(text: bytes) -> None:
    expected = loaded(text)
    scanner = scanned(text)
    assert scanner.failed == (expected is None)
    assert scanner.closed == (expected is not None)
    if expected is None:
        return
    chosen = {name: json.loads(raw) for name, raw in scanner.captured.items()}
    assert chosen == {name: expected[name] for name in KEYS if name in expected}
    for name, (begin, end) in scanner.spans.items():
        assert text[begin:end] == scanner.captured[name]
    assert scanner.close_offset is not None
    assert text[scanner.close_offset :].strip() == b"}"
    assert scanner.empty_root == (not expected)


@settings(max_examples=200, deadline=None)
@given(text=documents() | broken_documents(), cuts=st.lists(st.integers(0, 10_000), max_size=6))
def test_any_split_gives_the_same_outcome(text: bytes, cuts: list[int]) -> None:
    whole = outcome(scanned(text))
    assert outcome(scanned(split_at(text, cuts))) == whole
    assert outcome(scanned(byte_by_byte(text))) == whole


@settings(max_examples=100, deadline=None)
@given(text=documents(), capture_max=st.integers(0, 12), cuts=st.lists(st.integers(0, 10_000), max_size=4))
def test_a_value_over_the_capture_limit_is_named_and_not_kept(text: bytes, capture_max: int, cuts: list[int]) -> None:
    full = scanned(text)
    for pieces in ([text], split_at(text, cuts), byte_by_byte(text)):
        small = scanned(pieces, capture_max=capture_max)
        fitting = {name: raw for name, raw in full.captured.items() if len(raw) <= capture_max}
        assert small.captured == fitting
        assert small.truncated == full.captured.keys() - fitting.keys()
        assert small.spans == full.spans


@settings(max_examples=50, deadline=None)
@given(text=documents())
def test_no_proper_beginning_of_a_document_is_closed(text: bytes) -> None:
    close = scanned(text).close_offset
    assert close is not None
    scanner = RootScanner(KEYS)
    for at, byte in enumerate(byte_by_byte(text)):
        scanner.feed(byte)
        assert scanner.closed == (at >= close)


def test_both_sides_of_the_capture_limit() -> None:
    text = b'{"model":"12345678"}'
    assert scanned(text, capture_max=10).captured == {"model": b'"12345678"'}
    assert scanned(text, capture_max=9).truncated == {"model"}


def test_a_truncated_occurrence_yields_to_a_short_last_one() -> None:
    text = b'{"model":"123456","model":1,"usage":1,"usage":"123456"}'
    scanner = scanned(text, capture_max=5)
    assert (scanner.captured, scanner.truncated) == ({"model": b"1"}, {"usage"})
    assert scanner.counts == {"model": 2, "usage": 2}


def test_escaped_keys_are_the_same_keys() -> None:
    scanner = scanned(rb'{"us\u0061ge":1,"\u006D\u006fdel":"m","\u0073tream":true,"us\u0041ge":2}')
    assert scanner.captured == {"usage": b"1", "model": b'"m"', "stream": b"true"}


def test_the_last_of_duplicate_members_wins_whatever_its_spelling() -> None:
    text = rb'{"usage":{"a":1},"us\u0061ge":{"a":2},"x":{"usage":3}}'
    scanner = scanned(text)
    assert scanner.captured == {"usage": b'{"a":2}'}
    assert scanner.counts == {"usage": 2}
    assert scanner.log == [("usage", b'{"a":1}', 9, 16), ("usage", b'{"a":2}', 30, 37)]


def test_decoys_in_strings_and_nested_values_are_skipped() -> None:
    text = rb'{"a":"\",\"usage\":1","b":[{"usage":2},"usage"],"c":{"usage":{"usage":3}},"x\"usage":4}'
    assert scanned(text).captured == {}
    assert not scanned(text).failed


@pytest.mark.parametrize("pieces", [1, 7, 1_000])
def test_usage_after_megabytes_of_string(pieces: int) -> None:
    filler = b"iVBORw0KGgo/+" * 100_000
    text = b'{"d":[{"b64":"' + filler + b'"}],"usage":{"total_tokens":7}}'
    cuts = [len(text) * at // pieces for at in range(1, pieces)]
    scanner = scanned(split_at(text, cuts))
    assert scanner.captured == {"usage": b'{"total_tokens":7}'}


def test_a_chosen_megabyte_string_is_truncated_in_bounded_memory() -> None:
    text = b'{"usage":"' + b"x" * 1_000_000 + b'","model":"m"}'
    scanner = RootScanner(KEYS, capture_max=100)
    for piece in split_at(text, list(range(0, len(text), 5_000))):
        scanner.feed(piece)
        assert scanner._capture._part is None or len(scanner._capture._part) <= 101
    assert (scanner.captured, scanner.truncated) == ({"model": b'"m"'}, {"usage"})


@pytest.mark.parametrize(
    "number", [b"18446744073709551616", b"-1", b"9" * 5_000, b"0." + b"1" * 5_000, b"1e" + b"9" * 400, b"-0.0E-0"]
)
def test_numbers_beyond_any_machine_type_are_read_as_text(number: bytes) -> None:
    text = b'{"usage":' + number + b',"a":[' + number + b"]}"
    for pieces in ([text], byte_by_byte(text)):
        assert scanned(pieces).captured == {"usage": number}


def test_a_cut_number_keeps_few_bytes() -> None:
    scanner = RootScanner(KEYS)
    scanner.feed(b'{"a":-')
    for _ in range(1_000):
        scanner.feed(b"123.5e7"[:3])
    assert len(scanner._partial) <= 16
    assert not scanner.failed


@pytest.mark.parametrize("number", [b"01", b"1.", b"-", b".5", b"1e", b"1e+", b"+1", b"0x10", b"1_0", b"--1", b"1.5.2"])
def test_broken_numbers_fail(number: bytes) -> None:
    for text in (b'{"a":' + number + b"}", b'{"a":[1,' + number + b",2]}", b'{"usage":' + number + b"}"):
        for pieces in ([text], byte_by_byte(text)):
            assert scanned(pieces).failed


def test_lone_surrogates_pass_as_escapes_and_fail_as_bytes() -> None:
    assert scanned(rb'{"usage":"\ud800"}').captured == {"usage": rb'"\ud800"'}
    assert scanned(b'{"usage":"\xed\xa0\x80"}').failed


@pytest.mark.parametrize("opener", [b"[", b'{"":', b'[{"x":', b"[ "])
def test_nesting_a_hundred_thousand_deep_is_survived(opener: bytes) -> None:
    times = 100_000 // (opener.count(b"[") + opener.count(b"{"))
    closer = b"".join(bytes([byte + 2]) for byte in reversed(opener) if byte in b"[{") + opener[1:].strip(b'{}":x')
    text = b'{"a":' + opener * times + b"1" + closer * times + b',"usage":1}'
    for pieces in ([text], split_at(text, list(range(0, len(text), 997)))):
        assert scanned(pieces, lenient=True).captured == {"usage": b"1"}
        assert scanned(pieces).failed


def test_both_sides_of_the_depth_limit() -> None:
    deepest = DEPTH_MAX - 1  # the root is one
    for depth, failed in ((deepest, False), (deepest + 1, True)):
        for lenient in (False, True):
            scanner = RootScanner(frozenset({"usage"}), lenient=lenient)
            scanner.feed(b'{"a":' + b"[" * depth + b"]" * depth + b"}")
            assert scanner.failed is (failed and not lenient)
            assert scanner.closed is not scanner.failed


@pytest.mark.parametrize("last", [b"[1]", b"[]", b"{}", b'{"k":1}', b"[[1]]", b"[[[]]]"])
def test_both_sides_of_the_depth_limit_reached_by_later_elements(last: bytes) -> None:
    inner = DEPTH_MAX - 2 - sum(last.count(opener) for opener in (b"[", b"{"))  # root and outer array are two
    for times, failed in ((inner, False), (inner + 1, True)):
        text = b'{"a":[1' + b",[1" * times + b"," + last + b",1" + b"]" * (times + 1) + b"}"
        middle = text.index(b"," + last + b",1")
        for pieces in ([text], [text[:middle], *byte_by_byte(text[middle : middle + 12]), text[middle + 12 :]]):
            assert scanned(pieces).failed == failed


def test_both_sides_of_the_limit_on_repeats() -> None:
    member = b'"usage":1,'
    assert scanned(b"{" + member * REPEATS_MAX + b'"a":1}').counts == {"usage": REPEATS_MAX}
    assert scanned(b"{" + member * (REPEATS_MAX + 1) + b'"a":1}').failed


@pytest.mark.parametrize("depth", range(1, 9))
def test_narrow_containers_of_any_depth_repeat(depth: int) -> None:
    for opener, closer in ((b"[", b"]"), (b'{"k":', b"}"), (b'[{"k" : ', b" } ]")):
        text = b'{"a":[' + b",".join([opener * depth + b"1" + closer * depth] * 9) + b'],"usage":1}'
        for pieces in ([text], byte_by_byte(text)):
            assert scanned(pieces).captured == {"usage": b"1"}


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":[[[[[1]}]]]],"usage":1}',
        b'{"a":[[[[[1,2]]]]],"usage":1',
        b'{"a":{"b":{"c":{"d":{"e":1,2}}}},"usage":1}',
        b'{"a":[[[[["k":1]]]]],"usage":1}',
        b'{"a":[[[[[1]]],[]]]],"usage":1}',
        b'{"a":[[[[[[[1]]]]],"k":1]],"usage":1}',
        b'{"a":{"x":[[[[[1]]]]],2},"usage":1}',
        b'{"a":{"b":{"x":[[[[[1]]]]],"y"}},"usage":1}',
        b'{"a":[[[[[[1]]]]}],"usage":1}',
        b'{"a":[1,],"usage":1}',
        b'{"a":{"b":1,},"usage":1}',
        b'{"a":[1 2],"usage":1}',
        b'{"a":tru,"usage":1}',
        b'{"a":nulll,"usage":1}',
        b'{"a":"\\x","usage":1}',
        b'{"a":"\\u12g4","usage":1}',
        b'{"a":"\x1f","usage":1}',
        b'{"usage":1,}',
        b'{"usage":1 "a":2}',
        b'{"usage" 1}',
        b"{usage:1}",
        b"{'usage':1}",
        b'{"usage":1}}',
        b'{"usage":1} x',
        b'{"usage":1}{"usage":2}',
        b'{/*"*/"usage":1}',
        b'{"a":[/* " */],"usage":1,"b":[" */]}',
        b'{"a":NaN}',
        b'{"a":[Infinity]}',
        b'["usage"]',
        b'"usage"',
        b"1",
        b"null",
        b"",
        b"  ",
        b"{",
        b'{"usage":1',
    ],
)
def test_what_is_not_one_json_object_fails(text: bytes) -> None:
    assert loaded(text) is None
    for pieces in ([text], byte_by_byte(text)):
        scanner = scanned(pieces)
        assert (scanner.failed, scanner.closed, scanner.close_offset) == (True, False, None)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_encodings_and_a_byte_order_mark_fail(encoding: str) -> None:
    text = '{"usage":1}'.encode(encoding)
    for pieces in ([text], byte_by_byte(text)):
        assert scanned(pieces).failed


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe4\xbd", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\x80"])
def test_broken_utf8_fails_where_it_stands(bad: bytes) -> None:
    text = b'{"model":"m","a":"' + bad + b'","usage":1}'
    for pieces in ([text], byte_by_byte(text)):
        scanner = scanned(pieces)
        assert (scanner.failed, scanner.captured) == (True, {"model": b'"m"'})


def test_a_scalar_before_broken_utf8_does_not_count() -> None:
    for text in (b'{"usage":1\xc3,"a":1}', b'{"usage":true\xff}', b'{"usage":1!}'):
        for pieces in ([text], byte_by_byte(text)):
            assert scanned(pieces).captured == {}


def test_lenient_is_for_what_providers_send() -> None:
    text = b'\xef\xbb\xbf {"a":[NaN,-Infinity,"\xff"],"usage":Infinity}'
    for pieces in ([text], byte_by_byte(text)):
        assert scanned(pieces, lenient=True).captured == {"usage": b"Infinity"}
    for broken in (b"\xef\xbb{}", b"\xef\xbb\xbf\xef\xbb\xbf{}", b'{"a":nan}', b'{"a":+Infinity}', b'{"a":Infinit}'):
        for pieces in ([broken], byte_by_byte(broken)):
            assert scanned(pieces, lenient=True).failed


def test_whitespace_around_everything() -> None:
    text = b'\r\n\t { \n "usage" \t : \r [ 1 , { } ] \n } \n\n'
    for pieces in ([text], byte_by_byte(text)):
        scanner = scanned(pieces)
        assert scanner.captured == {"usage": b"[ 1 , { } ]"}
        assert scanner.close_offset == text.rindex(b"}")
    assert scanned(b"\x0b{}").failed
    assert scanned(b"{}\x00").failed


def test_empty_root() -> None:
    assert scanned(b" { } ").empty_root
    assert not scanned(b'{"a":1}').empty_root


def test_values_across_the_slice_border_are_whole() -> None:
    for size in range(SLICE - 20, SLICE + 20):
        text = b'{"a":"' + b"x" * size + b'","usage":12345,"model":"m"}'
        assert scanned(text).captured == {"usage": b"12345", "model": b'"m"'}


def test_open_member_tells_where_an_unfinished_value_began() -> None:
    scanner = RootScanner(KEYS)
    states = []
    for piece in (b'{"a":1,"usage"', b" : ", b"{", b"}"):
        scanner.feed(piece)
        states.append(scanner.open_member)
    assert states == [None, None, ("usage", 17), None]


def test_keys_must_be_plain_names() -> None:
    with pytest.raises(ValueError, match="plain"):
        RootScanner(frozenset({'a"'}))


def test_after_a_failure_nothing_more_is_read() -> None:
    scanner = RootScanner(KEYS)
    scanner.feed(b'{"model":1,!')
    scanner.feed(b'"usage":2}')
    scanner.finish()
    assert (scanner.failed, scanner.captured) == (True, {"model": b"1"})
