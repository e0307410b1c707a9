"""Names from outside (settings, variables, arguments, entries) as logs and errors may repeat them: a key that stands in
the wrong place is not shown, wherever that is."""

from __future__ import annotations

import re
from typing import Final

NAME_SHOWN_MAX: Final = 64
"""Characters of an unknown name that an error repeats; most keys in the wrong place are longer."""
WORD_MAX: Final = 15
"""Letters and digits in a row of what counts as a word of a name; our own longest one has thirteen."""
MIXED_MIN: Final = 8
"""Letters and digits in a row, two of each at least, from which on they look random."""
CHANGES_MAX: Final = 2
"""Places in a whole name where a letter meets a digit: ``gpt4`` has one, what is random has one in three characters."""
CHANGES_OF_ALL_MAX: Final = 4
"""The same together with places where a small letter meets a capital one: ``maxRequestBytes`` has two."""

NOT_SHOWN: Final = "(a name that is not shown)"

_KEY_PREFIX: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|gsk|csk|fpk|tgp|bai|hf|r8|pplx|nvapi|ghp|xox[abp])[-_.]|AIza|AKIA|eyJ)", re.IGNORECASE
)
_WORD: Final = re.compile(r"[A-Za-z0-9]+")
_CHANGE: Final = re.compile(r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_CASE_CHANGE: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def shown(name: object) -> str:
    """The name itself where it looks like one."""
    text = str(name)
    if len(text) <= NAME_SHOWN_MAX and re.fullmatch(r"[A-Za-z0-9_.-]+", text) and not looks_secret(text):
        return text
    return NOT_SHOWN


def shown_path(path: object) -> str:
    """A path as it is, since only the whole one is of use; nothing of one in which a key begins."""
    text = str(path)
    return "(a path that is not shown)" if _KEY_PREFIX.search(text) else text


def looks_secret(text: str) -> bool:
    """Whether a name might be a key: by the way keys begin, or since part of it is long or random."""
    return (
        _KEY_PREFIX.search(text) is not None
        or (changes := len(_CHANGE.findall(text))) > CHANGES_MAX
        or changes + len(_CASE_CHANGE.findall(text)) > CHANGES_OF_ALL_MAX
        or any(_is_random(word) for word in _WORD.findall(text))
    )


def _is_random(word: str) -> bool:
    digits = sum(character.isdigit() for character in word)
    letters = len(word) - digits
    if len(word) > WORD_MAX and letters > 1:
        return True
    if len(word) < MIXED_MIN:
        return False
    # Names in the way of other languages (maxRequestBytes) change their case with each word, and words have length.
    return (digits > 1 and letters > 1) or len(_CASE_CHANGE.findall(word)) * 5 >= len(word)
