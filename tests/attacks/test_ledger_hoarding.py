"""One tenant begins uploads and never ends them, until the ledger has no room for anybody's fact.

The tenant sends the head of a request and the first bytes of its body, on a thousand connections. It must get 503
once it holds a quarter of the room that others do not hold; everybody else is served, and the exchanges that the
tenant does end leave their facts.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.e2e import answers, keys
from tests.e2e.calls import ask, begun
from tests.e2e.client import Client
from tests.e2e.conftest import Starter
from tests.e2e.crash import facts_in
from tests.e2e.fleet import environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Case, Provider

LEDGER_BYTES = 32 * 1024 * 1024
"""``spool_max_bytes``: room for two segments, so for some 1,020 facts that are still due."""
SHARE = range(230, 260)
"""Open records that a quarter of it is: heads of segments and what the others hold take some."""
UPLOADS = 1_100
"""For each worker: more than the whole ledger."""
GREEDY, OTHERS = 1_001, range(2_000, 2_010)


def hoarding_environment(provider: Provider, directory: Path, workers_count: int) -> dict[str, str]:
    return {
        **environment(provider),
        "AI_FACT_SINK": "spool",
        "AI_SPOOL_DIR": str(directory),
        "AI_SPOOL_MAX_BYTES": str(LEDGER_BYTES),
        "AI_WORKERS": str(workers_count),
        "AI_RATE_LIMIT_RPS": "0",
        "AI_UNVERIFIED_RATE_LIMIT_RPS": "0",
        "AI_LOG_LEVEL": "warning",
    }


def begin_uploads(gateway: Gateway, case: Case, stack: contextlib.ExitStack, workers_count: int) -> None:
    """Returns when each of them was admitted or refused."""
    key, count = keys.virtual_key(GREEDY), UPLOADS * workers_count
    for _ in range(count):
        client = stack.enter_context(Client(gateway))
        client.send(begun(case, 100_000, b"{", key=key))
    names = ("aigw_facts_outstanding", "aigw_facts_refused_total", "aigw_facts_refused_by_share_total")
    wait_until(lambda: sum(gateway.metrics(names)) == count, "each upload is admitted or refused")
    admitted, without_room, _ = gateway.metrics(names)
    assert (admitted // workers_count in SHARE, without_room) == (True, 0)


@pytest.mark.parametrize("workers_count", [1, 2])
def test_unfinished_uploads_of_one_tenant_leave_room_for_the_others(
    backend: str, provider: Provider, start: Starter, tmp_path: Path, workers_count: int
) -> None:
    directory = tmp_path / "spool"
    gateway = start(hoarding_environment(provider, directory, workers_count))
    case = provider.case(answers.by_path)
    with contextlib.ExitStack() as stack:
        # With workers the share is of the room of each.
        begin_uploads(gateway, case, stack, workers_count)
        for tenant in OTHERS:
            assert ask(gateway, case, key=keys.virtual_key(tenant)).status == 200
        refusal = ask(gateway, case, key=keys.virtual_key(GREEDY))
        assert refusal.status == 503
        assert refusal.json()["error"]["code"] == "usage_ledger"
        gateway.wait_log("a tenant holds its share of the room for facts")
    wait_until(lambda: gateway.metric("aigw_facts_outstanding") == 0, "the uploads are over")
    assert ask(gateway, case, key=keys.virtual_key(GREEDY)).status == 200, "the tenant is served again"
    assert gateway.stop() == 0
    facts = facts_in(directory)
    others = [fact["outcome"] for fact in facts if int(fact["tenant_id"]) in OTHERS]
    assert others == ["complete"] * len(OTHERS)
    greedy = [fact["outcome"] for fact in facts if int(fact["tenant_id"]) == GREEDY]
    assert greedy.count("complete") == 1
    assert set(greedy) <= {"complete", "client_abort"}
