"""Junk virtual keys, well-formed and wrongly signed, as many as four connections carry.

Each costs the gateway a look at a signature, for which it has a budget. Callers with new keys must find room in that
budget all the same, on other connections and at other addresses; callers with known keys must not need any, not even
after a reload; and keys of unknown kids, which cost no such look, must use nothing up.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from aigw_core.keys import mint_virtual_key
from aigw_core.secrets import Secret
from tests.e2e import keys
from tests.e2e.client import Client, bearer, request
from tests.e2e.conftest import Starter
from tests.e2e.test_reload import reload

MODELS = "/openai/v1/models"
BUDGET = 48
"""Looks at signatures a second: small, so that a burst of this test is a flood."""
ELSEWHERE = "127.0.0.2"
"""The attacker's address where it is not that of the others."""
ENVIRON = {"AI_UNVERIFIED_RATE_LIMIT_RPS": str(BUDGET), "AI_RATE_LIMIT_RPS": "0"}


def foreign_key() -> str:
    """Well-formed, under a kid that no gateway here knows."""
    seed = Secret(bytes([9]) * 32)
    return mint_virtual_key(seed, kid=999, tenant_id=1, vpc_id=2, key_id=keys.number())


def statuses(client: Client, virtual_keys: Sequence[str]) -> list[int]:
    """The answers to one request with each of the keys, all of which are sent before any answer is read."""
    client.send(b"".join(request(MODELS, b"", bearer(key), method="GET") for key in virtual_keys))
    return [client.read_answer().status for _ in virtual_keys]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("connections", "source"), [(4, "127.0.0.1"), (64, ELSEWHERE)], ids=["same address", "other address"]
)
def test_new_keys_are_served_while_junk_comes(start: Starter, connections: int, source: str, workers: str) -> None:
    gateway = start({**ENVIRON, "AI_WORKERS": workers})
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(Client(gateway, source=source)) for _ in range(connections)]
        junk: Counter[int] = Counter()
        served: Counter[int] = Counter()
        for _ in range(15):
            for attacker in attackers:
                junk.update(statuses(attacker, [keys.forged_key() for _ in range(128 // connections)]))
            with Client(gateway) as caller:
                served.update(statuses(caller, [keys.virtual_key()]))
    assert served == {200: 15}
    assert junk.keys() == {401, 429}, "the flood is one: its budget ran out"


def test_keys_that_hold_cost_nothing(start: Starter) -> None:
    gateway = start({**ENVIRON, "AI_UNVERIFIED_RATE_LIMIT_RPS": "1"})
    with Client(gateway) as caller:
        assert statuses(caller, [keys.virtual_key() for _ in range(50)]) == [200] * 50


def test_known_keys_stay_known_over_a_reload(start: Starter) -> None:
    gateway = start({**ENVIRON, "AI_UNVERIFIED_RATE_LIMIT_RPS": "1"})
    known = [keys.virtual_key() for _ in range(40)]
    with Client(gateway) as attacker, Client(gateway) as caller:
        assert statuses(caller, known) == [200] * 40
        reload(gateway)
        served = []
        for key in known:
            statuses(attacker, [keys.forged_key()])
            served += statuses(caller, [key])
    assert served == [200] * 40


def test_a_kid_with_another_public_key_is_refused_at_once(start: Starter, tmp_path: Path) -> None:
    config = tmp_path / "aigw.toml"

    def write(signing_keys: str) -> None:
        config.write_text(f"[signing_keys]\n{signing_keys.strip('{}').replace(':', ' =')}\n")

    write(keys.SIGNING_KEYS)
    gateway = start({**ENVIRON, "AI_CONFIG": str(config), "AI_SIGNING_KEYS": ""})
    known = keys.virtual_key()
    with Client(gateway) as caller:
        assert statuses(caller, [known, keys.forged_key()]) == [200, 401]
        write(keys.OTHER_SIGNING_KEYS)
        reload(gateway)
        assert statuses(caller, [known, keys.forged_key()]) == [401, 200]


def test_unknown_kids_use_nothing_up(start: Starter) -> None:
    gateway = start({**ENVIRON, "AI_UNVERIFIED_RATE_LIMIT_RPS": "1"})
    with Client(gateway) as attacker, Client(gateway) as caller:
        for _ in range(10):
            assert statuses(attacker, [foreign_key() for _ in range(20)]) == [401] * 20
            assert statuses(caller, [keys.virtual_key()]) == [200]
