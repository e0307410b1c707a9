"""Facts of several workers: on one standard output, in spools of their own, and in one stream."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

from aigw_anyio.fdwrite import SLICE
from aigw_core.facts import FACT_MAX_BYTES
from tests.e2e import answers
from tests.e2e.calls import BODY, call
from tests.e2e.client import Client
from tests.e2e.crash import CountingProvider, Load, check_ledger, check_verified, facts_in, spool_environment
from tests.e2e.fleet import environment, is_at_rest
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.processes import client_of, workers
from tests.e2e.provider import Provider, Received
from tests.e2e.test_crash import is_published
from tests.nats.server import NatsServer
from tests.nats.stream import make_stream, messages

CLIENTS = 6
TWO = {"AI_WORKERS": "2", "AI_RATE_LIMIT_RPS": "0"}


class Verbose:
    """Answers with usage objects of some tens of bytes and of several times what a pipe takes at once, by turns."""

    def __init__(self, provider: Provider) -> None:
        self._numbers = itertools.count()
        self.case = provider.case(self._answer)

    def _answer(self, received: Received) -> None:
        body = received.json()
        size = (0, 2 * SLICE, 0, 5 * SLICE)[next(self._numbers) % 4]
        usage = {**answers.CHAT_USAGE, "note": "x" * size}
        received.connection.send(answers.json_answer({**answers.chat_completion(body), "usage": usage}))


def ask_many(gateway: Gateway, verbose: Verbose, each: int) -> list[str]:
    """Request ids, from connections of their own to both workers."""
    first, second = workers(gateway)
    ids: list[str] = []

    def ask_some(worker: int) -> None:
        with client_of(gateway, worker) as client:
            for _ in range(each):
                client.send(call(verbose.case))
                ids.append(client.read_answer().request_id)

    threads = [threading.Thread(target=ask_some, args=((first, second)[number % 2].pid,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == CLIENTS * each
    return ids


def test_every_line_is_whole_under_load(many: Gateway, provider: Provider) -> None:
    ids = ask_many(many, Verbose(provider), 20)
    wait_until(functools.partial(is_at_rest, many), "every fact is here")
    facts = many.facts()
    assert set(ids) <= set(facts)
    lengths = [len(line) for line in many.stdout]
    assert max(lengths) > 4 * SLICE
    assert max(lengths) <= FACT_MAX_BYTES


def test_a_reader_that_stalls_gets_everything_later(backend: str, provider: Provider) -> None:
    """Some hundred kilobytes wait: more than the pipe holds, so that workers wait for each other in mid-line."""
    gateway = Gateway(backend, environment(provider, **TWO), holds_facts=True)
    ids = ask_many(gateway, Verbose(provider), 10)
    wait_until(lambda: gateway.metric("aigw_facts_buffered_bytes") > 0, "facts wait")
    assert gateway.metric("aigw_facts_written_total") < len(ids)
    gateway.read_facts()
    wait_until(functools.partial(is_at_rest, gateway), "every fact is here")
    assert set(gateway.facts()) == set(ids)
    assert gateway.stop() == 0
    assert gateway.faults() == []


def test_facts_that_wait_at_the_end_are_written(provider: Provider) -> None:
    gateway = Gateway("asyncio", environment(provider, **TWO), holds_facts=True)
    ids = ask_many(gateway, Verbose(provider), 10)
    gateway.send_signal(signal.SIGTERM)
    gateway.read_facts()
    assert gateway.wait() == 0
    assert set(gateway.facts()) == set(ids)
    assert gateway.faults() == []


def test_a_file_has_every_fact(provider: Provider, tmp_path: Path) -> None:
    """Standard output is a file, as of a service whose unit says ``StandardOutput=file:``."""
    file = tmp_path / "facts"
    gateway = Gateway("asyncio", environment(provider, **TWO), wrapper=("sh", "-c", f'exec "$@" > "{file}"', "sh"))
    ids = ask_many(gateway, Verbose(provider), 15)
    assert gateway.stop() == 0
    assert {json.loads(line)["id"] for line in file.read_text().splitlines()} == set(ids)
    assert len(file.read_text().splitlines()) == len(ids)


KILLS = 2


def test_workers_that_are_killed_lose_and_double_nothing(backend: str, provider: Provider, tmp_path: Path) -> None:
    """Under load, one after the other, while the rest goes on."""
    timing = json.dumps({"retry_first": 0.05, "retry_longest": 0.2})
    environ = spool_environment(provider, tmp_path / "spool", AI_WORKERS="2", TEST_TIMING=timing)
    gateway = Gateway(backend, environ, module="tests.e2e.quick_workers")
    load, dice = Load(CountingProvider(provider), seed=4), random.Random(4)
    load.target = gateway
    load.start()
    for _ in range(KILLS):
        known = gateway.metric("aigw_worker_restarts_total")
        time.sleep(dice.uniform(0.1, 0.4))
        # Any of its answers may be of the one that is killed.
        load.killed_at[gateway.pid] = float("-inf")
        os.kill(dice.choice(workers(gateway)).pid, signal.SIGKILL)
        wait_until(lambda known=known: gateway.metric("aigw_worker_restarts_total") > known, "it is replaced")  # type: ignore[misc]
        wait_until(lambda: gateway.metric("aigw_workers_up") == 2, "and has found what the dead one has left")
    load.stop()
    assert gateway.stop() == 0
    gateway.stderr[:] = [line for line in gateway.stderr if "has died" not in line]
    assert gateway.faults() == []
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["w0-0", "w1-0"]
    check_ledger(load, facts_in(tmp_path / "spool"), check_verified(tmp_path / "spool"))


def test_the_stream_has_every_fact_once(provider: Provider, tmp_path: Path) -> None:
    """On trio, where NATS has a thread in each worker."""
    server = NatsServer(tmp_path / "nats").start()
    try:
        make_stream(server)
        changes = {"AI_FACT_SINK": "nats", "AI_NATS_URL": server.url, "AI_DENY_SOURCE": "none", **TWO}
        gateway = Gateway("trio", spool_environment(provider, tmp_path / "spool", **changes))
        ids = ask_many(gateway, Verbose(provider), 10)
        wait_until(lambda: is_published(gateway), "everything is published")
        assert gateway.metric("aigw_facts_published_total") == len(ids)
        assert gateway.stop() == 0
        assert gateway.faults() == []
        found = messages(server)
        assert sorted(fact_id for _, fact_id, _ in found) == sorted(ids)
        assert len({subject for subject, _, _ in found}) == 2, "a subject for each worker's spool"
    finally:
        server.stop()


def test_fewer_workers_than_before_publish_what_the_others_left(provider: Provider, tmp_path: Path) -> None:
    """From three to one: spools of places that are no more are recovered all the same."""
    environ = spool_environment(provider, tmp_path / "spool", AI_WORKERS="3")
    gateway = Gateway("asyncio", environ)
    with Client(gateway) as client:
        client.send(call(body=BODY))
        request_id = client.read_answer().request_id
    for worker in workers(gateway):
        os.kill(worker.pid, signal.SIGSTOP)
    for worker in workers(gateway):
        os.kill(worker.pid, signal.SIGKILL)
    gateway.send_signal(signal.SIGKILL)
    gateway.wait()
    last = Gateway("asyncio", {**environ, "AI_WORKERS": "1"})
    assert last.stop() == 0
    assert [fact["id"] for fact in facts_in(tmp_path / "spool")] == [request_id]
