"""The requests that most tests send."""

from __future__ import annotations

import json
from typing import Final

from tests.e2e import keys
from tests.e2e.client import Answer, Client, Field, bearer, request
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Case

CHAT: Final = "/openai/v1/chat/completions"
MESSAGES: Final = "/anthropic/v1/messages"
UNRULED: Final = "/mistral/v1/embeddings"
"""Open to virtual keys, with no rule for bodies in force: any bytes pass."""
JSON_TYPE: Final = (b"Content-Type", b"application/json")
BODY: Final = json.dumps({"model": "gpt-5.4-mini", "messages": [{"role": "user", "content": "Hello"}]}).encode()
STREAMED: Final = json.dumps({**json.loads(BODY), "stream": True}).encode()


def call(
    case: Case | None = None, *fields: Field, target: str = CHAT, key: str | None = None, body: bytes = BODY
) -> bytes:
    """A JSON request with a virtual key of its own, or with this key."""
    case_fields = [case.header] if case is not None else []
    return request(target, body, bearer(key or keys.virtual_key()), JSON_TYPE, *case_fields, *fields)


def begun(case: Case, size: int, sent: bytes = b"", *, target: str = CHAT, key: str | None = None) -> bytes:
    """The head of a JSON request that declares ``size`` bytes of body, and the first of them."""
    length = (b"Content-Length", b"%d" % size)
    return call(case, length, target=target, key=key, body=b"") + sent


def ask(
    server: Gateway, case: Case | None = None, body: bytes = BODY, *, target: str = CHAT, key: str | None = None
) -> Answer:
    """One request on a connection of its own, and its answer."""
    with Client(server) as client:
        client.send(call(case, target=target, key=key, body=body))
        return client.read_answer()
