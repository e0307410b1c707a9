from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.denyset import parse_entry_key
from aigw_core.denyspelling import LOOKED_AT_MAX, nearest_entry_key


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("blackhole.42x", "blackhole.42"),
        ("blackhol.42", "blackhole.42"),
        ("Blackhole.42", "blackhole.42"),
        ("BLACKHOLE.KEY.7", "blackhole.key.7"),
        ("blackhole.42 ", "blackhole.42"),
        ("blackhole.042", "blackhole.42"),
        ("blackhole.000", "blackhole.0"),
        ("blackhole.-42", "blackhole.42"),
        ("blackhole.tenant.42", "blackhole.42"),
        ("blackhole:42", "blackhole.42"),
        ("42", "blackhole.42"),
        ("blackhole.key7", "blackhole.key.7"),
        ("blackhole.kye.7", "blackhole.key.7"),
        ("blackhole.keys.7", "blackhole.key.7"),
        ("key.7", "blackhole.key.7"),
        ("blackhole.key.", "blackhole.key.<key id>"),
        ("blackhole.", "blackhole.<tenant id>"),
        ("note", "blackhole.<tenant id>"),
        ("", "blackhole.<tenant id>"),
        (f"blackhole.{2**64}", "blackhole.<tenant id>"),
        (f"blackhole.{'x' * LOOKED_AT_MAX}1", "blackhole.<tenant id>"),
    ],
)
def test_the_nearest_right_spelling(key: str, meant: str) -> None:
    assert parse_entry_key(key) is None
    assert nearest_entry_key(key) == meant


@given(st.text(max_size=300))
def test_what_is_proposed_is_right(key: str) -> None:
    found = nearest_entry_key(key)
    assert parse_entry_key(found) is not None or found in ("blackhole.<tenant id>", "blackhole.key.<key id>")


@given(st.sampled_from(["blackhole.", "blackhole.key."]), st.integers(0, 2**64 - 1))
def test_what_is_right_stays_as_it_is(prefix: str, number: int) -> None:
    assert nearest_entry_key(f"{prefix}{number}") == f"{prefix}{number}"
