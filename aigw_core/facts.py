"""The usage fact: one exact record per managed exchange, and the open record that promises it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from json.encoder import encode_basestring_ascii
from typing import Final, TypeVar

FACT_VERSION: Final = 1
FACT_MAX_BYTES: Final = 32_768
"""One encoded fact. Sinks reserve this much when a record is opened, so it must be a hard limit."""
ENDPOINT_MAX: Final = 1_024
"""Characters of a path that are kept: a model id in it may be as long as a request head."""


class Outcome(StrEnum):
    """How an admitted exchange ended."""

    COMPLETE = "complete"
    UPSTREAM_ERROR = "upstream_error"
    REFUSED = "refused"
    CLIENT_ABORT = "client_abort"
    UPSTREAM_ABORT = "upstream_abort"
    TIMEOUT = "timeout"
    GATEWAY_CUT = "gateway_cut"
    GATEWAY_LOST = "gateway_lost"


COMPLETE: Final = Outcome.COMPLETE
"""The one outcome that is looked at for every exchange; as in states.py."""


@dataclass(slots=True)
class OpenRecord:
    """What is known at admission: enough to write the fact of an exchange whose process died."""

    id: str
    time: str
    tenant_id: int
    vpc_id: int
    key_id: int | None
    kid: int
    provider: str
    wire: str
    endpoint: str
    deny_revision: int | None
    deny_stale_ms: int | None
    identity: str | None = field(default=None, repr=False, compare=False)
    """The members from tenant_id to endpoint, encoded, where they are known already."""

    def encode_identity(self) -> str:
        """JSON members that say who called what: the same for each request of one key to one path."""
        return (
            f'"tenant_id":"{self.tenant_id}","vpc_id":"{self.vpc_id}",'
            f'"key_id":{_text(None if self.key_id is None else str(self.key_id))},"kid":{self.kid},'
            f'"provider":{encode_basestring_ascii(self.provider)},"wire":{encode_basestring_ascii(self.wire)},'
            f'"endpoint":{_text(self.endpoint[:ENDPOINT_MAX])}'
        )

    def encode(self) -> bytes:
        """One JSON object without a newline."""
        # By hand, since this runs once per request: 2 µs against 8 µs for a JSONEncoder.
        return (
            f'{{"v":{FACT_VERSION},"id":"{self.id}","time":"{self.time}",{self.identity or self.encode_identity()},'
            f'"deny_revision":{_NULL if self.deny_revision is None else self.deny_revision},'
            f'"deny_stale_ms":{_NULL if self.deny_stale_ms is None else self.deny_stale_ms}}}'
        ).encode("ascii")


@dataclass(slots=True)
class UsageFact:
    """The one usage record of a managed exchange; fields as in the reference, ``null`` where unknown.

    Ids that may exceed 2**53 are decimal strings in the encoded form. Durations are milliseconds, byte
    counts are body bytes relayed, tokens are integers in disjoint classes.
    """

    opened: OpenRecord
    outcome: Outcome
    usage_status: str
    duration_ms: int | None = None
    ttft_ms: int | None = None
    streaming: bool | None = None
    requested_model: str | None = None
    model: str | None = None
    status: int | None = None
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    tokens: dict[str, int] | None = None
    usage: dict[str, object] | None = None
    estimate: dict[str, object] | None = None
    service_tier: str | None = None
    server_tool_calls: dict[str, int] | None = None
    flags: set[str] | None = None
    request_bytes: int = 0
    response_bytes: int = 0

    @property
    def id(self) -> str:
        return self.opened.id

    def as_dict(self) -> dict[str, object]:
        """Every field of the reference table, in its order."""
        opened = self.opened
        return {
            "v": FACT_VERSION,
            "id": opened.id,
            "time": opened.time,
            "duration_ms": self.duration_ms,
            "ttft_ms": self.ttft_ms,
            "tenant_id": str(opened.tenant_id),
            "vpc_id": str(opened.vpc_id),
            "key_id": None if opened.key_id is None else str(opened.key_id),
            "kid": opened.kid,
            "provider": opened.provider,
            "wire": opened.wire,
            "endpoint": opened.endpoint[:ENDPOINT_MAX],
            "streaming": self.streaming,
            "requested_model": self.requested_model,
            "model": self.model,
            "status": self.status,
            "upstream_status": self.upstream_status,
            "upstream_request_id": self.upstream_request_id,
            "outcome": self.outcome,
            "usage_status": self.usage_status,
            "tokens": self.tokens or {},
            "usage": self.usage,
            "estimate": self.estimate,
            "service_tier": self.service_tier,
            "server_tool_calls": self.server_tool_calls,
            "flags": sorted(self.flags) if self.flags else [],
            "deny_revision": opened.deny_revision,
            "deny_stale_ms": opened.deny_stale_ms,
            "request_bytes": self.request_bytes,
            "response_bytes": self.response_bytes,
        }

    def encode(self) -> bytes:
        """One JSON object without a newline, at most FACT_MAX_BYTES."""
        encoded = self._encode_members().encode("ascii")
        return encoded if len(encoded) <= FACT_MAX_BYTES else self._encode_bounded()

    def _encode_members(self) -> str:
        # By hand, since this runs once per request: 7 µs against 18 µs for as_dict() and a JSONEncoder.
        opened = self.opened
        asked = (self.streaming, self.requested_model, self.model, self.status, self.upstream_status)
        extras: str | None = None
        if self.estimate is None and self.server_tool_calls is None and not self.flags:
            extras = _usual_extras.get(self.service_tier)
        return (
            f'{{"v":{FACT_VERSION},"id":"{opened.id}","time":"{opened.time}",'
            f'"duration_ms":{_NULL if self.duration_ms is None else self.duration_ms},'
            f'"ttft_ms":{_NULL if self.ttft_ms is None else self.ttft_ms},'
            f"{opened.identity or opened.encode_identity()},"
            f"{_usual_asked.get(asked) or _encode_asked(asked)},"
            f'"upstream_request_id":{_text(self.upstream_request_id)},"outcome":"{self.outcome}",'
            f'"usage_status":"{self.usage_status}","tokens":{{{_tokens(self.tokens) if self.tokens else ""}}},'
            f'"usage":{_object(self.usage)},{extras or self._encode_extras()},'
            f'"deny_revision":{_NULL if opened.deny_revision is None else opened.deny_revision},'
            f'"deny_stale_ms":{_NULL if opened.deny_stale_ms is None else opened.deny_stale_ms},'
            f'"request_bytes":{self.request_bytes},"response_bytes":{self.response_bytes}}}'
        )

    def _encode_extras(self) -> str:
        """The members from estimate to flags."""
        calls, flags = self.server_tool_calls, [f'"{flag}"' for flag in sorted(self.flags or ())]
        encoded = (
            f'"estimate":{_object(self.estimate)},"service_tier":{_text(self.service_tier)},'
            f'"server_tool_calls":{_object(calls)},"flags":[{",".join(flags)}]'
        )
        if self.estimate is None and calls is None and not flags:
            _remember(_usual_extras, self.service_tier, encoded)
        return encoded

    def _encode_bounded(self) -> bytes:
        """Less and less of what a caller or provider chose the size of, until it fits."""
        row = self.as_dict()
        row["flags"] = sorted({*(self.flags or ()), "usage_truncated"})
        row["usage"] = _recognised(self.usage)
        encoded = _dumps(row)
        if len(encoded) <= FACT_MAX_BYTES:
            return encoded
        row["usage"] = None
        for name in ("endpoint", "model", "requested_model", "upstream_request_id", "service_tier"):
            value = row[name]
            if isinstance(value, str):
                row[name] = value[:_TEXT_MAX]
        row["server_tool_calls"] = None
        return _dumps(row)


_TEXT_MAX: Final = 256
"""Characters kept of each text of an oversize fact; five of them, escaped, stay far below the limit."""

_MEMBERS_MAX: Final = 64
"""Numbers kept of an oversize usage object: more than any provider states."""


def _recognised(usage: dict[str, object] | None) -> dict[str, object] | None:
    """The plain counters of a usage object that is too large to keep whole."""
    if usage is None:
        return None
    kept: dict[str, object] = {}
    for name, value in usage.items():
        if len(kept) == _MEMBERS_MAX:
            break
        if len(name) <= 64 and type(value) is int and abs(value) < 2**64:
            kept[name] = value
    return kept


# ASCII escapes keep lone surrogates, which providers do send, encodable.
_encoder = json.JSONEncoder(separators=(",", ":"))


def _quick_encoder() -> Callable[[object, int], Iterable[str]] | None:
    """What JSONEncoder makes anew for every call, where it is written in C: half of the time for a usage object."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return None
    encode: Callable[[object, int], Iterable[str]] = make(
        None, _encoder.default, encode_basestring_ascii, None, ":", ",", False, False, True
    )
    return encode


