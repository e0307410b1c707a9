"""Bodies of a few kilobytes that take long to read: compressed, and full of values nested just too deep for comfort.

The tenant sends megabytes of `"b":[[[1]]]` in few compressed bytes, or the same plain. Reading them must go on
in turns with everybody else, cost little more than other JSON, and end in 200 or 400 with a fact.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import select
from collections.abc import Callable
from typing import Final

import pytest

from tests.e2e import answers, keys
from tests.e2e.calls import ask, call
from tests.e2e.client import Client
from tests.e2e.conftest import Starter
from tests.e2e.fleet import environment
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider

WIRES: Final = ("/openai/v1/responses", "/anthropic/v1/messages")
GZIP: Final = (b"Content-Encoding", b"gzip")
ATTACKERS: Final = 8
"""Requests at a time, which together are some forty decoded megabytes."""
OTHERS: Final = 5


def dense(size: int, member: str = '"b":[[[%d]]]', seed: int = 1) -> bytes:
    """A request whose members are nested where no reader likes it; numbers keep its compression honest."""
    dice = random.Random(seed)
    members = ",".join(member % dice.randrange(10) for _ in range(size // len(member)))
    return b'{"model":"m","input":"x","max_tokens":1,"messages":[{"role":"user","content":"x"}],%b}' % members.encode()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("wire", WIRES)
def test_compressed_bodies_are_read_in_turns_with_everybody_else(
    start: Starter, provider: Provider, wire: str, workers: str
) -> None:
    gateway = start({**environment(provider), "AI_RATE_LIMIT_RPS": "0", "AI_WORKERS": workers})
    body = gzip.compress(dense(5_000_000))
    assert len(body) < 2_000_000
    greedy = keys.virtual_key(31_001)
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(Client(gateway)) for _ in range(ATTACKERS * int(workers))]
        for attacker in attackers:
            attacker.send(call(provider.case(answers.by_path), GZIP, target=wire, key=greedy, body=body))
        for _ in range(OTHERS):
            assert ask(gateway, provider.case(answers.by_path), key=keys.virtual_key(31_002)).status == 200
        waiting, _, _ = select.select([attacker.sock for attacker in attackers], [], [], 0)
        assert len(waiting) < len(attackers), "the others were served while bodies of the attacker were still read"
        statuses = {attacker.read_answer().status for attacker in attackers}
    assert statuses == {200}
    assert gateway.stop() == 0
    facts = [fact for fact in gateway.facts().values() if fact["tenant_id"] == "31001"]
    assert [fact["outcome"] for fact in facts] == ["complete"] * len(attackers)
    assert {fact["requested_model"] for fact in facts} == {"m"}


@pytest.mark.parametrize("wire", WIRES)
def test_a_bomb_ends_early(gateway: Gateway, provider: Provider, wire: str) -> None:
    body = gzip.compress(b'{"model":"m","input":"x","b":"' + b"[[[1]]]," * 4_000_000 + b'"}')
    assert len(body) < 64_000
    answer = ask_encoded(gateway, provider, wire, body)
    fact = gateway.fact(answer[1])
    if wire == WIRES[0]:
        assert answer[0] == 400, "where a rule is in force, a body that cannot be read is refused"
        assert fact["outcome"] == "refused"
    else:
        assert answer[0] == 200
        assert fact["usage_status"] == "final"


def ask_encoded(gateway: Gateway, provider: Provider, wire: str, body: bytes) -> tuple[int, str]:
    with Client(gateway) as client:
        client.send(call(provider.case(answers.by_path), GZIP, target=wire, body=body))
        answer = client.read_answer()
    return answer.status, answer.request_id


@pytest.mark.parametrize(
    "member", ['"b":[[[%d]]]', '"b":[[%d]]', '"":{"":{"":{"":%d}}}', '"model":"m%d"', '"b":[[[[[[[[%d]]]]]]]]']
)
@pytest.mark.parametrize("encode", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_such_body_has_an_answer_and_a_fact(
    gateway: Gateway, provider: Provider, member: str, encode: Callable[[bytes], bytes]
) -> None:
    body = dense(60_000, member)
    fields = [GZIP] if encode is not bytes else []
    with Client(gateway) as client:
        client.send(call(provider.case(answers.by_path), *fields, target=WIRES[0], body=encode(body)))
        answer = client.read_answer()
    fact = gateway.fact(answer.request_id)
    refused = member.startswith('"model"') and encode is not bytes
    assert (answer.status, fact["outcome"]) == ((400, "refused") if refused else (200, "complete"))
    if not refused:
        assert fact["requested_model"] == json.loads(body)["model"]
