"""The NATS sink against a real server: every fact once, whatever dies, fills up or is lost."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import nats
import pytest
import trio
from nats.js import api

from aigw_anyio.nats import publisher as publisher_module
from aigw_anyio.nats.connection import Pace
from aigw_anyio.nats.factstream import stream_problems
from aigw_anyio.nats.hosting import Host, ThreadHost
from aigw_anyio.nats.options import parse_nats_url
from aigw_anyio.nats.publisher import CURSOR_NAME
from aigw_anyio.settings.model import SpoolFsync
from aigw_anyio.sinks import SinkError
from aigw_anyio.sinks import nats as nats_sink_module
from aigw_anyio.sinks.nats import NatsSink, NatsTarget
from aigw_anyio.sinks.spool import SpoolOptions
from aigw_anyio.sinks.spool.layout import segments, spools
from aigw_core.outbox import parse_cursor
from aigw_core.secrets import Secret
from tests.anyio_layer.spool.helpers import Process, closing, fact_of, opening, record_of
from tests.anyio_layer.spool.test_sink import Caller, until
from tests.nats.server import NatsServer
from tests.nats.stream import STREAM, SUBJECT, enlarge_stream, ids, make_stream, messages

pytestmark = pytest.mark.anyio
FAST = Pace(connect=2.0, probe=0.3, close=1.0, backoff_first=0.02, backoff_longest=0.2, settled=5.0)
OPTIONS = SpoolOptions(fsync=SpoolFsync.NEVER, tidy_secs=0.05)
PATIENCE = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server(new_server: Callable[..., NatsServer]) -> NatsServer:
    return new_server()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher_module, "RETRY_SECS", 0.05)
    monkeypatch.setattr(publisher_module, "CURSOR_SECS", 0.05)
    monkeypatch.setattr(nats_sink_module, "START_SECS", 2.0)


@asynccontextmanager
async def running(
    root: Path,
    server: NatsServer,
    options: SpoolOptions = OPTIONS,
    make_host: Callable[[], Host] | None = None,
) -> AsyncIterator[Caller]:
    target = NatsTarget(parse_nats_url(Secret(server.url)), SUBJECT, STREAM, FAST)
    sink = NatsSink(root, target, options, make_host=make_host)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(sink.run)
            yield Caller(sink)
            tasks.cancel_scope.cancel()


async def exchange(caller: Caller, *fact_ids: str, padding: int = 0) -> None:
    caller.open(*fact_ids)
    await until(lambda: all(fact_id in caller.answers for fact_id in fact_ids))
    caller.close(*fact_ids, padding=padding)


def numbers(count: int, first: int = 0) -> list[str]:
    return [f"{n:04d}" for n in range(first, first + count)]


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(lambda: work(*arguments))


async def test_facts_are_published_as_they_are_written(tmp_path: Path, server: NatsServer) -> None:
    async with running(tmp_path, server) as caller:
        await exchange(caller, *numbers(300))
        caller.open("void")
        caller.sink.void("void")
        caller.sink.push()
        await caller.sink.flush()
        assert (caller.sink.stats.published, caller.sink.stats.unpublished) == (300, 0)
        spool = caller.sink.own.id
    found = await in_thread(messages, server)
    assert found == [(f"{SUBJECT}.{spool}", n, fact_of(n).encode()) for n in numbers(300)]
    cursor = parse_cursor((tmp_path / "w0-0" / CURSOR_NAME).read_bytes())
    assert cursor is not None
    assert (cursor.sequence, cursor.stream_seq) == (602, 300)


async def test_a_restart_goes_on_where_it_was(tmp_path: Path, server: NatsServer) -> None:
    for first in (0, 10, 20):
        async with running(tmp_path, server) as caller:
            await exchange(caller, *numbers(10, first))
            if first != 10:
                await caller.sink.flush()
    assert await in_thread(ids, server) == numbers(30)


async def test_the_start_does_not_wait_for_a_server_that_is_away(tmp_path: Path, server: NatsServer) -> None:
    server.kill()
    async with running(tmp_path, server) as caller:
        await exchange(caller, *numbers(20))
        assert not caller.sink.degraded
        assert caller.sink.stats.unpublished == 40
        await caller.sink.flush()
        await in_thread(server.start)
        await until(lambda: caller.sink.stats.unpublished == 0)
    assert await in_thread(ids, server) == numbers(20)


async def test_outages_longer_than_the_dedupe_window(tmp_path: Path, server: NatsServer) -> None:
    await in_thread(lambda: make_stream(server, duplicate_window=0.1))
    async with running(tmp_path, server) as caller:
        for first in range(0, 200, 50):
            await exchange(caller, *numbers(50, first))
            server.kill()
            await exchange(caller, *numbers(10, 1000 + first))
            await anyio.sleep(0.3)
            await in_thread(server.start)
        await until(lambda: caller.sink.stats.unpublished == 0)
    found = await in_thread(ids, server)
    assert sorted(found) == sorted(
        n for first in range(0, 200, 50) for n in numbers(50, first) + numbers(10, 1000 + first)
    )


async def test_acknowledgements_that_were_lost_are_read_back(tmp_path: Path, server: NatsServer) -> None:
    """The stream took the facts, nobody heard of it, and the dedupe window is over."""
    await in_thread(lambda: make_stream(server, duplicate_window=0.1))
    process = Process(tmp_path)
    for n in numbers(20):
        process.write(opening(n), closing(n))
    process.stop()
    client = await nats.connect(server.url)
    for n in numbers(20)[3:12:2]:
        headers = {"Nats-Msg-Id": n}
        await client.jetstream().publish(f"{SUBJECT}.{process.spool.id}", fact_of(n).encode(), headers=headers)
    await client.close()
    await anyio.sleep(0.3)
    async with running(tmp_path, server) as caller:
        await until(lambda: caller.sink.stats.unpublished == 0)
    assert sorted(await in_thread(ids, server)) == numbers(20)


async def test_a_lost_cursor_costs_time_and_no_second_message(tmp_path: Path, server: NatsServer) -> None:
    await in_thread(lambda: make_stream(server, duplicate_window=0.1))
    async with running(tmp_path, server) as caller:
        await exchange(caller, *numbers(30))
        await caller.sink.flush()
    for content in (None, b"junk"):
        path = tmp_path / "w0-0" / CURSOR_NAME
        path.unlink() if content is None else path.write_bytes(content)
        await anyio.sleep(0.3)
        async with running(tmp_path, server) as caller:
            await until(lambda: caller.sink.stats.unpublished == 0)  # called at once
    assert await in_thread(ids, server) == numbers(30)


async def test_a_full_stream_is_waited_for(tmp_path: Path, server: NatsServer) -> None:
    await in_thread(lambda: make_stream(server, max_bytes=20_000, duplicate_window=0.1))
    async with running(tmp_path, server) as caller:
        for first in range(0, 100, 20):
            await exchange(caller, *numbers(20, first), padding=first * 20)
        await anyio.sleep(0.5)
        published = len(await in_thread(ids, server))
        assert 5 < published < 40
        assert not caller.sink.degraded, "the spool has room"
        await in_thread(enlarge_stream, server, 10_000_000)
        await until(lambda: caller.sink.stats.unpublished == 0)
    assert sorted(await in_thread(ids, server)) == numbers(100)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"retention": api.RetentionPolicy.WORK_QUEUE}, "has retention workqueue"),
        ({"retention": api.RetentionPolicy.INTEREST}, "has retention interest"),
        ({"discard": api.DiscardPolicy.OLD}, "has discard old"),
        ({"max_msg_size": 10_000}, "takes no message of"),
        ({"max_msgs_per_subject": 10}, "max_msgs_per_subject"),
        ({"no_ack": True}, "acknowledges nothing"),
    ],
)
async def test_a_stream_that_would_lose_facts_is_refused_at_start(
    tmp_path: Path, server: NatsServer, config: dict[str, Any], words: str
) -> None:
    await in_thread(lambda: make_stream(server, **config))
    target = NatsTarget(parse_nats_url(Secret(server.url)), SUBJECT, STREAM, FAST)
    with anyio.fail_after(PATIENCE), pytest.raises(SinkError, match=words):
        await NatsSink(tmp_path, target, OPTIONS).run()


async def test_another_stream_that_takes_the_subject_is_used(tmp_path: Path, server: NatsServer) -> None:
    await in_thread(lambda: make_stream(server, name="BILLING", subjects=["ai.>"]))
    async with running(tmp_path, server) as caller:
        await exchange(caller, "a")
        await caller.sink.flush()
        assert caller.sink.stats.published == 1
    client = await nats.connect(server.url)
    assert (await client.jetstream().stream_info("BILLING")).state.messages == 1
    await client.close()


async def test_a_stream_spoilt_while_the_gateway_runs_leaves_facts_in_the_spool(
    tmp_path: Path, server: NatsServer
) -> None:
    async with running(tmp_path, server) as caller:
        await exchange(caller, *numbers(5))
        await caller.sink.flush()
        client = await nats.connect(server.url)
        await client.jetstream().delete_stream(STREAM)
        await client.close()
        await in_thread(lambda: make_stream(server, discard=api.DiscardPolicy.OLD))
        server.send(signal.SIGTERM)
        server.stop()
        await in_thread(server.start)
        await until(lambda: caller.sink.degraded)
        await exchange(caller, *numbers(5, 5))
        await caller.sink.flush()
        assert caller.sink.stats.unpublished == 10
    assert await in_thread(ids, server) == []


async def test_a_stream_that_was_made_anew_gets_what_the_old_one_had_not(tmp_path: Path, server: NatsServer) -> None:
    async with running(tmp_path, server) as caller:
        await exchange(caller, *numbers(5))
        await caller.sink.flush()
    client = await nats.connect(server.url)
    await client.jetstream().delete_stream(STREAM)
    await client.close()
    async with running(tmp_path, server) as caller:
        await exchange(caller, *numbers(5, 5))
        await caller.sink.flush()
    assert await in_thread(ids, server) == numbers(5, 5)


async def test_spools_of_dead_processes_are_recovered_and_published(tmp_path: Path, server: NatsServer) -> None:
    living, dead = Process(tmp_path), Process(tmp_path)
    for process, name in ((living, "living"), (dead, "dead")):
        process.write(opening(name), closing(name), opening(f"{name} open"))
    dead.die()
    async with running(tmp_path, server) as caller:
        assert caller.sink.own.directory.name == "w0-1", "the first that is free"
        await until(lambda: caller.sink.stats.published == 2)
        living.die()
        await until(lambda: caller.sink.stats.published == 4)
    found = {
        fact_id: (subject, json.loads(data)["outcome"]) for subject, fact_id, data in await in_thread(messages, server)
    }
    assert found == {
        "living": (f"{SUBJECT}.{living.spool.id}", "complete"),
        "living open": (f"{SUBJECT}.{living.spool.id}", "gateway_lost"),
        "dead": (f"{SUBJECT}.{dead.spool.id}", "complete"),
        "dead open": (f"{SUBJECT}.{dead.spool.id}", "gateway_lost"),
    }


async def test_only_what_the_stream_has_goes_from_the_disk(tmp_path: Path, server: NatsServer) -> None:
    options = SpoolOptions(fsync=SpoolFsync.NEVER, segment_size=140_000, tidy_secs=0.02, keep_secs=0.0, rotate_secs=0.0)
    server.kill()
    async with running(tmp_path, server, options) as caller:
        directory = caller.sink.own.directory
        for n in range(10):
            await exchange(caller, f"{n:04d}", padding=20_000)
            await anyio.sleep(0.03)
        assert segments(directory)[0].number == 1
        await in_thread(server.start)
        await until(lambda: caller.sink.stats.unpublished == 0)
        await until(lambda: segments(directory)[0].number >= caller.sink.writer.number - 1)
    assert await in_thread(ids, server) == numbers(10)


@pytest.mark.parametrize("given", [False, True])
def test_the_same_under_trio_in_a_thread_of_its_own(tmp_path: Path, server: NatsServer, given: bool) -> None:
    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        make_host = (lambda: ThreadHost(token.run_sync_soon)) if given else None
        async with running(tmp_path, server, make_host=make_host) as caller:
            for first in range(0, 100, 10):
                await exchange(caller, *numbers(10, first))
            await caller.sink.flush()
            assert (caller.sink.stats.published, caller.sink.stats.unpublished) == (100, 0)

    trio.run(main)
    assert ids(server) == numbers(100)
    assert len(spools(tmp_path)) == 1


def test_problems_of_a_stream_are_told_together() -> None:
    good = {"name": "S", "retention": "limits", "discard": "new", "max_msg_size": -1, "max_msgs_per_subject": -1}
    assert stream_problems(good) == []
    assert stream_problems({**good, "max_msgs_per_subject": 5, "discard_new_per_subject": True}) == []
    assert len(stream_problems({**good, "retention": "workqueue", "discard": "old", "sealed": True})) == 3


def test_records_of_these_tests_are_told_apart() -> None:
    assert record_of("a") != record_of("b")


# Strangers who may publish to the stream


async def publish(server: NatsServer, subject: str, *fact_ids: str, data: bytes = b'{"id":"forged"}') -> None:
    client = await nats.connect(server.url)
    for fact_id in fact_ids:
        await client.jetstream().publish(subject, data, headers={"Nats-Msg-Id": fact_id})
    await client.close()


@pytest.mark.parametrize("where", ["another subject", "the subject of the spool"])
async def test_a_fact_whose_message_id_was_taken_is_published_all_the_same(
    tmp_path: Path, server: NatsServer, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    await in_thread(make_stream, server)
    async with running(tmp_path, server) as caller:
        await exchange(caller, "first")
        await caller.sink.flush()
        subject = f"{SUBJECT}.{caller.sink.own.id}"
    # Ids that the next facts will have, and that one had which is in the stream already.
    taken = numbers(9)[::2]
    await publish(server, subject if where == "the subject of the spool" else f"{SUBJECT}.evil", *taken, "first")
    async with running(tmp_path, server) as caller:
        await exchange(caller, *numbers(9))
        await caller.sink.flush()
        stats = caller.sink.stats
        assert (stats.published, stats.unpublished, stats.ids_taken) == (9, 0, len(taken))
    found = await in_thread(messages, server)
    ours = {fact_of(n).encode() for n in (*numbers(9), "first")}
    stored = [data for _, _, data in found if data in ours]
    assert (set(stored), len(stored)) == (ours, len(ours)), "each is there byte for byte, and once"
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "somebody else has published under the message id" in line.getMessage()
    # What is there is recognised by its bytes, under whatever id, and the stranger's messages hold nothing back.
    (tmp_path / "w0-0" / CURSOR_NAME).unlink()
    async with running(tmp_path, server) as caller:
        await until(lambda: caller.sink.stats.unpublished == 0)
        assert caller.sink.stats.published == 0
        await exchange(caller, "last")
        await caller.sink.flush()
    assert len(await in_thread(messages, server)) == len(found) + 1
    cursor = parse_cursor((tmp_path / "w0-0" / CURSOR_NAME).read_bytes())
    assert cursor is not None
    assert cursor.stream_seq == len(found) + 1


async def test_an_id_taken_in_the_subject_of_a_spool_before_its_publisher_starts(
    tmp_path: Path, server: NatsServer
) -> None:
    """What is read back is compared, and not taken for ours since it has our id. The dedupe window is over."""
    await in_thread(lambda: make_stream(server, duplicate_window=0.1))
    process = Process(tmp_path)
    for n in numbers(5):
        process.write(opening(n), closing(n))
    process.stop()
    subject = f"{SUBJECT}.{process.spool.id}"
    await publish(server, subject, "0001", "0003")
    await anyio.sleep(0.3)
    async with running(tmp_path, server) as caller:
        await until(lambda: caller.sink.stats.unpublished == 0)
    found = [data for _, _, data in await in_thread(messages, server)]
    assert [data for data in found if data != b'{"id":"forged"}'] == [fact_of(n).encode() for n in numbers(5)]


PERMISSIONS = """
authorization {
  users = [
    { user: gateway, password: g, permissions: {
        publish: ["ai.usage.>", "$JS.API.STREAM.>"], subscribe: ["_INBOX.>"] } }
    { user: billing, password: b, permissions: {
        publish: ["$JS.API.CONSUMER.>", "$JS.API.STREAM.INFO.AI_USAGE", "$JS.ACK.AI_USAGE.>"],
        subscribe: ["_INBOX.>"] } }
  ]
}
"""
"""As in docs/how-to/consume-facts-from-nats.md."""


async def test_permissions_keep_strangers_out(tmp_path: Path, new_server: Callable[..., NatsServer]) -> None:
    server = new_server(config=PERMISSIONS)
    address = server.url.removeprefix("nats://")
    target = NatsTarget(parse_nats_url(Secret(f"nats://gateway:g@{address}")), SUBJECT, STREAM, FAST)
    sink = NatsSink(tmp_path, target, OPTIONS)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(sink.run)
            denied: list[Exception] = []

            async def note(error: Exception) -> None:
                denied.append(error)

            stranger = await nats.connect(f"nats://billing:b@{address}", error_cb=note)
            await stranger.publish(f"{SUBJECT}.evil", b"junk", headers={"Nats-Msg-Id": "0000"})
            await stranger.flush()
            await until(lambda: bool(denied))
            assert "permissions violation" in str(denied[0]).lower()
            caller = Caller(sink)
            await exchange(caller, *numbers(3))
            await sink.flush()
            assert (sink.stats.published, sink.stats.ids_taken) == (3, 0)
            subscription = await stranger.jetstream().pull_subscribe(f"{SUBJECT}.>", durable="billing", stream=STREAM)
            read = await subscription.fetch(3, timeout=10)
            for message in read:
                await message.ack()
            assert [message.data for message in read] == [fact_of(n).encode() for n in numbers(3)]
            await stranger.close()
            tasks.cancel_scope.cancel()
