"""JSON texts that are mostly structure, for readers that pass over much of it at once."""

from __future__ import annotations

import json
import random

NAMES = ("", "a", "usage", "model", "stream", 'q"', "back\\slash", "\u017ftream", "\u00e4")


def dense_value(dice: random.Random, depth: int) -> object:
    """A value with many short members, nested up to ``depth`` deep."""
    kind = dice.random()
    if depth and kind < 0.35:
        return [dense_value(dice, depth - 1) for _ in range(dice.randrange(4))]
    if depth and kind < 0.7:
        return {dice.choice(NAMES): dense_value(dice, depth - 1) for _ in range(dice.randrange(4))}
    return dice.choice((0, 1, -1.5e3, True, None, "", "usage", '","usage":', "]}", "\\", '\\"', "x" * 70, 12345))


def dense_document(dice: random.Random, members: int) -> bytes:
    """The text of an object whose members repeat names and nest, with blanks and escapes in places."""
    written = []
    for _ in range(members):
        name, value = dice.choice(NAMES), dense_value(dice, dice.randrange(12))
        separators = dice.choice(((",", ":"), (", ", ": "), (" ,\n", " :\t")))
        key = json.dumps(name)
        if dice.random() < 0.1:
            key = key.replace("a", "\\u0061").replace("e", "\\u0065")
        written.append(
            f"{key}{separators[1]}{json.dumps(value, separators=separators, ensure_ascii=dice.random() < 0.5)}"
        )
    return ("{" + dice.choice((",", " , ", "\n,")).join(written) + "}").encode("utf-8", "surrogatepass")


def broken(dice: random.Random, text: bytes) -> bytes:
    """The same text with one byte lost, doubled or replaced."""
    at = dice.randrange(len(text))
    middle = dice.choice((b"", text[at : at + 1] * 2, bytes([dice.choice(b'[]{},:"\\ 0tn\x00')])))
    return text[:at] + middle + text[at + 1 :]
