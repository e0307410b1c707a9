"""The asyncio data plane: what the end-to-end tests cannot see from outside."""

from __future__ import annotations

import asyncio
import gc
import logging

import anyio
import pytest

from aigw_anyio.plane import LOG_LINES_MAX
from aigw_anyio.settings import load_settings
from aigw_anyio.sinks import StdoutSink
from aigw_asyncio.downstream import Downstream
from aigw_asyncio.server import AsyncioDataPlane
from aigw_core.connection import Connection
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


def test_a_closed_connection_needs_no_collector() -> None:
    """Its memory is free at once; the collector looks so rarely that ten thousand connections may wait for it."""

    def count() -> int:
        return sum(type(thing) in {Connection, Downstream} for thing in gc.get_objects())

    async def serve() -> tuple[int, int]:
        settings, _ = load_settings(config=None, environ={"AI_LISTEN_ADDR": "127.0.0.1:0"})
        plane = AsyncioDataPlane(make_gateway(), StdoutSink(), settings)
        async with anyio.create_task_group() as tasks:
            host, port = await plane.start(tasks)
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 4")
            open_ones = count()
            writer.close()
            while plane.connections:
                await asyncio.sleep(0)
            closed_ones = count()
            await plane.aclose()
            tasks.cancel_scope.cancel()
        return open_ones, closed_ones

    gc.collect()
    before = count()
    gc.disable()
    try:
        open_ones, closed_ones = asyncio.run(serve())
    finally:
        gc.enable()
    assert (open_ones - before, closed_ones - before) == (2, 0)


def test_an_access_log_has_every_exchange(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aigw")

    async def serve() -> None:
        settings, _ = load_settings(config=None, environ={"AI_ACCESS_LOG": "true"})
        gateway = make_gateway()
        plane = AsyncioDataPlane(gateway, StdoutSink(), settings)
        assert gateway.stats.logs_all
        for number in range(2 * LOG_LINES_MAX):
            plane.failures.append(_failure(number))
        done = ExchangeLog("1", "openai", "messages", "complete", 200, 200, 12, caller="managed", ttft_ms=7)
        plane.failures.append(done)
        plane.log_failures()
        await plane.aclose()

    asyncio.run(serve())
    assert len(caplog.records) == 2 * LOG_LINES_MAX + 1
    last = caplog.records[-1]
    assert (last.name, last.levelname, last.getMessage()) == ("aigw.access", "INFO", "complete")
    assert vars(last)["fields"] == {
        "request_id": "1",
        "trace_id": None,
        "provider": "openai",
        "wire": "messages",
        "caller": "managed",
        "status": 200,
        "upstream_status": 200,
        "duration_ms": 12,
        "ttft_ms": 7,
        "request_bytes": 0,
        "response_bytes": 0,
        "detail": None,
    }


class _Clock:
    now = 100.0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize("how", ["class", "object"])
def test_a_loop_with_a_clock_of_its_own_is_asked(how: str) -> None:
    """Machines and timers must go by one clock."""

    class Own(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return super().time() + 1_000.0

    async def ask() -> tuple[float, float]:
        settings, _ = load_settings(config=None, environ={})
        plane = AsyncioDataPlane(make_gateway(), StdoutSink(), settings)
        found = plane.loop_time(), plane.now()
        await plane.aclose()
        return found

    loop: asyncio.AbstractEventLoop = Own() if how == "class" else asyncio.new_event_loop()
    if how == "object":
        plain = loop.time
        loop.time = lambda: plain() + 1_000.0  # type: ignore[method-assign]
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        asked, told = runner.run(ask())
    assert abs(asked - told) < 500.0
