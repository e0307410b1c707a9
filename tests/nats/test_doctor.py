"""``aigw doctor`` and a real server: a bucket, a stream, and users who may not do what a gateway needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aigw_anyio.doctor import natscheck
from tests.doctor.conftest import Doctor
from tests.doctor.conftest import _root_logging as _root_logging
from tests.doctor.conftest import doctor as doctor
from tests.doctor.models import Models
from tests.nats.bucket import Bucket
from tests.nats.server import NatsServer, free_port

Start = Callable[..., NatsServer]


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A provider that answers, so that what is wrong is NATS."""
    models = Models()
    yield {
        "AI_PROVIDER_AUTHORITIES": json.dumps({"openai": models.url}),
        "AI_FACT_SINK": "nats",
        "AI_SPOOL_DIR": str(tmp_path / "spool"),
    }
    models.close()


def nats_of(findings: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(f["verdict"], f["subject"], f["what"]) for f in findings if f["check"] == "nats"]


def stream(bucket: Bucket, **changes: Any) -> None:
    config = {"name": "AI_USAGE", "subjects": ["ai.usage.>"], "retention": "limits", "discard": "new", **changes}
    bucket.api("STREAM.CREATE.AI_USAGE", config)


def messages_in(bucket: Bucket, name: str) -> int:
    return int(bucket.api(f"STREAM.INFO.{name}")["state"]["messages"])


def test_all_is_well_and_nothing_is_left_behind(doctor: Doctor, new_server: Start, environ: dict[str, str]) -> None:
    server = new_server()
    with Bucket(server.url) as bucket:
        bucket.create()
        bucket.put("blackhole.1", "spend")
        stream(bucket)
        bucket.api(
            "CONSUMER.CREATE.AI_USAGE.billing",
            {
                "stream_name": "AI_USAGE",
                "config": {"durable_name": "billing", "name": "billing", "ack_policy": "explicit"},
            },
        )
        code, findings = doctor(**environ, AI_NATS_URL=server.url)
        assert nats_of(findings) == [
            ("ok", "nats_url", f"connected to {server.url}"),
            ("ok", "ai-gateway", "1 entries, last revision 1"),
            ("ok", "ai-gateway", "the feed may follow it"),
            ("ok", "ai-gateway", "0 gateways follow it, 0 entries behind at most"),
            ("ok", "AI_USAGE", "0 facts"),
            ("ok", "AI_USAGE", "may publish to ai.usage.>"),
            ("ok", "AI_USAGE", "the consumer billing is 0 facts behind"),
        ]
        assert code == 0
        assert messages_in(bucket, "AI_USAGE") == 0
        assert bucket.api("CONSUMER.LIST.KV_ai-gateway")["total"] == 0


def test_what_is_not_made_yet(doctor: Doctor, new_server: Start, environ: dict[str, str]) -> None:
    server = new_server()
    code, findings = doctor(**environ, AI_NATS_URL=server.url)
    assert code == 1
    assert nats_of(findings)[1:] == [
        ("wrong", "ai-gateway", "there is no such bucket"),
        ("ok", "AI_USAGE", "no stream takes ai.usage.> yet; it is made at the start"),
    ]


