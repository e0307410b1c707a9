"""The ten providers as data."""

from __future__ import annotations

import pytest

from aigw_core.errors import Dialect
from aigw_core.origin import parse_origin
from aigw_core.policy import Policy, ProviderPolicy
from aigw_core.providers import ADDED_BASES, PROVIDERS, AuthScheme

# authority, base URL's path, managed bases
TABLE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "openai": ("https://api.openai.com", "/v1", ("/v1",)),
    "anthropic": ("https://api.anthropic.com", "", ("/v1",)),
    "openrouter": ("https://openrouter.ai", "/api/v1", ("/api/v1",)),
    "fireworks": ("https://api.fireworks.ai", "/inference/v1", ("/inference/v1", "/inference")),
    "groq": ("https://api.groq.com", "/openai/v1", ("/openai/v1",)),
    "deepseek": ("https://api.deepseek.com", "", ("", "/v1", "/beta", "/anthropic/v1")),
    "together": ("https://api.together.ai", "/v1", ("/v1",)),
    "cerebras": ("https://api.cerebras.ai", "/v1", ("/v1",)),
    "mistral": ("https://api.mistral.ai", "/v1", ("/v1",)),
    "xai": ("https://api.x.ai", "/v1", ("/v1",)),
}


def test_where_they_are() -> None:
    assert {name: (p.authority, p.base_url, p.bases) for name, p in PROVIDERS.items()} == TABLE
    assert all(provider.name == name for name, provider in PROVIDERS.items())
    assert ADDED_BASES == ("", "/v1")


@pytest.mark.parametrize("name", TABLE)
def test_how_they_authenticate_and_answer(name: str) -> None:
    provider = PROVIDERS[name]
    is_anthropic = name == "anthropic"
    assert provider.auth_scheme is (AuthScheme.X_API_KEY if is_anthropic else AuthScheme.BEARER)
    assert provider.dialect is (Dialect.ANTHROPIC if is_anthropic else Dialect.OPENAI)
    assert provider.messages_auth_scheme is (AuthScheme.X_API_KEY if name == "deepseek" else None)
    assert provider.warming is (name == "cerebras")


@pytest.mark.parametrize(
    ("scheme", "header"),
    [
        (AuthScheme.BEARER, (b"Authorization", b"Bearer key")),
        (AuthScheme.X_API_KEY, (b"x-api-key", b"key")),
        (AuthScheme.API_KEY, (b"api-key", b"key")),
    ],
)
def test_auth_headers(scheme: AuthScheme, header: tuple[bytes, bytes]) -> None:
    assert scheme.header(b"key") == header


def test_no_prefix_belongs_to_two_providers() -> None:
    prefixes = [(prefix, name) for name, provider in PROVIDERS.items() for prefix in provider.key_prefixes]
    for prefix, name in prefixes:
        assert [other for known, other in prefixes if known.startswith(prefix)].count(name) == 1
        assert not b"bai_".startswith(prefix)
        assert not any(known.startswith(prefix) and other != name for known, other in prefixes)


def test_the_default_policy_reaches_them_and_has_no_key() -> None:
    policy = Policy.default()
    assert set(policy.providers) == set(TABLE)
    for name, provider in policy.providers.items():
        assert provider.origin == parse_origin(TABLE[name][0])
        assert provider.pool_key is None
    assert ProviderPolicy.of(PROVIDERS["xai"], generation=3).origin.generation == 3
