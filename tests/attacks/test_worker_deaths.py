"""Load that makes a worker look dead, and a worker that does die in the middle of streams.

The attacker keeps a turn of a worker's event loop so busy that it gives no sign of life for longer than the supervisor
waits: it must not be killed, and all of its exchanges end as they would have. A worker that hangs is killed, and one
may be killed by the system: with a spool each exchange that it had running gets its `gateway_lost` fact at once, and
with standard output the gateway has said at its start what is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e import answers, keys
from tests.e2e.calls import call
from tests.e2e.client import Client
from tests.e2e.crash import check_verified, facts_in, spool_environment
from tests.e2e.fleet import environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.processes import client_of, wait_for_workers, workers
from tests.e2e.provider import Provider
from tests.e2e.test_lifecycle import Held
from tests.nats.server import NatsServer
from tests.nats.stream import make_stream, messages

SILENCE_SECS = 2.0
ADMISSION_SECS = 0.1
"""Of one turn, for each request in it."""
REQUESTS = 50
"""Requests in one turn: it takes more than twice as long as the supervisor waits for a sign of life."""
STREAMS = 5
TIMING = {"retry_first": 0.05, "retry_longest": 0.4, "silence": SILENCE_SECS}
NEVER_AGAIN = {"retry_first": 600.0, "retry_longest": 600.0, "silence": SILENCE_SECS}
"""Nobody takes the place of a dead worker while the test runs."""


def test_a_busy_worker_is_not_a_dead_one(backend: str, provider: Provider) -> None:
    assert REQUESTS * ADMISSION_SECS > 2 * SILENCE_SECS
    environ = environment(
        provider,
        AI_WORKERS="2",
        AI_RATE_LIMIT_RPS="0",
        TEST_TIMING=json.dumps(TIMING),
        TEST_ADMISSION_SECS=str(ADMISSION_SECS),
    )
    gateway = Gateway(backend, environ, module="tests.e2e.busy_workers")
    before = wait_for_workers(gateway, 2)
    case = provider.case(answers.by_path)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(gateway, before[0].pid)) for _ in range(REQUESTS)]
        # Stopped while they are sent, so that the worker finds all of them in one turn.
        os.kill(before[0].pid, signal.SIGSTOP)
        for client in clients:
            client.send(call(case, key=keys.virtual_key()))
        os.kill(before[0].pid, signal.SIGCONT)
        assert [client.read_answer().status for client in clients] == [200] * REQUESTS
    assert {worker.pid for worker in workers(gateway)} == {worker.pid for worker in before}
    assert gateway.metric("aigw_worker_restarts_total") == 0
    assert gateway.stop() == 0
    assert gateway.faults() == []
    assert [fact["outcome"] for fact in gateway.facts().values()] == ["complete"] * REQUESTS


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
@pytest.mark.parametrize("timing", [TIMING, NEVER_AGAIN], ids=["replaced", "not replaced"])
def test_what_a_dead_worker_owed_is_written_at_once(
    backend: str, provider: Provider, tmp_path: Path, number: signal.Signals, timing: dict[str, float]
) -> None:
    """By the worker that takes its place, and by the other one where nobody does."""
    directory = tmp_path / "spool"
    environ = spool_environment(provider, directory, AI_WORKERS="2", TEST_TIMING=json.dumps(timing))
    gateway = Gateway(backend, environ, module="tests.e2e.quick_workers")
    first, second = wait_for_workers(gateway, 2)
    complete = []
    with contextlib.ExitStack() as stack:
        held, cut = Held(provider), Held(provider)
        lost = [cut.begin(stack.enter_context(client_of(gateway, first.pid))) for _ in range(STREAMS)]
        running = stack.enter_context(client_of(gateway, second.pid))
        complete.append(held.begin(running))
        os.kill(first.pid, number)
        wait_until(lambda: recovered(directory) == sorted(lost), "each of its exchanges is a fact")
        held.may_finish = True
        running.read_stream_until(b"[DONE]")
        with client_of(gateway, second.pid) as client:
            client.send(call(provider.case(answers.by_path)))
            complete.append(client.read_answer().request_id)
    assert gateway.stop() == 0
    facts = facts_in(directory)
    assert {fact["id"]: fact["outcome"] for fact in facts} == {
        **dict.fromkeys(lost, "gateway_lost"),
        **dict.fromkeys(complete, "complete"),
    }
    assert len(facts) == len(lost) + len(complete), "none twice"
    check_verified(directory)


def test_what_a_dead_worker_owed_is_published_at_once(backend: str, provider: Provider, tmp_path: Path) -> None:
    """Nobody takes its place, and the other one looks for spools of the dead by itself only once a minute."""
    server = NatsServer(tmp_path / "nats").start()
    try:
        make_stream(server)
        environ = spool_environment(
            provider,
            tmp_path / "spool",
            AI_FACT_SINK="nats",
            AI_NATS_URL=server.url,
            AI_DENY_SOURCE="none",
            AI_WORKERS="2",
            TEST_TIMING=json.dumps(NEVER_AGAIN),
        )
        gateway = Gateway(backend, environ, module="tests.e2e.quick_workers")
        first, _ = wait_for_workers(gateway, 2)
        cut = Held(provider)
        with contextlib.ExitStack() as stack:
            lost = [cut.begin(stack.enter_context(client_of(gateway, first.pid))) for _ in range(STREAMS)]
            os.kill(first.pid, signal.SIGKILL)

            def published() -> list[str]:
                rows = [json.loads(data) for _, _, data in messages(server)]
                return sorted(row["id"] for row in rows if row["outcome"] == "gateway_lost")

            wait_until(lambda: published() == sorted(lost), "each of its exchanges is a fact in the stream", 20.0)
        assert gateway.stop() == 0
    finally:
        server.stop()


def recovered(directory: Path) -> list[str]:
    """The exchanges that are lost, by what the spool says now."""
    return sorted(fact["id"] for fact in facts_in(directory) if fact["outcome"] == "gateway_lost")


@pytest.mark.parametrize("workers_count", [1, 2])
def test_the_start_says_what_a_crash_loses_on_standard_output(
    backend: str, provider: Provider, workers_count: int
) -> None:
    gateway = Gateway(backend, environment(provider, AI_WORKERS=str(workers_count)))
    with Client(gateway) as client:
        client.send(call(provider.case(answers.by_path)))
        assert client.read_answer().status == 200
    assert gateway.stop() == 0
    said = [json.loads(line) for line in gateway.stderr if "what runs when a process dies leaves no fact" in line]
    assert [row["level"] for row in said] == ["info"]
