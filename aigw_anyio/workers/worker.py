"""The process of one worker, from the fork on."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable
from functools import partial

from aigw_anyio import logs
from aigw_anyio.lifecycle import Inherited, Options, Reload
from aigw_anyio.settings import Settings, restartable
from aigw_anyio.sinks.choice import make_sink
from aigw_anyio.workers.link import LinkNotifier
from aigw_anyio.workers.shared import Shared

RunGateway = Callable[[Settings, Options], int]
"""Runs one gateway in an event loop of its own, to its end; returns the exit code."""


def run_worker(
    run: RunGateway, settings: Settings, options: Options, shared: Shared, worker: int, link: socket.socket
) -> int:
    """``options`` are those of a gateway of one process. Returns the exit code."""
    logs.label(worker=worker)
    own = partial(settings_of, worker=worker, shared=shared)
    reload = partial(_reload, options.reload, settings, own) if options.reload is not None else None
    return run(
        own(settings),
        dataclasses.replace(
            options,
            reload=reload,
            notifier=LinkNotifier(link),
            make_sink=partial(make_sink, worker=worker, output_lock=shared.output_lock),
            inherited=Inherited(
                shared.worker_admins[worker], shared.limiter_buffer, shared.hash_key, shared.progress_cell(worker)
            ),
        ),
    )


def settings_of(settings: Settings, worker: int, shared: Shared) -> Settings:
    """The first worker keeps the names of a gateway of one process."""
    path = settings.snapshot_path
    if path is not None and worker:
        path = f"{path}.w{worker}"
    return settings.model_copy(update={"listen_addr": shared.data_address, "snapshot_path": path})


def _reload(load: Reload, started_with: Settings, own: Callable[[Settings], Settings]) -> tuple[Settings, list[str]]:
    settings, _ = load()
    # The supervisor has told of the warnings, and of what takes a restart.
    return own(restartable(started_with, settings)), []
