"""How a spool is kept."""

from __future__ import annotations

from dataclasses import dataclass

from aigw_anyio.settings.model import SpoolFsync
from aigw_anyio.sinks.spool.layout import SEGMENT_SIZE


@dataclass(slots=True, frozen=True)
class SpoolOptions:
    """The defaults are those of the settings; what has no setting is as in the docs."""

    fsync: SpoolFsync = SpoolFsync.INTERVAL
    worker: int = 0
    segment_size: int = SEGMENT_SIZE
    bytes_max: int | None = None
    """Of all segments together, reserved room included; None: until the disk is full."""
    keep_secs: float | None = None
    """How long segments stay at least, once nobody needs them; None: for good."""
    rotate_secs: float = 3600.0
    """An older segment that holds something is closed, so that it can be collected."""
    tidy_secs: float = 60.0
    """Between two looks for spools of dead processes, and for old segments."""
    sync_secs: float = 1.0
    """Between two syncs of ``interval``: what a power loss may take."""
