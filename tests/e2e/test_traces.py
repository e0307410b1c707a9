"""Both servers, byte for byte: the same inputs leave the same traces at caller and provider, and in the ledger."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.e2e import DEADLINE, answers, keys
from tests.e2e.calls import BODY, CHAT, JSON_TYPE, MESSAGES, STREAMED, UNRULED
from tests.e2e.client import Client, Closed, Field, bearer, request
from tests.e2e.conftest import BACKENDS
from tests.e2e.fleet import Fleet, is_at_rest
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import PeerClosed, Provider, Received
from tests.e2e.test_malformed import BODIES, CHUNKS, HEADS

KEY: Final = keys.virtual_key(key_id=2**43)
USAGE: Final = b'{"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}}'


@dataclass
class Script:
    """What the caller sends, and what the provider does once it has the request."""

    sends: Callable[[Field], list[bytes]]
    """The pieces, given the header field that leads to the provider's script."""
    answers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Pieces, each with what the caller must have seen of it before the next one is sent; empty: nothing."""
    last: bytes = b""
    """What the caller waits for before it half-closes; empty: the end of the connection."""
    ends: str = ""
    """What the provider does then: ``close`` or ``reset``."""
    reads: bool = True
    """The provider reads the request body first."""


def call(*fields: Field, target: str = CHAT, body: bytes = BODY, key: str = KEY, **how: Any) -> Script:
    """A script whose request is whole; ``how`` are the other members."""
    return Script(lambda case: [request(target, body, bearer(key), JSON_TYPE, case, *fields)], **how)


def whole(answer: bytes, last: bytes) -> dict[str, Any]:
    return {"answers": [(answer, last)], "last": last}


def _by_fours(data: bytes) -> list[bytes]:
    return [data[at : at + 4] for at in range(0, len(data), 4)]


COMPLETION: Final = answers.json_answer(answers.chat_completion({}))
EVENTS: Final = answers.chat_events({"stream_options": {"include_usage": True}})
EMPTY: Final = answers.head("200 OK", ("Content-Type", "application/json"))
LENGTH_99: Final = answers.head("200 OK", ("Content-Length", "99"))
ECHO: Final = answers.json_answer({"error": keys.pool_key("openai"), "end": 1}, "401 Unauthorized")
REFUSED: Final = b'"code"'


def _streamed(events: list[bytes], seen: list[bytes]) -> dict[str, Any]:
    """Head, events and last chunk, each seen before the next."""
    pieces = [(answers.STREAM_HEAD, b"\r\n\r\n")]
    pieces += [(answers.chunk(event), event if event in seen else b"") for event in events]
    return {"answers": [*pieces, (answers.LAST_CHUNK, b"0\r\n\r\n")], "last": b"\r\n0\r\n\r\n"}


ASKED: Final = json.dumps({**json.loads(STREAMED), "stream_options": {"include_usage": True}}).encode()
HELD: Final = b"data: " + USAGE + b"\n\n"
"""Taken out where the gateway asked for it."""
SHOWN: Final = [event for event in EVENTS if b'"choices": []' not in event]

SCRIPTS: Final[dict[str, Script]] = {
    "json": call(**whole(COMPLETION, b'"service_tier": "default"}')),
    "json, own key": call(key=keys.BYO_KEY, **whole(COMPLETION, b'"service_tier": "default"}')),
    "request by fours": Script(
        lambda case: _by_fours(request(CHAT, BODY, bearer(KEY), JSON_TYPE, case)),
        **whole(COMPLETION, b'"service_tier": "default"}'),
    ),
    "stream": call(body=ASKED, **_streamed(EVENTS, EVENTS)),
    "stream, usage asked for by the gateway": call(body=STREAMED, **_streamed([*SHOWN[:2], HELD, *SHOWN[2:]], SHOWN)),
    "stream, reset": call(body=ASKED, answers=_streamed(EVENTS[:3], EVENTS)["answers"][:-1], ends="reset"),
    "messages": call(
        target=MESSAGES, **whole(answers.json_answer(answers.message(json.loads(BODY))), b'"output_tokens": 15')
    ),
    "no content": call(**whole(answers.head("204 No Content"), b"\r\n\r\n")),
    "until close": call(answers=[(EMPTY, b"\r\n\r\n"), (USAGE, USAGE)], ends="close", last=b"\r\n0\r\n\r\n"),
    "until close, cut": call(answers=[(EMPTY, b"\r\n\r\n"), (USAGE[:30], USAGE[:30])], ends="reset"),
    "length, cut": call(answers=[(LENGTH_99, b"\r\n\r\n"), (USAGE[:30], USAGE[:30])], ends="close"),
    "early hints": call(
        answers=[(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", b"103"), (COMPLETION, b"")],
        last=b'"service_tier": "default"}',
    ),
    "error that shows the key": call(**whole(ECHO, b'"end": 1}')),
    "garbage": call(answers=[(b"SSH-2.0-OpenSSH\r\n\r\n", REFUSED)], last=REFUSED),
    "closes at once": call(last=REFUSED, ends="close"),
    "resets at once": call(last=REFUSED, ends="reset"),
    "early answer": Script(
        lambda case: [request(UNRULED, b"", bearer(KEY), (b"Content-Length", b"100"), case) + b"half"],
        **whole(answers.json_answer({"early": 1}, "413 Too Large"), b'"early": 1}'),
        reads=False,
    ),
    "chunked upload": Script(
        lambda case: [
            request(UNRULED, b"", bearer(KEY), (b"Transfer-Encoding", b"chunked"), case)
            + answers.chunk(BODY[:9])
            + answers.chunk(BODY[9:])
            + answers.LAST_CHUNK
        ],
        **whole(COMPLETION, b'"service_tier": "default"}'),
    ),
    "http/1.0": Script(
        lambda case: [request(CHAT, BODY, bearer(KEY), JSON_TYPE, case, version="1.0")],
        answers=[(COMPLETION, b'"service_tier": "default"}')],
    ),
    "close asked for": call((b"Connection", b"close"), answers=[(COMPLETION, b'"service_tier": "default"}')]),
    "head request": Script(
        lambda case: [request("/openai/v1/models", b"", bearer(KEY), case, method="HEAD")],
        **whole(answers.head("200 OK", ("Content-Length", "5")), b"\r\n\r\n"),
    ),
    "wrong key": call(key=keys.forged_key(), last=REFUSED),
    "no such provider": call(target="/nobody/v1/chat/completions", last=REFUSED),
    "websocket": call((b"Upgrade", b"websocket"), (b"Connection", b"upgrade"), last=REFUSED),
    "nobody at the provider's address": call(target="/refusing/v1/chat/completions", last=REFUSED),
    "nothing": Script(lambda _: [], last=b""),
    **{f"head: {name}": Script(lambda _, data=data: [data], last=REFUSED) for name, (data, _) in HEADS.items()},  # type: ignore[misc]  # bound at once
    **{
        f"chunks: {name}": Script(
            lambda case, data=data: [request(CHAT, b"", bearer(KEY), (b"Transfer-Encoding", b"chunked"), case) + data],  # type: ignore[misc]  # bound at once
            last=REFUSED,
        )
        for name, data in CHUNKS.items()
        # Larger than one read may be: where its first part is judged alone, that is refused for what it holds.
        if name != "many-extensions"
    },
    **{
        f"body: {name}": call(target="/openai/v1/responses", body=body, last=REFUSED)
        for name, (body, _) in BODIES.items()
    },
}


@dataclass
class Trace:
    """What one server left behind, without what time and chance decide."""

    down: bytes
    down_end: str
    up: list[bytes]
    up_end: list[str]
    facts: list[dict[str, Any]]


CHANCE: Final = ("id", "time", "duration_ms", "ttft_ms")


def _normal(data: bytes) -> bytes:
    return re.sub(rb"x-test-case: case-\d+", b"x-test-case: C", re.sub(rb"\b[0-9a-f]{32}\b", b"I" * 32, data))


class Provided:
    """Plays the provider's part in lockstep with the caller, and keeps what it saw."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen = threading.Semaphore(0)
        self.sent = threading.Semaphore(0)
        self.requests: list[Received] = []
        self.ends: list[str] = []
        self.over = threading.Event()

    def play(self, received: Received) -> None:
        self.requests.append(received)
        try:
            if self.script.reads:
                received.read()
            for piece, _ in self.script.answers:
                received.connection.send(piece)
                self.sent.release()
                assert self.seen.acquire(timeout=DEADLINE)
            if self.script.ends == "close":
                received.connection.close()
            elif self.script.ends == "reset":
                received.connection.reset()
        except PeerClosed as how:
            self.ends.append(str(how))
        finally:
            self.over.set()


