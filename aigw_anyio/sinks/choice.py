"""The sink that the settings ask for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from aigw_anyio.settings import Settings
from aigw_anyio.settings.model import FactSinkKind
from aigw_anyio.sinks.protocol import FactSink
from aigw_anyio.sinks.spool import SpoolOptions, SpoolSink
from aigw_anyio.sinks.stdout import StdoutSink

DAY_SECS: Final = 86_400.0
"""Of ``spool_retention_days``; days are what people keep records by."""


ACKED_KEPT_SECS: Final = 3_600.0
"""For the ``nats`` sink: an hour in which ``aigw facts`` can still show what the stream has taken."""


def make_sink(settings: Settings, worker: int = 0, output_lock: int | None = None) -> FactSink:
    """Nothing is opened before ``run``. ``worker``: the index of this process among those that share the port.

    ``output_lock``: of the file that they lock to write to standard output. Raises OSError where that is closed.
    """
    if settings.fact_sink is FactSinkKind.STDOUT:
        return StdoutSink(lock_fd=output_lock, tells_risk=worker == 0)
    options = spool_options(settings, worker)
    if settings.fact_sink is FactSinkKind.SPOOL:
        return SpoolSink(_directory(settings), options)
    # nats-py is loaded where it is used.
    from aigw_anyio.deny.sources import nats_options
    from aigw_anyio.sinks.nats import NatsSink, NatsTarget

    target = NatsTarget(nats_options(settings), settings.facts_subject, settings.facts_stream)
    options = dataclasses.replace(options, keep_secs=ACKED_KEPT_SECS)
    return NatsSink(_directory(settings), target, options)


def spool_options(settings: Settings, worker: int) -> SpoolOptions:
    days = settings.spool_retention_days
    return SpoolOptions(
        fsync=settings.spool_fsync,
        worker=worker,
        bytes_max=settings.spool_max_bytes,
        keep_secs=days * DAY_SECS if days else None,
    )


def _directory(settings: Settings) -> Path:
    assert settings.spool_dir is not None, "checked with the settings"
    return Path(settings.spool_dir)
