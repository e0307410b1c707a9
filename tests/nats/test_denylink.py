"""Each known trap of nats-py and of the server, provoked on a real one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from nats.aio.msg import Msg

from aigw_anyio.nats import denylink
from aigw_anyio.nats.connection import NatsLink
from aigw_anyio.nats.denylink import FOREIGN, delivery_numbers
from aigw_core.denyset import DenyReason
from aigw_core.denystates import AskStream
from tests.nats.bucket import Bucket
from tests.nats.feedrun import FeedRun, make_gateway, run
from tests.nats.server import NatsServer

_numbers = itertools.count(1)


@pytest.fixture
def bucket(shared_server: NatsServer) -> Iterator[Bucket]:
    """A bucket of this test alone."""
    with Bucket(shared_server.url, f"bucket-{next(_numbers)}") as made:
        made.create()
        yield made


def link_of(feed: FeedRun) -> NatsLink:
    connection = feed.source._link._connection
    assert connection is not None
    return connection.link


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """In a thread: the bucket's calls wait."""
    return await asyncio.to_thread(function, *arguments)


def feed_of(server: NatsServer, bucket: Bucket, **options: Any) -> FeedRun:
    return FeedRun(server.url, bucket=bucket.name, **options)


# Entries


def test_entries_of_every_kind(shared_server: NatsServer, bucket: Bucket) -> None:
    bucket.put("blackhole.1", "spend")
    bucket.put("blackhole.2", "spend")
    bucket.delete("blackhole.2")
    bucket.put("blackhole.3", "fraud")
    bucket.purge_key("blackhole.3")
    for foreign in ("blackhole.x", "blackhole.01", "else.where", "blackhole.key.9999999999999999999999"):
        bucket.put(foreign, "spend")

    async def main() -> None:
        async with feed_of(shared_server, bucket) as feed:
            await feed.until_held({1})
            await call(bucket.put, "blackhole.4", '{"reason": "fraud"}')
            await call(bucket.publish, "blackhole.5", b"", {"KV-Operation": "NEW-IN-3.0"})
            await call(bucket.put, "blackhole.6", b"x" * 900_000)
            await call(bucket.put, "blackhole.7", "spend", 1)
            await feed.until(lambda: 7 in feed.held, "the entry with a time to live")
            await feed.until_held({1, 4, 5, 6})
            check = feed.gateway.deny.check
            assert [check(n, None) for n in (1, 4, 5, 6)] == [
                DenyReason.SPEND,
                DenyReason.FRAUD,
                DenyReason.UNKNOWN,
                DenyReason.UNKNOWN,
            ]
            stats = feed.control.read_stats()
            assert (stats.unknown, stats.gaps, stats.rescans) == (1, 0, 0)
            # The marker of the expired entry, the last message of a key, is a tombstone and no empty value.
            assert feed.source.feed.others >= {"blackhole.2", "blackhole.3", "blackhole.7", "else.where"}

    run(main)


def test_an_entry_in_the_past_and_one_in_the_future_of_a_seed_are_both_seen(
    shared_server: NatsServer, bucket: Bucket
) -> None:
    """Written all the time: a marker that the initial values are over would never come."""
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        for number in itertools.count(1):
            if stop.is_set():
                return
            bucket.put(f"blackhole.{number % 50}", "spend" if number % 3 else "fraud")
            written.append(number)

    async def main() -> None:
        thread = threading.Thread(target=write)
        thread.start()
        try:
            async with feed_of(shared_server, bucket) as feed:
                await feed.until_live()
                seen = len(written)
                await feed.until(lambda: len(written) > seen + 200, "the writer goes on")
                stop.set()
                await asyncio.to_thread(thread.join)
                await feed.until(lambda: feed.gateway.deny.revision == len(written), "all is applied")
                await feed.until_live()
                assert feed.control.read_stats().gaps == 0
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)

    run(main)


