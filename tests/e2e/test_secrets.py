"""Marked secrets are sent everywhere; then everything that left is searched for them.

Runs a gateway and providers of its own, so that all of their bytes belong to this test.
"""

from __future__ import annotations

import base64
import json
import signal
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from aigw_core.keys import mint_virtual_key
from aigw_core.secrets import Secret
from tests.e2e import answers, keys
from tests.e2e.calls import CHAT, JSON_TYPE, MESSAGES
from tests.e2e.client import Client, Closed, Field, bearer, request
from tests.e2e.fleet import Refusing, environment
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received, Script

# Without the prefixes by which the log would know them as keys: nothing may rely on that.
OPENAI_POOL: Final = b"TAINTopenai7c1f9b2e4d6a8"
ANTHROPIC_POOL: Final = b"TAINTanthropic2e4d6a87c1f9b"
BYO: Final = b"TAINTbyo5a3c8e7f1b2d9"
BODY: Final = b"TAINTbody3f6d1c9e5b7a"
ANSWER: Final = b"TAINTanswer8b2a7f4c6d1e"
QUERY: Final = b"TAINTquery1e9d5c3b7f2a"
HEADER: Final = b"TAINTheader6c4b8a2f9d3e"
PROXY: Final = b"TAINTproxy4d2c6b8a1f7e"
TRACE: Final = b"TAINTtrace9e7d5c3b1a2f4"
FORGED: Final = mint_virtual_key(
    Secret(bytes([9]) * 32), kid=keys.KID, tenant_id=2**61, vpc_id=2**59, key_id=2**57
).encode()


def forms(secret: bytes) -> list[bytes]:
    """The secret as it is and in the encodings in which things travel; of a virtual key each telling part as well."""
    parts = [secret, *secret.split(b".")[2:]] if secret.startswith(b"bai_") else [secret]
    out = []
    for part in parts:
        # Alignment in base64 is unknown, so only what does not depend on the neighbours is looked for.
        encoded = [base64.b64encode(bytes(shift) + part)[4:-4] for shift in range(3)]
        quoted = urllib.parse.quote_from_bytes(part, safe="").encode()
        out += [part, *encoded, quoted, part.hex().encode(), part.upper(), part.lower()]
    return out


def assert_free(place: str, data: bytes, *secrets: bytes) -> None:
    for secret in secrets:
        for form in forms(secret):
            at = data.find(form)
            assert at < 0, f"{place} holds a secret: {data[max(0, at - 200) : at + 100]!r}"


class Session:
    """One gateway, two providers, and transcripts of everything that goes in and out."""

    def __init__(self, backend: str, config: Path) -> None:
        self.to_openai, self.to_anthropic = bytearray(), bytearray()
        self.to_managed, self.to_byo = bytearray(), bytearray()
        self.openai = Provider(transcript=self.to_openai)
        self.anthropic = Provider(transcript=self.to_anthropic)
        self.refusing = Refusing()
        self.virtual_key = keys.virtual_key(tenant=2**60 + 12345).encode()
        self.config = config
        config.write_text("rate_limit_rps = 0\n")
        authorities = {
            "openai": self.openai.url,
            "anthropic": self.anthropic.url,
            "refusing": self.refusing.url,
        }
        environ = environment(
            self.openai,
            AI_CONFIG=str(config),
            AI_PROVIDER_AUTHORITIES=json.dumps(authorities),
            AI_POOL_KEY_OPENAI=OPENAI_POOL.decode(),
            AI_POOL_KEY_ANTHROPIC=ANTHROPIC_POOL.decode(),
            AI_POOL_KEY_REFUSING=OPENAI_POOL.decode(),
            AI_ACCESS_LOG="true",
            AI_READ_TIMEOUT_SECS="0.3",
            AI_CLIENT_HEAD_TIMEOUT_SECS="0.3",
            AI_CLIENT_BODY_TIMEOUT_SECS="0.3",
        )
        self.gateway = Gateway(backend, environ, fresh=True)

    def close(self) -> None:
        for provider in (self.openai, self.anthropic):
            provider.close()
        self.refusing.close()
        if self.gateway.running():
            self.gateway.stop()

    @property
    def managed(self) -> Field:
        return bearer(self.virtual_key.decode())

    def body(self, **members: object) -> bytes:
        content = BODY.decode()
        return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], **members}).encode()

    def talk(self, *pieces: bytes, byo: bool = False, leave_at: bytes | None = None) -> None:
        """Sends, and reads to the end of the answer, of the connection, or up to a mark at which it leaves."""
        with Client(self.gateway, transcript=self.to_byo if byo else self.to_managed) as client:
            try:
                for piece in pieces:
                    client.send(piece)
                if leave_at is not None:
                    client.read_until(leave_at)
                else:
                    while client.read_answer().status < 200:
                        pass
            except (Closed, ConnectionError):
                pass

    def ask(
        self, script: Script | bytes, target: str = CHAT, body: bytes | None = None, *fields: Field, byo: bool = False
    ) -> None:
        """One request with marks in every place where a caller may put something."""
        provider = self.anthropic if target.startswith("/anthropic") else self.openai
        case = provider.case(script)
        credential = bearer(BYO.decode()) if byo else self.managed
        traced = ((b"traceparent", b"00-" + TRACE), (b"tracestate", b"a=" + TRACE), (b"baggage", TRACE))
        marks = ((b"X-Mark", HEADER), (b"Proxy-Authorization", b"Basic " + PROXY), *traced, JSON_TYPE)
        data = self.body() if body is None else body
        self.talk(request(f"{target}?mark={QUERY.decode()}", data, credential, *marks, case.header, *fields), byo=byo)


