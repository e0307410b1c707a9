from __future__ import annotations

import anyio
import pytest

from aigw_anyio import httpd
from aigw_anyio.settings import ListenAddr
from aigw_anyio.workers.admin import PagesOfAll, Workers

pytestmark = pytest.mark.anyio
DEADLINE = 10.0
CROWD = 20


async def test_a_crowd_of_scrapes_costs_two() -> None:
    """The one under way when they ask, and one that has begun since."""
    scrapes = 0
    begun, may_end = anyio.Event(), anyio.Event()

    async def worker(_: httpd.Request, responder: httpd.Responder) -> None:
        nonlocal scrapes
        scrapes += 1
        begun.set()
        await may_end.wait()
        text = f"# TYPE aigw_facts_written_total counter\naigw_facts_written_total {scrapes}\n"
        await responder.reply(200, (), text.encode())

    listener = await httpd.listen("127.0.0.1", 0)
    workers = Workers([ListenAddr(*httpd.bound_address(listener))])
    pages = PagesOfAll(workers, lambda: True, lambda: 0)
    found: list[bytes] = []

    async def scrape() -> None:
        found.append((await pages.metrics_page(""))[1])

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(httpd.serve, listener, worker, httpd.Limits(8, 100))
            async with anyio.create_task_group() as scraping:
                scraping.start_soon(scrape)
                await begun.wait()
                for _ in range(CROWD):
                    scraping.start_soon(scrape)
                await anyio.wait_all_tasks_blocked()
                may_end.set()
            await workers.aclose()
            tasks.cancel_scope.cancel()
    assert scrapes == 2
    assert [b"aigw_facts_written_total 2.0" in page for page in found] == [False] + [True] * CROWD
