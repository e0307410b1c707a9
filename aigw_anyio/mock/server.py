"""What the mock providers share: serving, pauses, made-up texts and numbers."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

import anyio
from anyio.abc import SocketStream, TaskStatus
from anyio.streams.stapled import MultiListener

from aigw_anyio import httpd
from aigw_core.secrets import Secret

LIMITS: Final = httpd.Limits(connections=1024, body=64 * 1024 * 1024)
"""As many connections as a demo meets, and the gateway's own default for bodies."""
ECHO_MAX: Final = 200
"""Characters of the caller's last message that an answer repeats."""
FIRST_WORD: Final = 4
"""Pauses before a model's first word."""

Json = Mapping[str, object]
Pause = Callable[[], float]


class BadRequest(Exception):
    """What a provider refuses with 400; the text is for the caller."""


class Mock(Protocol):
    """One provider."""

    async def handle(self, request: httpd.Request, responder: httpd.Responder) -> None: ...


async def serve_mock(
    listener: MultiListener[SocketStream],
    mock: Mock,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled."""
    await httpd.serve(listener, mock.handle, LIMITS, task_status=task_status)


def typing_pauses() -> Pause:
    """Seconds between two chunks: 20 to 60 ms, uneven as a model's."""
    return itertools.cycle((0.02, 0.045, 0.03, 0.06, 0.025, 0.035, 0.05)).__next__


def has_key(request: httpd.Request, key: Secret) -> bool:
    """Whether the request carries the provider's key in one of the usual headers."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    given = request.headers.get("x-api-key", bearer)
    return Secret(given) == key


def json_body(request: httpd.Request) -> Json:
    """The request's JSON object. Raises BadRequest."""
    try:
        body: object = json.loads(request.body)
    except (ValueError, RecursionError):
        raise BadRequest("We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise BadRequest("The JSON body is not an object.")
    return body


def text_member(body: Json, name: str) -> str:
    """A required member that is text. Raises BadRequest."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"Missing required parameter: '{name}'.")
    return value


def last_text(messages: object) -> str:
    """The text of the last message of a conversation, of whichever shape; empty where there is none."""
    if isinstance(messages, str):
        return messages
    if isinstance(messages, list) and messages:
        return last_text(messages[-1])
    if isinstance(messages, dict):
        return last_text(messages.get("content", messages.get("text")))
    return ""


def answer_text(prompt: str) -> str:
    """What every mock model says."""
    echo = prompt.strip()[:ECHO_MAX]
    heard = f'You said: "{echo}".' if echo else "You said nothing that I could read."
    return f"Hello from the mock provider. {heard} No model was asked, and nothing left this machine."


def pieces(text: str) -> Iterator[str]:
    """The text in pieces about as long as tokens."""
    words = text.split(" ")
    yield from (word if index == 0 else f" {word}" for index, word in enumerate(words))


def tokens_of(value: object) -> int:
    """A plausible number of tokens for what JSON can hold."""
    text = value if isinstance(value, str) else json.dumps(value)
    return max(1, (len(text) + 3) // 4)


def new_id(prefix: str) -> str:
    return prefix + os.urandom(12).hex()


def dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


async def think(pause: Pause) -> None:
    """The time that a model takes to begin."""
    await anyio.sleep(FIRST_WORD * pause())


async def stream_events(
    responder: httpd.Responder, headers: httpd.Headers, events: Iterable[bytes], pause: Pause
) -> None:
    """An SSE answer, one event a piece, with pauses between."""
    await think(pause)
    others = [(name, value) for name, value in headers if name != "content-type"]
    await responder.start(200, [("content-type", "text/event-stream; charset=utf-8"), *others])
    for event in events:
        await responder.send(event)
        await anyio.sleep(pause())
    await responder.end()
