"""Cutting off with several workers: each has a feed of its own, and all of them enforce."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import keys
from tests.e2e.client import Client
from tests.e2e.fleet import environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.processes import client_of, workers
from tests.e2e.provider import Provider
from tests.e2e.test_deny import BOUND_SECS, deny_state, snapshot_size, wait_live, wait_revision
from tests.e2e.test_lifecycle import Held
from tests.e2e.test_lifecycle import ask as ask_on
from tests.nats.bucket import Bucket
from tests.nats.server import NatsServer

TWO = {"AI_WORKERS": "2", "AI_RATE_LIMIT_RPS": "0"}


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats").start()
    yield server
    server.stop()


@contextlib.contextmanager
def clients(gateway: Gateway) -> Iterator[list[Client]]:
    """A connection to each worker."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(client_of(gateway, worker.pid)) for worker in workers(gateway)]


def statuses(found: list[Client], key: str) -> list[int]:
    return [ask_on(client, key) for client in found]


def check_everybody_enforces(gateway: Gateway, provider: Provider, deny: Callable[[int, str], None]) -> None:
    """``deny`` puts a tenant and its reason in place."""
    spender, cheat = (keys.number() + 20_000 for _ in range(2))
    key = keys.virtual_key(spender)
    helds = [Held(provider) for _ in range(2)]
    with clients(gateway) as plain, clients(gateway) as streaming:
        assert statuses(plain, key) == [200, 200]
        ids = [held.begin(client, keys.virtual_key(cheat)) for held, client in zip(helds, streaming, strict=True)]
        deny(spender, "spend")
        wait_until(lambda: statuses(plain, key) == [402, 402], "every worker refuses", BOUND_SECS)
        deny(cheat, "fraud")
        for client in streaming:
            assert b"[DONE]" not in client.read_end()[0], "cut, on whichever worker it is"
    assert {gateway.fact(one)["outcome"] for one in ids} == {"gateway_cut"}


def test_a_bucket_and_snapshots_over_a_restart_without_nats(
    backend: str, provider: Provider, nats: NatsServer, tmp_path: Path
) -> None:
    snapshots = [tmp_path / name for name in ("deny", "deny.w1")]
    environ = environment(provider, AI_NATS_URL=nats.url, AI_SNAPSHOT_PATH=str(snapshots[0]), **TWO)
    with Bucket(nats.url) as bucket:
        bucket.create()
        gateway = Gateway(backend, environ)
        wait_live(gateway)
        put: list[int] = []

        def deny(tenant: int, reason: str) -> None:
            put.append(bucket.put(f"blackhole.{tenant}", reason))

        check_everybody_enforces(gateway, provider, deny)
        wait_revision(gateway, put[-1])
        assert deny_state(gateway)["deny_revision"] == put[-1]
        tenant = keys.number() + 20_000
        bucket.put(f"blackhole.{tenant}", "spend")
    wait_until(lambda: [snapshot_size(file) for file in snapshots] == [3, 3], "each has a snapshot of its own")
    gateway.send_signal(signal.SIGKILL)
    wait_until(lambda: workers(gateway) == [], "it has gone")
    gateway.wait()
    nats.kill()
    gateway = Gateway(backend, environ)
    with clients(gateway) as both:
        assert statuses(both, keys.virtual_key(tenant)) == [402, 402]
        assert statuses(both, keys.virtual_key(keys.number() + 20_000)) == [200, 200]
    assert deny_state(gateway)["deny"] == "reconnecting"
    assert gateway.stop() == 0
    assert gateway.faults() == []


def test_a_file(backend: str, provider: Provider, tmp_path: Path) -> None:
    file = tmp_path / "deny.json"
    entries: dict[str, str] = {}
    file.write_text("{}")
    gateway = Gateway(backend, environment(provider, AI_DENY_FILE=str(file), AI_DENY_SOURCE="file", **TWO))

    def deny(tenant: int, reason: str) -> None:
        entries[f"blackhole.{tenant}"] = reason
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(entries))
        fresh.rename(file)

    check_everybody_enforces(gateway, provider, deny)
    assert gateway.stop() == 0
    assert gateway.faults() == []
