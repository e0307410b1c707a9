"""Callers that come all at once: the gateway finds their requests, and then the answers to them, in one turn."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final

from tests.e2e import DEADLINE, answers
from tests.e2e.calls import STREAMED, call
from tests.e2e.client import Client
from tests.e2e.conftest import Starter
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received, Script, replying

CALLERS: Final = 40
LARGE: Final = b'{"pad": "' + b"x" * 300_000 + b'"}'
"""More than the sockets of a caller who does not read yet take."""


@contextlib.contextmanager
def _stopped(gateway: Gateway) -> Iterator[None]:
    gateway.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        gateway.send_signal(signal.SIGCONT)


class Held:
    """Holds back the provider's answers until all requests have come, then lets the gateway find them at once."""

    def __init__(self, gateway: Gateway, count: int) -> None:
        self._gateway = gateway
        self._arrived = threading.Semaphore(0)
        self._sent = threading.Semaphore(0)
        self._may_answer = threading.Event()
        self._count = count

    def script(self, answer: Script) -> Script:
        def script(received: Received) -> None:
            received.read()
            self._arrived.release()
            self._may_answer.wait(DEADLINE)
            answer(received)
            self._sent.release()

        return script

    def release(self) -> None:
        for _ in range(self._count):
            assert self._arrived.acquire(timeout=DEADLINE)
        with _stopped(self._gateway):
            self._may_answer.set()
            for _ in range(self._count):
                assert self._sent.acquire(timeout=DEADLINE)


def test_what_was_sent_before_a_cut_arrives_before_it(start: Starter, provider: Provider) -> None:
    """One read holds a chunk and what is none: the chunk is relayed, then the caller sees the cut."""
    gateway = start()
    held = Held(gateway, CALLERS)
    broken = answers.STREAM_HEAD + answers.chunk(answers.event({"n": 1})) + b"nonsense\r\n"
    case = provider.case(held.script(lambda received: received.connection.send(broken)))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(gateway)) for _ in range(CALLERS)]
        with _stopped(gateway):
            for client in clients:
                client.send(call(case, body=STREAMED))
        held.release()
        for client in clients:
            assert client.read_head().status == 200
            assert client.read_chunk() == answers.event({"n": 1})
            assert client.read_end() == (b"", "reset")
    assert gateway.stop() == 0
    assert [fact["outcome"] for fact in gateway.facts().values()] == ["upstream_abort"] * CALLERS


def test_every_caller_gets_the_own_answer(start: Starter, provider: Provider) -> None:
    gateway = start()
    case = provider.case(answers.by_path)
    large = provider.case(replying(answers.plain("200 OK", LARGE)))
    close = (b"Connection", b"close")

    def whole(client: Client) -> None:
        answer = client.read_answer()
        assert (answer.status, answer.complete) == (200, True)
        assert answer.json()["usage"] == answers.CHAT_USAGE

    def streamed(client: Client) -> None:
        answer = client.read_answer()
        assert (answer.status, answer.complete) == (200, True)
        assert answer.body.endswith(b"data: [DONE]\n\n")

    def closed(client: Client) -> None:
        whole(client)
        assert client.read_end() == (b"", "orderly")

    def refused(client: Client) -> None:
        assert client.read_answer().status == 401

    def padded(client: Client) -> None:
        assert client.read_answer().body == LARGE

    kinds: list[tuple[bytes, Callable[[Client], None]]] = [
        (call(case), whole),
        (call(case, body=STREAMED), streamed),
        (call(case, close), closed),
        (call(case, key="bai_v2.1.nonsense"), refused),
        (call(large), padded),
    ]
    refusals = 0
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(gateway)) for _ in range(CALLERS)]
        for first in range(3):
            turn = [kinds[(first + number) % len(kinds)] for number in range(CALLERS)]
            with _stopped(gateway):
                for client, (sent, _) in zip(clients, turn, strict=True):
                    client.send(sent)
            for number, (_, check) in enumerate(turn):
                check(clients[number])
                refusals += check is refused
                if check is closed:
                    clients[number] = stack.enter_context(Client(gateway))
    assert gateway.stop() == 0
    outcomes = [fact["outcome"] for fact in gateway.facts().values()]
    assert outcomes == ["complete"] * (3 * CALLERS - refusals)