def test_nobody_is_there(doctor: Doctor, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigw_anyio.nats.denywrite.CONNECT_SECS", -8.0)
    code, findings = doctor(**environ, AI_NATS_URL=f"nats://user:TAINTpassword@127.0.0.1:{free_port()}")
    (found,) = [f for f in findings if f["check"] == "nats"]
    assert (code, found["verdict"]) == (1, "wrong")
    assert found["what"].startswith("nats://127.0.0.1:")
    assert "cannot connect to NATS" in found["why"]
    assert "TAINT" not in json.dumps(findings)


def test_a_user_who_is_not_known(
    doctor: Doctor, new_server: Start, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigw_anyio.nats.denywrite.CONNECT_SECS", -5.0)
    server = new_server("authorization { user: gateway, password: right }")
    code, findings = doctor(**environ, AI_NATS_URL=server.url.replace("//", "//gateway:TAINTwrong@"))
    (found,) = [f for f in findings if f["check"] == "nats"]
    assert (code, found["verdict"]) == (1, "wrong")
    assert "uthorization" in found["why"]
    assert "TAINT" not in json.dumps(findings)


def test_a_user_who_may_not_do_what_is_needed(
    doctor: Doctor, new_server: Start, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natscheck, "CALL_SECS", 0.5)
    allowed = '["$JS.API.STREAM.INFO.>", "$JS.API.STREAM.NAMES"]'
    permissions = f'permissions: {{ publish: {{ allow: {allowed} }}, subscribe: ["_INBOX.>"] }}'
    users = f"{{ user: gateway, password: a, {permissions} }}, {{ user: admin, password: b }}"
    server = new_server(f"authorization {{ users: [ {users} ] }}")
    with Bucket(server.url, user="admin", password="b") as bucket:
        bucket.create()
        stream(bucket)
        code, findings = doctor(**environ, AI_NATS_URL=server.url.replace("//", "//gateway:a@"))
        assert messages_in(bucket, "AI_USAGE") == 0
    assert code == 1
    told = [f for f in findings if f["check"] == "nats" and f["verdict"] == "wrong"]
    assert [(f["subject"], f["what"]) for f in told] == [
        ("ai-gateway", "no consumer can be made, so the feed cannot follow"),
        ("AI_USAGE", "facts cannot be published"),
    ]
    assert all("ermissions" in f["why"] for f in told)
    assert "$JS.API.CONSUMER.CREATE.KV_ai-gateway" in told[0]["fix"]
    assert "ai.usage.>" in told[1]["fix"]
    skipped = [f["what"] for f in findings if f["check"] == "nats" and f["verdict"] == "skipped"]
    assert skipped == ["this user may not list who reads it"] * 2


def test_a_server_without_jetstream(doctor: Doctor, tmp_path: Path, environ: dict[str, str]) -> None:
    server = NatsServer(tmp_path / "nats")
    server.has_jetstream = False
    server.start()
    try:
        code, findings = doctor(**environ, AI_NATS_URL=server.url)
    finally:
        server.stop()
    told = [f for f in findings if f["check"] == "nats" and f["verdict"] == "wrong"]
    assert (code, len(told)) == (1, 2)
    assert all("JetStream" in f["fix"] for f in told)


def test_streams_that_lose_facts_or_are_full(doctor: Doctor, new_server: Start, environ: dict[str, str]) -> None:
    server = new_server()
    with Bucket(server.url) as bucket:
        bucket.create()
        stream(bucket, discard="old")
        code, findings = doctor(**environ, AI_NATS_URL=server.url)
        (told,) = [f for f in findings if f["verdict"] == "wrong"]
        assert (code, told["subject"]) == (1, "AI_USAGE")
        assert "discard old" in told["what"]
        bucket.api("STREAM.DELETE.AI_USAGE")
        stream(bucket, max_msgs=5)
        for number, verdict in ((4, "warning"), (5, "wrong")):
            while messages_in(bucket, "AI_USAGE") < number:
                bucket._call(bucket._client.request("ai.usage.w0-0", b"{}", 5))
            code, findings = doctor(**environ, AI_NATS_URL=server.url)
            (told,) = [f for f in findings if f["verdict"] == verdict]
            assert (code, told["subject"]) == (int(verdict == "wrong"), "AI_USAGE")
            assert "max_msgs" in told["what"]


def test_it_is_not_asked_where_it_is_not_used(doctor: Doctor, environ: dict[str, str]) -> None:
    code, findings = doctor(AI_PROVIDER_AUTHORITIES=environ["AI_PROVIDER_AUTHORITIES"])
    assert (code, nats_of(findings)[0][0]) == (0, "skipped")
