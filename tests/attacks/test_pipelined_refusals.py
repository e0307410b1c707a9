"""Requests that are refused, hundreds of them in one packet, by somebody without a key.

Each answer is longer than its request, and nothing limits requests that name no provider. Whoever does not read the
answers gets no further ones, so that nothing piles up. Whoever does read them gets eight in a turn, and others are
served in between.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.e2e.calls import call
from tests.e2e.client import Client
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider

REQUEST = b"GET /x HTTP/1.1\r\nHost: g\r\n\r\n"


def test_whoever_does_not_read_gets_no_further_answers(gateway: Gateway) -> None:
    with socket.create_connection(gateway.address) as connection:
        connection.settimeout(2)
        sent = 0
        try:
            while sent < 64 * 1024 * 1024:
                sent += connection.send(REQUEST * 1_000)
        except TimeoutError:
            pass
        # What the kernel keeps on both sides, and a read.
        assert sent < 32 * 1024 * 1024


def test_everybody_else_is_served_in_between(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    over = threading.Event()
    before = gateway.metric("aigw_reading_resumes_total")

    def attack() -> None:
        with socket.create_connection(gateway.address) as connection:
            reader = threading.Thread(target=drain, args=(connection,))
            reader.start()
            with contextlib.suppress(OSError):
                while not over.is_set():
                    connection.sendall(REQUEST * 500)
                connection.shutdown(socket.SHUT_RDWR)
            reader.join()

    def drain(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(262_144):
                pass

    attackers = [threading.Thread(target=attack) for _ in range(8)]
    for attacker in attackers:
        attacker.start()
    with Client(gateway) as client:
        for _ in range(20):
            client.send(call(case))
            assert client.read_answer().status == 200
    wait_until(lambda: gateway.metric("aigw_reading_resumes_total") > before, "the rest comes in turns")
    over.set()
    for attacker in attackers:
        attacker.join()
