"""What the key of a deny entry was meant to be: an entry whose key is none of ours denies nobody."""

import re
from typing import Final

from aigw_core.denyset import KEY_PREFIX, TENANT_PREFIX, parse_entry_key

LOOKED_AT_MAX: Final = 256
"""Characters of a key that are looked at; ours have 34 at most."""

_NUMBER: Final = re.compile(r"[0-9]+")
_WORD: Final = re.compile(r"[a-z]+")


def nearest_entry_key(key: str) -> str:
    """The right spelling that is nearest: ``blackhole.42`` for ``blackhol.42x``.

    Where no id can be read from it, a placeholder stands for it.
    """
    text = key[:LOOKED_AT_MAX].lower()
    words = _WORD.findall(text)
    is_key = "key" in text or any(set(word) == set("key") for word in words)
    prefix = KEY_PREFIX if is_key else TENANT_PREFIX
    numbers = _NUMBER.findall(text)
    if numbers:
        found = prefix + (numbers[-1].lstrip("0") or "0")
        if parse_entry_key(found) is not None:
            return found
    return prefix + ("<key id>" if is_key else "<tenant id>")
