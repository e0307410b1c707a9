"""Provider differences, pinned."""

from __future__ import annotations

from aigw_core.usage.profile import DEFAULT_USAGE_PROFILE, USAGE_PROFILES, UsageProfile, usage_profile

TEN = {
    "openai",
    "anthropic",
    "openrouter",
    "fireworks",
    "groq",
    "deepseek",
    "together",
    "cerebras",
    "mistral",
    "xai",
}


def having(flag: str) -> set[str]:
    return {name for name, profile in USAGE_PROFILES.items() if getattr(profile, flag)}


def test_every_provider_has_one_and_added_ones_get_the_default() -> None:
    assert set(USAGE_PROFILES) == TEN
    assert usage_profile("added") is DEFAULT_USAGE_PROFILE
    assert usage_profile("groq") is USAGE_PROFILES["groq"]


def test_differences() -> None:
    assert having("needs_include_usage") == {"openai", "xai", "fireworks", "cerebras"}
    assert having("reasoning_beside_completion") == {"xai"}
    assert having("usage_in_x_groq") == {"groq"}
    assert TEN - having("ends_with_done") == {"cerebras"}
    assert UsageProfile(usage_in_x_groq=True) == DEFAULT_USAGE_PROFILE
