"""NATS code in a thread of its own, under trio: the same feed, in order, and a clean end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import pytest
import trio

from aigw_anyio.deny.control import DenyControl
from aigw_anyio.deny.nats import NatsDenySource
from aigw_anyio.nats.hosting import ThreadHost
from aigw_anyio.nats.options import parse_nats_url
from aigw_core.secrets import Secret
from tests.nats.bucket import Bucket
from tests.nats.fast_gateway import HEARTBEAT_SECS, PACE, timing
from tests.nats.feedrun import make_gateway
from tests.nats.server import NatsServer


def test_the_feed_under_trio(shared_server: NatsServer) -> None:
    machine_thread = threading.get_ident()

    async def main() -> None:
        host = ThreadHost(trio.lowlevel.current_trio_token().run_sync_soon)
        options = parse_nats_url(Secret(shared_server.url))
        source = NatsDenySource(
            options, "under-trio", host, timing=timing(None), pace=PACE, heartbeat_secs=HEARTBEAT_SECS
        )
        gateway = make_gateway()
        control = DenyControl(gateway, source.name)
        threads: set[int] = set()
        control.cut = lambda changes: threads.add(threading.get_ident())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.run, control)

            async def until(condition: Callable[[], bool]) -> None:
                with anyio.fail_after(30):
                    while not condition():
                        await anyio.sleep(0.01)

            await until(lambda: gateway.deny_state == "live")
            for number in range(200):
                bucket.put(f"blackhole.{number}", "spend")
            await until(lambda: gateway.deny.size == 200)
            await until(lambda: (gateway.deny_stale_ms(anyio.current_time()) or 0) < 5_000)
            tasks.cancel_scope.cancel()
        assert threads == {machine_thread}
        assert control.read_stats().gaps == 0

    with Bucket(shared_server.url, "under-trio") as bucket:
        bucket.create()
        trio.run(main)
    assert [thread.name for thread in threading.enumerate() if thread.name == "nats"] == []


def test_what_nats_code_raises_comes_out() -> None:
    async def main() -> None:
        async def broken() -> None:
            raise KeyError("a bug")

        host = ThreadHost(trio.lowlevel.current_trio_token().run_sync_soon)
        with pytest.raises(KeyError):
            await host.run(broken)
        # Nothing to run it in any more: forgotten, and no error.
        host.submit(lambda: None)

    trio.run(main)
