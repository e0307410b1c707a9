"""Cutting off: entries of a real bucket become refusals of real SDK calls, and end running streams."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from aigw_anyio.deny.snapshotfile import read_snapshot
from tests.e2e import answers, keys
from tests.e2e.conftest import BACKENDS
from tests.e2e.fleet import environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider, Received
from tests.e2e.sdk import openai_client
from tests.e2e.test_sdk_anthropic import check_refusal as check_anthropic
from tests.e2e.test_sdk_openai import MESSAGES, MODEL
from tests.e2e.test_sdk_openai import check_refusal as check_openai
from tests.nats.bucket import Bucket
from tests.nats.server import NatsServer

BOUND_SECS = 10.0
"""Far above the second that is promised: a test must not depend on the speed of the machine."""


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def bucket(nats: NatsServer) -> Iterator[Bucket]:
    with Bucket(nats.url) as made:
        made.create()
        yield made


@pytest.fixture(scope="module", params=BACKENDS)
def fed(request: pytest.FixtureRequest, nats: NatsServer, bucket: Bucket, provider: Provider) -> Iterator[Gateway]:
    gateway = Gateway(str(request.param), environment(provider, AI_NATS_URL=nats.url, AI_RATE_LIMIT_RPS="0"))
    wait_live(gateway)
    yield gateway
    assert gateway.stop() == 0
    assert gateway.faults() == []


@pytest.fixture
def start(backend: str, provider: Provider) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways for this test alone; arguments are its environment."""
    gateways: list[Gateway] = []

    def start(**environ: str) -> Gateway:
        gateways.append(Gateway(backend, environment(provider, AI_RATE_LIMIT_RPS="0", **environ)))
        return gateways[-1]

    yield start
    for gateway in gateways:
        if gateway.running():
            gateway.send_signal(signal.SIGKILL)
            gateway.wait()


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """Not started."""
    server = NatsServer(tmp_path / "nats")
    yield server
    server.stop()


def deny_state(gateway: Gateway) -> dict[str, object]:
    state: dict[str, object] = json.loads(gateway.admin("/readyz")[1])
    return state


def snapshot_size(file: Path) -> int:
    snapshot = read_snapshot(file, "nats:ai-gateway")
    return snapshot.view.deny.size if snapshot is not None else -1


def wait_live(gateway: Gateway) -> None:
    wait_until(lambda: deny_state(gateway)["deny"] == "live", "the feed is live", BOUND_SECS)


def wait_revision(gateway: Gateway, revision: int) -> None:
    wait_until(lambda: gateway.metric("aigw_deny_revision") >= revision, f"revision {revision}", BOUND_SECS)


def ask_openai(client: openai.OpenAI) -> object:
    return client.chat.completions.create(model=MODEL, messages=MESSAGES)


def ask_anthropic(client: anthropic.Anthropic) -> object:
    return client.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "Hello"}])


def test_spend_is_402_without_retries_and_a_delete_restores(fed: Gateway, bucket: Bucket, provider: Provider) -> None:
    tenant = keys.number() + 10_000
    key = keys.virtual_key(tenant)
    with openai_client(fed, key) as client:
        ask_openai(client)
    wait_revision(fed, bucket.put(f"blackhole.{tenant}", "spend"))
    error = check_openai(fed, provider, key, "openai/v1", ask_openai, "denied_spend")
    assert (error.status_code, error.type) == (402, "insufficient_quota")
    other = check_anthropic(fed, provider, key, "anthropic", ask_anthropic, "denied_spend")
    assert other.status_code == 402
    revision = bucket.delete(f"blackhole.{tenant}")
    wait_revision(fed, revision)
    with openai_client(fed, key) as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
    fact = fed.fact(raw.headers["x-aigw-request-id"])
    assert fact["deny_revision"] >= revision
    assert 0 <= fact["deny_stale_ms"] < BOUND_SECS * 1000


