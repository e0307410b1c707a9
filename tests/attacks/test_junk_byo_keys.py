"""Random keys of a provider's kind, ``sk-…``, that the gateway cannot check and so passes on.

Callers with good keys of their own must be served meanwhile, at other addresses and on other connections of the same
one; what the provider refuses again and again must stop leaving the gateway; and an operator who wants virtual keys
only can say so.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import pytest

from aigw_core.strangers import REFUSALS_MAX
from tests.e2e import keys
from tests.e2e.calls import BODY, CHAT, JSON_TYPE, MESSAGES
from tests.e2e.client import Answer, Client, bearer, request
from tests.e2e.conftest import Starter
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Case, Provider, Received, Script
from tests.e2e.test_reload import reload

LIMIT = 64
"""Requests a second of all BYO callers: small, so that a burst of this test is a flood."""
ELSEWHERE = "127.0.0.2"
GOOD = "sk-good-"


def junk_key() -> str:
    return f"sk-junk-{keys.number()}"


def good_key() -> str:
    return f"{GOOD}{keys.number()}"


def by_key(received: Received) -> None:
    """A provider that accepts good keys and refuses all others."""
    received.read()
    (value,) = received.values(b"authorization")
    is_good = GOOD.encode() in value
    status, body = (b"200 OK", b'{"ok": true}') if is_good else (b"401 Unauthorized", b'{"error": "bad key"}')
    received.connection.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


def forbidding(received: Received) -> None:
    """One that says 403 of a key, and shows its body after its head."""
    received.read()
    body = b'{"error": {"reason": "API_KEY_INVALID"}}'
    received.connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body))
    received.connection.send(body)


def call(case: Case, key: str) -> bytes:
    return request(CHAT, BODY, bearer(key), JSON_TYPE, case.header)


def ask(client: Client, case: Case, key: str) -> Answer:
    client.send(call(case, key))
    return client.read_answer()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("connections", "source"), [(4, "127.0.0.1"), (64, ELSEWHERE)], ids=["same address", "other address"]
)
def test_good_keys_are_served_while_junk_comes(
    start: Starter, provider: Provider, connections: int, source: str, workers: str
) -> None:
    """The provider answers 200 to everybody here, so that shares alone protect."""
    gateway = start({"AI_BYO_RATE_LIMIT_RPS": str(LIMIT), "AI_WORKERS": workers})
    case = provider.case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    junk: Counter[int] = Counter()
    served: Counter[int] = Counter()
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(Client(gateway, source=source)) for _ in range(connections)]
        for _ in range(12):
            for attacker in attackers:
                attacker.send(b"".join(call(case, junk_key()) for _ in range(128 // connections)))
            for attacker in attackers:
                junk.update(attacker.read_answer().status for _ in range(128 // connections))
            with Client(gateway) as caller:
                served[ask(caller, case, good_key()).status] += 1
    assert served == {200: 12}
    assert junk.keys() == {200, 429}, "the flood is one: its shares ran out"


@pytest.mark.parametrize("script", [by_key, forbidding], ids=["401", "403"])
def test_what_the_provider_refuses_stops_leaving(start: Starter, provider: Provider, script: Script) -> None:
    gateway = start()
    case = provider.case(script)
    with Client(gateway, source=ELSEWHERE) as attacker, Client(gateway) as caller:
        refused = [ask(attacker, case, junk_key()) for _ in range(REFUSALS_MAX + 1)]
        assert {answer.status for answer in refused} <= {401, 403}
        waiting = [ask(attacker, case, junk_key()) for _ in range(20)]
        # The first wait is a second, so that some of these may be one request of the next round.
        assert [answer.status for answer in waiting].count(429) >= 18
        told = next(answer for answer in waiting if answer.status == 429)
        assert told.values(b"retry-after") in ([b"1"], [b"2"])
        assert told.json()["error"]["code"] == "provider_refuses_keys"
        assert len(case.received) <= REFUSALS_MAX + 3
        assert ask(caller, case, junk_key()).status != 429, "another address does not wait"


def test_a_key_that_works_does_not_wait_for_the_junk_beside_it(start: Starter, provider: Provider) -> None:
    gateway = start()
    case = provider.case(by_key)
    known = good_key()
    with Client(gateway) as attacker, Client(gateway) as caller:
        assert ask(caller, case, known).status == 200
        for _ in range(5 * REFUSALS_MAX):
            ask(attacker, case, junk_key())
        assert 429 in [ask(attacker, case, junk_key()).status for _ in range(3)]
        assert [ask(caller, case, known).status for _ in range(10)] == [200] * 10
        assert ask(attacker, case, known).status == 200, "it is the key that counts, not the connection"


def test_one_wrong_key_makes_nobody_else_wait(start: Starter, provider: Provider) -> None:
    gateway = start()
    case = provider.case(by_key)
    wrong = junk_key()
    with Client(gateway) as caller:
        for _ in range(REFUSALS_MAX + 1):
            assert ask(caller, case, wrong).status == 401
        assert 429 in [ask(caller, case, wrong).status for _ in range(3)]
        assert ask(caller, case, good_key()).status == 200


# Virtual keys only


def refusals(gateway: Gateway, case: Case) -> list[Answer]:
    """Callers without a virtual key, in both dialects and without any key at all."""
    with Client(gateway) as client:
        answers = [ask(client, case, good_key())]
        client.send(request(MESSAGES, BODY, (b"x-api-key", b"sk-ant-1"), JSON_TYPE, case.header))
        answers.append(client.read_answer())
        client.send(request(CHAT, BODY, JSON_TYPE, case.header))
        return [*answers, client.read_answer()]


def test_an_operator_may_want_virtual_keys_only(start: Starter, provider: Provider) -> None:
    gateway = start({"AI_BYO": "refuse"})
    case = provider.case(by_key)
    openai, anthropic, keyless = refusals(gateway, case)
    assert [answer.status for answer in (openai, anthropic, keyless)] == [401] * 3
    assert openai.json()["error"]["code"] == keyless.json()["error"]["code"] == "virtual_key_required"
    assert anthropic.json()["error"]["type"] == "authentication_error"
    assert all("virtual key" in answer.json()["error"]["message"] for answer in (openai, anthropic, keyless))
    assert case.received == []
    with Client(gateway) as client:
        client.send(request("/openai/v1/models", b"", bearer(keys.virtual_key()), method="GET"))
        assert client.read_answer().status == 200


def test_a_reload_changes_it_for_the_next_request(start: Starter, provider: Provider, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"
    config.write_text('byo = "allow"\n')
    gateway = start({"AI_CONFIG": str(config)})
    case = provider.case(by_key)
    key = good_key()
    with Client(gateway) as client:
        assert ask(client, case, key).status == 200
        config.write_text('byo = "refuse"\n')
        reload(gateway)
        assert ask(client, case, key).status == 401
        config.write_text('byo = "allow"\n')
        reload(gateway)
        assert ask(client, case, key).status == 200
