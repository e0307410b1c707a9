"""The stream that takes facts: found or made, judged, and read back."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

from nats import errors

from aigw_anyio.nats.connection import LinkTimeout, NatsLink
from aigw_anyio.nats.jetstream import ApiError, request
from aigw_core.facts import FACT_MAX_BYTES
from aigw_core.outbox import content_key

CALL_SECS: Final = 5.0
"""For one answer of the server."""
HEADERS_SIZE: Final = 1_024
"""Bytes beside a fact that count against a stream's max_msg_size."""
DUPLICATE_WINDOW_SECS: Final = 120
"""Of a stream that we make: the server's own default, and far more than the seconds around a reconnect."""
ID_HEADER: Final = "Nats-Msg-Id"
_NOT_FOUND: Final = 404


class StreamRefused(Exception):
    """A stream to which facts must not be entrusted; the text is one line for the operator."""


@dataclass(slots=True, frozen=True)
class Stream:
    """The stream that takes our subjects."""

    name: str
    created: str

    @property
    def identity(self) -> str:
        """Differs from that of a stream of the same name that was made anew."""
        return f"{self.name} {self.created}"


async def call_api(link: NatsLink, name: str, body: dict[str, object]) -> dict[str, Any]:
    """Raises ApiError, and LinkTimeout or LinkLost."""
    try:
        return await request(link, name, body, CALL_SECS)
    except errors.TimeoutError:
        raise LinkTimeout from None


async def require_stream(link: NatsLink, subject: str, name: str) -> Stream:
    """The stream that takes ``subject`` and all below it; made under ``name`` where there is none.

    Raises StreamRefused, ApiError, LinkTimeout, LinkLost.
    """
    names = (await call_api(link, "STREAM.NAMES", {"subject": f"{subject}.any"})).get("streams")
    if names:
        row = await call_api(link, f"STREAM.INFO.{names[0]}", {})
    else:
        row = await _create(link, subject, name)
    config = row["config"]
    problems = stream_problems(config)
    if problems:
        raise StreamRefused(f"facts_stream: the stream {config['name']} {' and '.join(problems)}")
    return Stream(str(config["name"]), str(row["created"]))


async def _create(link: NatsLink, subject: str, name: str) -> dict[str, Any]:
    body: dict[str, object] = {
        "name": name,
        "subjects": [f"{subject}.>"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "duplicate_window": DUPLICATE_WINDOW_SECS * 1_000_000_000,
    }
    try:
        return await call_api(link, f"STREAM.CREATE.{name}", body)
    except ApiError as error:
        if error.status == 503:
            raise
        raise StreamRefused(f"facts_stream: {name} cannot be made: {error}") from None


def stream_problems(config: dict[str, Any]) -> list[str]:
    """What would lose facts."""
    found = []
    if config.get("retention") != "limits":
        found.append(f"has retention {config.get('retention')}, where only limits keeps what was read")
    if config.get("discard") != "new":
        found.append(f"has discard {config.get('discard')}, which deletes old facts to make room")
    if config.get("max_msgs_per_subject", -1) > 0 and not config.get("discard_new_per_subject"):
        found.append("has max_msgs_per_subject, which deletes old facts")
    if config.get("no_ack"):
        found.append("acknowledges nothing")
    if config.get("sealed"):
        found.append("is sealed")
    if 0 < config.get("max_msg_size", -1) < FACT_MAX_BYTES + HEADERS_SIZE:
        found.append(f"takes no message of {FACT_MAX_BYTES + HEADERS_SIZE} bytes")
    return found


async def holds(link: NatsLink, stream: Stream, subject: str, seq: int, payload: bytes) -> bool:
    """Whether the message at this sequence is this one, byte for byte. Raises ApiError, LinkTimeout, LinkLost."""
    try:
        message = (await call_api(link, f"STREAM.MSG.GET.{stream.name}", {"seq": seq}))["message"]
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return False
        raise
    return bool(message["subject"] == subject and _payload_of(message) == payload)


async def read_back(link: NatsLink, stream: Stream, subject: str, behind: int) -> dict[str, int]:
    """``content_key`` → sequence of every message of the subject behind this sequence.

    Asks the leader, message by message: a replica that answers faster may not have the newest ones. There
    are few, unless the cursor was lost. Raises ApiError, LinkTimeout, LinkLost.
    """
    found: dict[str, int] = {}
    while True:
        try:
            body: dict[str, object] = {"seq": behind + 1, "next_by_subj": subject}
            row = await call_api(link, f"STREAM.MSG.GET.{stream.name}", body)
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return found
            raise
        message = row["message"]
        behind = int(message["seq"])
        found[content_key(_payload_of(message))] = behind


def _payload_of(message: dict[str, Any]) -> bytes:
    return base64.b64decode(message.get("data", ""))
