"""The stream of facts as its consumers and operators see it: by nats-py's own JetStream calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import nats
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from tests.nats.server import NatsServer

T = TypeVar("T")
STREAM = "AI_USAGE"
SUBJECT = "ai.usage"


def with_stream(server: NatsServer, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    """Runs with a connection of its own."""

    async def main() -> T:
        client = await nats.connect(server.url, max_reconnect_attempts=1)
        try:
            return await work(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(main())


def make_stream(server: NatsServer, **config: Any) -> None:
    settings: dict[str, Any] = {
        "name": STREAM,
        "subjects": [f"{SUBJECT}.>"],
        "retention": api.RetentionPolicy.LIMITS,
        "discard": api.DiscardPolicy.NEW,
        **config,
    }

    async def work(js: JetStreamContext) -> None:
        await js.add_stream(api.StreamConfig(**settings))

    with_stream(server, work)


def enlarge_stream(server: NatsServer, max_bytes: int) -> None:
    async def work(js: JetStreamContext) -> None:
        config = (await js.stream_info(STREAM)).config
        config.max_bytes = max_bytes
        await js.update_stream(config)

    with_stream(server, work)


async def read_stream(js: JetStreamContext) -> list[tuple[str, str, bytes]]:
    """(subject, message id, fact) of every message, in order; empty where there is no stream."""
    try:
        last = (await js.stream_info(STREAM)).state.last_seq
    except NotFoundError:
        return []
    subscription = await js.subscribe(f"{SUBJECT}.>", stream=STREAM, ordered_consumer=True)
    found: list[tuple[str, str, bytes]] = []
    at = 0
    while at < last:
        message = await subscription.next_msg(10)
        assert message.headers is not None
        found.append((message.subject, message.headers["Nats-Msg-Id"], message.data))
        at = message.metadata.sequence.stream
    await subscription.unsubscribe()
    return found


def messages(server: NatsServer) -> list[tuple[str, str, bytes]]:
    return with_stream(server, read_stream)


def ids(server: NatsServer) -> list[str]:
    """Of the facts in the stream, in order; each message says its id twice."""
    found = messages(server)
    assert [json.loads(data)["id"] for _, _, data in found] == [fact_id for _, fact_id, _ in found]
    return [fact_id for _, fact_id, _ in found]
