"""Real TLS on both sides, with certificates of a test authority."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.e2e import answers, keys
from tests.e2e.calls import JSON_TYPE, MESSAGES, STREAMED, UNRULED, call
from tests.e2e.client import Client, bearer, request
from tests.e2e.fleet import environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider, Received
from tests.e2e.sdk import anthropic_client, openai_client
from tests.e2e.test_sizes import FLAT, LARGE, has_proc


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


class PlainSpeaker(Provider):
    """Answers whatever comes with plain HTTP, as a server does whose TLS is not set up."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        super().__init__()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            self.heard.append(sock.recv(65_536))
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@dataclass
class Secure:
    """Providers with certificates of three kinds, and the gateways that are to reach them."""

    authority: trustme.CA
    trusted: Provider
    wrong_name: Provider
    unknown: Provider
    plain: PlainSpeaker
    client_context: ssl.SSLContext
    environ: dict[str, str]
    running: dict[str, Gateway]

    def gateway(self, backend: str) -> Gateway:
        if backend not in self.running:
            self.running[backend] = Gateway(backend, self.environ)
        return self.running[backend]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    directory = tmp_path_factory.mktemp("tls")
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    listener = authority.issue_cert("localhost")
    (directory / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in listener.cert_chain_pems))
    listener.private_key_pem.write_to_path(directory / "key.pem")
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    trusted = Provider(server_context(authority, "127.0.0.1", "localhost"))
    wrong_name = Provider(server_context(authority, "elsewhere.test"))
    unknown = Provider(server_context(stranger, "127.0.0.1", "localhost"))
    plain = PlainSpeaker()
    authorities = {
        "openai": trusted.url,
        "anthropic": trusted.url.replace("127.0.0.1", "localhost"),
        "groq": wrong_name.url,
        "xai": unknown.url,
        "mistral": plain.url.replace("http", "https"),
    }
    environ = environment(
        trusted,
        AI_PROVIDER_AUTHORITIES=json.dumps(authorities),
        AI_UPSTREAM_CA_FILE=str(directory / "ca.pem"),
        AI_TLS_CERT_FILE=str(directory / "chain.pem"),
        AI_TLS_KEY_FILE=str(directory / "key.pem"),
        AI_RATE_LIMIT_RPS="0",
    )
    secure = Secure(authority, trusted, wrong_name, unknown, plain, client_context, environ, {})
    yield secure
    ends = [(gateway.stop(), gateway.faults()) for gateway in secure.running.values()]
    for provider in (trusted, wrong_name, unknown, plain):
        provider.close()
    assert ends == [(0, [])] * len(ends)


@pytest.fixture
def gateway(backend: str, secure: Secure) -> Gateway:
    return secure.gateway(backend)


# Both sides


def test_sdks_over_tls_all_the_way(gateway: Gateway, secure: Secure) -> None:
    with openai_client(gateway, keys.virtual_key(), tls=secure.client_context) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in raw.parse())
    assert text == "Bonjour, monde."
    assert gateway.fact(raw.headers["x-aigw-request-id"])["usage"] == answers.CHAT_USAGE
    with anthropic_client(gateway, keys.virtual_key(), tls=secure.client_context) as talker:
        message = talker.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "Hello"}])
    assert message.stop_reason == "end_turn"
    assert {connection.tls_version for connection in secure.trusted.connections} == {"TLSv1.3"}


@has_proc
@pytest.mark.parametrize("own_key", [True, False], ids=["byo", "managed"])
def test_large_bodies_both_ways_in_flat_memory(gateway: Gateway, secure: Secure, own_key: bool) -> None:
    body = b'{"padding": "' + b"0123456789abcdef" * (LARGE // 16) + b'"}'

    def echo(received: Received) -> None:
        received.connection.send(answers.plain("200 OK", received.read()))

    case = secure.trusted.case(echo)
    before = gateway.reset_peak_memory()
    key = keys.BYO_KEY if own_key else keys.virtual_key()
    with Client(gateway, secure.client_context) as client:
        client.send(request(MESSAGES, body, bearer(key), JSON_TYPE, case.header))
        answer = client.read_answer()
    assert answer.body == body
    assert case.received[0].body == body
    assert gateway.peak_memory() - before < FLAT


def test_a_caller_who_does_not_read_stops_a_tls_provider(gateway: Gateway, secure: Secure) -> None:
    total = 100 * 1024 * 1024
    sent = [0]

    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.head("200 OK", ("Content-Length", str(total)), ("Content-Type", "x/y")))
        piece = bytes(65_536)
        while sent[0] < total:
            received.connection.send(piece)
            sent[0] += len(piece)

    case = secure.trusted.case(script)
    before = gateway.reset_peak_memory()
    with Client(gateway, secure.client_context, receive_buffer=65_536) as client:
        client.send(request("/openai/v1/files", b"{}", bearer(keys.BYO_KEY), case.header))
        head = client.read_head()
        assert head.status == 200
        _until_still(sent)
        assert sent[0] < total // 2
        assert gateway.peak_memory() - before < FLAT
        assert client.read_exactly(total) == bytes(total)


