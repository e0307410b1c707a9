"""The trio data plane."""

from __future__ import annotations

from aigw_anyio.streamplane import StreamDataPlane


class TrioDataPlane(StreamDataPlane):
    """Implements :class:`aigw_anyio.dataplane.DataPlane` on trio. Must be made inside ``trio.run``."""
