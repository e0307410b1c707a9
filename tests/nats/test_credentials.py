"""A credentials file: a login that expires ends a client of nats-py for good, and the feed only until it is renewed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from aigw_anyio.nats.options import parse_nats_url
from aigw_core.secrets import Secret
from tests.nats.bucket import Bucket
from tests.nats.feedrun import FeedRun, run
from tests.nats.operator import Operator
from tests.nats.server import NatsServer


def test_an_expired_login_is_taken_up_again_when_it_is_renewed(
    new_server: Callable[..., NatsServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operator = Operator()
    server = new_server(operator.config)
    admin, creds = tmp_path / "admin.creds", tmp_path / "gateway.creds"
    operator.write_creds(admin)
    operator.write_creds(creds, valid_secs=3)
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        with Bucket(server.url, user_credentials=str(admin)) as bucket:
            bucket.create()
            bucket.put("blackhole.1", "spend")
            async with FeedRun(parse_nats_url(Secret(server.url), creds_file=creds)) as feed:
                await feed.until_held({1})
                await feed.until(lambda: feed.control.read_stats().failures >= 3, "expired, and refused since")
                assert feed.state == "reconnecting"
                assert feed.held == {1}
                await asyncio.to_thread(bucket.put, "blackhole.2", "spend")
                operator.write_creds(creds)
                await feed.until_held({1, 2})

    run(main)
    reasons = {str(getattr(record, "fields", {}).get("reason", "")).lower() for record in caplog.records}
    assert any("expired" in reason for reason in reasons), reasons
    assert "BEGIN" not in caplog.text
    seed = creds.read_text().split("SEED-----\n")[1].split("\n")[0]
    assert seed not in caplog.text