def test_one_key_is_cut_off_and_its_tenant_is_not(fed: Gateway, bucket: Bucket, provider: Provider) -> None:
    tenant, key_id = keys.number() + 10_000, keys.number() + 10_000
    wait_revision(fed, bucket.put(f"blackhole.key.{key_id}", '{"reason": "fraud", "note": "ticket 7"}'))
    key = keys.virtual_key(tenant, key_id)
    error = check_openai(fed, provider, key, "openai/v1", ask_openai, "denied")
    assert type(error) is openai.PermissionDeniedError
    with openai_client(fed, keys.virtual_key(tenant)) as client:
        ask_openai(client)
    wait_revision(fed, bucket.purge_key(f"blackhole.key.{key_id}"))
    with openai_client(fed, key) as client:
        ask_openai(client)


def test_an_entry_expires(fed: Gateway, bucket: Bucket) -> None:
    tenant = keys.number() + 10_000
    wait_revision(fed, bucket.put(f"blackhole.{tenant}", "spend", ttl_secs=1))
    with openai_client(fed, keys.virtual_key(tenant), retries=0) as client:
        with pytest.raises(openai.APIStatusError):
            ask_openai(client)

        def is_served() -> bool:
            try:
                ask_openai(client)
            except openai.APIStatusError:
                return False
            return True

        wait_until(is_served, "the entry has expired", BOUND_SECS)


