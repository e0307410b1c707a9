"""A prompt that looks like inline media, from a caller who leaves before the usage comes.

Words joined by underscores are an alphabet of base64. The tenant sends a million bytes of them as text, reads the
answer up to its last event and leaves: the estimate, which is all that is left to bill, must count them. Real images
in the members of the dialects must still not count as text.
"""

from __future__ import annotations

import base64
import json
from typing import Final

import pytest

from tests.e2e import answers
from tests.e2e.calls import CHAT, MESSAGES, call
from tests.e2e.client import Client
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received

PROMPT: Final = "_".join(["token"] * 175_000)
IMAGE: Final = base64.b64encode(bytes(range(256)) * 3_000).decode()


def begins(received: Received) -> None:
    """An answer whose usage never comes."""
    received.read()
    chunk = answers.chat_chunk([{"index": 0, "delta": {"content": "So"}, "finish_reason": None}])
    received.connection.send(answers.STREAM_HEAD + answers.chunk(answers.event(chunk)))
    received.connection.wait_closed()


def estimate_of(gateway: Gateway, provider: Provider, body: dict[str, object], target: str) -> int:
    case = provider.case(begins)
    with Client(gateway) as client:
        client.send(call(case, target=target, body=json.dumps(body).encode()))
        request_id = client.read_head().request_id
        client.read_chunk()
    fact = gateway.fact(request_id)
    assert (fact["outcome"], fact["usage_status"]) == ("client_abort", "absent")
    return int(fact["estimate"]["input"])


@pytest.mark.parametrize("target", [CHAT, MESSAGES])
def test_text_counts_whatever_it_is_made_of(gateway: Gateway, provider: Provider, target: str) -> None:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 9}
    assert estimate_of(gateway, provider, body, target) >= len(PROMPT) // 4


def test_images_in_their_members_do_not(gateway: Gateway, provider: Provider) -> None:
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": [url]}]}
    assert estimate_of(gateway, provider, body, CHAT) < 100
    source = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}}
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": [source]}], "max_tokens": 9}
    assert estimate_of(gateway, provider, body, MESSAGES) < 100
