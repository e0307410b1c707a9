from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from aigw_anyio import logs
from aigw_anyio.lifecycle import Options
from aigw_anyio.settings import ListenAddr, Settings, load_settings
from aigw_anyio.sinks import StdoutSink
from aigw_anyio.workers.link import LinkNotifier
from aigw_anyio.workers.shared import Shared, make_shared
from aigw_anyio.workers.worker import run_worker


@pytest.fixture
def shared() -> Iterator[Shared]:
    with contextlib.ExitStack() as owned:
        yield make_shared(3, ListenAddr("127.0.0.1", 0), [], owned)


@pytest.fixture(autouse=True)
def _labels() -> Iterator[None]:
    yield
    logs._common.clear()


def settings(**environ: str) -> Settings:
    return load_settings(config=None, environ={f"AI_{name.upper()}": value for name, value in environ.items()})[0]


def run(shared: Shared, worker: int, at_start: Settings, now: Settings) -> tuple[Settings, Options]:
    """What the gateway of one worker is given."""
    given: list[tuple[Settings, Options]] = []

    def gateway(own: Settings, options: Options) -> int:
        given.append((own, options))
        return 7

    ours, theirs = socket.socketpair()
    with ours, theirs:
        options = Options("asyncio", reload=lambda: (now, ["a warning"]))
        assert run_worker(gateway, at_start, options, shared, worker, theirs) == 7
    return given[0]


def test_each_has_parts_of_its_own(shared: Shared, tmp_path: object) -> None:
    before = settings(
        listen_addr="127.0.0.1:0", snapshot_path=f"{tmp_path}/deny", deny_file=f"{tmp_path}/f", workers="3"
    )
    paths = []
    for worker in range(3):
        own, options = run(shared, worker, before, before)
        assert own.listen_addr == shared.data_address, "the port that was chosen, for each the same"
        assert isinstance(options.notifier, LinkNotifier)
        assert options.inherited is not None
        assert options.inherited.admin_address == shared.worker_admins[worker]
        assert options.inherited.hash_key == shared.hash_key
        assert options.inherited.limiter_buffer is shared.limiter_buffer
        paths.append(own.snapshot_path)
        assert logs._common == {"worker": worker}
    assert paths == [f"{tmp_path}/deny", f"{tmp_path}/deny.w1", f"{tmp_path}/deny.w2"]
    assert isinstance(options.make_sink(own), StdoutSink)


def test_a_reload_is_for_what_needs_no_restart(shared: Shared, tmp_path: object) -> None:
    """The supervisor has told of the rest, and of warnings, once."""
    before = settings(rate_limit_rps="5", snapshot_path=f"{tmp_path}/deny", deny_file=f"{tmp_path}/f", workers="3")
    after = settings(rate_limit_rps="6", snapshot_path=f"{tmp_path}/x", deny_file=f"{tmp_path}/f", max_connections="9")
    _, options = run(shared, 1, before, after)
    assert options.reload is not None
    own, warnings = options.reload()
    assert warnings == []
    assert (own.rate_limit_rps, own.snapshot_path) == (6, f"{tmp_path}/deny.w1")
    assert (own.max_connections, own.workers) == (before.max_connections, 3)
    assert own.listen_addr == shared.data_address
