"""How bytes come in: into one buffer for all connections of a loop, as much at a time as can be taken in quickly."""

from __future__ import annotations

import asyncio

from aigw_anyio.readsize import READ_MAX, READ_MIN, next_read_size


class ReadBuffer:
    """What every connection of one event loop reads into, in turn; it is empty again before the next one does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop_time = loop.time
        self.view = memoryview(bytearray(READ_MAX))


class Reading(asyncio.BufferedProtocol):
    """A protocol that gets :meth:`received` for what was read."""

    __slots__ = ("_read_buffer", "_read_view")

    def __init__(self, buffer: ReadBuffer) -> None:
        self._read_buffer = buffer
        self._read_view = buffer.view

    def received(self, data: bytes) -> None:
        raise NotImplementedError

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        return self._read_view

    def buffer_updated(self, nbytes: int) -> None:
        view = self._read_view
        data = bytes(view[:nbytes])
        if nbytes < READ_MIN:
            self.received(data)
            return
        buffer = self._read_buffer
        began = buffer.loop_time()
        self.received(data)
        size = next_read_size(len(view), nbytes, buffer.loop_time() - began)
        if size != len(view):
            self._read_view = buffer.view[:size]
