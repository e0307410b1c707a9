"""A gateway on blocking sockets, on a page: a thread for each caller; what the machine says is done at once.

A write that blocks blocks its thread, which then reads from neither side: flow control for free. What is given
up for that: idle connections to providers, and timers while a write lasts, where the socket's own timeout stands in.
"""

import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from typing import Any

import aigw_core as core

RESET = struct.pack("ii", 1, 0)
TLS = ssl.create_default_context()


class Caller:
    def __init__(self, gateway: core.Gateway, sink: Any, lock: threading.Lock, sock: socket.socket) -> None:
        self.machine, self.timeouts = core.Connection(gateway, time.monotonic()), gateway.policy.timeouts
        self.sink, self.lock, self.sock, self.attempt, self.is_stopped = sink, lock, sock, 0, False
        self.upstream: socket.socket | None = None
        self.inputs: deque[tuple[Any, ...]] = deque()
        sock.settimeout(self.timeouts.client_write)

    def run(self) -> None:
        machine = self.machine
        while not machine.done and not self.is_stopped:
            wanted = [self.sock] * machine.wants_downstream + [self.upstream] * machine.wants_upstream
            patience = min(max(0.0, machine.wake_at - time.monotonic()), threading.TIMEOUT_MAX)
            for sock in select.select([s for s in wanted if s and s.fileno() >= 0], [], [], patience)[0]:
                try:
                    data = sock.recv(65_536)
                except OSError:
                    self.feed(*self.loss(sock))
                else:
                    down = (machine.receive_downstream, data)
                    self.feed(*down if sock is self.sock else (machine.receive_upstream, self.attempt, data))
            self.feed(machine.tick)
        self.feed(machine.abandon)
        self.sock.close()

    def loss(self, sock: socket.socket | None) -> tuple[Any, ...]:
        machine = self.machine
        return (machine.downstream_lost,) if sock is self.sock else (machine.upstream_lost, self.attempt, True)

    def feed(self, *given: Any) -> None:
        self.inputs.append(given)
        while self.inputs:
            call, *values = self.inputs.popleft()
            with self.lock:  # A Gateway is used by one thread at a time.
                effects = self.machine.abandon(time.monotonic()) if self.is_stopped else call(*values, time.monotonic())
            for effect in effects:
                try:
                    self.carry_out(effect)
                except OSError:
                    self.inputs.append(self.loss(self.upstream if type(effect) is core.SendUpstream else self.sock))

    def carry_out(self, effect: core.Effect) -> None:
        machine, sink = self.machine, self.sink
        match effect:
            case core.OpenFact(record):
                self.inputs.append((machine.fact_opened if sink.open(record) else machine.fact_refused, record.id))
            case core.EmitFact(fact):
                sink.emit(fact)
            case core.VoidFact(fact_id):
                sink.void(fact_id)
            case core.Connect():
                self.inputs.append(self.connect(effect))
            case core.SendUpstream(_, data) if self.upstream:
                self.upstream.sendall(data)
            case core.SendDownstream(data):
                self.sock.sendall(data)
            case core.CloseDownstream(core.Close.LINGER):
                self.sock.shutdown(socket.SHUT_WR)
            case core.CloseDownstream():
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                self.sock.close()
            case core.ReleaseUpstream() if self.upstream:
                self.upstream.close()
                self.upstream = None

    def connect(self, effect: core.Connect) -> tuple[Any, ...]:
        self.attempt, origin = effect.attempt, effect.origin
        try:
            sock = socket.create_connection((origin.host, origin.port), self.timeouts.connect)
            self.upstream = TLS.wrap_socket(sock, server_hostname=origin.host) if origin.scheme == "https" else sock
            self.upstream.settimeout(self.timeouts.upstream_write)
        except TimeoutError:
            return (self.machine.tick,)  # The machine has a timer of its own for this.
        except OSError:
            return self.machine.upstream_failed, self.attempt, core.ConnectFailure.CONNECT
        return self.machine.upstream_connected, self.attempt, False


def serve(listener: socket.socket, gateway: core.Gateway, sink: Any, lock: threading.Lock) -> None:
    """Accepts callers until the listener is closed. ``listener.accept`` may raise OSError."""
    while True:
        with lock:
            gateway.set_clock(time.monotonic(), time.time())
        sock, _ = listener.accept()
        threading.Thread(target=Caller(gateway, sink, lock, sock).run, daemon=True).start()
