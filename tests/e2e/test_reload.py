"""SIGHUP while callers are being served: no request is lost, and what cannot be adopted is said."""

from __future__ import annotations

import base64
import json
import re
import signal
import ssl
import threading
from collections import Counter
from pathlib import Path

import pytest
import trustme

from aigw_core.keys import mint_virtual_key, public_key_of
from aigw_core.secrets import Secret
from tests.e2e import answers, keys
from tests.e2e.calls import BODY, STREAMED, call
from tests.e2e.client import Client
from tests.e2e.conftest import Starter
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider
from tests.e2e.test_lifecycle import Held, ready, refuses

RELOADS = 40
CALLERS = 4


def reload(gateway: Gateway, pattern: str = '"configuration reloaded"') -> str:
    """Asks for one reload and waits for its line."""
    seen = len(gateway.stderr)
    gateway.send_signal(signal.SIGHUP)
    found: list[str] = []

    def is_there() -> bool:
        found[:] = [line for line in gateway.stderr[seen:] if re.search(pattern, line)]
        return found != []

    wait_until(is_there, pattern)
    return found[0]


# Keys, rotated under load


class Ring:
    """Two signing keys, of which one at least is good at any time, and pool keys that take turns."""

    def __init__(self, folder: Path) -> None:
        self._seeds = {kid: Secret(bytes([kid]) * 32) for kid in (21, 22)}
        self._config = folder / "aigw.toml"
        self._pool_key = folder / "pool-key"
        self.pool_keys: list[bytes] = []
        self.usable = 21
        """The kid that callers shall use from now on."""

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AI_CONFIG": str(self._config),
            "AI_SIGNING_KEYS": "",
            "AI_POOL_KEY_OPENAI": "",
            "AI_POOL_KEY_OPENAI_FILE": str(self._pool_key),
            "AI_RATE_LIMIT_RPS": "0",
        }

    def write(self, *kids: int, more: str = "") -> None:
        lines = [f'{kid} = "{base64.b64encode(public_key_of(self._seeds[kid])).decode()}"' for kid in kids]
        self._config.write_text("\n".join([more, "[signing_keys]", *lines, ""]))
        self.pool_keys.append(b"pool-key-number-%d" % len(self.pool_keys))
        # A writer who lets nobody see half a file.
        fresh = self._pool_key.with_suffix(".new")
        fresh.write_bytes(self.pool_keys[-1] + b"\n")
        fresh.rename(self._pool_key)

    def break_config(self) -> None:
        self._config.write_text("rate_limit_rps = \n")

    def key(self, kid: int) -> str:
        return mint_virtual_key(self._seeds[kid], kid=kid, tenant_id=5, vpc_id=6, key_id=keys.number())


