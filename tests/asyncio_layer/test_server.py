"""The asyncio data plane: what the end-to-end tests cannot see from outside."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aigw_anyio.plane import LOG_LINES_MAX
from aigw_anyio.settings import load_settings
from aigw_anyio.sinks import StdoutSink
from aigw_asyncio.server import AsyncioDataPlane
from aigw_core.stats import ExchangeLog
from tests.core.driver import make_gateway


def _failure(number: int) -> ExchangeLog:
    return ExchangeLog(f"{number:032x}", "openai", "messages", "bad_key", 401, None, 0)


def test_a_flood_of_failures_is_counted_not_written(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "aigw.exchange")

    async def flood() -> None:
        settings, _ = load_settings(config=None, environ={})
        plane = AsyncioDataPlane(make_gateway(), StdoutSink(), settings)
        plane.loop = _Clock(plane.loop)  # type: ignore[assignment]  # only its time is asked for
        for number in range(3 * LOG_LINES_MAX):
            plane.failures.append(_failure(number))
        plane.log_failures()
        assert len(caplog.records) == LOG_LINES_MAX
        assert not plane.failures
        _Clock.now += 1.0
        plane.failures.append(_failure(0))
        plane.log_failures()
        await plane.aclose()

    asyncio.run(flood())
    summary, line = caplog.records[LOG_LINES_MAX:]
    assert summary.getMessage() == "failures not logged one by one"
    assert vars(summary)["fields"] == {"count": 2 * LOG_LINES_MAX}
    assert line.getMessage() == "bad_key"


class _Clock:
    now = 100.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        return self.now
