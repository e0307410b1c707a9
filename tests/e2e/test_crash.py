"""kill -9 at random moments: every request that reached the provider has exactly one fact."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

from nats.js import api

from aigw_anyio.sinks.spool.layout import spools
from aigw_anyio.sinks.spool.verify import verify
from tests.e2e.crash import (
    KILLS,
    CountingProvider,
    Load,
    check_ledger,
    check_verified,
    facts_in,
    spool_environment,
    start,
)
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider
from tests.nats.server import NatsServer
from tests.nats.stream import enlarge_stream, ids, make_stream, messages


def test_killed_again_and_again(backend: str, provider: Provider, tmp_path: Path) -> None:
    environ = spool_environment(provider, tmp_path / "spool")
    load = Load(CountingProvider(provider), seed=1)
    dice = random.Random(1)
    gateway = load.target = start(backend, environ)
    load.start()
    for _ in range(KILLS):
        time.sleep(dice.uniform(0.0, 0.6))
        load.kill(gateway)
        gateway = load.target = start(backend, environ)
    time.sleep(0.3)
    load.stop()
    assert gateway.stop() == 0
    assert gateway.faults() == []
    check_ledger(load, facts_in(tmp_path / "spool"), check_verified(tmp_path / "spool"))


def test_a_rolling_restart_loses_and_doubles_nothing(backend: str, provider: Provider, tmp_path: Path) -> None:
    """The new process starts while the old one drains; now and then one of them is killed meanwhile."""
    environ = spool_environment(provider, tmp_path / "spool", AI_SHUTDOWN_GRACE_SECS="20")
    load = Load(CountingProvider(provider), seed=2)
    dice = random.Random(2)
    old = load.target = start(backend, environ)
    load.start()
    for number in range(max(4, KILLS // 2)):
        new = start(backend, environ)
        load.target = new
        old.send_signal(signal.SIGTERM)
        if number % 3 == 1:
            load.kill(old)
        elif number % 3 == 2:
            time.sleep(dice.uniform(0.0, 0.2))
            load.kill(new)
            assert old.wait() == 0
            new = load.target = start(backend, environ)
        else:
            assert old.wait() == 0
        assert [fault for fault in old.faults() if "cut" not in fault] == []
        old = new
    time.sleep(0.2)
    load.stop()
    assert old.stop() == 0
    # A spool that an earlier process left open belongs to whoever starts next.
    last = start(backend, environ)
    wait_until(lambda: not_recovered(tmp_path / "spool") == [], "every spool is recovered")
    assert last.stop() == 0
    directory = tmp_path / "spool"
    # Of the two that live at a time, and one that is just being recovered by one of them while another one starts.
    assert len(spools(directory)) in (2, 3)
    check_ledger(load, facts_in(directory), check_verified(directory))


def test_a_stream_that_is_killed_and_fills_up_holds_every_fact_once(
    backend: str, provider: Provider, tmp_path: Path
) -> None:
    """The gateway and nats-server are killed by turns, with outages longer than the dedupe window."""
    directory = tmp_path / "spool"
    server = NatsServer(tmp_path / "nats").start()
    make_stream(server, max_bytes=150_000, duplicate_window=0.2)
    environ = spool_environment(provider, directory, AI_FACT_SINK="nats", AI_NATS_URL=server.url, AI_DENY_SOURCE="none")
    load = Load(CountingProvider(provider), seed=3)
    dice = random.Random(3)
    gateway = load.target = start(backend, environ)
    load.start()
    try:
        for number in range(KILLS):
            time.sleep(dice.uniform(0.0, 0.6))
            if number % 2:
                server.kill()
                time.sleep(dice.uniform(0.0, 0.5))
            load.kill(gateway)
            if number % 2:
                time.sleep(0.3)
                server.start()
            gateway = load.target = start(backend, environ)
            if number == KILLS * 2 // 3:
                wait_until(lambda: len(ids(server)) > 100, "the stream fills up")
                assert len(ids(server)) < 250
                enlarge_stream(server, 1_000_000_000)
        time.sleep(0.3)
        load.stop()
        wait_until(lambda: is_published(gateway), "everything is published")
        assert gateway.stop() == 0
        assert gateway.faults() == []
        facts = facts_in(directory)
        check_ledger(load, facts, check_verified(directory))
        found = messages(server)
        assert len({fact_id for _, fact_id, _ in found}) == len(found), "the stream holds a fact twice"
        assert sorted(json.loads(data)["id"] for _, _, data in found) == sorted(fact["id"] for fact in facts)
        in_spool = {fact["id"]: fact for fact in facts}
        assert [i for _, i, data in found if json.loads(data) != in_spool[i]] == []
    finally:
        server.stop()


def is_published(gateway: Gateway) -> bool:
    return gateway.metric("aigw_exchanges") == 0 and gateway.metric("aigw_spool_unpublished_records") == 0


def not_recovered(directory: Path) -> list[str]:
    return [problem for problem in verify(directory).problems if "its process is gone" in problem]


def test_a_stream_that_would_lose_facts_is_refused_at_start(backend: str, provider: Provider, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats").start()
    try:
        make_stream(server, retention=api.RetentionPolicy.WORK_QUEUE)
        environ = spool_environment(
            provider, tmp_path / "spool", AI_FACT_SINK="nats", AI_NATS_URL=server.url, AI_DENY_SOURCE="none"
        )
        gateway = Gateway(backend, environ, listens=False)
        assert gateway.wait() == 1
        assert gateway.stderr[-1].startswith("aigw: facts_stream: the stream AI_USAGE has retention workqueue")
    finally:
        server.stop()
