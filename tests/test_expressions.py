"""Every regular expression was reviewed, and none tries again what an endless repetition took inside of another."""

from __future__ import annotations

import importlib
import re
from typing import Final

import pytest

from aigw_core.keymask import KeyMask
from aigw_core.usage.stride import NESTED_MAX
from tests.expressions import ambiguities, compiled, places
from tests.sources import ROOT, modules

PAGE: Final = ROOT / "docs" / "reference" / "expressions.md"
DIVIDED: Final = {"aigw_anyio.settings.fields._BASE_PATH.0"}
"""Endless ones inside of endless ones whose rounds begin with a byte that is not inside of them."""


def test_every_expression_was_reviewed() -> None:
    reviewed = re.findall(r"^\| `([^`]+)` \| \S", PAGE.read_text(), re.MULTILINE)
    assert len(reviewed) == len(set(reviewed))
    assert set(reviewed) == places()


def test_no_expression_tries_again_what_it_took() -> None:
    for package in ("aigw_core", "aigw_anyio"):
        for module in modules(package):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    mask = KeyMask(b"sk-proj-0123456789abcdef")
    assert mask.name(b"x-name") == b"x-name"  # compiles that for names
    held = {
        **compiled(),
        "find": mask.find.__self__,  # type: ignore[attr-defined]
        "name": mask._name_expression.__self__,  # type: ignore[union-attr]
    }
    assert len(held) > NESTED_MAX // 2
    assert {name for name, pattern in held.items() if ambiguities(pattern)} == DIVIDED


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (rb"(?:a*)*", 1),
        (rb"(?:a+b?)+c", 1),
        (rb"(?:x|(?:a*?)+)y", 1),
        (rb"(?:a{0,100}){2,}", 1),
        (rb"(?:a*b)*+", 0),
        (rb"(?:a*+b)*", 0),
        (rb"(?>(?:a*+)*)", 0),
        (rb"(?:a{1,9})*", 0),
        (rb"a*b*", 0),
    ],
)
def test_an_ambiguous_expression_is_seen(pattern: bytes, count: int) -> None:
    assert len(ambiguities(re.compile(pattern))) == count


def test_a_new_expression_is_seen() -> None:
    assert "aigw_core/usage/sse.py:_LINES" in places()
    assert "aigw_anyio/settings/load.py:_read_file" in places()
