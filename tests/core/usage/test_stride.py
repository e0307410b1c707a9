"""Passing over text at once gives what reading it token by token gives."""

from __future__ import annotations

import json
import random
from typing import Final

import pytest

from aigw_core.usage.grammar import chosen_keys
from aigw_core.usage.scanner import DEPTH_MAX, RootScanner
from aigw_core.usage.stride import NESTED_MAX, OPENED_MAX, SHALLOW_MAX, Stride, stride
from tests.core.usage.dense_texts import broken, dense_document
from tests.core.usage.helpers import byte_by_byte, split_at
from tests.core.usage.json_texts import loaded
from tests.core.usage.test_scanner import outcome

KEYS: Final = frozenset({"model", "stream", "usage"})
CHOSEN: Final = chosen_keys(KEYS)


def passed(text: bytes, opened: bytes = b"{", kept: int = 1, depth_left: int | None = 100) -> Stride | None:
    return stride(text, opened, kept, depth_left, CHOSEN)


def size_of(text: bytes, opened: bytes = b"{", kept: int = 1, depth_left: int | None = 100) -> int:
    found = passed(text, opened, kept, depth_left)
    return 0 if found is None else found.size


def read(pieces: list[bytes], *, lenient: bool = False) -> tuple[object, ...]:
    scanner = RootScanner(KEYS, lenient=lenient, log=True)
    for piece in pieces:
        scanner.feed(piece)
    scanner.finish()
    return outcome(scanner)


@pytest.mark.parametrize("seed", range(60))
def test_dense_documents_in_any_split(seed: int) -> None:
    dice = random.Random(seed)
    text = dense_document(dice, dice.randrange(1, 60))
    if seed % 2:
        text = broken(dice, text)
    slowly = read(byte_by_byte(text))
    assert slowly[7] == (loaded(text) is None or any(count > 16 for count in _counts(slowly)))
    for _ in range(8):
        cuts = [dice.randrange(len(text)) for _ in range(dice.randrange(4))]
        assert read(split_at(text, cuts)) == slowly
        assert read(split_at(text, cuts), lenient=True) == read(byte_by_byte(text), lenient=True)


def _counts(read_outcome: tuple[object, ...]) -> list[int]:
    counts = read_outcome[1]
    assert isinstance(counts, dict)
    return list(counts.values())


def test_it_stops_where_the_last_token_may_go_on() -> None:
    assert size_of(b',"a":[[[1]]],"b":12') == len(b',"a":[[[1]]]')
    assert size_of(b',"a":[[[1]]],"b":"x,]') == len(b',"a":[[[1]]]')
    assert size_of(b',"a":[[[1]]],"b":"x\\",]') == len(b',"a":[[[1]]]')
    assert size_of(b',"a":1,"b":{},') == len(b',"a":1,"b":{}')
    assert passed(b',"a":12') is None
    assert passed(b"") is None


def test_it_says_what_it_left_open() -> None:
    assert passed(b',"a":{"b":[1,[2') == Stride(len(b',"a":{"b":[1,['), b"{{[[", True)
    assert passed(b',"a":{"b":[1,[2,3') == Stride(len(b',"a":{"b":[1,[2'), b"{{[[", False)
    assert passed(b",1]],2,[3]],4", b"{{[[[") == Stride(len(b",1]],2,[3]]"), b"{{", False)


def test_it_leaves_no_container_that_is_kept() -> None:
    assert passed(b',1]],"b":2', b"{[[", kept=2) == Stride(len(b",1]"), b"{[", False)
    assert passed(b',"b":[1]},{"c":2}', b"{", kept=1) == Stride(len(b',"b":[1]'), b"{", False)
    assert passed(b'],"b":[2],"c":3', b"{[", kept=2) is None


def test_it_stops_before_a_chosen_member_only() -> None:
    decoys = b',"a":{"usage":1},"b":["usage"],"c":"\\"usage\\":","d":"x\\"usage","\\u0001":1,"\\u00010":2'
    assert size_of(decoys + b',"us\\u0061ge" : 1,"e":[[1]],"z":0') == len(decoys)
    assert size_of(decoys + b',"usage":{"open":[1,') == len(decoys)
    assert passed(b',"usage":[[[1]]],"z":0') is None
    assert size_of(b',"x":[1],"y":2,', b"{[") == 0  # members of an array are none
    assert size_of(b',{"usage":1},2,', b"{[") == len(b',{"usage":1},2')
    assert size_of(b',1],"b":3,"usage":2,', b"{[") == len(b',1],"b":3')


@pytest.mark.parametrize("text", [b",[1}],2],[3]", b',["k":1],[2],[3]', b",[1 2],[3]", b",[tru],[3]", b",[1,],[3]"])
def test_it_stops_in_front_of_what_is_no_json(text: bytes) -> None:
    before = b",[[1]],[2]"
    assert size_of(before + text, b"{[") <= len(before + text) - len(b",[3]")
    assert size_of(before + text, b"{[") >= len(before)


def test_numbers_of_any_length_and_nan() -> None:
    assert size_of(b",[" + b"9" * 5_000 + b"],1,", b"{[") == 5_003 + 2
    assert size_of(b",[NaN],1,", b"{[") == 0
    assert size_of(b",[NaN],1,", b"{[", depth_left=None) == len(b",[NaN],1")


@pytest.mark.parametrize("depth_left", [1, 2, SHALLOW_MAX, SHALLOW_MAX + 1, 100, NESTED_MAX - 2])
def test_both_sides_of_the_depth_that_is_left(depth_left: int) -> None:
    opened = b"{[" + b"[" * (DEPTH_MAX - 2 - depth_left)
    for depth, fits in ((depth_left, True), (depth_left + 1, False)):
        whole = b"," + b"[" * depth + b"]" * depth + b",1,"
        assert (size_of(whole, opened, 1, depth_left) == len(whole) - 1) == fits
        left_open = b"," + b"[1," * depth + b"1,"
        assert (size_of(left_open, opened, 1, depth_left) == len(left_open) - 1) == fits


def test_more_open_containers_than_are_stepped_through() -> None:
    assert size_of(b",1" + b",[1" * OPENED_MAX + b",", b"{[", depth_left=None) > OPENED_MAX
    assert passed(b",1" + b",[1" * (OPENED_MAX + 1) + b",", b"{[", depth_left=None) is None


def test_keys_in_any_case() -> None:
    either = chosen_keys(KEYS, any_case=True)
    for key in ("Stream", "STREAM", "\u017ftream", "\\u017Ftream", "s\\u0054ream"):
        text = b',"a":[[1]],"' + key.encode() + b'":1,"b":2,'
        found = stride(text, b"{", 1, 100, either)
        assert found is not None
        assert found.size == len(b',"a":[[1]]')
        assert json.loads(b"{" + text[1:-1] + b"}")["b"] == 2
