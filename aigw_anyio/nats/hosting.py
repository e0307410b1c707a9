"""Where NATS code runs, and how it and the machine's thread talk to each other.

nats-py needs asyncio, and does not stand the level cancellation of anyio: it swallows a cancellation, and is then
cancelled again at every turn. So its code never runs inside an anyio scope. A *host* owns an asyncio event loop for
it and offers three things, all that a NATS source or sink may use of its surroundings:

- ``await host.run(main)`` in the machine's thread: runs ``main()`` in that loop until this call is cancelled; then
  ``main`` is cancelled once, natively, and has STOP_SECS to end.
- ``host.post(call)`` from the loop: ``call()`` runs in the machine's thread, in the order of the posts.
- ``host.submit(call)`` from the machine's thread: ``call()`` runs in the loop, in order.

``LoopHost`` shares the running asyncio loop: both calls are plain calls. ``ThreadHost`` has a thread with a loop of
its own, for frontends on another event loop; it is given the thread-safe function that runs a callable there, such
as ``trio.lowlevel.current_trio_token().run_sync_soon``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import anyio
import anyio.lowlevel

STOP_SECS: Final = 5.0
"""For NATS code to close its connection when it is told to stop; more than a client needs to close."""

Main = Callable[[], Coroutine[Any, Any, None]]
Call = Callable[[], None]


class Host(Protocol):
    """An asyncio event loop for NATS code; see the module."""

    async def run(self, main: Main) -> None: ...

    def post(self, call: Call) -> None: ...

    def submit(self, call: Call) -> None: ...


class LoopHost:
    """The asyncio loop that the machine runs in too."""

    async def run(self, main: Main) -> None:
        """Raises what ``main`` raises."""
        task = asyncio.get_running_loop().create_task(main(), name="nats")
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({task}, timeout=STOP_SECS)
        task.result()

    def post(self, call: Call) -> None:
        call()

    def submit(self, call: Call) -> None:
        call()


class ThreadHost:
    """A thread with an asyncio loop of its own."""

    def __init__(self, run_in_machine_thread: Callable[[Call], object]) -> None:
        """``run_in_machine_thread``: callable from any thread, keeps order; may raise once that thread has ended."""
        self._run_there = run_in_machine_thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._stopping = False

    async def run(self, main: Main) -> None:
        """Raises what ``main`` raises."""
        with anyio.CancelScope(shield=True) as guard:
            done = anyio.Event()
            failure: list[BaseException] = []

            def finished() -> None:
                done.set()

            def body() -> None:
                try:
                    asyncio.run(self._main(main))
                except asyncio.CancelledError:
                    pass
                except BaseException as error:  # noqa: BLE001  # raised again in the machine's thread
                    failure.append(error)
                finally:
                    with contextlib.suppress(Exception):
                        self._run_there(finished)

            thread = threading.Thread(target=body, name="nats", daemon=True)
            thread.start()
            guard.shield = False
            try:
                await done.wait()
            finally:
                guard.shield = True
                self._stop()
                with anyio.move_on_after(STOP_SECS):
                    await done.wait()
        if failure:
            raise failure[0]

    async def _main(self, main: Main) -> None:
        with self._lock:
            if self._stopping:
                return
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(main(), name="nats")
        await self._task

    def _stop(self) -> None:
        with self._lock:
            self._stopping = True
            loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

    def post(self, call: Call) -> None:
        with contextlib.suppress(RuntimeError):
            self._run_there(call)

    def submit(self, call: Call) -> None:
        with self._lock:
            loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(call)


def host_here() -> Host:
    """The running loop where that is asyncio's, else a thread whose calls come back into the running one."""
    token = anyio.lowlevel.current_token()
    # Under trio, which is not imported here, the token of the running loop has this method.
    run_sync_soon = getattr(getattr(token, "native_token", token), "run_sync_soon", None)
    return LoopHost() if run_sync_soon is None else ThreadHost(run_sync_soon)
