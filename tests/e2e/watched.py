"""A gateway with everything that can be watched, and traffic of every kind through it."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Final

import trustme
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e import answers, keys
from tests.e2e.calls import BODY, CHAT, JSON_TYPE, MESSAGES, STREAMED, ask, call
from tests.e2e.client import Client, bearer, request
from tests.e2e.fleet import Refusing, Silent, environment
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider, Received
from tests.nats.bucket import Bucket
from tests.nats.server import NatsServer

RATE_LIMIT: Final = 5


class Watched:
    """NATS for the deny-set and the facts, providers that answer and such that do not."""

    def __init__(self, backend: str, provider: Provider, directory: Path) -> None:
        self.provider = provider
        self.nats = NatsServer(directory / "nats").start()
        with Bucket(self.nats.url) as bucket:
            bucket.create()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("elsewhere.test").configure_cert(context)
        self.secure = Provider(context)
        self.refusing, self.silent = Refusing(), Silent()
        authorities = {
            "openai": provider.url,
            "anthropic": provider.url,
            "refusing": self.refusing.url,
            "silent": self.silent.url,
            "nowhere": "http://nowhere.invalid",
            "untrusted": self.secure.url,
        }
        environ = environment(
            provider,
            AI_PROVIDER_AUTHORITIES=json.dumps(authorities),
            AI_ALLOW_PLAIN_UPSTREAM="true",
            AI_NATS_URL=self.nats.url,
            AI_FACT_SINK="nats",
            AI_SPOOL_DIR=str(directory / "spool"),
            AI_SNAPSHOT_PATH=str(directory / "snapshot"),
            AI_RATE_LIMIT_RPS=str(RATE_LIMIT),
            AI_CONNECT_TIMEOUT_SECS="0.3",
            **{f"AI_POOL_KEY_{name.upper()}": keys.pool_key(name) for name in authorities},
        )
        try:
            self.gateway = Gateway(backend, environ, module="tests.e2e.watched_server")
        except BaseException:
            self.nats.stop()
            raise
        wait_until(lambda: '"deny": "live"' in self.gateway.admin("/readyz")[1], "the feed is live")

    def close(self) -> None:
        assert self.gateway.stop() == 0
        assert self.gateway.faults() == []
        self.secure.close()
        self.refusing.close()
        self.silent.close()
        self.nats.stop()

    def families(self) -> dict[str, Metric]:
        """By name as exposed."""
        status, text = self.gateway.admin("/metrics")
        assert status == 200
        found = text_string_to_metric_families(text)
        return {f"{metric.name}_total" if metric.type == "counter" else metric.name: metric for metric in found}

    def serve_everything(self) -> None:
        """Every kind of end once; where that is over, everything has been counted."""
        gateway, provider = self.gateway, self.provider
        for body in (BODY, STREAMED):
            for target in (CHAT, MESSAGES):
                assert ask(gateway, target=target, body=body).status == 200
                assert _byo(gateway, target, body) == 200
        self._leave()
        for answer in (_FAILING, _INCONSISTENT, _SILENT_ABOUT_USAGE):
            ask(gateway, provider.case(answer))
        assert _byo(gateway, "/openai/v1/files", BODY) == 404
        for name, status in (("refusing", 502), ("nowhere", 502), ("untrusted", 502), ("silent", 504)):
            assert ask(gateway, target=f"/{name}/v1/chat/completions").status == status
        assert ask(gateway, key=keys.forged_key()).status == 401
        background = json.dumps({"model": "m", "input": "x", "background": True}).encode()
        assert ask(gateway, target="/openai/v1/responses", body=background).status == 400
        key = keys.virtual_key()
        assert 429 in [ask(gateway, key=key).status for _ in range(3 * RATE_LIMIT)]
        wait_until(lambda: gateway.metric("aigw_exchanges") == 0, "every exchange is over")

    def _leave(self) -> None:
        """A caller who goes while the answer comes; meanwhile it is seen as a stream."""
        case = self.provider.case(_linger)
        with Client(self.gateway) as client:
            client.send(call(case, body=STREAMED))
            client.read_until(b"data: ")
            assert self.gateway.metric("aigw_streams") == 1
            assert self.gateway.metric("aigw_exchanges") == 1
            assert self.gateway.metric("aigw_connections") == 1


def _byo(gateway: Gateway, target: str, body: bytes) -> int:
    with Client(gateway) as client:
        client.send(request(target, body, bearer(keys.BYO_KEY), JSON_TYPE))
        return client.read_answer().status


def _linger(received: Received) -> None:
    received.read()
    received.connection.send(answers.STREAM_HEAD + answers.chunk(answers.chat_events({})[0]))
    received.connection.wait_closed()


_FAILING: Final = answers.json_answer({"error": {"message": "no"}}, "500 Internal Server Error")
_INCONSISTENT: Final = answers.json_answer(
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 99}}
)
_SILENT_ABOUT_USAGE: Final = answers.json_answer({"choices": []})
