"""Skipping a value by counting its brackets."""

from __future__ import annotations

import json
import random

import pytest

from aigw_core.usage.depth import skip_by_counting, without_escapes
from tests.core.usage.dense_texts import dense_value


@pytest.mark.parametrize("seed", range(50))
def test_the_value_ends_where_it_ends_in_any_split(seed: int) -> None:
    dice = random.Random(seed)
    value = json.dumps([dense_value(dice, 9) for _ in range(dice.randrange(1, 9))]).encode()
    text = value + b',"more":["]"]}'
    for _ in range(6):
        at, depth = 1, 1
        cut = dice.randrange(1, len(text) + 1)
        while depth:
            size, depth = skip_by_counting(text[at:cut], depth)
            at += size
            if depth:
                assert at == cut or text[at : at + 1] == b'"'
                cut = len(text)
        assert at == len(value)


def test_escapes_keep_their_length() -> None:
    assert without_escapes(rb'"a\"b\\",1') == b'"a__b__",1'
    assert without_escapes(b'"ab",1') == b'"ab",1'


def test_a_cut_string_is_left() -> None:
    assert skip_by_counting(b'1,"a]', 1) == (2, 1)
    assert skip_by_counting(b'1,"a]"]', 1) == (7, 0)
    assert skip_by_counting(b"[[", 996) == (2, 998)
