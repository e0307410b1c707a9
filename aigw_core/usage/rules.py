"""Body rules of managed requests: which are in force, and what a body that strikes one raises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from aigw_core.errors import Reason, Rejection

COLLECT_MAX: Final = 65_536
"""Declared body bytes up to which a body is collected and judged before anything is sent."""


class IncludeUsage(StrEnum):
    """What is done about `stream_options.include_usage` of streamed chat completions."""

    INJECT = "inject"
    VERBATIM = "verbatim"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class BodyRules:
    """The rules for one request body."""

    include_usage: IncludeUsage | None
    """None: a wire without the option, or `verbatim`."""
    refuse_background: bool
    """Responses: `background` is refused, since its usage appears only on a later GET."""
    refuse_stored_refs: bool
    """Responses: `previous_response_id`, `conversation` and items named by id are refused."""
    on_model: Callable[[str | None], Rejection | None] | None
    """Asked with the requested model, None where the body states no string; None admits."""
    max_bytes: int
    """Body bytes, and decoded bytes where the body is encoded and a rule is in force."""
    collect_max: int = COLLECT_MAX
    adds_option: bool = True
    """`inject`: the option is added where it is missing. Otherwise only one that is there and says no is made true."""

    active: bool = field(init=False)
    """Whether any rule is in force, so that an unreadable body may not pass."""

    def __post_init__(self) -> None:
        active = (
            self.refuse_background
            or self.refuse_stored_refs
            or self.on_model is not None
            or self.include_usage in (IncludeUsage.INJECT, IncludeUsage.REQUIRE)
        )
        object.__setattr__(self, "active", active)


class RequestFault(Exception):
    """A request body struck a rule; ``rejection`` is what the caller is told."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.text)
        self.rejection = rejection

    @property
    def status(self) -> int:
        return self.rejection.status

    @property
    def code(self) -> str | None:
        return self.rejection.reason.value.openai_code

    @property
    def message(self) -> str:
        return self.rejection.text

    @property
    def param(self) -> str | None:
        return self.rejection.param


def struck(message: str, param: str | None = None) -> RequestFault:
    """A 400. The message goes to the log as well, so it is made of our own words alone."""
    return RequestFault(Rejection(Reason.BODY_RULE, message, param, detail=message))


def unreadable(message: str) -> RequestFault:
    """A 415: what cannot be read cannot be judged."""
    return RequestFault(Rejection(Reason.UNSUPPORTED_CODING, message, detail=message))


def too_large(limit: int) -> RequestFault:
    """A 413."""
    return RequestFault(Rejection(Reason.TOO_LARGE, f"The request body exceeds {limit} bytes."))


NOT_JSON: Final = "The request body is not one JSON object in UTF-8."
_FORM_TYPES: Final = (b"multipart/", b"application/x-www-form-urlencoded")
"""Providers parse these by the label, so that a JSON reading of the body would be another reading."""
CONTENT_TYPE_MAX: Final = 1_024
"""Bytes of a Content-Type under a body rule: it has some 30."""
_CHARSETS: Final = frozenset({b"utf-8", b"utf8", b"us-ascii"})


def content_type_fault(content_type: bytes) -> RequestFault | None:
    """Why a body under a rule is not read as JSON in UTF-8, from its Content-Type; None where it is."""
    if content_type == b"application/json":
        return None
    if len(content_type) > CONTENT_TYPE_MAX:
        return struck("The Content-Type is too long.")
    # A field that is given twice arrives joined by commas; each part counts.
    for part in content_type.lower().replace(b",", b";").split(b";"):
        name, _, value = part.strip().partition(b"=")
        if name.startswith(_FORM_TYPES):
            return struck("The request body must be JSON here, not a form.")
        if name.strip() == b"charset" and value.strip(b"\"' \t") not in _CHARSETS:
            return struck("The request body must be JSON in UTF-8.")
    return None


_TRUTHY_TEXT: Final = frozenset({"true", "t", "yes", "y", "on", "1"})
_TRUTHY_RAW_MAX: Final = 32
"""Bytes of JSON up to which a value is decoded to see whether it is true: no spelling of these is longer."""


def is_true(value: object) -> bool:
    """Whether a JSON value is true, or what lenient parsers of providers take for it (1, "true", "on")."""
    if isinstance(value, str):
        return value.lower() in _TRUTHY_TEXT
    return value is True or (type(value) in (int, float) and value == 1)


def is_true_text(raw: bytes | None) -> bool:
    """The same for the raw text of a value."""
    return raw is not None and len(raw) <= _TRUTHY_RAW_MAX and is_true(json.loads(raw))


def is_off(raw: bytes | None) -> bool:
    """Whether a raw JSON value is false or null: anything else might be taken for true."""
    return raw in (b"false", b"null")


def text_of(raw: bytes | None) -> str | None:
    """A raw JSON string as text; None for any other value."""
    if raw is None or not raw.startswith(b'"'):
        return None
    text: str = json.loads(raw)
    return text
