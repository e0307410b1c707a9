"""The conformance kit over real sockets: a rig for any driver that listens on a TCP port.

    rig = SocketRig(scenario, target)
    play(scenario, rig.ledger, rig.do)
    rig.close()

The rig plays caller and provider with plain sockets in the thread that calls it. The driver runs elsewhere,
behind a :class:`Target`; :class:`PlaneTarget` is the one for a data plane of this project.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Protocol

import anyio
from anyio.abc import TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal

from aigw_anyio.dataplane import DataPlaneFactory
from aigw_anyio.settings import load_settings
from aigw_anyio.sinks import SinkStats
from aigw_core.denyset import DenyReason
from aigw_core.facts import OpenRecord, UsageFact
from aigw_core.gateway import Gateway
from aigw_core.testing import Ledger, Scenario, Watch
from aigw_core.testing import commands as c

DEADLINE_SECS: Final = 30.0
"""After which what is waited for will not come; it takes milliseconds."""
POLL_SECS: Final = 0.005
"""Between two looks at what another thread brings about."""
QUIET_SECS: Final = 0.2
"""Without a byte moving, after which everything stands still."""
BUFFER_SIZE: Final = 65_536
"""What the kernel holds for a peer that does not read: little, so that it is the driver that is seen to wait."""

_RESET = struct.pack("ii", 1, 0)


class Target(Protocol):
    """A driver under test. All methods are called from the rig's thread."""

    def start(self, rig: SocketRig) -> tuple[str, int]:
        """Listens, with ``rig.gateway`` for what it needs; the address."""
        ...

    def answer_fact(self, fact_id: str, accepted: bool) -> None: ...
    def drain(self) -> None: ...
    def cut(self, reason: DenyReason | None) -> None: ...

    def stop(self) -> None:
        """Cancels whatever runs, waits for it, and lets go of every socket."""
        ...


class _Peer:
    """One end of a connection: what is to be sent waits in an outbox, and a thread sends it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._outbox: list[bytes] = []
        self._changed = threading.Condition()
        self._ending = False
        self._closing = False
        self.sent = 0
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        with self._changed:
            self._outbox.append(data)
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify()

    def receive(self) -> bytes | c.Ended:
        ready, _, _ = select.select([self._socket], [], [], DEADLINE_SECS)
        assert ready, "nothing was received in time"
        try:
            data = self._socket.recv(BUFFER_SIZE)
        except OSError:
            return c.Ended(False)
        return data or c.Ended(True)

    def close(self, *, reset: bool = False) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if reset:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.close()

    def _send(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._ending or self._closing)
                if self._closing:
                    return
                pieces, self._outbox = self._outbox, []
            # The other end may be gone; that is seen where the rig reads.
            with contextlib.suppress(OSError):
                for piece in pieces:
                    self._send_piece(piece)
                if not pieces:
                    self._socket.shutdown(socket.SHUT_WR)
                    return

    def _send_piece(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view and not self._closing:
            if select.select([], [self._socket], [], POLL_SECS)[1]:
                size = self._socket.send(view)
                self.sent += size
                view = view[size:]


class SocketRig:
    """Carries out the commands of one scenario over loopback."""

    def __init__(self, scenario: Scenario, target: Target) -> None:
        self.scenario = scenario
        self.ledger = Ledger(scenario.answering)
        self.watch = Watch()
        self._target = target
        self._callers: list[_Peer] = []
        self._providers: list[_Peer] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_SIZE)
        self._listener.bind(("127.0.0.1", 0))
        self._waiting: list[socket.socket] = []
        if scenario.provider != "refusing":
            self._listener.listen(0 if scenario.provider == "silent" else 16)
        if scenario.provider == "silent":
            self._fill_backlog()
        self._stopped = False
        self._address = target.start(self)

    def gateway(self, now: float) -> Gateway:
        """The gateway that the scenario wants; ``now`` is the driver's own clock."""
        return self.scenario.gateway(f"http://127.0.0.1:{self._listener.getsockname()[1]}", now)

    def do(self, command: c.Command) -> Any:
        """The answer to one command. Raises AssertionError where it does not come in time."""
        return _COMMANDS[type(command)](self, command)

    def close(self) -> None:
        """Stops the driver, and checks what it did."""
        self._stop(c.Stop())
        for peer in (*self._callers, *self._providers):
            peer.close()
        for sock in (*self._waiting, self._listener):
            sock.close()
        self.watch.check()
        self.ledger.check()

    def _fill_backlog(self) -> None:
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self._listener.getsockname())
            self._waiting.append(sock)

    # Commands

    def _caller_connect(self, _: c.CallerConnect) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_SIZE)
        sock.settimeout(DEADLINE_SECS)
        sock.connect(self._address)
        self._callers.append(_Peer(sock))

    def _caller_send(self, command: c.CallerSend) -> None:
        self._callers[-1].send(command.data)

    def _caller_end(self, _: c.CallerEnd) -> None:
        self._callers[-1].end()

    def _caller_reset(self, _: c.CallerReset) -> None:
        self._callers[-1].close(reset=True)

    def _caller_receive(self, _: c.CallerReceive) -> bytes | c.Ended:
        return self._callers[-1].receive()

    def _provider_accept(self, _: c.ProviderAccept) -> None:
        self._listener.settimeout(DEADLINE_SECS)
        sock, _address = self._listener.accept()
        self._providers.append(_Peer(sock))

    def _provider_send(self, command: c.ProviderSend) -> None:
        self._providers[command.number].send(command.data)

    def _provider_end(self, command: c.ProviderEnd) -> None:
        self._providers[command.number].end()

    def _provider_reset(self, command: c.ProviderReset) -> None:
        self._providers[command.number].close(reset=True)

    def _provider_receive(self, command: c.ProviderReceive) -> bytes | c.Ended:
        return self._providers[command.number].receive()

    def _settle(self, _: c.Settle) -> None:
        end, moved, since = time.monotonic() + DEADLINE_SECS, -1, time.monotonic()
        while time.monotonic() - since < QUIET_SECS:
            assert time.monotonic() < end, "things do not come to rest"
            now_moved = sum(peer.sent for peer in (*self._callers, *self._providers))
            if now_moved != moved:
                moved, since = now_moved, time.monotonic()
            time.sleep(POLL_SECS)

    def _await_ledger(self, command: c.AwaitLedger) -> None:
        wanted, end = (command.opened, command.ended), time.monotonic() + DEADLINE_SECS
        while (found := (len(self.ledger.opened), len(self.ledger.ended))) != wanted:
            assert time.monotonic() < end, f"(opened, ended) is {found}, not {wanted}"
            time.sleep(POLL_SECS)

    def _answer_fact(self, command: c.AnswerFact) -> None:
        self._target.answer_fact(self.ledger.answer(command.accepted), command.accepted)

    def _drain(self, _: c.Drain) -> None:
        self._target.drain()

    def _cut(self, command: c.Cut) -> None:
        self._target.cut(command.reason)

    def _stop(self, _: c.Stop) -> None:
        if not self._stopped:
            self._stopped = True
            self._target.stop()


