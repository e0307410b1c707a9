"""JSON texts for property tests: any spelling of a document, and broken ones near to it."""

from __future__ import annotations

import json
from random import Random

from hypothesis import strategies as st

KEYS = ("model", "stream", "stream_options", "include_usage", "usage", "a", "", "é", 'q"', "\n")
SCALARS = (
    None, True, False, 0, -1, 1, 12.5, -0.0, 1e-7, 1.5e300, 123456789012345678901234567890,
    "", "model", "x\\y", "\t", "\u2028", "\ud800", "{", "]", ',"usage":1', "日本",
)  # fmt: skip


class Members(list[tuple[str, object]]):
    """An object as its members in order, so that keys can repeat."""


values = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(st.tuples(st.sampled_from(KEYS), inner), max_size=4).map(Members)
    ),
    max_leaves=12,
)


roots = st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=5).map(Members)


def spelt(value: object, choices: Random) -> str:
    """A value as JSON text with whitespace and escapes as they come."""

    def blank() -> str:
        return "".join(choices.choices(" \t\r\n", k=choices.randrange(3))) if choices.random() < 0.2 else ""

    def string(text: str) -> str:
        out = []
        for char in text:
            if choices.random() < 0.2 and ord(char) < 0x10000:
                code = f"{ord(char):04x}"
                out.append("\\u" + (code.upper() if choices.random() < 0.5 else code))
            else:
                out.append(json.dumps(char, ensure_ascii=0xD800 <= ord(char) < 0xE000)[1:-1])
        return '"' + "".join(out) + '"'

    def of(node: object) -> str:
        if isinstance(node, Members):
            parts = [f"{blank()}{string(key)}{blank()}:{blank()}{of(child)}{blank()}" for key, child in node]
            return "{" + (",".join(parts) or blank()) + "}"
        if isinstance(node, list):
            parts = [f"{blank()}{of(child)}{blank()}" for child in node]
            return "[" + (",".join(parts) or blank()) + "]"
        return string(node) if isinstance(node, str) else json.dumps(node)

    return blank() + of(value) + blank()


@st.composite
def documents(draw: st.DrawFn, root: st.SearchStrategy[Members] = roots) -> bytes:
    """A valid JSON object in UTF-8, duplicates and odd spellings included."""
    return spelt(draw(root), draw(st.randoms(use_true_random=False))).encode()


_JUNK = [bytes([byte]) for byte in b'{}[],:"\\ue10-+. \nabnr\x00\xc3\xa9\xff'] + [
    b"null",
    b"//",
    b"NaN",
    b"\xef\xbb\xbf",
]


@st.composite
def broken_documents(draw: st.DrawFn) -> bytes:
    """A document after one or two small edits: usually not JSON any more, by a hair."""
    text = draw(documents())
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from([b"", *_JUNK])) + text[at + draw(st.integers(0, 1)) :]
    return text


def _refused(_: str) -> object:
    raise ValueError


def loaded(text: bytes) -> dict[str, object] | None:
    """What the standard library reads: the root object, None where the text is not one JSON object in UTF-8."""
    try:
        root = json.loads(text.decode(), parse_constant=_refused)
    except ValueError:
        return None
    return root if isinstance(root, dict) else None