def _until_still(counter: list[int]) -> None:
    """Until the counter has not moved over many looks."""
    still = [0, -1]

    def is_still() -> bool:
        still[0] = still[0] + 1 if counter[0] == still[1] else 0
        still[1] = counter[0]
        return still[0] > 250

    wait_until(is_still, "the sender stalls or is through")


def test_connections_are_kept(gateway: Gateway, secure: Secure) -> None:
    case = secure.trusted.case(answers.by_path)
    with Client(gateway, secure.client_context) as client:
        for _ in range(5):
            client.send(call(case))
            assert client.read_answer().status == 200
    assert len({received.connection for received in case.received}) == 1


# The caller's side


def test_close_notify_ends_a_connection(gateway: Gateway, secure: Secure) -> None:
    case = secure.trusted.case(answers.by_path)
    with Client(gateway, secure.client_context) as client:
        client.send(call(case).replace(b"Host:", b"Connection: close\r\nHost:"))
        assert client.read_answer().status == 200
        assert client.read_end() == (b"", "orderly"), "an end without close_notify may be a cut"


def test_a_cut_stream_has_no_close_notify(gateway: Gateway, secure: Secure) -> None:
    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.STREAM_HEAD + answers.chunk(answers.chat_events({})[1]))
        received.connection.close()

    case = secure.trusted.case(script)
    with Client(gateway, secure.client_context) as client:
        client.send(call(case, body=STREAMED).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"))
        answer = client.read_answer()
    assert answer.ended in ("reset", "without close_notify")
    assert gateway.fact(answer.request_id)["outcome"] == "upstream_abort"


def _has(endings: list[str], count: int) -> bool:
    return len(endings) == count


def test_a_caller_who_leaves(gateway: Gateway, secure: Secure) -> None:
    endings: list[str] = []

    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.STREAM_HEAD + answers.chunk(answers.chat_events({})[1]))
        endings.append(received.connection.wait_closed())

    case = secure.trusted.case(script)
    for ways in range(2):
        with Client(gateway, secure.client_context) as client:
            client.send(call(case, body=STREAMED))
            head = client.read_head()
            client.read_stream_until(b"Bonjour")
            if ways:
                assert isinstance(client.sock, ssl.SSLSocket)
                # Says that nothing follows; what is still on its way from the other side is no answer to that.
                with contextlib.suppress(OSError):
                    client.sock.unwrap()
        assert gateway.fact(head.request_id)["outcome"] == "client_abort"
        wait_until(functools.partial(_has, endings, ways + 1), "the provider is let go")


def test_plain_http_and_garbage_on_the_tls_port_harm_nobody(gateway: Gateway, secure: Secure) -> None:
    for garbage in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(100)):
        with Client(gateway) as client:
            client.send(garbage)
            data, _ = client.read_end()
            assert b"HTTP" not in data
    with Client(gateway, secure.client_context) as client:
        client.send(call())
        assert client.read_answer().status == 200


def test_a_client_that_wants_old_tls_is_refused(gateway: Gateway, secure: Secure) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    secure.authority.configure_trust(old)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Client(gateway, old)


# The provider's side


@pytest.mark.parametrize("target", ["/groq/openai/v1/chat/completions", "/xai/v1/chat/completions", UNRULED])
def test_a_provider_that_is_not_who_it_should_be_gets_nothing(gateway: Gateway, secure: Secure, target: str) -> None:
    for key, is_managed in ((keys.virtual_key(), True), (keys.BYO_KEY, False)):
        with Client(gateway, secure.client_context) as client:
            client.send(call(target=target, key=key))
            answer = client.read_answer()
        assert answer.status == 502
        assert "TLS" in answer.json()["error"]["message"]
        if is_managed:
            fact = gateway.fact(answer.request_id)
            assert (fact["outcome"], fact["usage_status"]) == ("upstream_error", "none")
            assert (fact["upstream_status"], fact["request_bytes"]) == (None, 0)
    for impostor in (secure.wrong_name, secure.unknown):
        assert impostor.bytes_received == 0
    for heard in secure.plain.heard:
        assert heard.startswith(b"\x16\x03"), "no more than a TLS handshake"
        assert b"authorization" not in heard.lower()


def test_a_tls_provider_that_dies_mid_stream(gateway: Gateway, secure: Secure) -> None:
    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.STREAM_HEAD + answers.chunk(answers.chat_events({})[1]))
        received.connection.close()

    case = secure.trusted.case(script)
    with Client(gateway, secure.client_context) as client:
        client.send(call(case, body=STREAMED))
        answer = client.read_answer()
    assert not answer.complete
    assert b"Bonjour" in answer.body
    assert gateway.fact(answer.request_id)["outcome"] == "upstream_abort"


def test_configured_files_are_checked_at_start(backend: str, secure: Secure, tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    for changed in ("AI_TLS_CERT_FILE", "AI_UPSTREAM_CA_FILE"):
        broken = Gateway(backend, {**secure.environ, changed: str(tmp_path / "no.pem")}, listens=False)
        assert broken.wait() == 2
        assert [line for line in broken.stderr if changed in line] != []
