"""Metering around any iterator."""

from __future__ import annotations

from collections.abc import Iterator

import httpcore
import pytest

from aigw_core import UsageFact, Wire
from examples.meter_only import metered
from tests.examples.conftest import POOL_KEY

BODY = b'{"model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}'


def _metered(chunks: Iterator[bytes], facts: list[UsageFact], **changes: object) -> Iterator[bytes]:
    given = {"provider": "openai", "wire": Wire.CHAT_COMPLETIONS, "tenant_id": 7, **changes}
    return metered(chunks, facts.append, **given)  # type: ignore[arg-type]  # tests name their own


def test_bytes_pass_and_a_fact_is_left() -> None:
    facts: list[UsageFact] = []
    pieces = [BODY[:30], BODY[30:]]
    assert list(_metered(iter(pieces), facts)) == pieces
    (fact,) = facts
    assert (fact.outcome, fact.usage_status, fact.tokens) == ("complete", "final", {"input": 9, "output": 3})
    assert (fact.model, fact.response_bytes, fact.opened.tenant_id) == ("m", len(BODY), 7)


def test_a_reader_who_leaves_is_noted() -> None:
    facts: list[UsageFact] = []
    stream = _metered(iter([b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"]), facts, content_type="text/event-stream")
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    assert [(fact.outcome, fact.usage_status) for fact in facts] == [("client_abort", "absent")]


def test_a_provider_that_fails_is_noted() -> None:
    def broken() -> Iterator[bytes]:
        yield BODY[:30]
        raise ConnectionResetError

    facts: list[UsageFact] = []
    with pytest.raises(ConnectionResetError):
        list(_metered(broken(), facts))
    assert [(fact.outcome, fact.usage_status) for fact in facts] == [("upstream_abort", "absent")]


def test_errors_are_not_billed() -> None:
    facts: list[UsageFact] = []
    list(_metered(iter([b'{"error":{}}']), facts, status=429))
    assert [(fact.outcome, fact.usage_status) for fact in facts] == [("upstream_error", "none")]


def test_with_a_real_client(provider_port: int) -> None:
    facts: list[UsageFact] = []
    headers = [(b"Authorization", b"Bearer " + POOL_KEY.reveal()), (b"Content-Type", b"application/json")]
    body = (
        b'{"model":"gpt-5.4-mini","stream":true,"stream_options":{"include_usage":true},'
        b'"messages":[{"role":"user","content":"Hello"}]}'
    )
    url = f"http://127.0.0.1:{provider_port}/v1/chat/completions"
    with (
        httpcore.ConnectionPool() as pool,
        pool.stream("POST", url, headers=headers, content=body) as response,
    ):
        kind = dict(response.headers)[b"content-type"].decode()
        data = b"".join(_metered(response.iter_stream(), facts, status=response.status, content_type=kind))
    assert data.endswith(b"data: [DONE]\n\n")
    assert (facts[0].outcome, facts[0].usage_status, facts[0].streaming) == ("complete", "final", True)
    assert facts[0].tokens
