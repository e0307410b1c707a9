"""``Connection: content_length``: a spelling of a field that every server relies on, nominated to be removed.

Servers that take ``_`` for ``-`` would otherwise have the length removed from the forwarded request, and its body read
as the next request of that connection: in another tenant's name, with the pool key of another tenant's head. No
spelling removes framing, Host or a credential; what a provider receives is one request.
"""

from __future__ import annotations

import json

import pytest

from tests.e2e import keys
from tests.e2e.calls import CHAT
from tests.e2e.client import Client, bearer, request
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received

BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hi"}]}'
NOMINATED = [
    b"content_length",
    b"Content.Length",
    b"keep-alive, content_length",
    b"content_encoding",
    b"transfer_encoding",
]
PADDINGS = {"a head that is remembered": b"", "one that is too long for that": b"p" * 5_000}


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("nominated", NOMINATED)
@pytest.mark.parametrize("key", [keys.virtual_key(), "sk-own-key-of-a-caller"], ids=["managed", "byo"])
def test_no_spelling_of_a_length_is_removed(
    gateway: Gateway, provider: Provider, key: str, nominated: bytes, padding: str
) -> None:
    seen: list[tuple[bytes, bytes]] = []

    def answer(received: Received) -> None:
        seen.append((received.head, received.read()))
        received.connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")

    case = provider.case(answer)
    fields = [(b"Connection", nominated), (b"X-Padding", PADDINGS[padding] or b"p"), case.header]
    with Client(gateway) as client:
        for _ in range(2):
            client.send(request(CHAT, BODY, bearer(key), (b"Content-Type", b"application/json"), *fields))
            assert client.read_answer().status == 200
    assert len(seen) == 2
    for head, body in seen:
        assert b"\r\nContent-Length: %d\r\n" % len(BODY) in head + b"\r\n"
        assert json.loads(body) == json.loads(BODY)
