"""The gateway against a transparent TCP pipe: the same call to the same provider, through each, ends alike."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from random import Random
from typing import Final

import pytest

from tests.e2e import DEADLINE, answers, keys
from tests.e2e.client import Answer, Client, Endpoint, bearer, request
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Case, Provider, Received, Script

ROUNDS: Final = 40


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Pipe:
    """Bytes in, bytes out, both ways, and nothing else."""

    def __init__(self, port: int) -> None:
        self._provider = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, socket.create_connection(("127.0.0.1", self._provider), DEADLINE) as provider:
            back = threading.Thread(target=_copy, args=(provider, caller), daemon=True)
            back.start()
            _copy(caller, provider)
            back.join()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def pipe(provider: Provider) -> Iterator[Pipe]:
    pipe = Pipe(provider.port)
    yield pipe
    pipe.close()


def _script(rng: Random) -> tuple[Script, bool]:
    """An answer in pieces; the second value says that it breaks off."""
    status = rng.choice(
        ["200 OK", "200 Quite", "201 Created", "400 Bad", "429 Slow Down", "503 Later", "204 No Content"]
    )
    fields = [("X-Answer", str(rng.random())), ("Set-Cookie", "a=1"), ("set-cookie", "b=2"), ("Server", "s/1 (\xe4)")]
    body = rng.randbytes(rng.choice([0, 1, 700, 70_000]))
    framing = "none" if status.startswith("204") else rng.choice(["length", "chunked"])
    if framing == "length":
        fields.append(("Content-Length", str(len(body))))
    elif framing == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
    whole = answers.head(status, *fields)
    if framing == "length":
        whole += body
    elif framing == "chunked":
        half = rng.randrange(len(body) + 1)
        pieces = [piece for piece in (body[:half], body[half:]) if piece]
        whole += b"".join(map(answers.chunk, pieces)) + answers.LAST_CHUNK
    breaks = framing != "none" and len(body) > 1 and rng.random() < 0.25
    if breaks:
        whole = whole[: len(whole) - rng.randrange(6, len(body) // 2 + 7)]
    cut = rng.randrange(1, len(whole))
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" if rng.random() < 0.2 else b""

    def script(received: Received) -> None:
        received.read()
        for piece in (interim, whole[:cut], whole[cut:]):
            if piece:
                received.connection.send(piece)
        if breaks:
            received.connection.close()

    return script, breaks


def _call(port: Endpoint, data: bytes, method: str) -> list[Answer]:
    seen = []
    with Client(port) as client:
        client.send(data)
        while True:
            seen.append(client.read_answer(method))
            if seen[-1].status >= 200:
                return seen


def _visible(answer: Answer) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    ours = (b"connection", b"transfer-encoding", b"x-aigw-request-id")
    fields = [(name, value) for name, value in answer.headers if name.lower() not in ours]
    return answer.head.partition(b"\r\n")[0], fields


@pytest.mark.parametrize("seed", range(4))
def test_the_same_answers(gateway: Gateway, provider: Provider, pipe: Pipe, seed: int) -> None:
    rng = Random(seed)
    for _ in range(ROUNDS // 4):
        script, breaks = _script(rng)
        method = rng.choice(["POST", "POST", "GET"])
        body = rng.randbytes(rng.choice([1, 900, 100_000])) if method == "POST" else b""
        path = "/v1/opaque/%7e?a=b&c"
        through: list[tuple[Case, list[Answer]]] = []
        for port, target in ((gateway, "/openai" + path), (pipe, path)):
            case = provider.case(script)
            own = (bearer(keys.BYO_KEY), case.header, (b"X-Twice", b"1"), (b"x-twice", b"2"))
            through.append((case, _call(port, request(target, body, *own, method=method), method)))
        (own_case, ours), (pipe_case, theirs) = through
        assert [_visible(answer) for answer in ours] == [_visible(answer) for answer in theirs]
        assert ours[-1].body == theirs[-1].body
        assert [answer.complete for answer in ours] == [answer.complete for answer in theirs]
        assert breaks is not ours[-1].complete, "a broken answer looks whole, or a whole one broken"
        one, other = own_case.received[0], pipe_case.received[0]
        assert (one.request_line, bytes(one.body)) == (other.request_line, bytes(other.body))
        marks = (b"host", b"x-test-case")
        assert [f for f in one.headers if f[0].lower() not in marks] == [
            f for f in other.headers if f[0].lower() not in marks
        ]