_COMMANDS: Final[dict[type[Any], Callable[[SocketRig, Any], Any]]] = {
    c.CallerConnect: SocketRig._caller_connect,
    c.CallerSend: SocketRig._caller_send,
    c.CallerEnd: SocketRig._caller_end,
    c.CallerReset: SocketRig._caller_reset,
    c.CallerReceive: SocketRig._caller_receive,
    c.ProviderAccept: SocketRig._provider_accept,
    c.ProviderSend: SocketRig._provider_send,
    c.ProviderEnd: SocketRig._provider_end,
    c.ProviderReset: SocketRig._provider_reset,
    c.ProviderReceive: SocketRig._provider_receive,
    c.Settle: SocketRig._settle,
    c.AwaitLedger: SocketRig._await_ledger,
    c.AnswerFact: SocketRig._answer_fact,
    c.Drain: SocketRig._drain,
    c.Cut: SocketRig._cut,
    c.Stop: SocketRig._stop,
}
"""Each method takes the type of its key, which the type of a dict cannot say."""


class LedgerSink:
    """A ledger of the kit as a fact sink of this layer."""

    def __init__(self, ledger: Ledger) -> None:
        self.on_answer: Callable[[str, bool], None] | None = None
        self.stats = SinkStats()
        self._ledger = ledger

    @property
    def degraded(self) -> bool:
        return False

    def open(self, record: OpenRecord) -> bool | None:
        return self._ledger.open(record)

    def emit(self, fact: UsageFact) -> None:
        self._ledger.emit(fact)

    def push(self) -> None:
        """Nothing is held back."""

    def void(self, fact_id: str) -> None:
        self._ledger.void(fact_id)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        await anyio.sleep_forever()

    async def flush(self) -> None:
        """Nothing is held back."""


class PlaneTarget:
    """A data plane on an event loop in a thread of its own."""

    def __init__(self, factory: DataPlaneFactory, backend: str) -> None:
        self._factory = factory
        self._backend = backend
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal
        self._scope: anyio.CancelScope
        self._running: Future[None]

    def start(self, rig: SocketRig) -> tuple[str, int]:
        self._portal = self._stack.enter_context(start_blocking_portal(self._backend))
        self._running, address = self._portal.start_task(self._serve, rig)
        found: tuple[str, int] = address
        return found

    async def _serve(self, rig: SocketRig, *, task_status: TaskStatus[tuple[str, int]]) -> None:
        settings, _ = load_settings(config=None, environ={"AI_LISTEN_ADDR": "127.0.0.1:0"})
        self._sink = LedgerSink(rig.ledger)
        self._gateway = rig.gateway(anyio.current_time())
        self._plane = self._factory(self._gateway, self._sink, settings)
        async with anyio.create_task_group() as tasks:
            self._scope = tasks.cancel_scope
            try:
                task_status.started(await self._plane.start(tasks))
                await anyio.sleep_forever()
            finally:
                with anyio.move_on_after(DEADLINE_SECS, shield=True):
                    await self._plane.aclose()

    def answer_fact(self, fact_id: str, accepted: bool) -> None:
        assert self._sink.on_answer is not None
        self._portal.call(self._sink.on_answer, fact_id, accepted)

    def drain(self) -> None:
        self._portal.call(self._plane.drain)

    def cut(self, reason: DenyReason | None) -> None:
        if reason is None:
            self._portal.call(self._plane.cut)
        else:
            self._portal.call(self._deny, reason)

    def _deny(self, reason: DenyReason) -> None:
        """Cuts off the tenant of the kit's key, as a deny feed does."""
        self._gateway.deny.put("blackhole.5", reason.value.encode(), 1)
        apply: Callable[[None], None] = getattr(self._plane, "apply_deny")  # noqa: B009  # not of every data plane
        apply(None)

    def stop(self) -> None:
        self._portal.call(self._scope.cancel)
        self._running.result(DEADLINE_SECS)
        self._stack.close()
