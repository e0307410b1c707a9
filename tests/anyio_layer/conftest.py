"""What the tests of this layer share: both event loops, and objects to put into sinks and servers."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import anyio
import pytest

from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.gateway import Gateway
from aigw_core.limiter import Limiter
from aigw_core.policy import Policy


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gateway() -> Gateway:
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    return Gateway(Policy.default(), entropy=bytes(32), limiter=limiter, now=0.0, wall=1_700_000_000.0)


@pytest.fixture
def record() -> OpenRecord:
    return OpenRecord(
        id="0001",
        time="2026-01-31T09:05:00.042Z",
        tenant_id=1,
        vpc_id=2,
        key_id=None,
        kid=1,
        provider="openai",
        wire="chat_completions",
        endpoint="/v1/chat/completions",
        deny_revision=None,
        deny_stale_ms=None,
    )


@pytest.fixture(autouse=True)
def _root_logging() -> Iterator[None]:
    """Leaves the process's logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("aigw")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], level, ours_level = before
    root.setLevel(level)
    ours.setLevel(ours_level)


def numbered(record: OpenRecord, number: int, padding: int = 0) -> UsageFact:
    """A fact whose record has this number as its id, this many bytes larger than need be."""
    opened = dataclasses.replace(record, id=f"{number:04d}")
    usage: dict[str, object] = {"padding": "a" * padding}
    return UsageFact(opened, Outcome.COMPLETE, "final", status=200, tokens={"input": number}, usage=usage)


async def exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends the bytes, reads to the end: status, headers and body of the (last) answer, de-chunked by hand."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(request)
        answer = bytearray()
        async for data in stream:
            answer += data
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = unchunked(body)
    return int(status_line.split(" ")[1]), headers, body


def unchunked(body: bytes) -> bytes:
    out = bytearray()
    while True:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return bytes(out)
        out += rest[:length]
        body = rest[length + 2 :]


def request_bytes(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A request that asks for the connection to be closed after it."""
    rows = {"Host": "x", "Connection": "close", **(headers or {})}
    if body:
        rows["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in rows.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body
