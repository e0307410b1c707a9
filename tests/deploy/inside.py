"""What the deployed gateway meets where it runs: a provider and a caller, made of nothing but its own package."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PROVIDER: Final = """
import sys
import anyio
from aigw_anyio import httpd
from aigw_anyio.mock import OpenAIMock, serve_mock
from aigw_core.secrets import Secret

async def main():
    await serve_mock(await httpd.listen("127.0.0.1", int(sys.argv[1])), OpenAIMock(Secret(sys.argv[2])))

anyio.run(main)
"""
"""Takes a port and the pool key."""

CALLER: Final = """
import http.client, json, sys
words = "word " * 30
body = {"model": "gpt-5.4-mini", "stream": True, "messages": [{"role": "user", "content": words}]}
headers = {"Authorization": "Bearer " + sys.argv[2], "Content-Type": "application/json"}
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
connection.request("POST", "/openai/v1/chat/completions", json.dumps(body), headers)
answer = connection.getresponse()
got = answer.read(20)
print("begun", answer.status, flush=True)
got += answer.read()
print("whole" if got.endswith(b"data: [DONE]\\n\\n") else got, flush=True)
"""
"""Takes the gateway's port and a virtual key; says when the stream has begun, and whether all of it came."""
POOL_KEY: Final = "pool-key-of-a-mock"
WAIT_SECS: Final = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Raises AssertionError where it does not come about."""
    end_of_wait = time.monotonic() + WAIT_SECS
    while not condition():
        assert time.monotonic() < end_of_wait, what
        time.sleep(0.1)