class Caller(threading.Thread):
    """Sends one request after the other on connections that it keeps, until it is told to stop."""

    def __init__(self, gateway: Gateway, ring: Ring, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(daemon=True)
        self._gateway, self._ring, self._headers, self._body = gateway, ring, headers, body
        self._keys = {kid: ring.key(kid) for kid in (21, 22)}
        self.statuses: Counter[int] = Counter()
        self.ids: list[str] = []
        self.using: int | None = None
        self.over = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with Client(self._gateway) as client:
                while not self.over:
                    # Taken before it is used, so that whoever retires a key can wait for its last user.
                    self.using = self._ring.usable
                    client.send(call(None, *self._headers, key=self._keys[self.using], body=self._body))
                    answer = client.read_answer()
                    assert answer.complete
                    self.statuses[answer.status] += 1
                    self.ids.append(answer.request_id)
        except Exception as error:  # noqa: BLE001  # whatever it is, the test tells it
            self.failure = error
        finally:
            self.using = None


def _answered(callers: list[Caller]) -> int:
    assert [caller.failure for caller in callers if caller.failure is not None] == []
    return sum(sum(caller.statuses.values()) for caller in callers)


def test_keys_are_rotated_under_load_without_a_lost_request(start: Starter, provider: Provider, tmp_path: Path) -> None:
    ring = Ring(tmp_path)
    ring.write(21)
    gateway = start(ring.environ)
    case = provider.case(answers.by_path)
    callers = [Caller(gateway, ring, [case.header], body) for body in (BODY, STREAMED) * (CALLERS // 2)]
    for caller in callers:
        caller.start()

    def turn_to(kid: int) -> None:
        ring.usable = kid
        wait_until(lambda: all(caller.using in (kid, None) for caller in callers), "everybody has the new key")

    def wait_for_more(count: int) -> None:
        wait_until(lambda: _answered(callers) > count, "requests go on")

    for number in range(RELOADS // 4):
        old, new = (21, 22) if number % 2 == 0 else (22, 21)
        for kids in ((old, new), (new,)):
            before = _answered(callers)
            if kids == (new,):
                turn_to(new)
            ring.write(*kids)
            reload(gateway)
            ring.break_config()
            reload(gateway, "configuration not reloaded")
            wait_for_more(before)
    for caller in callers:
        caller.over = True
    for caller in callers:
        caller.join(60)
    assert [caller.failure for caller in callers] == [None] * CALLERS
    statuses = sum((caller.statuses for caller in callers), Counter[int]())
    assert set(statuses) == {200}
    ids = [one for caller in callers for one in caller.ids]
    for one in ids:
        assert gateway.fact(one)["outcome"] == "complete"
    assert len(gateway.facts()) == len(ids)
    sent = {received.values(b"authorization")[0] for received in case.received}
    assert sent <= {b"Bearer " + key for key in ring.pool_keys}
    assert len(sent) > 2, "pool keys were taken up on the way"
    assert b"Bearer " + ring.pool_keys[-1] in sent
    broken = [line for line in gateway.stderr if "not reloaded" in line]
    assert len(broken) == RELOADS // 2, "one line for each"
    gateway.stderr[:] = [line for line in gateway.stderr if "not reloaded" not in line]
    assert gateway.stop() == 0


def test_many_signals_at_once(start: Starter, provider: Provider, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text("rate_limit_rps = 0\n")
    gateway, held = start({"AI_CONFIG": str(config)}), Held(provider)
    with Client(gateway) as client:
        request_id = held.begin(client)
        for _ in range(50):
            gateway.send_signal(signal.SIGHUP)
        gateway.wait_log('"configuration reloaded"')
        held.may_finish = True
        client.read_stream_until(b"[DONE]")
    assert gateway.fact(request_id)["outcome"] == "complete"
    assert gateway.stop() == 0


# What is said


def test_what_takes_a_restart_is_named_in_one_line(start: Starter, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text("")
    gateway = start({"AI_CONFIG": str(config)})
    config.write_text('max_connections = 3\nnats_bucket = "other"\nrate_limit_rps = 7\nspool_dir = "/nowhere"\n')
    line = reload(gateway, "take a restart")
    assert json.loads(line)["message"] == (
        "settings that take a restart have changed: nats_bucket, spool_dir, max_connections"
    )
    gateway.wait_log('"configuration reloaded"')
    config.write_text("rate_limit_rps = 7\n")
    seen = len(gateway.stderr)
    reload(gateway)
    assert not any("restart" in line for line in gateway.stderr[seen:]), "what was taken back waits for nothing"
    assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rate_limit_rps = \n", "is not valid TOML at line 1, column 18"),
        ("rate_limit_rsp = 1\n", "rate_limit_rsp: unknown name; did you mean rate_limit_rps?"),
        ('upstream_ca_file = "/nonexistent.pem"\n', "upstream_ca_file: the file cannot be read: No such file"),
        ('a = 1\nrate_limit_rps = "b"\n', "a: unknown name | rate_limit_rps: is not a whole number"),
    ],
)
def test_a_broken_file_leaves_the_old_one_in_force(start: Starter, tmp_path: Path, text: str, told: str) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text("rate_limit_rps = 1\n")
    gateway = start({"AI_CONFIG": str(config)})
    key = keys.virtual_key()
    config.write_text(text)
    seen = len(gateway.stderr)
    row = json.loads(reload(gateway, "not reloaded"))
    assert (row["level"], told in row["message"]) == ("error", True), row
    statuses = set()
    with Client(gateway) as client:
        for _ in range(20):
            client.send(call(key=key))
            statuses.add(client.read_answer().status)
    assert statuses == {200, 429}, "the old limit holds"
    assert len([line for line in gateway.stderr[seen:] if "reloaded" in line]) == 1
    gateway.stderr[:] = [line for line in gateway.stderr if "not reloaded" not in line]
    assert gateway.stop() == 0


def test_a_reload_while_it_drains_changes_nothing(start: Starter, provider: Provider) -> None:
    gateway, held = start({"AI_SHUTDOWN_DELAY_SECS": "1"}), Held(provider)
    with Client(gateway) as client:
        gateway.send_signal(signal.SIGTERM)
        wait_until(lambda: ready(gateway) == (503, "draining"), "readiness fails")
        request_id = held.begin(client)
        gateway.send_signal(signal.SIGHUP)
        wait_until(lambda: refuses(gateway), "the delay is over")
        gateway.send_signal(signal.SIGHUP)
        held.may_finish = True
        client.read_stream_until(b"[DONE]")
    assert gateway.wait() == 0
    assert gateway.fact(request_id)["outcome"] == "complete", "begun within the delay, ended within the grace"


# The listener's certificate


class Files:
    """Certificate and key of the listener, by authorities that a caller can tell apart."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "chain.pem", folder / "key.pem"

    def issue(self) -> ssl.SSLContext:
        """A new certificate in place; what a caller must trust to accept it."""
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    @property
    def environ(self) -> dict[str, str]:
        return {"AI_TLS_CERT_FILE": str(self.certificate), "AI_TLS_KEY_FILE": str(self.key)}


def status(client: Client) -> int:
    client.send(call())
    return client.read_answer().status


def test_new_handshakes_get_the_new_certificate(start: Starter, provider: Provider, tmp_path: Path) -> None:
    files = Files(tmp_path)
    trust_old = files.issue()
    gateway, held = start(files.environ), Held(provider)
    with Client(gateway, trust_old) as running, Client(gateway, trust_old) as idle:
        request_id = held.begin(running)
        assert status(idle) == 200
        trust_new = files.issue()
        with Client(gateway, trust_old) as before:
            assert status(before) == 200, "nothing changes before the signal"
        reload(gateway)
        with Client(gateway, trust_new) as after:
            assert status(after) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            Client(gateway, trust_old)
        assert status(idle) == 200, "a connection keeps what it began with"
        held.may_finish = True
        running.read_stream_until(b"[DONE]")
    assert gateway.fact(request_id)["outcome"] == "complete"
    assert gateway.stop() == 0


def test_a_certificate_that_does_not_fit_leaves_the_old_one(start: Starter, tmp_path: Path) -> None:
    files = Files(tmp_path)
    trust = files.issue()
    gateway = start(files.environ)
    good = files.certificate.read_bytes()
    for broken in (b"", b"nothing", trustme.CA().cert_pem.bytes()):
        files.certificate.write_bytes(broken)
        line = reload(gateway, "not reloaded")
        assert "tls_cert_file (AI_TLS_CERT_FILE): certificate and key cannot be loaded" in line
        with Client(gateway, trust) as client:
            assert status(client) == 200
        gateway.stderr[:] = [line for line in gateway.stderr if "not reloaded" not in line]
    files.certificate.write_bytes(good)
    reload(gateway)
    assert gateway.stop() == 0


def test_tls_is_neither_taken_up_nor_dropped_by_a_reload(start: Starter, tmp_path: Path) -> None:
    files = Files(tmp_path)
    trust = files.issue()
    config = tmp_path / "aigw.toml"
    lines = f'tls_cert_file = "{files.certificate}"\ntls_key_file = "{files.key}"\n'
    for at_start, later in ((lines, ""), ("", lines)):
        config.write_text(at_start)
        gateway = start({"AI_CONFIG": str(config)})
        config.write_text(later)
        assert "have changed: tls_cert_file, tls_key_file" in reload(gateway, "take a restart")
        gateway.wait_log('"configuration reloaded"')
        with Client(gateway, trust if at_start else None) as client:
            assert status(client) == 200
        assert gateway.stop() == 0


def test_certificates_are_renewed_under_load(start: Starter, provider: Provider, tmp_path: Path) -> None:
    """Callers who come and go, each with a handshake of its own, while the certificate changes again and again."""
    files = Files(tmp_path)
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    def renew() -> None:
        issued = authority.issue_cert("localhost")
        # Both in one file, so that no reader can see a certificate without its key.
        fresh = files.certificate.with_suffix(".new")
        fresh.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        fresh.rename(files.certificate)

    renew()
    pair = str(files.certificate)
    gateway = start({"AI_TLS_CERT_FILE": pair, "AI_TLS_KEY_FILE": pair, "AI_RATE_LIMIT_RPS": "0"})
    over = threading.Event()
    outcomes: list[int | BaseException] = []
    serials: set[object] = set()

    def come_and_go() -> None:
        while not over.is_set():
            try:
                with Client(gateway, trust) as client:
                    assert isinstance(client.sock, ssl.SSLSocket)
                    serials.add((client.sock.getpeercert() or {}).get("serialNumber"))
                    outcomes.append(status(client))
            except (OSError, AssertionError) as error:
                outcomes.append(error)

    threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        seen = len(outcomes)
        renew()
        reload(gateway)
        wait_until(lambda seen=seen: len(outcomes) > seen + 1, "callers go on")  # type: ignore[misc]
    over.set()
    for thread in threads:
        thread.join(60)
    assert set(outcomes) == {200}
    assert len(serials) > 5
    assert gateway.stop() == 0


def test_providers_are_trusted_by_the_new_file(start: Starter, tmp_path: Path) -> None:
    """``upstream_ca_file`` is read again: a provider of another authority is reached after the reload."""
    authority, ca_file = trustme.CA(), tmp_path / "ca.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trustme.CA().cert_pem.write_to_path(ca_file)
    secure = Provider(context)
    try:
        environ = {"AI_UPSTREAM_CA_FILE": str(ca_file), "AI_PROVIDER_AUTHORITIES": json.dumps({"openai": secure.url})}
        gateway = start(environ)
        with Client(gateway) as client:
            assert status(client) == 502
            authority.cert_pem.write_to_path(ca_file)
            reload(gateway)
            assert status(client) == 200
        assert gateway.stop() == 0
    finally:
        secure.close()
