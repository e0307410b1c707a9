"""Several workers as one gateway: what callers, probes and scrapers see of them while all goes well."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e import answers, keys
from tests.e2e.calls import call
from tests.e2e.client import Answer, Client, bearer, request
from tests.e2e.conftest import BACKENDS, Starter
from tests.e2e.fleet import environment, is_at_rest
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.processes import TRIES, admin_pid, children, client_of, owner, owners, workers
from tests.e2e.provider import Provider
from tests.e2e.sdk import openai_client
from tests.e2e.test_reload import Files, status

CONNECTIONS = 40
"""Of which each worker of two gets some: that all come to one happens once in 2 to the 39th."""


def test_one_line_says_that_all_are_ready(many: Gateway) -> None:
    assert [line for line in many.stderr if line.startswith("listening ")] == [
        f"listening data=127.0.0.1:{many.address[1]} admin=127.0.0.1:{many.admin_address[1]}"
    ]
    found = workers(many)
    assert len(found) == 2
    assert set(children(many.pid)) == {*(worker.pid for worker in found), admin_pid(many)}


def test_a_stock_client_is_served(many: Gateway, provider: Provider) -> None:
    with openai_client(many, keys.virtual_key(), provider.case(answers.by_path)) as client:
        for _ in range(4):
            made = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
            assert made.usage is not None
            assert made.usage.total_tokens == answers.CHAT_USAGE["total_tokens"]
        chunks = list(client.chat.completions.create(model="m", messages=[], stream=True))
        assert chunks


def test_connections_are_spread_and_the_numbers_are_sums(many: Gateway) -> None:
    names = ("aigw_connections_accepted_total", "aigw_facts_written_total")
    before = many.metrics(names)
    clients = [Client(many) for _ in range(CONNECTIONS)]
    accepted = Counter(owners(many, clients))
    assert set(accepted) == {worker.pid for worker in workers(many)}
    wait_until(lambda: many.metric("aigw_connections") == CONNECTIONS, "every worker's connections are added up")
    by_pid = {worker.pid: worker.metric("aigw_connections") for worker in workers(many)}
    assert by_pid == accepted
    ids = []
    for client in clients:
        client.send(call())
        ids.append(client.read_answer().request_id)
        client.sock.close()
    facts = [many.fact(one) for one in ids]
    assert {fact["outcome"] for fact in facts} == {"complete"}
    wait_until(lambda: is_at_rest(many), "every fact is counted")
    after = many.metrics(names)
    assert [new - old for new, old in zip(after, before, strict=True)] == [CONNECTIONS, CONNECTIONS]


def test_what_is_merged_is_what_each_worker_says(many: Gateway) -> None:
    """Every family and series of a worker stands in the merged page, and those of the place are there once."""
    merged = {family.name: family for family in text_string_to_metric_families(many.admin("/metrics")[1])}
    for worker in workers(many):
        own = {family.name: family for family in text_string_to_metric_families(worker.page("/metrics"))}
        assert set(own) <= set(merged)
        for name, family in own.items():
            assert family.type == merged[name].type
            series = {(sample.name, tuple(sample.labels.items())) for sample in family.samples}
            assert series <= {(sample.name, tuple(sample.labels.items())) for sample in merged[name].samples}, name
    assert [sample.value for sample in merged["aigw_build_info"].samples] == [1]
    assert many.metrics(("aigw_workers", "aigw_workers_up", "aigw_worker_restarts_total", "aigw_draining")) == [
        2,
        2,
        0,
        0,
    ]
    assert [sample.value for sample in merged["aigw_deny_state"].samples if sample.value] == [1]


def test_openmetrics_are_given_to_who_asks_for_them(many: Gateway) -> None:
    with Client(_Admin(many)) as client:
        accept = (b"Accept", b"application/openmetrics-text; version=1.0.0")
        client.send(request("/metrics", b"", accept, method="GET"))
        answer = client.read_answer()
    assert answer.values(b"content-type")[0].startswith(b"application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")


class _Admin:
    def __init__(self, gateway: Gateway) -> None:
        self.address = gateway.admin_address


def test_ready_and_alive(many: Gateway) -> None:
    status, body = many.admin("/readyz")
    row = {"status": "ok", "deny": "none", "deny_revision": None, "workers": {"ready": 2, "of": 2}}
    assert (status, json.loads(body)) == (200, row)
    assert many.admin("/livez") == (200, '{"status": "ok"}\n')
    assert many.admin("/")[0] == 404


def test_the_log_says_which_worker_speaks(many: Gateway) -> None:
    for worker in workers(many):
        with client_of(many, worker.pid) as client:
            client.send(request("/openai/v1/models", b"", bearer("bai_v2.none"), method="GET"))
            assert client.read_answer().status == 401
    for number in range(2):
        many.wait_log(rf'"worker": {number}\b')


# The limits


PER_SECOND = 12


@pytest.fixture(scope="module", params=BACKENDS)
def limited_workers(request: pytest.FixtureRequest, provider: Provider) -> Iterator[Gateway]:
    limits = {f"AI_{name}RATE_LIMIT_RPS": str(PER_SECOND) for name in ("", "BYO_", "UNVERIFIED_")}
    gateway = Gateway(str(request.param), environment(provider, AI_WORKERS="2", **limits))
    yield gateway
    assert gateway.stop() == 0
    assert gateway.faults() == []


def of_one_window(gateway: Gateway, calls: list[bytes]) -> list[Answer]:
    """Answers to calls that were sent one after the other, by turns to both workers, within one second of the clock.

    The clock is that of the limiter, and its window the whole second; what has met a change is sent again.
    """
    first, second = workers(gateway)
    with client_of(gateway, first.pid) as one, client_of(gateway, second.pid) as other:
        for _ in range(20):
            # One in which nobody else has counted.
            before = int(time.monotonic())
            wait_until(lambda before=before: int(time.monotonic()) > before, "a second begins")  # type: ignore[misc]
            began, found = int(time.monotonic()), []
            for number, data in enumerate(calls):
                client = (one, other)[number % 2]
                client.send(data)
                found.append(client.read_answer())
            if int(time.monotonic()) == began:
                return found
    raise AssertionError("the machine is too slow for this")


def test_a_limit_is_one_limit_for_all_workers(limited_workers: Gateway) -> None:
    """One after the other, so that it is exact: several keys by turns, each with its own count."""
    three = [keys.virtual_key() for _ in range(3)]
    calls = [call(key=three[number // 2 % 3]) for number in range(3 * (PER_SECOND + 4))]
    found = of_one_window(limited_workers, calls)
    for at in range(3):
        statuses = [answer.status for number, answer in enumerate(found) if number // 2 % 3 == at]
        assert statuses == [200] * PER_SECOND + [429] * (len(statuses) - PER_SECOND)


@pytest.mark.parametrize("is_managed", [True, False], ids=["unverified", "byo"])
def test_an_aggregate_is_one_for_all_workers(limited_workers: Gateway, is_managed: bool) -> None:
    def credential(number: int) -> str:
        return keys.forged_key() if is_managed else f"{keys.BYO_KEY}-{number}"

    calls = [call(key=credential(number)) for number in range(PER_SECOND + 6)]
    statuses = [answer.status for answer in of_one_window(limited_workers, calls)]
    # One address and two connections, one for each worker: once two are counted, a connection that has had one may take
    # less than a quarter of what is left to the address, (12 - 2 - 2) / 2. The first BYO request is not shared out.
    passing = 2 if is_managed else 3
    assert 429 not in statuses[:passing]
    assert statuses[passing:] == [429] * (len(calls) - passing)


# TLS, uvloop, the demo


def test_tls_and_a_new_certificate(start: Starter, backend: str, tmp_path: Path) -> None:
    """Every worker takes it up. On asyncio with uvloop, which has a clock and signals of its own."""
    arguments = ("--uvloop",) if backend == "asyncio" else ()
    files = Files(tmp_path)
    trust_old = files.issue()
    gateway = start({"AI_WORKERS": "2", **files.environ}, *arguments)
    with Client(gateway, trust_old) as running:
        assert status(running) == 200
        trust_new = files.issue()
        gateway.send_signal(signal.SIGHUP)
        pids = {worker.pid for worker in workers(gateway)}
        wait_until(lambda: told(gateway, "configuration reloaded") == 2, "both have reloaded")
        reached = set()
        for _ in range(TRIES):
            with Client(gateway, trust_new) as client:
                assert status(client) == 200
                reached.add(owner(gateway, client))
            if reached == pids:
                break
        assert reached == pids
        assert status(running) == 200, "a connection keeps what it began with"
    assert gateway.stop() == 0


def told(gateway: Gateway, text: str) -> int:
    return sum(f'"{text}"' in line for line in gateway.stderr)


def test_the_demo_is_one_process() -> None:
    gateway = Gateway("asyncio", {"AI_WORKERS": "2"}, arguments=("--demo",))
    assert children(gateway.pid) == []
    assert json.loads(gateway.admin("/readyz")[1])["status"] == "ok"
    assert gateway.stop() == 0
