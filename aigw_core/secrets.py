"""`Secret`: a credential that shows itself only when asked to."""

import hmac
from typing import NoReturn, SupportsIndex, final

_REDACTED = "Secret(<redacted>)"


@final
class Secret:
    """Bytes that appear nowhere but in the result of `reveal()`.

    Text is stored as UTF-8. `repr`, `str`, `format` with any specification, and whatever is built on them
    (f-strings, `%`, dataclass output, exception text, tracebacks that print locals) give one constant text,
    which tells not even the length. Pickling raises TypeError. Copies are the object itself.

    Equal only to another Secret of the same bytes, compared in constant time. Not hashable: a hash by value
    would order sets and dicts by the secret and find it by an ordinary comparison, a hash by identity would
    give equal objects different hashes. Who needs a lookup uses a keyed fingerprint.

    Raises TypeError for a value that is neither str nor bytes, ValueError for text that is not encodable.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        encoded = _encoded(value)
        # Raised here and not in an except clause: a UnicodeEncodeError carries the whole text, and would
        # stay reachable as the context of this error.
        if encoded is None:
            raise ValueError("the secret's text cannot be encoded as UTF-8")
        self._value = encoded

    def reveal(self) -> bytes:
        """The secret itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    # __hash__ is None, because a class that defines __eq__ alone is unhashable.
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    def __repr__(self) -> str:
        return _REDACTED

    def __str__(self) -> str:
        return _REDACTED

    def __format__(self, format_spec: str) -> str:
        return _REDACTED

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "Secret":
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")

    # The inherited one hands out the slots to any caller.
    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret does not give out its state")


def _encoded(value: object) -> bytes | None:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError(f"a Secret is made of str or bytes, not {type(value).__name__}")
    try:
        return value.encode()
    except UnicodeEncodeError:
        return None
