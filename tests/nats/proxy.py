"""A TCP proxy that behaves badly when told to, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final

CALL_SECS: Final = 10.0


class Proxy:
    """Every method may be called from the test's thread."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._is_refusing = False
        self._may_flow = asyncio.Event()
        self._may_flow.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(CALL_SECS)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def _run(self, call: Callable[[], None]) -> None:
        async def run() -> None:
            call()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(CALL_SECS)

    def cut(self) -> None:
        """Every connection ends by a reset."""
        self._run(self._cut)

    def refuse(self, on: bool) -> None:
        """New connections are reset at once; the present ones too."""

        def call() -> None:
            self._is_refusing = on
            if on:
                self._cut()

        self._run(call)

    def stall(self, on: bool) -> None:
        """Connections stay, and nothing passes, as behind a firewall that forgot them."""
        self._run(self._may_flow.clear if on else self._may_flow.set)

    def delay(self, secs: float) -> None:
        """Before each piece, in each direction."""
        self._delay = secs

    def half_close(self) -> None:
        """The end of the stream to one side, while the other direction goes on."""

        def call() -> None:
            for writer in self._writers:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write_eof()

        self._run(call)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            self._may_flow.set()
            self._cut()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(CALL_SECS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECS)
        self._loop.close()

    def _cut(self) -> None:
        for writer in list(self._writers):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self._is_refusing:
                self._cut()
                return
            other, out = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(out)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, out))
                    group.create_task(self._pump(other, writer))
            finally:
                self._writers.discard(out)
                out.transport.abort()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._may_flow.wait()
            if self._delay:
                await asyncio.sleep(self._delay)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError
