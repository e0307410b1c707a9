"""The mask over the pool key in everything that a provider answers to a managed caller."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final, NoReturn, SupportsIndex

from aigw_core.secrets import Secret
from aigw_core.spellings import (
    ESCAPE_LENGTH,
    HEX_GROUP,
    UNFINISHED_ESCAPE,
    alphabet_of,
    base64_of,
    escape_marks,
    escapes_of,
    expression_of,
    longest_of,
)

KEY_MIN: Final = 8
"""Bytes of the shortest key that is masked: anything shorter stands in ordinary text by chance, and stars in its place
would spoil answers. Keys of providers have 32 to 200."""
_PROBE_SIZE: Final = 6
"""Bytes of a spelling that are looked for first: few enough to be quick, enough not to stand in other text."""
_RAREST: Final = b"QZXJVKYWqjUHGzBFNLDRMOPEASCTI_kvxwybfgh7648539-mpu210lcdsnrioate"
"""Letters and digits by how often they stand in answers, the rarest first."""
NO_SIGN: Final = 0x0A
"""The ``sign`` of a body of which every piece has to be looked at: a piece without a line feed does not end in one."""
_JUNK_MAX: Final = ESCAPE_LENGTH - 1
"""First bytes of a key that text before it can make the end of an escape of: those of ``\\u00`` before ``73``."""
_HEX_PROBE_SIZE: Final = 16
"""Digits of the key in hex that are looked for first."""
_STOP: Final = b"\n"
"""Behind a text that is over, so that nothing at its end counts as the beginning of a spelling."""
_PERCENT: Final = 0x25
_BACKSLASH: Final = 0x5C

_Search = Callable[..., "re.Match[bytes] | None"]


class KeyMask:
    """Finds one key in any of its spellings, and overwrites each with as many ``*``. Made once, used by many.

    Nothing of it shows the key, as with a :class:`~aigw_core.secrets.Secret`. The expression for whole spellings is
    compiled when it is first needed, which takes 2 to 15 ms; what nearly every answer needs is there from the start.
    """

    __slots__ = (
        "_common",
        "_escaped",
        "_expression",
        "_key",
        "_name_expression",
        "alphabet",
        "for_errors",
        "longest",
        "probe",
        "shortest",
        "sign",
    )

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_MIN or b"\n" in key or b"\r" in key:
            raise ValueError(f"a key that is masked has {KEY_MIN} bytes at least, and no line break")
        self._key = Secret(key)
        self._expression: _Search | None = None
        self._name_expression: _Search | None = None
        self.shortest = len(key)
        """Bytes of the shortest spelling."""
        self.longest = longest_of(key)
        self.alphabet = alphabet_of(key)
        # Of base64 a part that both of its alphabets write alike.
        texts = (key, *(max(re.split(rb"[+/]", text), key=len) for text in base64_of(key)))
        common = [byte for byte in _RAREST if all(byte in text for text in texts)]
        self._common: int | None = common[0] if common else None
        self.sign = NO_SIGN if self._common is None else self._common
        """A byte without which no text of one line has the key, neither as it is nor in base64."""
        self.probe: _Search = re.compile(_probe_of(texts, self._common)).search
        """Finds what every text has in which the key stands as it is or in base64."""
        self._escaped = _EscapedProbe(key)
        self.for_errors: KeyMask = _ErrorMask(self, key)
        """The same, and it looks for hex besides, which would cost an answer more than it is worth."""

    def clears(self, data: bytes) -> bool:
        """Whether no whole spelling stands in ``data``. It may say no of other text, too."""
        common = self._common
        return not (
            ((common is None or common in data) and self.probe(data) is not None)
            or ((_BACKSLASH in data or _PERCENT in data) and self._escaped.may_stand_in(data))
        )

    def clears_names(self, names: Collection[bytes]) -> bool:
        """Whether the key stands in no name, whatever the case of its letters."""
        if max(map(len, names), default=0) < self.shortest:
            return True
        return all(self.name(name) == name for name in names)

    def whole(self, data: bytes) -> bytes:
        """A text that is there to its end, masked."""
        if self.clears(data):
            return data
        return self._overwrite(self.find, data)

    def name(self, name: bytes) -> bytes:
        """A header name, masked: in names the case of letters means nothing, and some servers change it."""
        find = self._name_expression
        if find is None:
            expression = expression_of(self._key.reveal())
            find = self._name_expression = re.compile(expression, re.IGNORECASE).search
        return self._overwrite(find, name)

    @property
    def find(self) -> _Search:
        """The search by the expression of all spellings."""
        find = self._expression
        if find is None:
            find = self._expression = re.compile(expression_of(self._key.reveal())).search
        return find

    def counts(self, match: re.Match[bytes]) -> bool:
        """Whether a whole spelling that was found is one to overwrite."""
        return match.lastgroup != HEX_GROUP

    def _overwrite(self, find: _Search, data: bytes) -> bytes:
        out: list[bytes] = []
        text, done, at = data + _STOP, 0, 0
        while (match := find(text, at)) is not None:
            begin, at = match.span()
            if self.counts(match):
                out += data[done:begin], b"*" * (at - begin)
                done = at
            else:
                at = begin + 1
        return b"".join([*out, data[done:]]) if out else data

    def __repr__(self) -> str:
        return "KeyMask(<redacted>)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a KeyMask cannot be pickled")

    # The inherited one hands out the slots to any caller.
    def __getstate__(self) -> NoReturn:
        raise TypeError("a KeyMask does not give out its state")


class _ErrorMask(KeyMask):
    """Looks at everything: an error is short, and it is where keys are echoed."""

    __slots__ = ("_hex_probe", "_mask")

    def __init__(self, mask: KeyMask, key: bytes) -> None:
        self._mask = mask
        self._hex_probe = key.hex()[:_HEX_PROBE_SIZE].encode()
        self.shortest, self.longest, self.alphabet = mask.shortest, mask.longest, mask.alphabet
        self.sign = NO_SIGN
        self.for_errors = self

    def clears(self, data: bytes) -> bool:
        return self._mask.clears(data) and self._hex_probe not in data.lower()

    def name(self, name: bytes) -> bytes:
        return self._mask.name(name)

    @property
    def find(self) -> _Search:
        return self._mask.find

    def counts(self, match: re.Match[bytes]) -> bool:  # noqa: ARG002  # every spelling does
        return True


def _probe_of(texts: tuple[bytes, ...], common: int | None) -> bytes:
    """An expression for a few bytes of each text, from the byte on that all of them have."""
    probes = []
    for text in texts:
        places = range(len(text)) if common is None else [at for at, byte in enumerate(text) if byte == common]
        probes.append(max((text[at : at + _PROBE_SIZE] for at in places), key=len))
    if common is None:
        return b"|".join(map(re.escape, probes))
    # One byte and a look at the rest: a search for it is quicker than one for several.
    return b"%b(?=%b)" % (re.escape(bytes([common])), b"|".join(re.escape(probe[1:]) for probe in probes))


class _EscapedProbe:
    """Some bytes of the key that stand in every spelling of it by escapes, once these are undone.

    Undoing is left to ``bytes.replace``: the expression for all spellings costs 100 ns for each byte that may begin
    an escape, and all of a text can be such bytes.
    """

    __slots__ = ("_as_signs", "_escapes", "_in_json", "_in_percent", "_text")

    def __init__(self, key: bytes) -> None:
        # Undoing could destroy a percent sign or a backslash of the key itself. A key that has one has no such text:
        # whatever has an escape of one of its bytes is searched for it.
        text = b"" if _PERCENT in key or _BACKSLASH in key else key[_JUNK_MAX : _JUNK_MAX + _PROBE_SIZE]
        distinct = bytes(sorted(set(text)))
        # Control characters, since a letter or digit could complete another escape.
        self._as_signs = bytes.maketrans(distinct, bytes(range(1, 1 + len(distinct))))
        self._text = text
        self._escapes = [(escape, byte.translate(self._as_signs)) for escape, byte in escapes_of(text)]
        self._in_json, self._in_percent = (re.compile(mark).search for mark in escape_marks(text or key))

    def may_stand_in(self, data: bytes) -> bool:
        """Whether the key may stand in ``data``, which has a backslash or a percent sign."""
        is_marked = (_BACKSLASH in data and self._in_json(data) is not None) or (
            _PERCENT in data and self._in_percent(data) is not None
        )
        if not (is_marked and self._text):
            return is_marked or (self._text != b"" and self._text in data)
        for escape, sign in self._escapes:
            data = data.replace(escape, sign)
        return self._text.translate(self._as_signs) in data.translate(self._as_signs)


class MaskedBody:
    """The mask over one body that comes in pieces; holds back at most the longest tail that could begin a spelling."""

    __slots__ = ("_held", "_mask", "found", "sign")

    def __init__(self, mask: KeyMask) -> None:
        self._mask = mask
        self._held = b""
        self.found = False
        """Whether anything was overwritten."""
        self.sign = mask.sign
        """A piece that ends with a line feed and has neither this byte nor a percent sign nor a backslash passes as
        it is; whoever sees to that need not call feed()."""

    def feed(self, data: bytes) -> bytes:
        """What may be relayed now."""
        mask = self._mask
        if self._held:
            data = self._held + data
            self._held = b""
            self.sign = mask.sign
        if not data:
            return data
        at = 0
        if mask.clears(data):
            alphabet = mask.alphabet
            if data[-1] not in alphabet:
                return data
            # Only the end of the text can matter: what may begin a spelling there.
            tail = data[1 - mask.longest :]
            at = len(data) - len(tail) + len(tail.rstrip(alphabet))
        return self._look(mask, data, at)

    def _look(self, mask: KeyMask, data: bytes, at: int) -> bytes:
        escape = UNFINISHED_ESCAPE.search(data, max(at, len(data) - 5))
        end = len(data) if escape is None else escape.start()
        out: list[bytes] = []
        find, done, held_from = mask.find, 0, end
        while at < end and (match := find(data, at, end)) is not None:
            begin, after = match.span()
            if match.lastindex is None:
                held_from = begin
                break
            if mask.counts(match):
                out += data[done:begin], b"*" * (after - begin)
                done = at = after
                self.found = True
            else:
                at = begin + 1
        if held_from < len(data):
            self._held = data[held_from:]
            self.sign = NO_SIGN
        if out or held_from < len(data):
            return b"".join([*out, data[done:held_from]])
        return data

    @property
    def holds(self) -> bool:
        """Whether anything is held back."""
        return self._held != b""

    def finish(self) -> bytes:
        """What was held back, at the end of the body."""
        held, self._held = self._held, b""
        out = self._mask.whole(held)
        self.found |= out != held
        return out
