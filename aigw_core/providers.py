"""The ten providers, as data (sources: each provider's own documentation and SDK)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from aigw_core.errors import Dialect


class AuthScheme(StrEnum):
    """How a provider wants its key."""

    BEARER = "bearer"
    X_API_KEY = "x-api-key"
    API_KEY = "api-key"

    def header(self, key: bytes) -> tuple[bytes, bytes]:
        if self is AuthScheme.BEARER:
            return b"Authorization", b"Bearer " + key
        return self.value.encode(), key


@dataclass(frozen=True, slots=True)
class Provider:
    """What is fixed about a provider; what an operator may change is in :mod:`aigw_core.policy`."""

    name: str
    authority: str
    base_url: str
    """The path that the provider's usual base URL ends in: what a 404 suggests."""
    bases: tuple[str, ...]
    """Base paths under which virtual keys may call the wires of :data:`aigw_core.routing.WIRES`."""
    key_prefixes: tuple[bytes, ...] = ()
    """Prefixes that only this provider's keys have."""
    auth_scheme: AuthScheme = AuthScheme.BEARER
    dialect: Dialect = Dialect.OPENAI
    messages_auth_scheme: AuthScheme | None = None
    """The scheme of the Messages wire where it differs."""
    warming: bool = False
    """The provider's SDK opens every client with ``GET /v1/tcp_warming``."""


_TABLE = (
    Provider("openai", "https://api.openai.com", "/v1", ("/v1",), (b"sk-proj-", b"sk-svcacct-", b"sk-admin-")),
    Provider(
        "anthropic",
        "https://api.anthropic.com",
        "",
        ("/v1",),
        (b"sk-ant-",),
        auth_scheme=AuthScheme.X_API_KEY,
        dialect=Dialect.ANTHROPIC,
    ),
    Provider("openrouter", "https://openrouter.ai", "/api/v1", ("/api/v1",), (b"sk-or-",)),
    Provider(
        "fireworks", "https://api.fireworks.ai", "/inference/v1", ("/inference/v1", "/inference"), (b"fw_", b"fpk_")
    ),
    Provider("groq", "https://api.groq.com", "/openai/v1", ("/openai/v1",), (b"gsk_",)),
    Provider(
        "deepseek",
        "https://api.deepseek.com",
        "",
        ("", "/v1", "/beta", "/anthropic/v1"),
        messages_auth_scheme=AuthScheme.X_API_KEY,
    ),
    Provider("together", "https://api.together.ai", "/v1", ("/v1",), (b"tgp_",)),
    Provider("cerebras", "https://api.cerebras.ai", "/v1", ("/v1",), (b"csk-",), warming=True),
    Provider("mistral", "https://api.mistral.ai", "/v1", ("/v1",)),
    Provider("xai", "https://api.x.ai", "/v1", ("/v1",), (b"xai-",)),
)

UPSTREAM_ID_HEADERS = (
    b"x-request-id",
    b"request-id",
    b"x-generation-id",
    b"mistral-correlation-id",
    b"x-ds-trace-id",
    b"inference-id",
)
"""Response fields in which providers give the id of a request, by falling preference."""

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in _TABLE}
ADDED_BASES = ("", "/v1")
"""Base paths of a provider that the operator added without naming any."""
