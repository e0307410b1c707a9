"""The policy: defaults, and what hangs off it."""

from __future__ import annotations

import dataclasses

import pytest

from aigw_core.denyset import DenyReason
from aigw_core.errors import Dialect
from aigw_core.policy import OnClientAbort, Policy, ProviderPolicy, StoredRefs, Timeouts
from aigw_core.providers import PROVIDERS, AuthScheme
from aigw_core.secrets import Secret
from aigw_core.usage.request import IncludeUsage


def test_defaults_are_those_of_the_configuration_table() -> None:
    policy = Policy.default()
    assert (policy.rate_limit_rps, policy.byo_rate_limit_rps, policy.unverified_rate_limit_rps) == (100, 1000, 1000)
    assert policy.max_request_bytes == 64 * 1024 * 1024
    assert policy.include_usage is IncludeUsage.INJECT
    assert policy.managed_stored_refs is StoredRefs.ALLOW
    assert policy.cut_streams_on == {DenyReason.FRAUD}
    assert not policy.deny_fail_closed
    assert dataclasses.asdict(policy.timeouts) == {
        "connect": 10.0,
        "read": 600.0,
        "stream_idle": 600.0,
        "upstream_write": 60.0,
        "client_head": 30.0,
        "client_body": 60.0,
        "client_upload": 600.0,
        "client_write": 60.0,
        "keepalive": 75.0,
        "opening": 5.0,
        "linger": 2.0,
        "usage_drain": 60.0,
    }


def test_the_ten_providers_have_no_key_of_their_own() -> None:
    policy = Policy.default()
    assert set(policy.providers) == set(PROVIDERS)
    assert all(provider.pool_key is None for provider in policy.providers.values())
    assert all(provider.on_client_abort is OnClientAbort.ABORT for provider in policy.providers.values())


def test_a_provider_keeps_what_its_data_says() -> None:
    claude = ProviderPolicy.of(PROVIDERS["anthropic"], generation=3)
    assert (claude.dialect, claude.auth_scheme) == (Dialect.ANTHROPIC, AuthScheme.X_API_KEY)
    assert (claude.origin.authority, claude.origin.generation) == ("api.anthropic.com", 3)


def test_a_policy_cannot_be_changed_and_shows_no_secret() -> None:
    policy = Policy.default(timeouts=Timeouts(read=1.0))
    assert policy.timeouts.read == 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.rate_limit_rps = 5  # type: ignore[misc]  # what is tested
    keyed = dataclasses.replace(ProviderPolicy.of(PROVIDERS["openai"]), pool_key=Secret("sk-hidden"))
    assert "sk-hidden" not in repr(keyed)
    assert "sk-hidden" not in repr(dataclasses.replace(policy, providers={"openai": keyed}))
