"""Our own responses: refusals in the caller's dialect."""

from __future__ import annotations

from aigw_core.errors import REASON_PHRASES, Dialect, Rejection
from aigw_core.headers import Headers
from aigw_core.messages import NO_BODY, Framing, Length, ResponseHead


def own_answer(rejection: Rejection, dialect: Dialect, request_id: str, method: bytes) -> tuple[ResponseHead, bytes]:
    """Head and body; a HEAD request gets the head that a GET would have got (RFC 9110 §9.3.2), and no body."""
    body = rejection.body(dialect, request_id)
    fields = rejection.headers(dialect, request_id)
    fields.append((b"content-length", b"%d" % len(body)))
    fields.append((b"x-aigw-request-id", request_id.encode()))
    bodyless = method == b"HEAD"
    framing: Framing = NO_BODY if bodyless else Length(len(body))
    phrase = REASON_PHRASES.get(rejection.status, b"")
    return ResponseHead(rejection.status, phrase, Headers.of(fields), framing), b"" if bodyless else body
