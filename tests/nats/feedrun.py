"""The deny feed against a real server, inside the test's own event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aigw_anyio.deny.control import DenyControl
from aigw_anyio.deny.nats import NatsDenySource
from aigw_anyio.nats.hosting import Host, LoopHost
from aigw_anyio.nats.options import NatsOptions, parse_nats_url
from aigw_anyio.settings import load_settings
from aigw_core.denyset import DenyChange
from aigw_core.gateway import Gateway
from aigw_core.limiter import Limiter
from aigw_core.secrets import Secret
from tests.nats.fast_gateway import HEARTBEAT_SECS, PACE, timing

PATIENCE: Final = 30.0
"""For a loaded machine; nothing waits so long unless it has failed."""


def make_gateway() -> Gateway:
    return Gateway(
        load_settings(config=None, environ={})[0].build_policy(0),
        entropy=os.urandom(32),
        limiter=Limiter(bytearray(Limiter.buffer_size())),
        now=time.monotonic(),
        wall=time.time(),
    )


class FeedRun:
    """One feed and what it has in force."""

    def __init__(
        self,
        url: str | NatsOptions,
        *,
        bucket: str = "ai-gateway",
        reconcile: float | None = None,
        gateway: Gateway | None = None,
        host: Host | None = None,
    ) -> None:
        options = parse_nats_url(Secret(url)) if isinstance(url, str) else url
        self.gateway = gateway or make_gateway()
        self.source = NatsDenySource(
            options, bucket, host or LoopHost(), timing=timing(reconcile), pace=PACE, heartbeat_secs=HEARTBEAT_SECS
        )
        self.control = DenyControl(self.gateway, self.source.name)
        self.cuts: list[list[DenyChange] | None] = []
        self.control.cut = self.cuts.append
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FeedRun:
        self._task = asyncio.create_task(self.source.run(self.control))
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=PATIENCE)
        assert self._task.done(), "the feed does not stop"
        assert self._task.cancelled() or self._task.exception() is None, self._task.exception()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self._task is not None
            assert not self._task.done(), "the feed has ended"
            assert time.monotonic() < end, f"{what}: {self.state}, {self.control.read_stats()}"
            await asyncio.sleep(0.005)

    async def until_live(self) -> None:
        await self.until(lambda: self.state == "live", "live")

    async def until_held(self, tenants: set[int]) -> None:
        """Exactly these, and known to be current."""
        await self.until(lambda: self.held == tenants and self.state == "live", f"holds {tenants}, not {self.held}")

    @property
    def state(self) -> str:
        return self.gateway.deny_state

    @property
    def held(self) -> set[int]:
        return {subject.id for subject, _, _ in self.gateway.deny.entries()}


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(4 * PATIENCE):
            await main()

    asyncio.run(bounded())