_chunks: Final = _quick_encoder()


def _dumps(row: dict[str, object]) -> bytes:
    return _encoder.encode(row).encode("ascii")


_Asked = tuple[bool | None, str | None, str | None, int | None, int | None]
"""(streaming, requested model, model, status, upstream status)."""
_usual_asked: Final[dict[_Asked, str]] = {}
_usual_extras: Final[dict[str | None, str]] = {}
_USUAL_MAX: Final = 1_024
"""Encoded parts that are kept: the same few models are asked for and answer all day."""
_USUAL_SIZE_MAX: Final = 256
"""Characters of a part worth keeping: a caller may ask for a model with a name of any length."""
_KeyT = TypeVar("_KeyT")


def _remember(parts: dict[_KeyT, str], key: _KeyT, encoded: str) -> None:
    if len(encoded) <= _USUAL_SIZE_MAX:
        if len(parts) >= _USUAL_MAX:
            parts.clear()
        parts[key] = encoded


def _encode_asked(asked: _Asked) -> str:
    """The members from streaming to upstream_status."""
    streaming, requested_model, model, status, upstream_status = asked
    encoded = (
        f'"streaming":{_BOOLEANS[streaming]},"requested_model":{_text(requested_model)},"model":{_text(model)},'
        f'"status":{_NULL if status is None else status},'
        f'"upstream_status":{_NULL if upstream_status is None else upstream_status}'
    )
    _remember(_usual_asked, asked, encoded)
    return encoded


_token_forms: Final[dict[tuple[str, ...], str]] = {}
_TOKEN_FORMS_MAX: Final = 1_024
"""Sets of token classes in one order; a few are in use, and all that there can be would take megabytes."""


def _tokens(tokens: dict[str, int]) -> str:
    """The members of the object of token classes."""
    names = tuple(tokens)
    form = _token_forms.get(names)
    if form is None:
        form = ",".join([f'"{name}":%d' for name in names])
        if len(_token_forms) < _TOKEN_FORMS_MAX:
            _token_forms[names] = form
    return form % tuple(tokens.values())


_NULL: Final = "null"
_BOOLEANS: Final = {None: "null", True: "true", False: "false"}


def _text(value: str | None) -> str:
    return _NULL if value is None else encode_basestring_ascii(value)


def _object(value: object) -> str:
    if value is None:
        return _NULL
    return _encoder.encode(value) if _chunks is None else "".join(_chunks(value, 0))
