"""The two examples that drive the machine, as targets of the conformance kit."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal

import uvicorn

from aigw_anyio.testing import DEADLINE_SECS, POLL_SECS, SocketRig
from aigw_core.denyset import DenyReason
from aigw_core.testing import Feature
from examples.asgi_app import GatewayApp
from examples.threads_gateway import Caller

THREADS_FEATURES: Final = frozenset(Feature) - {Feature.POOL, Feature.EDGES}
ASGI_FEATURES: Final = frozenset({Feature.STOP, Feature.FLOW, Feature.LEAVING, Feature.POOL})


class ThreadsTarget:
    """Threads, one for each caller."""

    def __init__(self) -> None:
        self._callers: list[tuple[Caller, threading.Thread]] = []

    def start(self, rig: SocketRig) -> tuple[str, int]:
        self._rig = rig
        self._gateway = rig.gateway(time.monotonic())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        address: tuple[str, int] = self._listener.getsockname()
        return address

    def _accept(self) -> None:
        lock = threading.Lock()
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                caller = Caller(self._gateway, self._rig.ledger, lock, sock)
                thread = threading.Thread(target=caller.run)
                self._callers.append((caller, thread))
                thread.start()

    def answer_fact(self, fact_id: str, accepted: bool) -> None:
        for caller, _ in self._callers:
            machine = caller.machine
            caller.feeder.later(machine.fact_opened if accepted else machine.fact_refused, fact_id)

    def drain(self) -> None:
        for caller, _ in self._callers:
            caller.feeder.later(caller.machine.drain)

    def cut(self, reason: DenyReason | None) -> None:
        for caller, _ in self._callers:
            caller.feeder.later(caller.machine.cut, reason)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(DEADLINE_SECS)
        for caller, thread in self._callers:
            caller.feeder.later(caller.machine.abandon)
            for sock in (caller.sock, caller.upstream):
                # Wakes the thread, whatever it waits for.
                with contextlib.suppress(OSError, AttributeError):
                    sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # suppressed
            thread.join(DEADLINE_SECS)
            assert not thread.is_alive()


class Uvicorn:
    """An ASGI application on a port of its own, in a thread."""

    def __init__(
        self,
        app: Any,
        *,
        lifespan: Literal["on", "off"],
        beside: Callable[[], Coroutine[None, None, None]] | None = None,
    ) -> None:
        """``beside`` runs as long as the server does."""
        config = uvicorn.Config(
            app, "127.0.0.1", 0, lifespan=lifespan, log_config=None, loop="asyncio", http="h11", ws="none"
        )
        self._server = uvicorn.Server(config)
        self._beside = beside
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(),))
        self._thread.start()
        end = time.monotonic() + DEADLINE_SECS
        while not self._server.started:
            assert time.monotonic() < end
            assert self._thread.is_alive()
            time.sleep(POLL_SECS)
        self.address: tuple[str, int] = self._server.servers[0].sockets[0].getsockname()

    async def _main(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        serving = self._loop.create_task(self._server.serve())
        beside = [self._loop.create_task(self._beside())] if self._beside is not None else []
        await self._stopping.wait()
        state = self._server.server_state
        running = [*state.tasks, *beside]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for connection in list(state.connections):
            connection.transport.abort()
        self._server.should_exit = self._server.force_exit = True
        await serving

    def stop(self) -> None:
        """Cancels whatever runs."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(DEADLINE_SECS)
        assert not self._thread.is_alive()


class AsgiTarget:
    """The ASGI application on uvicorn."""

    def start(self, rig: SocketRig) -> tuple[str, int]:
        app = GatewayApp(rig.gateway(time.monotonic()), rig.ledger)
        self._server = Uvicorn(app, lifespan="off", beside=app.run)
        return self._server.address

    def answer_fact(self, fact_id: str, accepted: bool) -> None:
        raise NotImplementedError

    def drain(self) -> None:
        raise NotImplementedError

    def cut(self, reason: DenyReason | None) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self._server.stop()
