"""Metering alone: wrap any iterator of response bytes, and get a usage fact at its end.

For a program that calls providers itself and only wants to know, exactly, what each call used.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator

from aigw_core import Meter, OpenRecord, Outcome, UsageFact, Wire, usage_profile

FEED_MAX = 262_144
"""Bytes of one ``feed``."""


def metered(
    chunks: Iterable[bytes],
    on_fact: Callable[[UsageFact], None],
    *,
    provider: str,
    wire: Wire,
    tenant_id: int,
    status: int = 200,
    content_type: str = "application/json",
    content_encoding: str = "",
) -> Iterator[bytes]:
    """The same bytes, in the same pieces. ``on_fact`` is called once, however the iteration ends."""
    meter = Meter(wire, usage_profile(provider))
    meter.response_head(status, content_type.encode(), content_encoding.encode())
    started, size, outcome = time.monotonic(), 0, Outcome.CLIENT_ABORT
    try:
        for chunk in chunks:
            for at in range(0, len(chunk), FEED_MAX):
                meter.feed(chunk[at : at + FEED_MAX])
            size += len(chunk)
            yield chunk
        outcome = Outcome.COMPLETE if status < 400 else Outcome.UPSTREAM_ERROR
    except GeneratorExit:
        raise
    except BaseException:
        outcome = Outcome.UPSTREAM_ABORT
        raise
    finally:
        if meter.terminal:
            # Whoever leaves after the provider's last word has lost nothing.
            outcome = Outcome.COMPLETE
        meter.finish(outcome is Outcome.COMPLETE)
        found = meter.result()
        time_text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = OpenRecord(secrets.token_hex(16), time_text, tenant_id, 0, None, 0, provider, wire, "", None, None)
        on_fact(
            UsageFact(
                record,
                outcome,
                found.usage_status,
                duration_ms=round((time.monotonic() - started) * 1000),
                streaming=meter.event_stream,
                model=found.model,
                status=status,
                upstream_status=status,
                tokens=found.tokens,
                usage=found.usage,
                estimate=found.estimate,
                service_tier=found.service_tier,
                server_tool_calls=found.server_tool_calls,
                flags=found.flags,
                response_bytes=size,
            )
        )
