"""The JSON grammar (RFC 8259) as regular expressions that consume whole runs at C speed.

Every repetition is possessive: what was consumed is never tried again, so matching is linear in the input
and needs no memory for backtracking.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

RUN_DEPTH: Final = 4
"""Nesting of the array elements that one expression takes in runs: as deep as log probabilities go.
The size of an expression doubles with each level, and compiling it takes as long; hence the smaller two."""
_VALUE_DEPTH: Final = 2
"""The same for a single value."""
_ROOT_DEPTH: Final = 1
"""The same for runs of root members, of which there is one expression for each set of chosen keys."""
_KEY_SETS_MAX: Final = 32
"""Compiled sets of chosen keys: one for each reader and set of body rules; far fewer exist."""

_POSSESSIVE_IS_SOUND: Final = re.fullmatch(rb"(?:ab?c)*+a", b"aca") is not None
"""CPython before 3.11.5 keeps what the last, failed round of a possessive group consumed (gh-106052)."""


def many(body: bytes, quantifier: bytes = b"*") -> bytes:
    """A possessive repetition; an atomic group says the same and costs memory for each round."""
    if _POSSESSIVE_IS_SOUND:
        return rb"(?:" + body + rb")" + quantifier + rb"+"
    return rb"(?>(?:" + body + rb")" + quantifier + rb")"


_WS = rb"[ \t\n\r]*+"
_ESCAPE = rb'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
_PLAIN = rb"[\x20\x21\x23-\x5b\x5d-\xff]*+"  # written without negation: twice as fast in CPython's matcher
_TEXT = _PLAIN + many(_ESCAPE + _PLAIN)
_STRING = rb'"' + _TEXT + rb'"'
_KEY = _STRING + _WS + rb":" + _WS
_NUMBER = rb"-?+(?:0|[1-9][0-9]*+)" + many(rb"\.[0-9]++", b"?") + many(rb"[eE][+-]?+[0-9]++", b"?")
_ENDS = rb"(?=[,\]} \t\n\r])"  # a scalar that touches the end of a piece may go on in the next one


def _value(depth: int) -> bytes:
    """Any complete value nested at most ``depth`` containers deep; cheap and frequent cases stand first."""
    # Each alternative begins with a literal or a set, which the matcher looks at before it enters one.
    counts, words = rb"[1-9][0-9]*+" + _ENDS, rb"|".join(word + _ENDS for word in (b"true", b"false", b"null", b"0"))
    if not depth:
        array, object_ = rb"\[" + _WS + rb"\]", rb"\{" + _WS + rb"\}"
    else:
        inner = _value(depth - 1) + _WS
        array = rb"\[" + _WS + many(inner + rb"(?:," + _WS + rb"(?!\])|(?=\]))") + rb"\]"
        object_ = rb"\{" + _WS + many(_KEY + inner + rb"(?:," + _WS + rb"(?!\})|(?=\}))") + rb"\}"
    return rb"(?:" + rb"|".join((counts, _STRING, array, object_, words, _NUMBER + _ENDS)) + rb")"


VALUE: Final = re.compile(_value(_VALUE_DEPTH))
"""One value that is complete and not deeply nested; no whitespace around it."""
ELEMENTS: Final = re.compile(_WS + many(rb"," + _WS + _value(RUN_DEPTH) + _WS))
"""After an element of an array: further ones."""
MEMBERS: Final = re.compile(_WS + many(rb"," + _WS + _KEY + _value(_VALUE_DEPTH) + _WS))
"""After a member of an object: further ones."""
OPENERS: Final = re.compile(many(rb"\[" + _WS + rb"|\{" + _WS + _KEY, b"+"))
KEY: Final = re.compile(_KEY)
SPACE: Final = re.compile(_WS)
TEXT: Final = re.compile(_TEXT)
STRING: Final = re.compile(_STRING)
ESCAPE: Final = re.compile(_ESCAPE)
BEGUN_ESCAPE: Final = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?")
SCALAR_RUN: Final = re.compile(rb"[-+.0-9A-Za-z]*+")
SCALAR_KEPT: Final = 16
"""Bytes kept of a number or literal that a piece cuts; a longer number is folded to its grammar state."""
_AFTER_SCALAR: Final = b",]} \t\n\r"


class Scalars:
    """Numbers and literals, for where they are read one by one."""

    def __init__(self, *literals: str) -> None:
        self.whole: Final = re.compile("|".join(literals).encode() + rb"|" + _NUMBER)
        prefixes = sorted({word[:size] for word in literals for size in range(1, len(word) + 1)})
        self.begun: Final = re.compile(
            rb"-?(?:0|[1-9][0-9]*)?(?:(?<=[0-9])\.[0-9]*)?(?:(?<=[0-9])[eE][+-]?[0-9]*)?|" + "|".join(prefixes).encode()
        )
        """What one may look like where a piece ends."""

    def read(self, held: bytes, data: bytes, pos: int, end: int) -> tuple[int, bytes | None]:
        """Where a number or literal ends of which earlier pieces held ``held``; negative where it is none.

        Beside it, what is held of one that the piece cuts, and None where it is whole.
        """
        run = SCALAR_RUN.match(data, pos, end)
        assert run is not None
        token = held + run.group()
        if run.end() < end:
            is_whole = data[run.end()] in _AFTER_SCALAR and self.whole.fullmatch(token) is not None
            return (run.end(), None) if is_whole else (-1, None)
        if self.begun.fullmatch(token) is None:
            return -1, None
        return end, token if len(token) <= SCALAR_KEPT else folded(token)


STRICT: Final = Scalars("true", "false", "null")
LENIENT: Final = Scalars("true", "false", "null", "NaN", "Infinity", "-Infinity")
"""Runs leave the last three to be read one by one: they are rare."""


_FOLDS_TO: Final = {"k": rb"|\xe2\x84\xaa|\\u212[aA]", "s": rb"|\xc5\xbf|\\u017[fF]"}
"""Letters beyond ASCII that parsers which ignore case take for one of ASCII: the Kelvin sign and the long s."""


def _spellings(key: str, *, any_case: bool = False) -> bytes:
    """Matches every JSON spelling of a key: each character plain or as its ``\\u`` escape, in any case if wanted."""
    if not re.fullmatch(r"[a-z0-9_]+" if any_case else r"[A-Za-z0-9_]+", key):
        raise ValueError("chosen keys are plain ASCII names")
    out = []
    for char in key:
        spelt = [_character(each) for each in dict.fromkeys((char, char.upper()) if any_case else char)]
        out.append(b"(?:" + b"|".join(spelt) + (_FOLDS_TO.get(char, b"") if any_case else b"") + b")")
    return b"".join(out)


def _character(char: str) -> bytes:
    code = f"{ord(char):04x}"
    either_case = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in code)
    return rf"{char}|\\u{either_case}".encode()


class ChosenKeys:
    """The expressions of one set of chosen keys, which are plain ASCII names.

    ``any_case``: keys that differ in case alone are matched too; the names are in lower case then.
    """

    __slots__ = ("_plain", "any_case", "key", "others", "quoted", "spelling_max")

    def __init__(self, keys: frozenset[str], *, any_case: bool = False) -> None:
        self._plain = [b'"%b"' % key.encode() for key in sorted(keys)]
        self.any_case: Final = any_case
        # Sorted, so that the expression is the same in every process.
        spellings = {key: _spellings(key, any_case=any_case) for key in sorted(keys)}
        named = rb"|".join(b"(?P<%b>%b)" % (key.encode(), text) for key, text in spellings.items())
        plain = rb"|".join(spellings.values()) or rb"(?!)"
        self.key: Final = re.compile(rb'"(?:' + (named or rb"(?!)") + rb')"')
        """A chosen key with its quotes; the match's last group has its name."""
        self.quoted: Final = re.compile(rb'"(?:' + plain + rb')"')
        """The same, without a group."""
        self.spelling_max: Final = 2 + 6 * max(map(len, keys), default=0)
        """Bytes of the longest spelling of a chosen key, quotes included."""
        other = rb'(?!"(?:' + plain + rb')")' + _KEY
        self.others: Final = re.compile(_WS + many(rb"," + _WS + other + _value(_ROOT_DEPTH) + _WS))
        """After a member of an object: further ones whose keys are not chosen."""

    def may_occur(self, text: bytes) -> bool:
        """Whether a chosen key can stand in the text: a quick look that says no for most."""
        if b"\\u" in text or not text.isascii():
            return self.quoted.search(text) is not None
        if self.any_case:
            text = text.lower()
        return any(text.find(name) >= 0 for name in self._plain)


