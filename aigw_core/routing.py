"""From a request path to a provider, the forwarded target, the wire and the dialect.

The first segment names the provider and the rest is forwarded verbatim, query included. What a
virtual key may call is an exact table: a pool key can read what other tenants stored at the provider,
and ``/threads/{id}/messages`` also ends in ``/messages``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from aigw_core.errors import Dialect
from aigw_core.wires import Wire

PATH_MAX: Final = 2_048
"""Bytes of a path below a prefix or a list of models that a virtual key may call: ids have under a hundred."""
_POST = (b"POST",)
_READ = (b"GET", b"HEAD")

WIRES: Mapping[str, tuple[Wire, tuple[bytes, ...]]] = {
    "/chat/completions": (Wire.CHAT_COMPLETIONS, _POST),
    "/completions": (Wire.COMPLETIONS, _POST),
    "/responses": (Wire.RESPONSES, _POST),
    "/responses/compact": (Wire.RESPONSES_COMPACT, _POST),
    "/responses/input_tokens": (Wire.RESPONSES_INPUT_TOKENS, _POST),
    "/messages": (Wire.MESSAGES, _POST),
    "/messages/count_tokens": (Wire.COUNT_TOKENS, _POST),
    "/embeddings": (Wire.EMBEDDINGS, _POST),
    "/models": (Wire.MODELS, _READ),
}
"""Wire suffixes of the managed scope and their methods; joined to each base path of a provider."""

WARMING = "/v1/tcp_warming"

_ANTHROPIC_WIRES = frozenset({Wire.MESSAGES, Wire.COUNT_TOKENS})


@dataclass(frozen=True, slots=True)
class Scope:
    """One path that virtual keys may call."""

    wire: Wire
    methods: tuple[bytes, ...] | None
    """None: any method, for paths that the operator added without naming one."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes and what it speaks. ``scope`` is None outside the managed table."""

    provider: str
    target: bytes
    endpoint: str
    dialect: Dialect
    scope: Scope | None
    bare: bool
    wire: Wire = Wire.OPAQUE


class ScopeTable:
    """The managed scope of one provider."""

    __slots__ = ("_exact", "_model_bases", "_prefixes")

    def __init__(self, bases: Iterable[str], *, warming: bool = False, extra: Iterable[str] = ()) -> None:
        """``extra`` widens the table: ``"METHOD /path"`` or ``"/path"``, a final ``*`` matching any rest."""
        self._exact: dict[bytes, Scope] = {}
        self._model_bases: list[bytes] = []
        self._prefixes: list[tuple[bytes, Scope]] = []
        for base in bases:
            for suffix, (wire, methods) in WIRES.items():
                self._exact[(base + suffix).encode()] = Scope(wire, methods)
            self._model_bases.append(f"{base}/models/".encode())
        if warming:
            self._exact[WARMING.encode()] = Scope(Wire.WARMING, (b"GET",))
        for entry in extra:
            method, _, path = entry.rpartition(" ")
            scope = Scope(Wire.OPAQUE, (method.encode(),) if method else None)
            if path.endswith("*"):
                self._prefixes.append((path[:-1].encode(), scope))
            else:
                self._exact[path.encode()] = scope

    def find(self, path: bytes) -> Scope | None:
        """The scope of a forwarded path without its query, or None: refused."""
        scope = self._exact.get(path)
        if scope is not None:
            return scope
        if len(path) > PATH_MAX:
            return None
        for base in self._model_bases:
            if path.startswith(base) and _is_model_id(path[len(base) :]):
                return Scope(Wire.MODELS, _READ)
        for prefix, widened in self._prefixes:
            if path.startswith(prefix) and _is_plain(path):
                return widened
        return None


def _is_model_id(segment: bytes) -> bool:
    """One raw segment; ``%2F`` may stand in it (``openai%2Fgpt-oss-20b``) where no decoded part is empty or dots."""
    if not segment or b"/" in segment or b"\\" in segment:
        return False
    lower = segment.lower()
    if b"%2e" in lower or b"%5c" in lower:
        return False
    decoded = unquote_to_bytes(segment)
    if b"%" in decoded or b"\\" in decoded:
        return False
    return not any(_is_dots(part) for part in decoded.split(b"/"))


def _is_dots(part: bytes) -> bool:
    """A segment that a path parser may drop or climb by; some leave parameters out first (``..;x``)."""
    return part.partition(b";")[0] in (b"", b".", b"..")


def _is_plain(path: bytes) -> bool:
    """No dot segment, no encoded dot, slash or backslash, no empty segment."""
    lower = path.lower()
    if b"\\" in path or any(code in lower for code in (b"%2e", b"%2f", b"%5c")):
        return False
    return not any(_is_dots(part) for part in path.split(b"/")[1:])


def split_target(target: bytes) -> tuple[str | None, bytes, bytes]:
    """(first segment or None for a bare ``/v1`` path, forwarded path, query with its ``?``)."""
    path, mark, query = target.partition(b"?")
    query = mark + query
    if path == b"/v1" or path.startswith(b"/v1/"):
        return None, path, query
    slash = path.find(b"/", 1)
    if slash < 0:
        return path[1:].decode("latin-1"), b"/", query
    return path[1:slash].decode("latin-1"), path[slash:], query


def bare_dialect(path: bytes, anthropic_headers: bool) -> Dialect:
    """Whose default a bare path is: ``/v1/threads/{id}/messages`` is OpenAI's, and so is the key that comes with it."""
    if anthropic_headers or path == b"/v1/messages" or path.startswith(b"/v1/messages/"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI


def dialect_of(path: bytes, default: Dialect, anthropic_headers: bool) -> Dialect:
    """The dialect that the caller of this path understands: by the path, else by its headers, else the provider's."""
    if path.endswith((b"/v1/messages", b"/v1/messages/count_tokens")):
        return Dialect.ANTHROPIC
    if path.endswith((b"/completions", b"/responses", b"/embeddings")):
        return Dialect.OPENAI
    return Dialect.ANTHROPIC if anthropic_headers else default


def speaks_anthropic(wire: Wire) -> bool:
    return wire in _ANTHROPIC_WIRES
