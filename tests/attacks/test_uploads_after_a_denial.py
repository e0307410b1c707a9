"""Uploads begun before a tenant is denied, sent a little at a time.

The tenant opens twenty uploads, is denied for its spending, and goes on sending. The provider must never hold one of
these requests whole, each must end with 402 and a fact, and no upload may last longer than the operator allows.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import pytest

from tests.e2e import answers, keys
from tests.e2e.calls import begun
from tests.e2e.client import Client
from tests.e2e.conftest import Starter
from tests.e2e.fleet import environment
from tests.e2e.gateway import wait_until
from tests.e2e.provider import Provider

TENANT: Final = 51_001
UPLOADS: Final = 20
BODY: Final = b'{"model":"m","max_tokens":1,"input":"' + b"x" * 80_000 + b'"}'
"""Longer than what is collected before anything is sent on."""


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("target", ["/openai/v1/responses", "/anthropic/v1/messages", "/mistral/v1/embeddings"])
def test_no_upload_is_completed_for_a_denied_tenant(
    start: Starter, provider: Provider, tmp_path: Path, target: str, workers: str
) -> None:
    deny = tmp_path / "deny.json"
    deny.write_text("{}")
    gateway = start(
        {**environment(provider), "AI_DENY_SOURCE": "file", "AI_DENY_FILE": str(deny), "AI_WORKERS": workers}
    )
    case = provider.case(answers.json_answer({}))
    key = keys.virtual_key(TENANT)
    with contextlib.ExitStack() as stack:
        uploads = [stack.enter_context(Client(gateway)) for _ in range(UPLOADS)]
        for upload in uploads:
            upload.send(begun(case, len(BODY), BODY[:-1], target=target, key=key))
        case.wait(UPLOADS)
        before = gateway.metric("aigw_deny_revision")
        deny.write_text(f'{{"blackhole.{TENANT}": "spend"}}')
        wait_until(lambda: gateway.metric("aigw_deny_revision") > before, "the denial is known")
        for upload in uploads:
            upload.send(BODY[-1:])
        assert {upload.read_answer().status for upload in uploads} == {402}
    assert not any(received.complete for received in case.received)
    assert gateway.stop() == 0
    facts = [fact for fact in gateway.facts().values() if fact["tenant_id"] == str(TENANT)]
    assert [(fact["outcome"], fact["status"]) for fact in facts] == [("gateway_cut", 402)] * UPLOADS


def test_an_upload_has_a_total_bound(start: Starter, provider: Provider) -> None:
    gateway = start(
        {**environment(provider), "AI_CLIENT_UPLOAD_TIMEOUT_SECS": "1", "AI_CLIENT_BODY_TIMEOUT_SECS": "0.9"}
    )
    case = provider.case(answers.json_answer({}))
    with Client(gateway) as client:
        client.send(begun(case, len(BODY), BODY[:70_000]))
        client.sock.settimeout(0.05)
        at = 70_000
        received = b""
        while not received:
            with contextlib.suppress(ConnectionError):
                client.send(BODY[at : at + 1])
            at += 1
            with contextlib.suppress(TimeoutError):
                received = client.sock.recv(65_536)
    assert received.startswith(b"HTTP/1.1 408")
    assert not any(received.complete for received in case.received)