def _echoing(status: str, *secrets: bytes) -> bytes:
    everything = b" ".join(secrets)
    head = b"HTTP/1.1 %b %b\r\nX-Echo: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % (
        status.encode(),
        secrets[0],
        everything,
    )
    halves = everything[: len(everything) // 2], everything[len(everything) // 2 :]
    return head + b"".join(map(answers.chunk, halves)) + answers.LAST_CHUNK


def _die(received: Received) -> None:
    received.read()
    received.connection.send(answers.STREAM_HEAD + answers.chunk(b"data: " + ANSWER + b"\n\n"))
    received.connection.reset()


def _stall(received: Received) -> None:
    received.read()
    received.connection.wait_closed()


def _linger(received: Received) -> None:
    received.read()
    received.connection.send(answers.STREAM_HEAD + answers.chunk(b"data: " + ANSWER + b"\n\n"))
    received.connection.wait_closed()


def send_everything(session: Session) -> None:
    streamed = session.body(stream=True)
    marked = answers.json_answer({"id": ANSWER.decode(), "choices": [], "usage": answers.CHAT_USAGE})
    # What goes well
    for byo in (False, True):
        for target in (CHAT, MESSAGES):
            session.ask(answers.by_path, target, byo=byo)
            session.ask(answers.by_path, target, streamed, byo=byo)
        session.ask(marked, byo=byo)
    # What the provider does wrong
    for status in ("400", "401", "403", "429", "500"):
        session.ask(_echoing(status, OPENAI_POOL, HEADER))
        session.ask(_echoing(status, ANTHROPIC_POOL, HEADER), MESSAGES)
        session.ask(_echoing(status, BYO), byo=True)
    for broken in (b"HTTP/1.1 " + ANSWER + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + ANSWER + b"\r\n\r\n", ANSWER):
        session.ask(broken)
    broken_chunk = answers.STREAM_HEAD + ANSWER + b"\r\n"
    for script in (_die, _stall, broken_chunk):
        session.ask(script, CHAT, streamed)
        session.ask(script, CHAT, streamed, byo=True)
    session.ask(b"", "/refusing/v1/chat/completions")
    # Callers who leave
    for byo, credential in ((False, session.managed), (True, bearer(BYO.decode()))):
        case = session.openai.case(_linger)
        session.talk(request(CHAT, streamed, credential, JSON_TYPE, case.header), byo=byo, leave_at=ANSWER)
        session.talk(request(CHAT, streamed, credential, JSON_TYPE, case.header)[:-4], byo=byo)
    # Bodies that strike a rule
    for members in ({"background": BODY.decode()}, {"background": True}):
        session.ask(answers.by_path, "/openai/v1/responses", session.body(**members))
    session.ask(answers.by_path, "/openai/v1/responses", b"{" + BODY)
    session.ask(answers.by_path, CHAT, BODY, (b"Content-Encoding", HEADER))
    # Refusals and malformed requests
    session.talk(request(CHAT, session.body(), bearer(FORGED.decode())))
    session.talk(request(CHAT, session.body(), bearer(FORGED.decode()[:-3])))
    session.talk(request("/openai/v1/files", session.body(), session.managed))
    session.talk(request(f"/nobody/v1/x?{QUERY.decode()}", session.body(), session.managed))
    own = session.managed[1].removeprefix(b"Bearer ")
    for field in (
        (b"X-Other", own),
        (b"Cookie", b"a=" + own),
        (b"Authorization", b"Basic " + own),
        (b"x-api-key", FORGED),
    ):
        session.talk(request(CHAT, session.body(), session.managed, field))
        session.talk(request(CHAT, session.body(), bearer(BYO.decode()), field))
    session.talk(request(f"{CHAT}?key={own.decode()}", session.body(), bearer(BYO.decode())))
    session.talk(request(f"/{own.decode()}/v1/models", b"", session.managed, method="GET"))
    for line in (b"X A: " + HEADER, b"X-A: \x00" + HEADER, b" " + HEADER, HEADER, b"Content-Length: " + HEADER, own):
        session.talk(request(CHAT, b"", session.managed)[:-2] + line + b"\r\n\r\n")
    chunked = (b"Transfer-Encoding", b"chunked")
    session.talk(request(CHAT, b"", session.managed, chunked) + BODY + b"\r\n")
    session.talk(request("/groq/openai/v1/chat/completions", b"", session.managed, chunked) + b"1\r\n" + BODY + b"\r\n")
    session.talk(request(CHAT, b"", session.managed)[:-2])
    session.talk(own + b"\r\n\r\n")


@pytest.fixture
def session(backend: str, tmp_path: Path) -> Iterator[Session]:
    session = Session(backend, tmp_path / "aigw.toml")
    yield session
    session.close()


def test_no_secret_leaves(session: Session) -> None:
    gateway = session.gateway
    send_everything(session)
    session.config.write_text(f'rate_limit_rps = "{BODY.decode()}"\npool_keys = {{openai = "a {HEADER.decode()}"}}\n')
    gateway.send_signal(signal.SIGHUP)
    gateway.wait_log("not reloaded")
    exposed = "".join(gateway.admin(path)[1] for path in ("/metrics", "/readyz", "/livez", f"/{QUERY.decode()}"))
    session.close()
    own = session.virtual_key
    keys_of_ours = (own, OPENAI_POOL, ANTHROPIC_POOL)
    everything = (*keys_of_ours, FORGED, BYO, BODY, ANSWER, QUERY, HEADER, PROXY, TRACE)
    assert_free("stderr", "\n".join(gateway.stderr).encode(), *everything)
    assert_free("the admin listener", exposed.encode(), *everything)
    facts = [line.replace(f'"upstream_request_id":"{ANSWER.decode()}"', "") for line in gateway.stdout]
    assert_free("a fact", "\n".join(facts).encode(), *everything)
    assert_free("an answer", bytes(session.to_byo), *keys_of_ours, FORGED, BODY, QUERY, HEADER, PROXY, TRACE)
    assert_free("an answer", bytes(session.to_managed), *keys_of_ours, FORGED, BYO, BODY, QUERY, PROXY, TRACE)
    # What must be there is, or else nothing was tested.
    assert len(facts) >= 25
    lines = [json.loads(line) for line in gateway.stderr if line.startswith("{")]
    assert {line["message"] for line in lines if line["logger"] == "aigw.access"} == {"complete"}
    assert len([line for line in lines if line["logger"] == "aigw.exchange"]) >= 40
    assert any(line["message"] == "cannot connect to a provider" for line in lines)
    assert ANSWER in session.to_managed
    assert ANSWER in session.to_byo
    assert b"*" * len(OPENAI_POOL) in session.to_managed
    assert b"*" * len(ANTHROPIC_POOL) in session.to_managed
    for transcript, pool, foreign in (
        (session.to_openai, OPENAI_POOL, ANTHROPIC_POOL),
        (session.to_anthropic, ANTHROPIC_POOL, OPENAI_POOL),
    ):
        sent = bytes(transcript)
        assert_free("a request to a provider", sent, own, FORGED, foreign, PROXY)
        for mark in (pool, BYO, BODY, QUERY, HEADER, TRACE):
            assert mark in sent
        for head in sent.split(b" HTTP/1.1\r\n")[1:]:
            fields = head.partition(b"\r\n\r\n")[0]
            assert fields.count(pool) + fields.count(BYO) == 1, "one credential, the caller's own or the pool's"


def test_a_refused_configuration_quotes_no_value(backend: str) -> None:
    mark = "TAINTconfig5d3b9f1e"
    environ = {
        "AI_POOL_KEY_OPENAI": f"a key with blanks {mark}",
        "AI_POOL_KEYS": f'{{"groq": "{mark}"',
        "AI_SIGNING_KEYS": f'{{"1": "{mark}"}}',
        "AI_PROVIDER_AUTHORITIES": f'{{"openai": "https://user:{mark}@host"}}',
        "AI_LISTEN_ADDR": mark,
        "AI_RATE_LIMIT_RPS": mark,
        "AI_NATS_URL": f"nats://user:{mark}@host",
        "AI_FACT_SINK": mark,
    }
    gateway = Gateway(backend, environ, fresh=True, listens=False)
    assert gateway.wait() == 2
    assert gateway.stdout == []
    assert len(gateway.stderr) >= 6
    assert_free("stderr", "\n".join(gateway.stderr).encode(), mark.encode())