@lru_cache(maxsize=_KEY_SETS_MAX)
def chosen_keys(keys: frozenset[str], *, any_case: bool = False) -> ChosenKeys:
    """The expressions for a set of keys; compiling them takes milliseconds, so call it once at import."""
    return ChosenKeys(keys, any_case=any_case)


def elements_without(key: str) -> re.Pattern[bytes]:
    """After an element of an array: further ones that are no object with this member, whatever its case."""
    member = rb'(?!"' + _spellings(key, any_case=True) + rb'")' + _KEY + _value(_VALUE_DEPTH) + _WS
    object_ = rb"\{" + _WS + many(member + rb"(?:," + _WS + rb"(?!\})|(?=\}))") + rb"\}"
    other = rb"(?!\{)" + _value(_ROOT_DEPTH)
    return re.compile(_WS + many(rb"," + _WS + rb"(?:" + other + rb"|" + object_ + rb")" + _WS))


def skip_space(data: bytes, pos: int, end: int) -> int:
    """The position of the first byte that is not JSON whitespace, at most ``end``."""
    space = SPACE.match(data, pos, end)
    assert space is not None
    return space.end()


def resumed_escape(held: bytes, data: bytes, pos: int, end: int) -> tuple[int, bytes | None]:
    """Where an escape ends that an earlier piece cut after ``held``, and what is held of it now; None: no escape."""
    joined = held + data[pos : min(end, pos + 6 - len(held))]
    escape = ESCAPE.match(joined)
    if escape is not None:
        return pos + escape.end() - len(held), b""
    return end, joined if BEGUN_ESCAPE.fullmatch(joined) else None


def folded(number: bytes) -> bytes:
    """The shortest text in the same grammar state as the beginning of a number."""
    mantissa, exponent, digits = number.lower().partition(b"e")
    if exponent:
        return b"1e" + (b"1" if digits.lstrip(b"+-") else digits)
    _, point, fraction = mantissa.partition(b".")
    if point:
        return b"1.1" if fraction else b"1."
    return b"1"