def test_changes_are_told_to_whoever_cuts_streams(shared_server: NatsServer, bucket: Bucket) -> None:
    async def main() -> None:
        async with feed_of(shared_server, bucket) as feed:
            await feed.until_live()
            feed.cuts.clear()
            await call(bucket.put, "blackhole.1", "fraud")
            await feed.until(lambda: bool(feed.cuts), "told")
            assert [change.reason for changes in feed.cuts for change in changes or ()] == [DenyReason.FRAUD]

    run(main)


# What leaves no event, and what must not be trusted


@pytest.mark.parametrize("how", ["purged", "removed by hand", "all purged"])
def test_silent_removals_are_noticed(shared_server: NatsServer, bucket: Bucket, how: str) -> None:
    seqs = {n: bucket.put(f"blackhole.{n}", "spend") for n in (1, 2, 3)}

    async def main() -> None:
        async with feed_of(shared_server, bucket) as feed:
            await feed.until_held({1, 2, 3})
            if how == "purged":
                await call(bucket.purge, "blackhole.2")
            elif how == "removed by hand":
                await call(bucket.remove_message, seqs[2])
            else:
                await call(bucket.purge)
            await feed.until_held(set() if how == "all purged" else {1, 3})
            assert feed.control.read_stats().vanished == 1

    run(main)


def test_an_expiry_without_markers_is_noticed(shared_server: NatsServer) -> None:
    with Bucket(shared_server.url, f"bucket-{next(_numbers)}") as bucket:
        bucket.create(subject_delete_marker_ttl=0)
        bucket.put("blackhole.1", "spend")
        bucket.put("blackhole.2", "spend", ttl_secs=1)

        async def main() -> None:
            async with feed_of(shared_server, bucket) as feed:
                await feed.until(lambda: feed.held == {1, 2} or feed.held == {1}, "seeded")
                await feed.until_held({1})

        run(main)


def test_a_bucket_made_anew_with_fewer_entries_is_read_again(shared_server: NatsServer, bucket: Bucket) -> None:
    """A start above the last sequence would deliver nothing until it is reached."""
    for number in range(20):
        bucket.put(f"blackhole.{number}", "spend")

    async def main() -> None:
        async with feed_of(shared_server, bucket) as feed:
            await feed.until_held(set(range(20)))
            await call(bucket.destroy)
            await feed.until(lambda: feed.state == "reconnecting", "noticed")
            assert feed.held == set(range(20)), "the last good set stays"
            await call(bucket.create)
            await call(bucket.put, "blackhole.77", "spend")
            await feed.until_held({77})

    run(main)


def test_a_deleted_consumer_is_replaced_and_none_is_left_behind(shared_server: NatsServer, bucket: Bucket) -> None:
    bucket.put("blackhole.1", "spend")

    async def main() -> None:
        async with feed_of(shared_server, bucket, reconcile=0.3) as feed:
            await feed.until_live()
            for resumes in (1, 2):
                for name in await call(bucket.consumers):
                    await call(bucket.delete_consumer, name)
                await feed.until(lambda n=resumes: feed.control.read_stats().resumes >= n, "resumed")  # type: ignore[misc]
                await feed.until_live()
            await feed.until(lambda: feed.control.read_stats().reconciles >= 2, "reconciled")
            feed.source.doubt("for the test")
            await feed.until_live()

            async def one_is_left() -> bool:
                return len(await call(bucket.consumers)) <= 2

            while not await one_is_left():
                await asyncio.sleep(0.05)
        # Told to stop, it leaves the rest to the server's threshold.

    run(main)


