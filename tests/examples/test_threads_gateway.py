"""The gateway on threads: as short as it says, with real SDKs, over TLS, and stopped as it says."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import openai
import pytest
import trustme
from openai import OpenAI

from aigw_anyio.testing import DEADLINE_SECS
from aigw_core import Policy, parse_origin
from aigw_core.testing import Ledger
from examples import threads_gateway
from examples.threads_gateway import serve
from tests.examples.conftest import POOL_KEY, make_gateway, virtual_key
from tests.sources import ROOT, code_lines

HELLO: Final = "Hello from the mock provider."
LINES_MAX: Final = 60
"""Of code: the promise of the page that shows it."""


def test_it_is_as_short_as_it_says() -> None:
    assert 0 < code_lines((ROOT / "examples" / "threads_gateway.py").read_text()) <= LINES_MAX
    page = (ROOT / "docs" / "how-to" / "write-a-driver.md").read_text()
    assert f"{LINES_MAX} lines of code, not counting blank lines, comments, docstrings and imports" in page


class Running:
    """A gateway that serves, and its ledger."""

    def __init__(self, policy: Policy) -> None:
        self.ledger = Ledger()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, args=(policy,))
        self._thread.start()
        self.address: tuple[str, int] = self._listener.getsockname()

    def _serve(self, policy: Policy) -> None:
        with contextlib.suppress(OSError):
            serve(self._listener, make_gateway(policy), self.ledger, threading.Lock())

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(DEADLINE_SECS)


@pytest.fixture
def running(policy: Policy) -> Iterator[Running]:
    server = Running(policy)
    yield server
    server.stop()


def test_the_sdk_gets_answers_and_refusals(running: Running) -> None:
    base_url = f"http://127.0.0.1:{running.address[1]}/openai/v1"
    with OpenAI(base_url=base_url, api_key=virtual_key(7), max_retries=0) as client:
        for _ in range(2):
            whole = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
            assert (whole.choices[0].message.content or "").startswith(HELLO)
        pieces = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices)
        assert text.startswith(HELLO)
    with (
        OpenAI(base_url=base_url, api_key="bai_v2.1.nobody", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    facts = running.ledger.facts
    assert [(fact.outcome, fact.usage_status) for fact in facts] == [("complete", "final")] * 3
    assert {fact.opened.tenant_id for fact in facts} == {7}


class SilentProvider:
    """Speaks TLS 1.3, whose session tickets follow the handshake, reads a request, and says nothing."""

    def __init__(self, authority: trustme.CA) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        authority.issue_cert("localhost").configure_cert(self._tls)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked, self.left = threading.Event(), threading.Event()
        self.request = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.port: int = self._listener.getsockname()[1]

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(DEADLINE_SECS)
        with contextlib.suppress(OSError), self._tls.wrap_socket(sock, server_side=True) as stream:
            self.request = stream.recv(65_536)
            self.asked.set()
            while stream.recv(65_536):
                pass
        self.left.set()

    def stop(self) -> None:
        self._listener.close()
        self._thread.join(DEADLINE_SECS)


class Selecting:
    """``select``, which tells when a driver has come back to it after TLS had something to read."""

    def __init__(self) -> None:
        self._was_ready = False
        self.came_back = threading.Event()

    def select(self, *arguments: Any) -> Any:
        if self._was_ready:
            self.came_back.set()
        ready = select.select(*arguments)
        self._was_ready |= any(isinstance(sock, ssl.SSLSocket) for sock in ready[0])
        return ready


def test_a_silent_provider_behind_tls_does_not_hold_a_caller_who_leaves(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    selecting = Selecting()
    monkeypatch.setattr(threads_gateway, "TLS", trust)
    monkeypatch.setattr(threads_gateway, "select", selecting)
    provider = SilentProvider(authority)
    openai_policy = replace(policy.providers["openai"], origin=parse_origin(f"https://localhost:{provider.port}"))
    server = Running(replace(policy, providers={"openai": openai_policy}))
    body = json.dumps({"model": "m", "messages": []}).encode()
    with socket.create_connection(server.address, DEADLINE_SECS) as caller:
        caller.sendall(
            b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (virtual_key(7).encode(), len(body), body)
        )
        assert provider.asked.wait(DEADLINE_SECS)
        assert selecting.came_back.wait(DEADLINE_SECS)
    assert b"Authorization: Bearer " + POOL_KEY.reveal() in provider.request
    assert provider.left.wait(DEADLINE_SECS)
    provider.stop()
    server.stop()
    assert [fact.outcome for fact in server.ledger.facts] == ["client_abort"]


def test_lines_are_counted_as_the_page_says() -> None:
    text = '''"""Doc."""

import a
from b import (
    c,
)

X = 1
"""Why."""


def f():
    """Of
    several lines."""
    # no

    y = """
    text"""  # yes
    return y
'''
    assert code_lines(text) == 5
