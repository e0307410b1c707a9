"""Real providers, for whoever has a key and says so. Without one the smoke itself is tried on a mock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from aigw_anyio.settings import load_settings
from aigw_core.providers import PROVIDERS
from tests.e2e import answers
from tests.e2e.fleet import environment as mock_environment
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received, Script
from tests.live.smoke import MODELS, Smoke, environment, live_key, model_of


def base_of(provider: str) -> str:
    settings, _ = load_settings(config=None, environ={})
    base = settings.build_policy().providers[provider].base_url
    return "/v1" if provider == "anthropic" else base


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_real_provider(backend: str, name: str) -> None:
    key = live_key(name)
    if key is None:
        pytest.skip(f"calls {name} itself and costs a little: set AIGW_LIVE_KEY_{name.upper()} to a key of yours")
    gateway = Gateway(backend, environment(name, key), fresh=True)
    try:
        Smoke(gateway, name, base_of(name), model_of(name)).run()
        assert gateway.faults() == []
    finally:
        gateway.stop()
    assert key not in "\n".join([*gateway.stderr, *gateway.stdout])


def test_every_provider_has_a_model() -> None:
    assert list(MODELS) == list(PROVIDERS)


# The smoke, where there is no fire


def _knowing_its_models(received: Received) -> None:
    document = json.loads(received.read() or b"{}")
    if document.get("model") == "no-such-model-of-anybody":
        received.connection.send(answers.json_answer({"error": {"message": "no such model"}}, "404 Not Found"))
    else:
        answers.by_path(received)


def _silent(received: Received) -> None:
    received.read()
    received.connection.send(answers.json_answer({"model": "m", "choices": []}))


@contextmanager
def provider_that(script: Script) -> Iterator[Provider]:
    provider = Provider(script=script)
    try:
        yield provider
    finally:
        provider.close()


def test_the_smoke_itself() -> None:
    """With those whose way of stating usage the mock has."""
    with provider_that(_knowing_its_models) as mock:
        gateway = Gateway("asyncio", mock_environment(mock), fresh=True)
        try:
            for name in ("openai", "anthropic", "fireworks", "cerebras", "xai"):
                Smoke(gateway, name, base_of(name), MODELS[name]).run()
        finally:
            assert gateway.stop() == 0


def test_the_smoke_notices_an_answer_without_usage() -> None:
    with provider_that(_silent) as mock:
        gateway = Gateway("asyncio", mock_environment(mock), fresh=True)
        try:
            with pytest.raises(AssertionError):
                Smoke(gateway, "openai", "/v1", MODELS["openai"]).whole()
        finally:
            assert gateway.stop() == 0
