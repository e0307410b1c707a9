"""Writing deny entries to a bucket: each write is acknowledged by the stream, or it has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from nats import errors

from aigw_anyio.nats.connection import LinkLost, LinkTimeout, NatsLink, NatsSupervisor
from aigw_anyio.nats.jetstream import STREAM_NOT_FOUND, ApiError, answer_of, request
from aigw_anyio.nats.options import NatsOptions
from aigw_core.denyview import OPERATION_HEADER

ANSWER_SECS: Final = 5.0
"""For one request: a person waits, and a busy cluster may take a second."""
CONNECT_SECS: Final = 10.0
"""For the whole command to get a connection."""
MARKER_SECS: Final = 3600
"""For which a new bucket keeps the marker of an expired entry: longer than a gateway is away at most times."""


class WriteProblem(Exception):
    """The entry was not written; the text is for the operator."""


async def on_bucket(
    options: NatsOptions, work: Callable[[NatsLink], Awaitable[None]], *, name: str = "aigw deny"
) -> None:
    """Connects, as ``name``, and runs ``work`` once. Raises WriteProblem."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def session(link: NatsLink) -> None:
        try:
            await work(link)
        except ApiError as error:
            problem: Exception | None = WriteProblem(str(error))
        except (LinkTimeout, LinkLost, errors.Error, TimeoutError):
            problem = WriteProblem("no answer from NATS: is the user allowed to do this?")
        except Exception as error:  # noqa: BLE001  # handed to the caller
            problem = error
        else:
            problem = None
        if not done.done():
            if problem is None:
                done.set_result(None)
            else:
                done.set_exception(problem)
        await link.lost()

    supervisor = NatsSupervisor(options, name=name)
    running = asyncio.get_running_loop().create_task(supervisor.run(session))
    try:
        await asyncio.wait({done}, timeout=CONNECT_SECS + 2 * ANSWER_SECS)
        if not done.done():
            done.cancel()
            raise WriteProblem(f"cannot connect to NATS: {supervisor.status.reason or 'no answer'}")
        done.result()
    finally:
        running.cancel()
        await asyncio.wait({running}, timeout=ANSWER_SECS)


async def write(link: NatsLink, bucket: str, key: str, value: bytes, headers: dict[str, str] | None = None) -> int:
    """One message on a key; its revision. Raises what ``on_bucket`` handles."""
    call = link.client.request(f"$KV.{bucket}.{key}", value, timeout=ANSWER_SECS, headers=headers)
    try:
        reply = await link.call(call, ANSWER_SECS + 1.0)
    except errors.NoRespondersError:
        raise ApiError(STREAM_NOT_FOUND, f"there is no bucket {bucket}") from None
    return int(answer_of(reply.data)["seq"])


async def put(link: NatsLink, bucket: str, key: str, reason: str, ttl_secs: int | None) -> int:
    """The revision."""
    headers = {"Nats-TTL": f"{ttl_secs}s"} if ttl_secs is not None else None
    return await write(link, bucket, key, reason.encode(), headers)


async def remove(link: NatsLink, bucket: str, key: str) -> int:
    """The revision. An entry that is not there is removed all the same."""
    return await write(link, bucket, key, b"", {OPERATION_HEADER: "DEL"})


async def create(link: NatsLink, bucket: str) -> None:
    """A bucket as the gateway wants it: one message for a key, and markers where entries expire."""
    config = {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "max_msgs_per_subject": 1,
        "discard": "new",
        "deny_delete": True,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": MARKER_SECS * 10**9,
        "storage": "file",
        "num_replicas": 1,
    }
    await request(link, f"STREAM.CREATE.KV_{bucket}", config, ANSWER_SECS)
