"""Provider differences in how usage is stated, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class UsageProfile:
    """What the readers must know about one provider; wires decide everything else.

    `needs_include_usage`: chat streams carry usage only if the request says
    `stream_options.include_usage` (OpenAI's reference; xAI, Fireworks and Cerebras as recorded).
    `reasoning_beside_completion`: chat `completion_tokens` leaves `reasoning_tokens` out (xAI). It
    decides where `total_tokens` does not.
    `ends_with_done`: chat streams end with `data: [DONE]`. Where they never do (Cerebras) the chunk
    that finishes a choice and states usage is the terminal event.
    `usage_in_x_groq`: chat chunks may state usage at `/x_groq/usage` only (Groq).
    """

    needs_include_usage: bool = False
    reasoning_beside_completion: bool = False
    ends_with_done: bool = True
    usage_in_x_groq: bool = False


DEFAULT_USAGE_PROFILE = UsageProfile(usage_in_x_groq=True)
"""For providers that the operator added: they may be any of the ten under another name."""

USAGE_PROFILES: Mapping[str, UsageProfile] = MappingProxyType(
    {
        "openai": UsageProfile(needs_include_usage=True),
        "anthropic": UsageProfile(),
        "openrouter": UsageProfile(),
        "fireworks": UsageProfile(needs_include_usage=True),
        "groq": UsageProfile(usage_in_x_groq=True),
        "deepseek": UsageProfile(),
        "together": UsageProfile(),
        "cerebras": UsageProfile(needs_include_usage=True, ends_with_done=False),
        "mistral": UsageProfile(),
        "xai": UsageProfile(needs_include_usage=True, reasoning_beside_completion=True),
    }
)


def usage_profile(provider: str) -> UsageProfile:
    """The profile of a provider by name; the default one for added providers."""
    return USAGE_PROFILES.get(provider, DEFAULT_USAGE_PROFILE)
