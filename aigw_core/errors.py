"""Refusals: what can go wrong, and how each caller's SDK is told.

A :class:`Rejection` is a value. It becomes bytes only in the dialect of the caller who gets it, so
that a stock SDK raises its own right exception class with a readable message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum, StrEnum


class LocalProtocolError(RuntimeError):
    """The driver broke the contract of the machine: our own bug or the embedder's, never the peer's."""


class RemoteProtocolError(ValueError):
    """The peer sent what HTTP/1.1 does not allow, or what we refuse to guess about.

    ``status`` is the answer a downstream peer gets; for an upstream peer it is always 502 outside.
    The text never quotes the peer's bytes.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.payload = b""
        """Body bytes that the same read held before the fault: they count, wherever the reads were split."""


class Dialect(StrEnum):
    """Whose error shapes a caller understands."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    openai_type: str
    openai_code: str | None
    anthropic_type: str
    message: str
    retry: bool | None = None
    """``x-should-retry`` for SDKs of the Stainless family; None leaves it to their own rule."""
    retry_after: int | None = None
    """Seconds. Short only: the anthropic SDK sleeps through any value (facts: providers §4)."""


_INVALID = "invalid_request_error"


class Reason(Enum):
    """Every reason for which the gateway itself refuses: the error catalogue."""

    MALFORMED = _Kind(400, _INVALID, "malformed_request", _INVALID, "The request is not valid HTTP/1.1.", False)
    HEAD_TOO_LARGE = _Kind(431, _INVALID, "head_too_large", _INVALID, "The request head is too large.", False)
    HEADS_WAITING = _Kind(
        503, "server_error", "overloaded", "api_error", "Too many request heads are incomplete. Try again.", None, 1
    )
    NOT_IMPLEMENTED = _Kind(501, _INVALID, "not_implemented", _INVALID, "Not implemented by this gateway.", False)
    HTTP_VERSION = _Kind(505, _INVALID, "http_version", _INVALID, "Only HTTP/1.0 and HTTP/1.1 are served.", False)
    UNKNOWN_ROUTE = _Kind(404, _INVALID, "unknown_route", "not_found_error", "No such provider.", False)
    WRONG_PROVIDER = _Kind(
        400, _INVALID, "wrong_provider", _INVALID, "This key belongs to another provider than the path names.", False
    )
    NO_CREDENTIAL = _Kind(401, _INVALID, "missing_api_key", "authentication_error", "No API key was given.", False)
    VIRTUAL_KEY_NEEDED = _Kind(
        401,
        _INVALID,
        "virtual_key_required",
        "authentication_error",
        "This gateway takes virtual keys only: send one as `Authorization: Bearer` or `x-api-key`.",
        False,
    )
    CONFLICTING_KEYS = _Kind(400, _INVALID, "conflicting_keys", _INVALID, "Two different virtual keys.", False)
    MISPLACED_KEY = _Kind(
        400, _INVALID, "misplaced_key", _INVALID, "A virtual key stands where no credential belongs.", False
    )
    BAD_KEY = _Kind(401, _INVALID, "invalid_api_key", "authentication_error", "Incorrect API key provided.", False)
    KEYS_REFUSED = _Kind(
        429,
        "requests",
        "provider_refuses_keys",
        "rate_limit_error",
        "The provider keeps refusing the keys that come from here. Try again later.",
        None,
        1,
    )
    RATE_LIMITED = _Kind(
        429, "requests", "rate_limit_exceeded", "rate_limit_error", "Too many requests. Try again later.", None, 1
    )
    TOO_LARGE = _Kind(413, _INVALID, "request_too_large", "request_too_large", "The request body is too large.", False)
    DENIED_SPEND = _Kind(
        402, "insufficient_quota", "spend_limit_exceeded", "billing_error", "The spend limit is exceeded.", False
    )
    DENIED = _Kind(403, _INVALID, "access_denied", "permission_error", "Access for this key is cut off.", False)
    OUT_OF_SCOPE = _Kind(
        404, _INVALID, "endpoint_not_allowed", "not_found_error", "Virtual keys cannot use this endpoint.", False
    )
    WRONG_METHOD = _Kind(405, _INVALID, "method_not_allowed", _INVALID, "Method not allowed here.", False)
    UPGRADE = _Kind(426, _INVALID, "upgrade_required", _INVALID, "WebSocket is not served here; use HTTP.", False)
    NO_POOL_KEY = _Kind(
        503, "server_error", "no_provider_key", "api_error", "The gateway has no key for this provider.", False
    )
    NOT_READY = _Kind(503, "server_error", "not_ready", "api_error", "The gateway is not ready. Try again.", None, 1)
    NO_LEDGER = _Kind(
        503, "server_error", "usage_ledger", "api_error", "Usage cannot be recorded right now. Try again.", None, 1
    )
    HOOK = _Kind(403, _INVALID, "refused", "permission_error", "Refused by the operator's policy.", False)
    BODY_RULE = _Kind(400, _INVALID, "body_refused", _INVALID, "The request body is refused.", False)
    UNSUPPORTED_CODING = _Kind(
        415, _INVALID, "unsupported_content_encoding", _INVALID, "This content encoding is not supported.", False
    )
    BODY_TIMEOUT = _Kind(408, _INVALID, "request_timeout", _INVALID, "The request did not arrive in time.", None)
    UPSTREAM_FAILED = _Kind(502, "server_error", "upstream_failed", "api_error", "The provider could not be reached.")
    UPSTREAM_BROKEN = _Kind(
        502, "server_error", "upstream_broken", "api_error", "The provider's answer was cut or malformed."
    )
    UPSTREAM_WITHHELD = _Kind(
        502, "server_error", "upstream_withheld", "api_error", "The provider's answer cannot be passed on.", False
    )
    UPSTREAM_TIMEOUT = _Kind(
        504, "server_error", "upstream_timeout", "timeout_error", "The provider did not answer in time."
    )
    SHUTTING_DOWN = _Kind(503, "server_error", "shutting_down", "api_error", "The gateway is shutting down.", None, 1)

    @property
    def status(self) -> int:
        return self.value.status


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refusal of ours: a reason, and what to tell this caller beyond its standard text."""

    reason: Reason
    message: str | None = None
    param: str | None = None
    status_override: int | None = None
    allow: str | None = None
    """The ``Allow`` header of a 405 (RFC 9110 §15.5.6)."""
    retry_after: int | None = None
    """Seconds, in place of the reason's own."""
    detail: str = ""
    """For the log alone, beside the reason: words of ours, never what a caller or provider sent."""

    @property
    def why(self) -> str:
        """The reason and its detail, for the log."""
        reason = self.reason.name.lower()
        return f"{reason}: {self.detail}" if self.detail else reason

    @property
    def status(self) -> int:
        return self.status_override or self.reason.value.status

    @property
    def text(self) -> str:
        return self.message or self.reason.value.message

    def body(self, dialect: Dialect, request_id: str) -> bytes:
        """The JSON body in the shape that the caller's SDK reads (facts: providers §4)."""
        kind = self.reason.value
        if dialect is Dialect.ANTHROPIC:
            error: dict[str, object] = {"type": kind.anthropic_type, "message": self.text}
            return json.dumps({"type": "error", "error": error, "request_id": request_id}).encode()
        error = {"message": self.text, "type": kind.openai_type, "param": self.param, "code": kind.openai_code}
        return json.dumps({"error": error}).encode()

    def headers(self, dialect: Dialect, request_id: str) -> list[tuple[bytes, bytes]]:
        """Headers beside Content-Length; the request id stands where the caller's SDK shows it."""
        kind = self.reason.value
        id_name = b"request-id" if dialect is Dialect.ANTHROPIC else b"x-request-id"
        out = [(b"content-type", b"application/json"), (id_name, request_id.encode())]
        if kind.retry is not None:
            out.append((b"x-should-retry", b"true" if kind.retry else b"false"))
        retry_after = kind.retry_after if self.retry_after is None else self.retry_after
        if retry_after is not None:
            out.append((b"retry-after", b"%d" % retry_after))
        if self.allow is not None:
            out.append((b"allow", self.allow.encode()))
        if self.status == 426:
            # RFC 9110 §7.8: Upgrade is about this hop, and says so.
            out += [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
        return out


_BY_STATUS = {
    503: Reason.HEADS_WAITING,
    431: Reason.HEAD_TOO_LARGE,
    501: Reason.NOT_IMPLEMENTED,
    505: Reason.HTTP_VERSION,
    413: Reason.TOO_LARGE,
    408: Reason.BODY_TIMEOUT,
}


def rejection_of(error: RemoteProtocolError) -> Rejection:
    """The refusal for a downstream peer that broke the protocol."""
    return Rejection(_BY_STATUS.get(error.status, Reason.MALFORMED), message=str(error), detail=str(error))


REASON_PHRASES: dict[int, bytes] = {
    100: b"Continue",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    426: b"Upgrade Required",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