def trace(gateway: Gateway, provider: Provider, script: Script) -> Trace:
    provided = Provided(script)
    case = provider.case(provided.play)
    known, transcript, end = set(gateway.facts()), bytearray(), ""

    def see(mark: bytes, start: int) -> None:
        while mark not in transcript[start:]:
            client._receive()

    with Client(gateway, transcript=transcript) as client:
        try:
            client.send_pieces(script.sends(case.header))
            for _, mark in script.answers:
                start = len(transcript)
                assert provided.sent.acquire(timeout=DEADLINE)
                see(mark, start)
                provided.seen.release()
            see(script.last, 0)
            if script.last or not script.answers:
                client.half_close()
            while True:
                client._receive()
        except Closed as how:
            end = str(how)
    wait_until(lambda: is_at_rest(gateway), "the exchange ends and every fact is read")
    if provided.requests:
        assert provided.over.wait(DEADLINE)
    facts = [fact for fact_id, fact in gateway.facts().items() if fact_id not in known]
    return Trace(
        _normal(bytes(transcript)),
        end,
        [_normal(received.head) + b"\r\n\r\n" + bytes(received.raw_body) for received in provided.requests],
        provided.ends,
        [{name: value for name, value in fact.items() if name not in CHANCE} for fact in facts],
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_traces_are_equal(fleet: Fleet, provider: Provider, name: str) -> None:
    first, *others = (trace(fleet.get(backend, "plain"), provider, SCRIPTS[name]) for backend in BACKENDS)
    assert others == [first]
    assert first.down or name == "nothing"


def test_traces_can_differ(fleet: Fleet, provider: Provider) -> None:
    """What is compared is what was exchanged: two scripts, two traces."""
    gateway = fleet.get(BACKENDS[0], "plain")
    found = [trace(gateway, provider, SCRIPTS[name]) for name in ("json", "json, own key", "stream")]
    assert found[0] != found[1]
    assert found[1].facts == []
    assert (found[0].facts[0]["usage_status"], found[2].facts[0]["usage_status"]) == ("final", "final")
