"""Recorded answers of real providers through the gateway: every byte relayed, the stated usage in the fact."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e import answers, keys
from tests.e2e.client import Client, bearer, request
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received

CORPUS: Final = Path(os.environ["AIGW_CORPUS"]) if "AIGW_CORPUS" in os.environ else None
METERED: Final = {"chat_completions", "completions", "embeddings", "messages", "responses", "responses_compact"}
UNMETERED: Final = {"count_tokens", "models", "responses_input_tokens"}
NOT_RELAYED: Final = {"content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive", "trailer"}

Case = dict[str, Any]


def _cases() -> list[Any]:
    if CORPUS is None:
        skip = pytest.mark.skip(reason="AIGW_CORPUS names no directory of recorded answers")
        return [pytest.param({}, marks=skip, id="no-corpus")]
    rows: list[Case] = json.loads((CORPUS / "INDEX.json").read_text())
    chosen = [
        row
        for row in rows
        if row["fidelity"] == "recorded" and row["api"] in METERED | UNMETERED and row["method"] in ("GET", "POST")
    ]
    return [pytest.param(row, id=row["id"]) for row in chosen]


def _request_body(corpus: Path, row: Case) -> bytes:
    """As recorded; else one that asks for what was answered, usage included, so that nothing is added to it."""
    file: Path = corpus / row["body"].replace(".body", ".request.json")
    if row["method"] == "GET":
        return b""
    if file.exists():
        return file.read_bytes()
    stated = {"model": "m", "stream": row["kind"] == "sse", "stream_options": {"include_usage": True}}
    return json.dumps(stated).encode()


def _pieces(body: bytes, sizes: list[int] | None, seed: str) -> list[bytes]:
    """Split as it was received when it was recorded, where that is known; else anywhere."""
    if sizes is None or sum(sizes) != len(body):
        chooser = random.Random(seed)
        cuts = sorted(chooser.sample(range(1, len(body)), min(len(body) - 1, 12))) if len(body) > 1 else []
    else:
        cuts = [sum(sizes[:n]) for n in range(1, len(sizes))]
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) if start < end]


@pytest.mark.parametrize("row", _cases())
def test_recorded_answer(gateway: Gateway, provider: Provider, row: Case) -> None:
    assert CORPUS is not None
    body = (CORPUS / row["body"]).read_bytes()
    meta: Case = json.loads((CORPUS / row["body"].replace(".body", ".json")).read_text())
    sent_headers = [
        (name, str(value))
        for name, value in (meta.get("response_headers") or {}).items()
        if name.lower() not in NOT_RELAYED and str(value).isprintable() and "{" not in name
    ]
    if row["content_type"] is not None and "content-type" not in {name.lower() for name, _ in sent_headers}:
        sent_headers.append(("Content-Type", row["content_type"]))
    streamed = row["kind"] == "sse"
    framing = ("Transfer-Encoding", "chunked") if streamed else ("Content-Length", str(len(body)))
    head = answers.head(f"{row['status']} Recorded", *sent_headers, framing)
    pieces = _pieces(body, meta.get("chunk_sizes"), row["id"])

    def script(received: Received) -> None:
        received.read()
        received.connection.send(head)
        for piece in pieces:
            received.connection.send(answers.chunk(piece) if streamed else piece)
        if streamed:
            received.connection.send(answers.LAST_CHUNK)

    case = provider.case(script)
    own = (bearer(keys.virtual_key()), (b"Content-Type", b"application/json"), case.header)
    sent_body = _request_body(CORPUS, row)
    with Client(gateway) as client:
        client.send(request(f"/{row['provider']}{row['path']}", sent_body, *own, method=row["method"]))
        answer = client.read_answer(row["method"])
    assert answer.complete
    assert answer.status == row["status"], answer.body
    assert answer.body == body
    relayed = [(name.decode(), value.decode()) for name, value in answer.headers]
    assert [field for field in relayed if field in sent_headers] == sent_headers
    fact = gateway.fact(answer.request_id)
    assert fact["response_bytes"] == len(body)
    stated = meta["expected"].get("usage") if row["api"] in METERED and row["status"] < 400 else None
    assert fact["usage"] == stated
    if row["status"] >= 400:
        assert fact["outcome"] == "upstream_error"
    elif "mid-stream-error" not in row["flags"]:
        assert fact["outcome"] == "complete"
        expected_model = meta["expected"].get("model")
        if row["api"] in METERED and expected_model is not None:
            assert fact["model"] in (expected_model, meta["expected"].get("model_last"))
