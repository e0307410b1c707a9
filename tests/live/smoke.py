"""What must hold with a real provider, through the real gateway: a few cheap calls, and the facts that they leave.

``AIGW_LIVE_KEY_<PROVIDER>`` names a key of one's own and asks for the calls; ``AIGW_LIVE_MODEL_<PROVIDER>`` names
another model than the one below. All calls together take some hundred tokens of each provider.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Final

from tests.e2e import keys
from tests.e2e.client import Answer, Client, bearer, request
from tests.e2e.gateway import Fact, Gateway

MODELS: Final = {
    "openai": "gpt-5.4-mini",
    "anthropic": "claude-haiku-4-5",
    "openrouter": "openai/gpt-5.4-mini",
    "fireworks": "accounts/fireworks/models/gpt-oss-20b",
    "groq": "openai/gpt-oss-20b",
    "deepseek": "deepseek-chat",
    "together": "openai/gpt-oss-20b",
    "cerebras": "gpt-oss-120b",
    "mistral": "mistral-small-latest",
    "xai": "grok-3-mini",
}
"""Cheap ones. Providers retire models: a 404 here says to name another."""
TOKENS_MAX: Final = 64
PROMPT: Final = "Answer with the one word: pong"


def live_key(provider: str) -> str | None:
    return os.environ.get(f"AIGW_LIVE_KEY_{provider.upper()}")


def model_of(provider: str) -> str:
    return os.environ.get(f"AIGW_LIVE_MODEL_{provider.upper()}") or MODELS[provider]


def environment(provider: str, key: str) -> dict[str, str]:
    """Of a gateway that reaches this provider as it is configured by default."""
    return {"AI_SIGNING_KEYS": keys.SIGNING_KEYS, f"AI_POOL_KEY_{provider.upper()}": key, "AI_LOG_LEVEL": "debug"}


@dataclass
class Smoke:
    """Raises AssertionError where something does not hold."""

    gateway: Gateway
    provider: str
    base: str
    """What stands between the provider's name and the wire's path."""
    model: str

    @property
    def is_messages(self) -> bool:
        return self.provider == "anthropic"

    def run(self) -> None:
        self.list_models()
        self.whole()
        self.streamed()
        self.unknown_model()

    def list_models(self) -> None:
        answer = self._send("GET", "/models", b"")
        assert answer.status == 200, _told(answer)
        assert answer.json(), "the list is empty"

    def whole(self) -> None:
        answer = self._ask()
        assert answer.status == 200, _told(answer)
        fact = self.gateway.fact(answer.request_id)
        self._check(fact)
        assert fact["streaming"] is False
        assert fact["usage"] == self._usage(answer.json()), "the fact states what the answer states"
        assert fact["response_bytes"] == len(answer.body)

    def streamed(self) -> None:
        answer = self._ask(stream=True)
        assert answer.status == 200, _told(answer)
        assert answer.complete
        fact = self.gateway.fact(answer.request_id)
        self._check(fact)
        assert fact["streaming"] is True
        assert fact["ttft_ms"] <= fact["duration_ms"]
        # What was asked for on the caller's behalf is not shown to it.
        events = [line for line in answer.body.split(b"\n") if line.startswith(b"data: {")]
        lone = [e for e in map(_event, events) if e.get("choices") == [] and e.get("usage")]
        assert lone == [] or self.provider not in ("openai", "xai", "fireworks", "cerebras")

    def unknown_model(self) -> None:
        answer = self._ask(model="no-such-model-of-anybody")
        assert 400 <= answer.status < 500, _told(answer)
        fact = self.gateway.fact(answer.request_id)
        assert (fact["outcome"], fact["usage_status"]) == ("upstream_error", "none")
        assert fact["upstream_status"] == answer.status

    def _ask(self, *, stream: bool = False, model: str = "") -> Answer:
        body: dict[str, Any] = {"model": model or self.model, "messages": [{"role": "user", "content": PROMPT}]}
        # Newer models of OpenAI take no max_tokens.
        body["max_completion_tokens" if self.provider == "openai" else "max_tokens"] = TOKENS_MAX
        if stream:
            body["stream"] = True
        return self._send("POST", "/messages" if self.is_messages else "/chat/completions", json.dumps(body).encode())

    def _send(self, method: str, path: str, body: bytes) -> Answer:
        fields = [(b"Content-Type", b"application/json"), (b"User-Agent", b"aigw-smoke")]
        if self.is_messages:
            fields.append((b"anthropic-version", b"2023-06-01"))
        target = f"/{self.provider}{self.base}{path}"
        with Client(self.gateway) as client:
            client.send(request(target, body, bearer(keys.virtual_key()), *fields, method=method))
            return client.read_answer()

    def _check(self, fact: Fact) -> None:
        assert (fact["outcome"], fact["usage_status"]) == ("complete", "final")
        assert fact["provider"] == self.provider
        assert fact["requested_model"] == self.model
        assert fact["model"]
        assert fact["flags"] == []
        assert fact["tokens"]["input"] > 0
        assert sum(fact["tokens"].values()) > fact["tokens"]["input"]

    @staticmethod
    def _usage(document: Any) -> Any:
        return document["usage"]


def _event(line: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return found


def _told(answer: Answer) -> str:
    return f"the provider answers {answer.status}: {answer.body[:300]!r}; is the model still there?"
