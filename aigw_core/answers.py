"""Our own responses: refusals in the caller's dialect, as effects."""

from __future__ import annotations

from aigw_core.effects import ExchangeEffect, SendResponseBody, SendResponseEnd, SendResponseHead
from aigw_core.errors import REASON_PHRASES, Dialect, Rejection
from aigw_core.headers import Headers
from aigw_core.messages import NO_BODY, Framing, Length, ResponseHead


def own_answer(
    rejection: Rejection, dialect: Dialect, request_id: str, method: bytes, close: bool
) -> list[ExchangeEffect]:
    """Head, body and end; a HEAD request gets the head that a GET would have got (RFC 9110 §9.3.2)."""
    body = rejection.body(dialect, request_id)
    fields = rejection.headers(dialect, request_id)
    fields.append((b"content-length", b"%d" % len(body)))
    fields.append((b"x-aigw-request-id", request_id.encode()))
    bodyless = method == b"HEAD"
    framing: Framing = NO_BODY if bodyless else Length(len(body))
    phrase = REASON_PHRASES.get(rejection.status, b"")
    head = ResponseHead(rejection.status, phrase, Headers.of(fields), framing)
    out: list[ExchangeEffect] = [SendResponseHead(head, close)]
    if not bodyless:
        out.append(SendResponseBody(body))
    out.append(SendResponseEnd())
    return out
