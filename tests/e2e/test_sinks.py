"""Where facts go, with the real process: the same facts in every sink, and disks that are full or of no use."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import DEADLINE, answers, keys
from tests.e2e.calls import BODY, MESSAGES, STREAMED, ask, call
from tests.e2e.client import Client
from tests.e2e.crash import aigw, check_verified, facts_in, spool_environment
from tests.e2e.gateway import Fact, Gateway, wait_until
from tests.e2e.provider import Provider, Received
from tests.nats.server import NatsServer
from tests.nats.stream import messages

OF_ONE_RUN = ("id", "time", "duration_ms", "ttft_ms")
"""Members that differ between two runs of the same traffic."""


def traffic(gateway: Gateway, provider: Provider) -> int:
    """The same requests each time, with every kind of end; how many facts they leave."""

    def error(received: Received) -> None:
        received.read()
        received.connection.send(answers.json_answer({"error": {"message": "no"}}, "500 Internal Server Error"))

    def cut(received: Received) -> None:
        received.read()
        received.connection.send(answers.STREAM_HEAD + answers.chunk(answers.chat_events({})[0]))
        received.connection.close()

    failing, cutting = provider.case(error), provider.case(cut)
    background = json.dumps({"model": "m", "input": "x", "background": True}).encode()
    rows: list[tuple[dict[str, Any], int]] = [
        ({"body": BODY}, 200),
        ({"body": STREAMED}, 200),
        ({"body": BODY, "target": MESSAGES}, 200),
        ({"body": STREAMED, "target": MESSAGES}, 200),
        ({"body": background, "target": "/openai/v1/responses"}, 400),
        ({"body": BODY, "case": failing}, 500),
        ({"body": STREAMED, "case": cutting}, 200),
    ]
    for number, (arguments, status) in enumerate(rows):
        assert ask(gateway, key=keys.virtual_key(key_id=900_000 + number), **arguments).status == status
    return len(rows)


def without(fact: Fact) -> Fact:
    return {name: value for name, value in fact.items() if name not in OF_ONE_RUN}


def by_key(facts: list[Fact]) -> list[Fact]:
    return [without(fact) for fact in sorted(facts, key=lambda fact: int(fact["key_id"]))]


def test_every_sink_gets_the_same_facts(backend: str, provider: Provider, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats").start()
    sinks: Mapping[str, dict[str, str]] = {
        # The log has nothing to do with facts, whatever its level.
        "stdout": {"AI_FACT_SINK": "stdout", "AI_LOG_LEVEL": "error"},
        "spool": {},
        "nats": {"AI_FACT_SINK": "nats", "AI_NATS_URL": server.url, "AI_DENY_SOURCE": "none"},
    }
    try:
        found: dict[str, list[Fact]] = {}
        for name, changes in sinks.items():
            gateway = Gateway(backend, spool_environment(provider, tmp_path / name, **changes))
            count = traffic(gateway, provider)
            assert gateway.stop() == 0
            found[name] = [json.loads(line) for line in gateway.stdout]
            if name != "stdout":
                assert found[name] == [], "nothing else is on stdout"
                found[name] = facts_in(tmp_path / name)
            assert len(found[name]) == count
        published = [json.loads(data) for _, _, data in messages(server)]
    finally:
        server.stop()
    assert published == found["nats"]
    assert by_key(found["stdout"]) == by_key(found["spool"]) == by_key(found["nats"])
    outcomes = {fact["outcome"] for fact in found["spool"]}
    assert outcomes == {"complete", "refused", "upstream_error", "upstream_abort"}


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_every_policy_serves(backend: str, provider: Provider, tmp_path: Path, fsync: str) -> None:
    gateway = Gateway(backend, spool_environment(provider, tmp_path, AI_SPOOL_FSYNC=fsync))
    with Client(gateway) as client:
        served = []
        for _ in range(5):
            client.send(call())
            answer = client.read_answer()
            assert answer.status == 200
            served.append(answer.request_id)
    assert gateway.metric("aigw_facts_written_total") == 5
    assert gateway.metric("aigw_spool_bytes") > 0
    assert gateway.stop() == 0
    assert [fact["id"] for fact in facts_in(tmp_path)] == served
    assert check_verified(tmp_path) == "5 facts, 5 open records, 0 voids, 0 running: good"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB: room for two segments and a little more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here: not root, or not allowed")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_refuses_new_requests_and_finishes_the_running_ones(
    backend: str, provider: Provider, small_disk: Path
) -> None:
    padding = {f"detail_{n}": 10**15 for n in range(950)}
    large = provider.case(answers.json_answer({**answers.chat_completion({}), "usage": answers.CHAT_USAGE | padding}))
    may_finish: list[bool] = []

    def hold(received: Received) -> None:
        events = answers.chat_events(received.json())
        received.connection.send(answers.STREAM_HEAD + answers.chunk(events[0]) + answers.chunk(events[1]))
        wait_until(lambda: bool(may_finish), "the test goes on")
        received.connection.send(b"".join(map(answers.chunk, events[2:])) + answers.LAST_CHUNK)

    filler = small_disk / "filler"
    gateway = Gateway(backend, spool_environment(provider, small_disk / "spool"))
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(Client(gateway)) for _ in range(20)]
        case = provider.case(hold)
        for tenant, client in enumerate(held, 1_000):
            # Of tenants of their own, or one would come to the end of its share before the disk is full.
            client.send(call(case, key=keys.virtual_key(tenant), body=STREAMED))
            client.read_head()
            client.read_stream_until(b"Bonjour")
        with filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1_000_000))
        served, refusal = [], None
        with Client(gateway) as client:
            for _ in range(5000):
                client.send(call(large))
                answer = client.read_answer()
                if answer.status != 200:
                    refusal = answer
                    break
                served.append(answer.request_id)
        assert refusal is not None
        assert refusal.status == 503
        assert refusal.json()["error"]["code"] == "usage_ledger"
        assert len(served) > 100
        assert json.loads(gateway.admin("/readyz")[1])["status"] == "degraded"
        assert ask(gateway, large, key=keys.BYO_KEY).status == 200, "who is not recorded needs no room"
        may_finish.append(True)
        for client in held:
            client.read_stream_until(b"[DONE]")
        wait_until(lambda: gateway.metric("aigw_facts_outstanding") == 0, "the running ones have their facts")
        before = len(facts_in(small_disk / "spool"))
        assert before == len(served) + len(held)
        filler.unlink()
        wait_until(lambda: ask(gateway, large).status == 200, "room comes back")
    assert gateway.stop() == 0
    facts = facts_in(small_disk / "spool")
    assert {(fact["outcome"], fact["usage_status"]) for fact in facts} == {("complete", "final")}
    assert [fact["id"] for fact in facts if fact["id"] in served] == served
    check_verified(small_disk / "spool")


def test_a_directory_of_no_use_is_refused_at_start(backend: str, provider: Provider, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    gateway = Gateway(backend, spool_environment(provider, tmp_path / "file" / "spool"), listens=False)
    assert gateway.wait() == 1
    assert gateway.stderr[-1] == "aigw: spool_dir: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_refused_at_start(
    backend: str, provider: Provider, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    gateway = Gateway(backend, spool_environment(provider, tmp_path / "spool"), listens=False)
    assert gateway.wait() == 1
    assert gateway.stderr[-1] == "aigw: spool_dir: Permission denied"


def test_a_read_only_file_system_is_refused_at_start(backend: str, provider: Provider, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    gateway = Gateway(backend, spool_environment(provider, small_disk / "spool"), listens=False)
    assert gateway.wait() == 1
    assert gateway.stderr[-1] == "aigw: spool_dir: Read-only file system"


def test_a_flipped_bit_costs_one_fact_its_numbers(backend: str, provider: Provider, tmp_path: Path) -> None:
    """Told by verify and by cat, and by the next start: the exchange is not forgotten."""
    environ = spool_environment(provider, tmp_path)
    gateway = Gateway(backend, environ)
    served = []
    with Client(gateway) as client:
        for _ in range(3):
            client.send(call())
            served.append(client.read_answer().request_id)
    wait_until(lambda: gateway.metric("aigw_facts_written_total") == 3, "the facts are written")
    gateway.send_signal(signal.SIGKILL)
    gateway.wait()
    path = tmp_path / "w0-0" / "00000001.seg"
    data = bytearray(path.read_bytes())
    at = data.find(b'"outcome"', data.find(served[1].encode(), data.find(served[1].encode()) + 1))
    data[at] ^= 0x10
    path.write_bytes(data)
    assert "cannot be read" in aigw("facts", "verify", str(tmp_path), code=1)
    again = Gateway(backend, environ)
    assert again.stop() == 0
    output = aigw("facts", "cat", str(tmp_path), code=1)
    outcomes = {fact["id"]: fact["outcome"] for fact in map(json.loads, output.splitlines())}
    assert outcomes == {served[0]: "complete", served[1]: "gateway_lost", served[2]: "complete"}


def test_the_deadline_of_these_tests_is_generous() -> None:
    assert DEADLINE >= 30