def test_entries_that_the_client_drops_are_read_again(
    shared_server: NatsServer, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py drops what its queue has no room for, and tells only an error callback."""

    async def main() -> None:
        monkeypatch.setattr(denylink, "PENDING_MESSAGES_MAX", 5)
        async with feed_of(shared_server, bucket) as feed:
            await feed.until_live()
            monkeypatch.undo()
            connection = feed.source._link._connection
            assert connection is not None
            [consumer] = connection.consumers.values()
            subscription = consumer.subscription
            assert subscription is not None
            assert subscription._pending_msgs_limit == 5
            # The reader of the queue rests, as on a loaded machine.
            blocked = asyncio.Event()
            message_callback = subscription._cb
            assert message_callback is not None

            async def slow(message: Msg) -> None:
                await blocked.wait()
                await message_callback(message)

            subscription._cb = slow
            for number in range(40):
                await call(bucket.put, f"blackhole.{number}", "spend")
            await feed.until(lambda: feed.control.read_stats().gaps >= 1, "the loss is known")
            blocked.set()
            await feed.until_held(set(range(40)))
            assert feed.control.read_stats().rescans >= 1

    run(main)


def test_a_client_closed_behind_our_back_is_replaced(shared_server: NatsServer, bucket: Bucket) -> None:
    """A subscription on a closed client hears nothing, and says nothing."""

    async def main() -> None:
        async with feed_of(shared_server, bucket) as feed:
            await feed.until_live()
            await link_of(feed).client.close()
            await call(bucket.put, "blackhole.1", "spend")
            await feed.until_held({1})
            assert feed.control.read_stats().connects == 2

    run(main)


def test_a_server_that_restarts_forgets_consumers_and_is_resumed(new_server: Callable[..., NatsServer]) -> None:
    server = new_server()

    async def main() -> None:
        with Bucket(server.url) as bucket:
            await call(bucket.create)
            await call(bucket.put, "blackhole.1", "spend")
            async with FeedRun(server.url) as feed:
                await feed.until_held({1})
                await call(server.stop)
                await feed.until(lambda: feed.state == "reconnecting", "noticed")
                assert feed.held == {1}
                await call(server.start)
                await call(bucket.put, "blackhole.2", "spend")
                await feed.until_held({1, 2})
                stats = feed.control.read_stats()
                assert (stats.resumes, stats.rescans, stats.gaps) == (1, 0, 0)

    run(main)


def test_a_connection_that_is_lost_in_the_turn_of_a_request(shared_server: NatsServer, bucket: Bucket) -> None:
    """Its task has not begun when it is cancelled; warnings are errors here."""

    async def main() -> None:
        async with feed_of(shared_server, bucket) as feed:
            await feed.until_live()
            link = link_of(feed)
            feed.source._link.execute(AskStream(999))
            feed.source._link.go_on("nobody.listens")
            connection = feed.source._link._connection
            assert connection is not None
            for task in connection.tasks:
                task.cancel()
            link.fail("for the test")
            await feed.until(lambda: feed.control.read_stats().connects == 2, "connected again")
            await feed.until_live()

    run(main)


def test_a_reconcile_leaves_the_feed_live(shared_server: NatsServer, bucket: Bucket) -> None:
    bucket.put("blackhole.1", "spend")

    async def main() -> None:
        async with feed_of(shared_server, bucket, reconcile=0.2) as feed:
            await feed.until(lambda: feed.control.read_stats().reconciles >= 3, "reconciled")
            stats = feed.control.read_stats()
            assert (feed.state, stats.rescans, stats.differences) == ("live", 0, 0)

    run(main)


def test_a_first_entry_is_resumed_behind_and_never_replayed(shared_server: NatsServer, bucket: Bucket) -> None:
    """Old revisions that come again change nothing."""
    bucket.put("blackhole.1", "spend")
    bucket.delete("blackhole.1")

    async def main() -> None:
        async with feed_of(shared_server, bucket) as feed:
            await feed.until_live()
            feed.gateway.deny.put("blackhole.1", b"spend", 1)
            assert feed.held == set()

    run(main)


# Errors of the operator


LIMITED: Final = """
accounts { A { jetstream: enabled, users: [
  {user: admin, password: admin},
  {user: gw, password: gw, permissions: {publish: [%s], subscribe: ["_INBOX.>"]}} ] } }
"""
RIGHTS: Final = (
    '"$JS.API.STREAM.INFO.KV_ai-gateway"',
    '"$JS.API.CONSUMER.CREATE.KV_ai-gateway.>"',
    '"$JS.API.CONSUMER.INFO.KV_ai-gateway.>"',
    '"$JS.API.CONSUMER.DELETE.KV_ai-gateway.>"',
    '"$JS.FC.>"',
)
"""What the how-to says that the gateway's user needs."""


@pytest.mark.parametrize("missing", [None, 0, 1], ids=["enough", "no stream info", "no consumer"])
def test_permissions(
    new_server: Callable[..., NatsServer], caplog: pytest.LogCaptureFixture, missing: int | None
) -> None:
    server = new_server(LIMITED % ", ".join(right for place, right in enumerate(RIGHTS) if place != missing))
    caplog.set_level(logging.INFO, "aigw")

    async def main() -> None:
        with Bucket(server.url, user="admin", password="admin") as bucket:
            await call(bucket.create)
            await call(bucket.put, "blackhole.1", "spend")
            async with FeedRun(server.url.replace("//", "//gw:gw@")) as feed:
                if missing is None:
                    await feed.until_held({1})
                    return
                await feed.until(lambda: feed.control.read_stats().failures >= 4, "refused, again and again")
                assert feed.state == "seeding" or feed.state == "cold"
                lines = [r for r in caplog.records if "permissions violation" in str(getattr(r, "fields", ""))]
                assert 1 <= len(lines) <= 2, caplog.text
                full = LIMITED % ", ".join(RIGHTS)
                await call(server.reload, full)
                await feed.until_held({1})

    run(main)


def test_a_missing_bucket_is_waited_for(shared_server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aigw.deny")
    gateway = make_gateway()

    async def main() -> None:
        with Bucket(shared_server.url, f"bucket-{next(_numbers)}") as bucket:
            async with feed_of(shared_server, bucket, gateway=gateway) as feed:
                await feed.until(lambda: feed.control.read_stats().connects >= 1, "connected")
                await asyncio.sleep(1.0)
                assert feed.state == "seeding"
                (warned,) = [record for record in caplog.records if "no such bucket" in record.getMessage()]
                assert warned.levelno == logging.WARNING
                assert warned.__dict__["fields"] == {"bucket": bucket.name}
                assert len(caplog.records) <= 3
                await call(bucket.create)
                await feed.until_live()

    run(main)


def test_a_server_without_jetstream(tmp_path: Any) -> None:
    server = NatsServer(tmp_path / "nats")
    server.folder.mkdir()

    async def main() -> None:
        async with FeedRun(server.url) as feed:
            await feed.until(lambda: feed.control.read_stats().failures >= 2, "given up")
            assert feed.state == "cold"
            assert "JetStream" in feed.source._supervisor.status.reason

    server.has_jetstream = False
    server.start()
    try:
        run(main)
    finally:
        server.stop()


def test_a_stream_with_other_subjects_too(shared_server: NatsServer) -> None:
    with Bucket(shared_server.url, f"bucket-{next(_numbers)}") as bucket:
        bucket.create(subjects=[f"$KV.{bucket.name}.>", f"blackhole.{bucket.name}"])
        bucket.put("blackhole.1", "spend")
        bucket._call(bucket._client.request(f"blackhole.{bucket.name}", b"spend", 10))

        async def main() -> None:
            async with feed_of(shared_server, bucket) as feed:
                await feed.until_held({1})
                assert f"{FOREIGN}blackhole.{bucket.name}" in feed.source.feed.others

        run(main)


# Numbers


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.KV_b.c.1.7.3.1795577023297398140.2",
        "$JS.ACK.domain.hash.KV_b.c.1.7.3.1795577023297398140.2.token",
        "$JS.ACK._.hash.KV_b.c.1.7.3.1795577023297398140.2",
    ],
)
def test_numbers_of_both_forms(reply: str) -> None:
    assert delivery_numbers(reply) == (7, 3, 1795577023297398140, 2)
    found = Msg(_client=None, reply=reply).metadata  # type: ignore[arg-type]
    assert (found.sequence.stream, found.sequence.consumer, found.num_pending) == (7, 3, 2)


@pytest.mark.parametrize(
    "reply",
    ["", "_INBOX.x", "$JS.ACK.a.b.1.7.3.9", "$JS.ACK.s.c.1.x.3.9.2", "$JS.ACK.s.c.1.7.-3.9.2", "$JS.FC.s.c.1.7.3.9.2"],
)
def test_numbers_of_neither_form(reply: str) -> None:
    assert delivery_numbers(reply) is None
