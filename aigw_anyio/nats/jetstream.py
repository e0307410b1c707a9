"""Requests of the JetStream API, as they are on the wire: JSON in, JSON out.

nats-py's own manager drops what we need (the exact creation time, the number of subjects) and its subscriptions do
more than we want.
"""

from __future__ import annotations

import json
from typing import Any, Final

from nats import errors

from aigw_anyio.nats.connection import NatsLink

ANSWER_SIZE_MAX: Final = 1024 * 1024
"""Descriptions are a few kilobytes; a server's own limit for a message is as much."""
STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014


class ApiError(Exception):
    """The server has refused a request; the text is for the log.

    ``code`` is JetStream's own number of the error, ``status`` its class as in HTTP; 0 where not stated.
    """

    def __init__(self, code: int, description: str, status: int = 0) -> None:
        super().__init__(description[:200])
        self.code = code
        self.status = status


async def request(link: NatsLink, subject: str, body: dict[str, Any] | None, secs: float) -> dict[str, Any]:
    """One request below ``$JS.API``. Raises ApiError, LinkTimeout, LinkLost, or an error of nats-py."""
    payload = json.dumps(body).encode() if body is not None else b""
    try:
        reply = await link.call(link.client.request(f"$JS.API.{subject}", payload, timeout=secs), secs + 1.0)
    except errors.NoRespondersError:
        raise ApiError(503, "JetStream is not available to this account", 503) from None
    return answer_of(reply.data)


def answer_of(data: bytes) -> dict[str, Any]:
    """What the server says, in an API answer or in the acknowledgement of a message. Raises ApiError."""
    if len(data) > ANSWER_SIZE_MAX:
        raise ApiError(0, "the answer is too large")
    try:
        answer: dict[str, Any] = json.loads(data)
        error = answer.get("error")
        if error is None:
            return answer
        status = int(error.get("code", 0))
        raise ApiError(int(error.get("err_code", status)), str(error.get("description", "refused")), status)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ApiError(0, "the answer is not understood") from None
