"""One of several workers dies, hangs or leaves: the others serve, another one takes its place, no count is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import answers
from tests.e2e.calls import call
from tests.e2e.client import Client
from tests.e2e.conftest import BACKENDS
from tests.e2e.crash import facts_in, spool_environment
from tests.e2e.fleet import environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.processes import admin_pid, children, client_of, is_alive, wait_for_workers, workers
from tests.e2e.provider import Provider
from tests.e2e.test_lifecycle import Held, ask, ready, refuses

QUICK = {"retry_first": 0.05, "retry_longest": 0.4}
"""Times of the supervisor."""
MODULE = "tests.e2e.quick_workers"


def started(backend: str, provider: Provider, timing: dict[str, float] | None = None, **environ: str) -> Gateway:
    changes = {"AI_WORKERS": "2", "AI_RATE_LIMIT_RPS": "0", "TEST_TIMING": json.dumps({**QUICK, **(timing or {})})}
    return Gateway(backend, environment(provider, **changes, **environ), module=MODULE)


@pytest.fixture(scope="module", params=BACKENDS)
def mortal(request: pytest.FixtureRequest, provider: Provider) -> Iterator[Gateway]:
    gateway = started(str(request.param), provider)
    yield gateway
    assert gateway.stop() == 0
    forget_deaths(gateway)
    assert gateway.faults() == []
    gateway.facts()


def forget_deaths(gateway: Gateway) -> None:
    gateway.stderr[:] = [line for line in gateway.stderr if "has died and is started again" not in line]


def counted(gateway: Gateway) -> tuple[float, ...]:
    names = ("aigw_connections_accepted_total", "aigw_facts_written_total", "aigw_worker_restarts_total")
    return tuple(gateway.metrics(names))


def test_others_serve_while_one_is_missing(mortal: Gateway, provider: Provider) -> None:
    held = Held(provider)
    first, second = wait_for_workers(mortal, 2)
    with client_of(mortal, second.pid) as running, client_of(mortal, first.pid) as lost:
        request_id = held.begin(running)
        assert ask(lost) == 200
        wait_until(lambda: first.metric("aigw_facts_written_total") >= 1, "the dead have counted something")
        before = counted(mortal)
        # Stopped first, so that there is all the time to look.
        os.kill(first.pid, signal.SIGSTOP)
        assert ready(mortal) == (200, "degraded")
        os.kill(first.pid, signal.SIGKILL)
        assert lost.read_end()[0] == b""

        def is_replaced() -> bool:
            nonlocal before
            now = counted(mortal)
            assert all(new >= old for new, old in zip(now, before, strict=True)), "a counter falls"
            before = now
            assert ready(mortal)[0] == 200
            return mortal.metric("aigw_workers_up") == 2

        restarts = before[2]
        wait_until(is_replaced, "another one has its place")
        assert counted(mortal)[2] == restarts + 1
        assert ready(mortal) == (200, "ok")
        (fresh,) = {worker.pid for worker in wait_for_workers(mortal, 2, without=first.pid)} - {second.pid}
        with client_of(mortal, fresh) as client:
            assert ask(client) == 200
        held.may_finish = True
        running.read_stream_until(b"[DONE]")
    assert mortal.fact(request_id)["outcome"] == "complete"


def test_who_dies_again_and_again_is_started_later_and_later(mortal: Gateway) -> None:
    seen = len(mortal.stderr)

    def waits() -> list[float]:
        rows = [json.loads(line) for line in mortal.stderr[seen:] if "has died" in line]
        assert {row["how"] for row in rows} <= {"SIGKILL"}
        return [row["again_in_secs"] for row in rows if row["process"] == "worker 1"]

    known = mortal.metric("aigw_worker_restarts_total")
    for number in range(4):
        for worker in wait_for_workers(mortal, 2):
            mortal_one = worker.pid
            os.kill(mortal_one, signal.SIGKILL)
        wait_until(lambda number=number: len(waits()) > number, "its death is told")  # type: ignore[misc]
        wait_until(lambda: mortal.metric("aigw_workers_up") == 2, "both are back")
    assert all(
        later == min(2 * earlier, QUICK["retry_longest"]) for earlier, later in zip(waits(), waits()[1:], strict=False)
    )
    assert waits()[-1] == QUICK["retry_longest"]
    assert mortal.metric("aigw_worker_restarts_total") == known + 8


def test_sigterm_to_one_alone_drains_and_replaces_it(mortal: Gateway, provider: Provider) -> None:
    held = Held(provider)
    first, second = wait_for_workers(mortal, 2)
    with client_of(mortal, first.pid) as running:
        request_id = held.begin(running)
        os.kill(first.pid, signal.SIGTERM)
        wait_until(lambda: [worker.pid for worker in workers(mortal)] == [second.pid], "it accepts nobody any more")
        assert ready(mortal) == (200, "degraded"), "the other one serves"
        with Client(mortal) as client:
            assert ask(client) == 200
        held.may_finish = True
        running.read_stream_until(b"[DONE]")
    assert mortal.fact(request_id)["outcome"] == "complete"
    wait_for_workers(mortal, 2, without=first.pid)
    wait_until(lambda: ready(mortal) == (200, "ok"), "another one has its place")


def test_the_admin_pages_come_back_where_they_were(mortal: Gateway) -> None:
    """Also while a worker is missing: they know that all have been ready."""
    (first, _), pid = wait_for_workers(mortal, 2), admin_pid(mortal)
    assert pid is not None
    known = mortal.metric("aigw_worker_restarts_total")
    os.kill(first.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: admin_pid(mortal) not in (pid, None), "the admin process is there again")
    assert ready(mortal) == (200, "degraded")
    os.kill(first.pid, signal.SIGCONT)
    wait_until(lambda: ready(mortal) == (200, "ok"), "both answer")
    assert mortal.metric("aigw_workers_up") == 2
    assert mortal.metric("aigw_worker_restarts_total") == known


def test_a_signal_to_everybody_reloads_and_kills_nobody(mortal: Gateway) -> None:
    pids = set(children(mortal.pid))
    seen = len(mortal.stderr)
    for pid in (mortal.pid, *pids):
        os.kill(pid, signal.SIGHUP)
    wait_until(lambda: sum("configuration reloaded" in line for line in mortal.stderr[seen:]) >= 2, "both reload")
    assert ready(mortal) == (200, "ok")
    assert set(children(mortal.pid)) == pids


def test_a_worker_that_hangs_is_killed_and_replaced(provider: Provider) -> None:
    gateway = started("asyncio", provider, {"silence": 3.0})
    first, _ = workers(gateway)
    os.kill(first.pid, signal.SIGSTOP)
    gateway.wait_log("a process hangs: it gives no sign of life and is killed")
    wait_for_workers(gateway, 2, without=first.pid)
    assert gateway.stop() == 0
    forget_deaths(gateway)
    gateway.stderr[:] = [line for line in gateway.stderr if "no sign of life" not in line]
    assert gateway.faults() == []


# The end of the supervisor


@pytest.mark.parametrize("is_draining", [False, True], ids=["serving", "draining"])
def test_no_orphan_outlives_the_supervisor_and_its_exchanges(
    backend: str, provider: Provider, is_draining: bool
) -> None:
    gateway, held = started(backend, provider), Held(provider)
    pids = children(gateway.pid)
    with Client(gateway) as client:
        held.begin(client)
        if is_draining:
            gateway.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses(gateway), "it drains")
        gateway.send_signal(signal.SIGKILL)
        wait_until(lambda: refuses(gateway) and sum(map(is_alive, pids)) == 1, "who has nothing to finish has gone")
        held.may_finish = True
        client.read_stream_until(b"[DONE]")
    wait_until(lambda: not any(map(is_alive, pids)), "the last one has gone")
    assert gateway.wait() == -signal.SIGKILL
    assert [fact["outcome"] for fact in gateway.facts().values()] == ["complete"]
    assert gateway.faults() == []


# The spool


def test_a_worker_that_is_killed_in_mid_stream_leaves_one_lost_exchange(provider: Provider, tmp_path: Path) -> None:
    environ = spool_environment(provider, tmp_path / "spool", AI_WORKERS="2", TEST_TIMING=json.dumps(QUICK))
    gateway, held, cut = Gateway("asyncio", environ, module=MODULE), Held(provider), Held(provider)
    first, second = workers(gateway)
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["w0-0", "w1-0"]
    complete, lost = [], []
    with client_of(gateway, first.pid) as dying, client_of(gateway, second.pid) as running:
        for client in (dying, running):
            client.send(call(provider.case(answers.by_path)))
            complete.append(client.read_answer().request_id)
        lost.append(cut.begin(dying))
        complete.append(held.begin(running))
        os.kill(first.pid, signal.SIGKILL)
        wait_for_workers(gateway, 2, without=first.pid)
        held.may_finish = True
        running.read_stream_until(b"[DONE]")
        wait_until(lambda: gateway.metric("aigw_facts_recovered_total") == 1, "it is recovered, by one of them")
    assert gateway.stop() == 0
    assert sorted(path.name for path in (tmp_path / "spool").iterdir()) == ["w0-0", "w1-0"]
    facts = facts_in(tmp_path / "spool")
    outcomes = {fact["id"]: fact["outcome"] for fact in facts}
    assert len(outcomes) == len(facts)
    assert outcomes == {**dict.fromkeys(complete, "complete"), **dict.fromkeys(lost, "gateway_lost")}
