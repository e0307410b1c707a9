"""Runs a source for as long as the gateway lives, and keeps its snapshot."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Final

import anyio

from aigw_anyio.deny.control import Cut, DenyControl, DenySource
from aigw_anyio.deny.snapshotfile import SnapshotKeeper
from aigw_core.backoff import Backoff
from aigw_core.gateway import Gateway

FIRST_ANSWER_SECS: Final = 1.0
"""How long the data listener waits for a source: enough for a file and for a server nearby, and short where neither
answers. What is served then is what a snapshot and ``deny_fail_closed`` are for."""

_log = logging.getLogger("aigw.deny")


class DenyKeeper:
    """One for each process."""

    def __init__(self, gateway: Gateway, source: DenySource, snapshot_path: Path | None = None) -> None:
        """Puts the snapshot in force, if there is one. Must be made inside the event loop."""
        self.control = DenyControl(gateway, source.name)
        self._source = source
        self._snapshots = SnapshotKeeper(snapshot_path, self.control) if snapshot_path is not None else None
        if self._snapshots is not None and (snapshot := self._snapshots.restore()) is not None:
            source.restored(snapshot)

    def cut_with(self, cut: Cut) -> None:
        """From now on running exchanges are ended by this."""
        self.control.cut = cut
        cut(None)

    def look(self) -> None:
        """Time may have passed unseen."""
        if self.control.on_look is not None:
            self.control.on_look()

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            if self._snapshots is not None:
                tasks.start_soon(self._snapshots.run)
            await self._feed()

    async def first_answer(self) -> None:
        """Returns once the source has answered, or has had its time: who was cut off while the gateway was down is
        not let through in between."""
        with anyio.move_on_after(FIRST_ANSWER_SECS):
            await self.control.answered.wait()

    async def flush(self) -> None:
        """The last changes go to disk."""
        if self._snapshots is not None:
            await self._snapshots.flush()

    async def _feed(self) -> None:
        backoff = Backoff()
        while True:
            backoff.started(anyio.current_time())
            try:
                await self._source.run(self.control)
                reason = "the source has ended"
            except Exception:  # noqa: BLE001  # a source's own bug must not end the gateway
                _log.exception("the deny source has failed, and is run again")
                reason = "the source has failed"
            self.control.lost(reason)
            await anyio.sleep(backoff.failed(anyio.current_time(), random.random()))  # noqa: S311  # no secret
