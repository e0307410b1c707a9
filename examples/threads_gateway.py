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

import aigw_core as core

READ_SIZE = 65_536
"""Bytes of one read."""
LOOK_SECS = 1.0
"""Between two looks at what other threads have left in a feeder: drain, cut, abandon."""
TLS = ssl.create_default_context()


class Caller:
    """One caller's connection, and whichever connection to a provider goes with it."""

    def __init__(self, gateway: core.Gateway, sink: core.FactSink, lock: threading.Lock, sock: socket.socket) -> None:
        self.machine = core.Connection(gateway, time.monotonic())
        self.machine.context = self
        self.feeder = core.ConnectionFeeder(self.machine, sink, self.carry_out, clock=time.monotonic, lock=lock)
        self.timeouts = gateway.policy.timeouts
        self.sock = sock
        self.upstream: socket.socket | None = None
        self.attempt = 0

    def run(self) -> None:
        machine = self.machine
        with self.sock, self.feeder:
            while not machine.done:
                wanted = [self.sock] * machine.wants_downstream + [self.upstream] * machine.wants_upstream
                patience = min(max(0.0, machine.wake_at - time.monotonic()), LOOK_SECS)
                for sock in select.select([s for s in wanted if s and s.fileno() >= 0], [], [], patience)[0]:
                    # What the caller has sent may have ended the provider's connection.
                    if sock in (self.sock, self.upstream):
                        self.read(sock)
                self.feeder.feed(machine.tick)

    def read(self, sock: socket.socket) -> None:
        attempt = None if sock is self.sock else self.attempt
        # Without waiting: what TLS has to read may be half a record, or a session ticket, and no data.
        sock.settimeout(0)
        try:
            data = sock.recv(READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            data = None
        self.feeder.received(attempt, data)

    def carry_out(self, effect: core.Effect) -> None:
        """Raises OSError, of which the feeder tells the machine."""
        match effect:
            case core.Connect(origin, attempt):
                sock = socket.create_connection((origin.host, origin.port), self.timeouts.connect)
                if origin.scheme == "https":
                    sock = TLS.wrap_socket(sock, server_hostname=origin.host)
                self.upstream, self.attempt = sock, attempt
                self.feeder.feed(self.machine.upstream_connected, attempt, False)
            case core.SendUpstream(_, data) if self.upstream:
                self.upstream.settimeout(self.timeouts.upstream_write)
                self.upstream.sendall(data)
            case core.SendDownstream(data):
                self.sock.settimeout(self.timeouts.client_write)
                self.sock.sendall(data)
            case core.CloseDownstream(core.Close.LINGER):
                self.sock.shutdown(socket.SHUT_WR)
            case core.CloseDownstream():
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.sock.close()
            case core.ReleaseUpstream() if self.upstream:
                self.upstream.close()
                self.upstream = None


def serve(listener: socket.socket, gateway: core.Gateway, sink: core.FactSink, lock: threading.Lock) -> None:
    """Accepts callers until the listener is closed. ``listener.accept`` may raise OSError."""
    while True:
        with lock:
            gateway.set_clock(time.monotonic(), time.time())
        sock, _ = listener.accept()
        threading.Thread(target=Caller(gateway, sink, lock, sock).run, daemon=True).start()
