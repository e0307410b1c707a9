"""One usage fact for every managed request, and none for anything else."""

from __future__ import annotations

import gzip
import json
import re
import time

from tests.e2e import answers, keys
from tests.e2e.calls import BODY, STREAMED, ask, call
from tests.e2e.client import Client, bearer, request
from tests.e2e.fleet import environment
from tests.e2e.gateway import FACT_FIELDS, Fact, Gateway, wait_until
from tests.e2e.provider import Provider


def settled(server: Gateway) -> dict[str, Fact]:
    """Every fact so far, after one that is certainly the last of them was seen."""
    server.fact(ask(server).request_id)
    return dict(server.facts())


def test_every_member_of_a_fact(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    before = time.time()
    answer = ask(gateway, case, key=keys.virtual_key(tenant=2**63, key_id=2**64 - 1))
    fact = gateway.fact(answer.request_id)
    assert tuple(fact) == FACT_FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fact["time"])
    assert abs(int(answer.request_id[:12], 16) / 1000 - before) < 60, "ids begin with the time"
    assert 0 <= fact["ttft_ms"] <= fact["duration_ms"] < 60_000
    variable = ("id", "time", "duration_ms", "ttft_ms")
    assert {name: value for name, value in fact.items() if name not in variable} == {
        "v": 1,
        "tenant_id": str(2**63),
        "vpc_id": "3",
        "key_id": str(2**64 - 1),
        "kid": keys.KID,
        "provider": "openai",
        "wire": "chat_completions",
        "endpoint": "/v1/chat/completions",
        "streaming": False,
        "requested_model": "gpt-5.4-mini",
        "model": "gpt-5.4-mini-2026-03-01",
        "status": 200,
        "upstream_status": 200,
        "upstream_request_id": "req_upstream_1",
        "outcome": "complete",
        "usage_status": "final",
        "tokens": {**answers.CHAT_TOKENS, "input_audio": 0},
        "usage": answers.CHAT_USAGE,
        "estimate": None,
        "service_tier": "default",
        "server_tool_calls": None,
        "flags": [],
        "deny_revision": None,
        "deny_stale_ms": None,
        "request_bytes": len(BODY),
        "response_bytes": len(answer.body),
    }


def test_requests_on_one_connection_leave_one_fact_each(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    before = set(settled(gateway))
    ids = []
    with Client(gateway) as client:
        for body in (BODY, STREAMED, BODY):
            client.send(call(case, body=body))
            ids.append(client.read_answer().request_id)
    facts = settled(gateway)
    new = [one for one in facts if one not in before]
    assert new[:-1] == ids, "in the order in which they ended"
    assert [facts[one]["streaming"] for one in ids] == [False, True, False]


def test_own_keys_and_refusals_leave_none(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    before = set(settled(gateway))
    statuses = [
        ask(gateway, case, key=keys.BYO_KEY).status,
        ask(gateway, case, key=keys.BYO_KEY, body=STREAMED).status,
        ask(gateway, case, key=keys.forged_key()).status,
        ask(gateway, case, target="/openai/v1/files").status,
        ask(gateway, case, target="/nobody/v1/models").status,
        ask(gateway, case, target=f"/openai/v1/chat/completions?key={keys.virtual_key()}").status,
    ]
    assert statuses == [200, 200, 401, 404, 404, 400]
    assert len(set(settled(gateway)) - before) == 1, "the marker's own"


def test_wires_without_usage(gateway: Gateway) -> None:
    with Client(gateway) as client:
        client.send(request("/openai/v1/models", b"", bearer(keys.virtual_key()), method="GET"))
        answer = client.read_answer("GET")
    fact = gateway.fact(answer.request_id)
    assert (fact["wire"], fact["outcome"], fact["usage_status"]) == ("models", "complete", "none")
    assert (fact["usage"], fact["tokens"], fact["estimate"]) == (None, {}, None)


def test_a_compressed_answer_is_relayed_as_it_is_and_metered(gateway: Gateway, provider: Provider) -> None:
    packed = gzip.compress(json.dumps(answers.chat_completion({})).encode(), mtime=0)
    case = provider.case(answers.plain("200 OK", packed, ("Content-Encoding", "gzip")))
    answer = ask(gateway, case)
    assert answer.body == packed
    fact = gateway.fact(answer.request_id)
    assert (fact["usage"], fact["usage_status"]) == (answers.CHAT_USAGE, "final")
    assert case.received[0].values(b"accept-encoding") == [b"identity"]


def test_a_billable_answer_without_numbers_is_absent(gateway: Gateway, provider: Provider) -> None:
    document = {**answers.chat_completion({}), "usage": None}
    fact = gateway.fact(ask(gateway, provider.case(answers.json_answer(document))).request_id)
    assert (fact["outcome"], fact["usage_status"], fact["usage"], fact["tokens"]) == ("complete", "absent", None, {})
    assert set(fact["estimate"]) == {"input", "output", "method"}


def test_no_fact_is_dropped_where_nobody_reads_them(backend: str, provider: Provider) -> None:
    """Room is promised before a request is served: without room it is refused, and what was served is recorded."""
    padding = {f"detail_{n}": 10**15 for n in range(800)}
    large = provider.case(answers.json_answer({**answers.chat_completion({}), "usage": answers.CHAT_USAGE | padding}))
    gateway = Gateway(backend, {**environment(provider), "AI_RATE_LIMIT_RPS": "0"}, holds_facts=True)
    try:
        served = []
        with Client(gateway) as client:
            for _ in range(5000):
                client.send(call(large))
                answer = client.read_answer()
                if answer.status != 200:
                    break
                served.append(answer.request_id)
            assert answer.status == 503
            assert answer.json()["error"]["code"] == "usage_ledger"
            assert answer.values(b"retry-after") == [b"1"]
            assert json.loads(gateway.admin("/readyz")[1])["status"] == "degraded"
            assert ask(gateway, large, key=keys.BYO_KEY).status == 200, "who is not recorded needs no room"
            gateway.read_facts()
            wait_until(lambda: len(gateway.stdout) == len(served), "every fact of a request that was served")
            client.send(call(large))
            answer = client.read_answer()
            assert answer.status == 200
            served.append(answer.request_id)
    finally:
        code = gateway.stop()
    assert code == 0
    assert list(gateway.facts()) == served


def test_a_body_that_strikes_a_rule_leaves_a_fact_and_reaches_nobody(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    body = json.dumps({"model": "gpt-5.4-mini", "input": "Hello", "background": True}).encode()
    answer = ask(gateway, case, body, target="/openai/v1/responses")
    assert answer.status == 400
    assert "background" in answer.json()["error"]["message"].lower()
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage_status"], fact["status"]) == ("refused", "none", 400)
    assert fact["upstream_status"] is None
    assert fact["requested_model"] == "gpt-5.4-mini"
    assert case.received == []
