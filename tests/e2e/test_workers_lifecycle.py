"""Several workers from start to end: drain, reload, what cannot start, and what the service manager is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import keys
from tests.e2e.client import Client
from tests.e2e.conftest import Starter
from tests.e2e.fleet import Fleet, environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.processes import children, client_of, is_alive, wait_for_workers, workers
from tests.e2e.provider import Provider
from tests.e2e.test_lifecycle import Held, ready, refuses
from tests.e2e.test_service import Manager
from tests.e2e.test_start import FAILED, REFUSED, certificate, lines_of

TWO = {"AI_WORKERS": "2", "AI_RATE_LIMIT_RPS": "0"}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


# Drain


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("asyncio", "the terminal's group"),
        ("asyncio", "everybody"),
        ("trio", "the supervisor"),
        ("trio", "everybody"),
    ],
)
def test_running_streams_finish(backend: str, provider: Provider, told: str) -> None:
    """``everybody``: as a service manager does that knows of no main process. No worker is told twice."""
    gateway = Gateway(backend, environment(provider, **TWO), wrapper=("setsid",))
    helds = [Held(provider), Held(provider)]
    first, second = workers(gateway)
    pids = children(gateway.pid)
    with client_of(gateway, first.pid) as one, client_of(gateway, second.pid) as other:
        ids = [held.begin(client) for held, client in zip(helds, (one, other), strict=True)]
        if told == "the terminal's group":
            os.killpg(gateway.pid, signal.SIGINT)
        else:
            for pid in (gateway.pid, *pids) if told == "everybody" else (gateway.pid,):
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: refuses(gateway), "nobody new is let in")
        if told != "everybody":
            assert ready(gateway) == (503, "draining")
            assert gateway.admin("/livez")[0] == 200
        wait_until(lambda: _is_free(gateway.address), "what comes next may listen while this one finishes")
        for held, client in zip(helds, (one, other), strict=True):
            held.may_finish = True
            client.read_stream_until(b"[DONE]\n\n")
    assert gateway.wait() == 0
    assert not any(map(is_alive, pids))
    assert [gateway.fact(one)["outcome"] for one in ids] == ["complete", "complete"]
    assert gateway.faults() == []


def _is_free(address: tuple[str, int]) -> bool:
    try:
        socket.create_server(address).close()
    except OSError:
        return False
    return True


def test_one_that_drains_alone_is_not_cut_when_all_do(start: Starter, provider: Provider) -> None:
    gateway, held = start(TWO), Held(provider)
    first, _ = workers(gateway)
    with client_of(gateway, first.pid) as client:
        request_id = held.begin(client)
        os.kill(first.pid, signal.SIGTERM)
        wait_until(lambda: len(workers(gateway)) == 1, "it drains")
        gateway.send_signal(signal.SIGTERM)
        wait_until(lambda: len(children(gateway.pid)) == 2, "the other one has gone")
        held.may_finish = True
        client.read_stream_until(b"[DONE]\n\n")
    assert gateway.wait() == 0
    assert gateway.fact(request_id)["outcome"] == "complete"


def test_a_second_signal_stops_at_once(start: Starter, provider: Provider) -> None:
    gateway, held = start(TWO), Held(provider)
    first, _ = workers(gateway)
    with client_of(gateway, first.pid) as client:
        request_id = held.begin(client)
        gateway.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(gateway), "it drains")
        gateway.send_signal(signal.SIGTERM)
        assert client.read_end()[1] == "reset"
    assert gateway.wait() == 1
    assert gateway.fact(request_id)["outcome"] == "gateway_cut"


# Reload


def limits(gateway: Gateway) -> list[float]:
    """The limit that each worker has in force."""
    return [worker.metric('aigw_rate_limit_rps{limit="key"}') for worker in workers(gateway)]


def test_a_reload_reaches_all_and_those_who_come_later(start: Starter, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text("workers = 2\nrate_limit_rps = 5\n")
    gateway = start({"AI_CONFIG": str(config)})
    first, second = workers(gateway)
    assert limits(gateway) == [5, 5]
    config.write_text("workers = 3\nrate_limit_rps = 6\nmax_connections = 9\n")
    gateway.send_signal(signal.SIGHUP)
    wait_until(lambda: limits(gateway) == [6, 6], "both have the new limit")
    restart = [json.loads(line)["message"] for line in gateway.stderr if "take a restart" in line]
    assert restart == ["settings that take a restart have changed: max_connections, workers"], "told once"
    config.write_text("rate_limit_rps = \n")
    gateway.send_signal(signal.SIGHUP)
    gateway.wait_log("configuration not reloaded")
    # One that comes while the file is of no use has the last good one.
    os.kill(second.pid, signal.SIGKILL)
    wait_for_workers(gateway, 2, without=second.pid)
    assert limits(gateway) == [6, 6]
    assert len([line for line in gateway.stderr if "not reloaded" in line]) == 1
    assert first.pid in {worker.pid for worker in workers(gateway)}
    assert gateway.stop() == 0
    gateway.stderr[:] = [line for line in gateway.stderr if "not reloaded" not in line and "has died" not in line]


# What cannot start


def ended(environ: dict[str, str], code: int = FAILED) -> str:
    """The one line that it says; nobody is left, or its output would stay open."""
    (line,) = lines_of(Gateway("asyncio", environ, listens=False), code)
    return line


def test_ports_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for name in ("listen_addr", "metrics_listen"):
            line = ended({**TWO, f"AI_{name.upper()}": address})
            assert line == f"aigw: {name}: cannot listen on {address}: Address already in use"


def test_a_port_of_another_gateway_with_workers(fleet: Fleet) -> None:
    """Which the kernel would share among both."""
    many = fleet.get("asyncio", "many")
    data, admin = (f"127.0.0.1:{port}" for _, port in (many.address, many.admin_address))
    line = ended({**TWO, "AI_LISTEN_ADDR": data})
    assert line == f"aigw: listen_addr: cannot listen on {data}: Address already in use"
    line = ended({"AI_LISTEN_ADDR": data})
    assert line == f"aigw: listen_addr: cannot listen on {data}: Address already in use"
    line = ended({**TWO, "AI_METRICS_LISTEN": admin})
    assert line == f"aigw: metrics_listen: cannot listen on {admin}: Address already in use"


def test_what_no_worker_could_use(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("x")
    environ = {**TWO, "AI_FACT_SINK": "spool", "AI_SPOOL_DIR": str(tmp_path / "spool")}
    assert ended(environ).startswith("aigw: spool_dir: ")
    environ = {**TWO, **certificate(tmp_path), "AI_TLS_KEY_FILE": str(tmp_path / "nowhere")}
    assert "the key cannot be read" in ended(environ, REFUSED)


# The service manager


def test_the_manager_hears_of_all_as_of_one(backend: str, provider: Provider, manager: Manager, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text("workers = 2\nshutdown_grace_secs = 1000\n")
    environ = {"AI_CONFIG": str(config), "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "200000"}
    gateway = Gateway(backend, {**environment(provider), **environ})
    serving = {"READY": "1", "STATUS": f"serving on 127.0.0.1:{gateway.address[1]}, admin on 127.0.0.1:"}
    told = manager.next()
    assert (told["READY"], told["STATUS"].startswith(serving["STATUS"])) == ("1", True), told
    assert len(workers(gateway)) == 2, "no sooner"
    for _ in range(3):
        manager.wait_sign_of_life()
    before = time.monotonic_ns() // 1000
    gateway.send_signal(signal.SIGHUP)
    assert before <= int(manager.next()["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert manager.next() == told
    held = Held(provider)
    with Client(gateway) as client:
        held.begin(client, keys.virtual_key())
        gateway.send_signal(signal.SIGTERM)
        stopping = manager.next()
        assert stopping["STOPPING"] == "1"
        assert 1000e6 < int(stopping["EXTEND_TIMEOUT_USEC"]) < 1030e6
        manager.wait_sign_of_life()
        held.may_finish = True
        client.read_stream_until(b"[DONE]")
    assert gateway.wait() == 0
    assert gateway.faults() == []


def test_a_start_that_fails_is_never_ready(manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("x")
    environ = {**TWO, "AI_FACT_SINK": "spool", "AI_SPOOL_DIR": str(tmp_path / "spool"), "NOTIFY_SOCKET": manager.name}
    ended(environ)
    manager._socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.next()