class Held:
    """A provider's stream that goes on when the test says so."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.ended: list[str] = []

    def __call__(self, received: Received) -> None:
        received.read()
        events = answers.chat_events(received.json())
        received.connection.send(answers.STREAM_HEAD + answers.chunk(events[0]))
        self.go_on.wait(30.0)
        received.connection.send(b"".join(answers.chunk(event) for event in events[1:]) + answers.LAST_CHUNK)


def test_fraud_cuts_a_running_stream_and_spend_lets_it_finish(fed: Gateway, bucket: Bucket, provider: Provider) -> None:
    tenants = {reason: keys.number() + 20_000 for reason in ("fraud", "spend", "none")}
    streams = {}
    for reason, tenant in tenants.items():
        held = Held()
        client = openai_client(fed, keys.virtual_key(tenant), provider.case(held))
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, stream=True)
        chunks = iter(raw.parse())
        next(chunks)
        streams[reason] = (held, client, raw.headers["x-aigw-request-id"], chunks)
    bucket.put(f"blackhole.{tenants['spend']}", "spend")
    revision = bucket.put(f"blackhole.{tenants['fraud']}", "fraud")
    held, client, request_id, chunks = streams["fraud"]
    with pytest.raises(Exception, match=r"peer closed|reset|Connection|incomplete"):
        list(chunks)
    fact = fed.fact(request_id)
    assert (fact["outcome"], fact["status"]) == ("gateway_cut", 200)
    assert fact["usage_status"] in ("absent", "partial")
    held.go_on.set()
    client.close()
    assert fed.metric("aigw_deny_revision") >= revision
    for reason in ("spend", "none"):
        held, client, request_id, chunks = streams[reason]
        held.go_on.set()
        assert list(chunks)[-1].choices[0].finish_reason == "stop"
        client.close()
        fact = fed.fact(request_id)
        assert (fact["outcome"], fact["usage_status"], fact["usage"]) == ("complete", "final", answers.CHAT_USAGE)
    client = openai_client(fed, keys.virtual_key(tenants["spend"]), retries=0)
    with client, pytest.raises(openai.APIStatusError, match="spend limit"):
        ask_openai(client)


def test_everything_survives_nats_being_away_and_kill_9(
    tmp_path: Path, own_nats: NatsServer, start: Callable[..., Gateway]
) -> None:
    server = own_nats.start()
    environ = {"AI_NATS_URL": server.url, "AI_SNAPSHOT_PATH": str(tmp_path / "deny.snapshot")}
    denied, other = keys.virtual_key(31_001), keys.virtual_key(31_002)

    def statuses(gateway: Gateway) -> list[int]:
        found = []
        for key in (denied, other):
            with openai_client(gateway, key, retries=0) as client:
                try:
                    ask_openai(client)
                except openai.APIStatusError as error:
                    found.append(error.status_code)
                else:
                    found.append(200)
        return found

    with Bucket(server.url) as bucket:
        bucket.create()
        gateway = start(**environ)
        wait_live(gateway)
        wait_revision(gateway, bucket.put("blackhole.31001", "spend"))
        assert statuses(gateway) == [402, 200]
        file = tmp_path / "deny.snapshot"
        wait_until(lambda: snapshot_size(file) == 1, "a snapshot with the entry", BOUND_SECS)
        server.kill()
        wait_until(lambda: deny_state(gateway)["deny"] == "reconnecting", "noticed", BOUND_SECS)
        assert gateway.admin("/readyz")[0] == 200
        assert deny_state(gateway)["status"] == "degraded"
        assert gateway.metric("aigw_deny_connected") == 0
        assert statuses(gateway) == [402, 200]
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()

        gateway = start(**environ)
        assert statuses(gateway) == [402, 200], "the snapshot is in force before the port is open"
        assert deny_state(gateway)["deny"] == "reconnecting"
        server.start()
        wait_live(gateway)
        assert gateway.metric("aigw_deny_resumes_total") == 1
        wait_revision(gateway, bucket.delete("blackhole.31001"))
        assert statuses(gateway) == [200, 200]
        assert gateway.stop() == 0


def test_fail_closed_refuses_until_it_is_seeded(own_nats: NatsServer, start: Callable[..., Gateway]) -> None:
    server = own_nats
    gateway = start(AI_NATS_URL=server.url, AI_DENY_FAIL_CLOSED="1")
    key = keys.virtual_key(1)
    with openai_client(gateway, key, retries=0) as client, pytest.raises(openai.InternalServerError) as caught:
        ask_openai(client)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"]
    assert (gateway.admin("/readyz")[0], deny_state(gateway)["status"]) == (503, "starting")
    server.start()
    with Bucket(server.url) as bucket:
        bucket.create()
        wait_live(gateway)
    with openai_client(gateway, key, retries=0) as client:
        ask_openai(client)
    assert gateway.admin("/readyz")[0] == 200
    assert gateway.stop() == 0
    assert len(gateway.facts()) == 1


def test_a_file_cuts_off_too(tmp_path: Path, provider: Provider, start: Callable[..., Gateway]) -> None:
    file = tmp_path / "deny.json"
    file.write_text("{}")
    gateway = start(AI_DENY_SOURCE="file", AI_DENY_FILE=str(file))
    wait_live(gateway)
    revision = gateway.metric("aigw_deny_revision")
    file.write_text('{"blackhole.9001": "spend"}')
    wait_revision(gateway, int(revision) + 1)
    key = keys.virtual_key(9001)
    assert check_openai(gateway, provider, key, "openai/v1", ask_openai, "denied_spend").status_code == 402
    file.write_text('{"blackhole.9001": ')
    wait_until(lambda: deny_state(gateway)["deny"] == "reconnecting", "the broken file is noticed", BOUND_SECS)
    assert check_openai(gateway, provider, key, "openai/v1", ask_openai, "denied_spend").status_code == 402
    file.write_text("{}")
    wait_live(gateway)
    with openai_client(gateway, key) as client:
        ask_openai(client)
    assert gateway.stop() == 0


def test_an_outage_is_three_lines_and_a_storm_of_retries_none(
    own_nats: NatsServer, start: Callable[..., Gateway]
) -> None:
    server = own_nats.start()
    with Bucket(server.url) as bucket:
        bucket.create()
    gateway = start(AI_NATS_URL=server.url)
    wait_live(gateway)
    gateway.wait_log("deny feed is live")
    before = len(gateway.stderr)
    server.kill()
    wait_until(lambda: gateway.metric("aigw_deny_failures_total") >= 4, "some attempts have failed", 60.0)
    lines = [json.loads(line) for line in gateway.stderr[before:]]
    words = [line["message"] for line in lines if line["logger"] in ("aigw.nats", "aigw.deny")]
    assert sorted(words) == [
        "cannot connect to NATS, trying again",
        "deny feed is reconnecting",
        "lost the connection to NATS, trying again",
    ]
