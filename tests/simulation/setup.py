"""The world's constants and one configuration of the gateway, as plain values and as the core's Policy."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from aigw_core.denyset import DenyReason
from aigw_core.keys import KeyRing, mint_virtual_key, public_key_of
from aigw_core.origin import Origin, parse_origin
from aigw_core.policy import OnClientAbort, Policy, ProviderPolicy, Timeouts
from aigw_core.providers import PROVIDERS
from aigw_core.secrets import Secret
from aigw_core.usage.request import IncludeUsage

SEEDS: Final = {1: Secret(bytes([7]) * 32), 2: Secret(bytes([9]) * 32)}
STRANGER: Final = Secret(bytes([11]) * 32)
"""Signs keys that no ring knows."""
TENANTS: Final = 40
HOT_TENANTS: Final = 4
"""Tenants that a third of all requests come from, so that limits are reached."""

TIMEOUTS: Final = Timeouts(
    connect=0.6,
    read=1.2,
    stream_idle=1.0,
    upstream_write=0.8,
    client_head=1.0,
    client_body=0.9,
    client_upload=30.0,
    client_write=0.7,
    keepalive=1.5,
    opening=0.9,
    linger=0.4,
    usage_drain=0.8,
)
"""Seconds of the simulated clock: short, so that a stalled exchange does not outlive the run."""


@dataclass(frozen=True)
class Site:
    """A provider as the model knows it: where it is, how it wants its key, what it needs and sends."""

    name: str
    base: bytes
    scheme: str
    key: bytes
    needs_option: bool
    """Its chat streams carry usage only if asked."""


SITES: Final = {
    site.name: site
    for site in (
        Site("openai", b"/v1", "bearer", b"sk-pool-openai-000000000001", True),
        Site("anthropic", b"/v1", "x-api-key", b"sk-pool-anthropic-00000002", False),
        Site("groq", b"/openai/v1", "bearer", b"sk-pool-groq-0000000000003", False),
        Site("xai", b"/v1", "bearer", b"sk-pool-xai-00000000000004", True),
        Site("mistral", b"/v1", "bearer", b"sk-pool-mistral-0000000005", False),
    )
}


@dataclass(frozen=True)
class Key:
    """A credential and what it states."""

    text: bytes
    kid: int = 0
    tenant: int = 0
    vpc: int = 0
    key_id: int | None = None


def _key(kid: int, tenant: int, key_id: int | None) -> Key:
    minted = mint_virtual_key(SEEDS[kid], kid=kid, tenant_id=tenant, vpc_id=tenant + 100, key_id=key_id)
    return Key(minted.encode(), kid, tenant, tenant + 100, key_id)


KEYS: Final = [
    [_key(1, tenant, None), _key(1, tenant, tenant * 10), _key(2, tenant, tenant * 10 + 1)]
    for tenant in range(1, TENANTS + 1)
]
FORGED: Final = [mint_virtual_key(STRANGER, kid=1, tenant_id=n, vpc_id=1).encode() for n in range(4)]
UNKNOWN_KID: Final = mint_virtual_key(STRANGER, kid=77, tenant_id=1, vpc_id=1).encode()


@dataclass(frozen=True)
class Setup:
    """Everything that a reload may change."""

    generation: int
    rate: int
    byo_rate: int
    unverified_rate: int
    body_max: int
    include_usage: IncludeUsage
    draining_for: frozenset[str]
    cut_on: frozenset[DenyReason]
    kids: frozenset[int]
    keyless: frozenset[str]
    fail_closed: bool


def draw_setup(rng: Random, generation: int) -> Setup:
    chance = rng.random
    return Setup(
        generation=generation,
        rate=rng.choice((0, 0, 0, 0, 25, 60)),
        byo_rate=rng.choice((0, 150, 400)),
        unverified_rate=rng.choice((0, 0, 2, 5)),
        body_max=rng.choice((1 << 20, 1 << 20, 40_000)),
        include_usage=rng.choice((IncludeUsage.INJECT, IncludeUsage.INJECT, IncludeUsage.VERBATIM)),
        draining_for=frozenset(name for name in SITES if chance() < 0.4),
        cut_on=frozenset(rng.choice(((DenyReason.FRAUD,), (DenyReason.FRAUD, DenyReason.SPEND), ()))),
        kids=frozenset((1, 2) if chance() < 0.97 else (1,)),
        keyless=frozenset(name for name in SITES if chance() < 0.02),
        fail_closed=chance() < 0.5,
    )


def origin_of(name: str, generation: int) -> Origin:
    """Every second reload moves the providers to connections of their own."""
    return parse_origin(f"http://{name}.test", generation // 2)


def policy_of(setup: Setup) -> Policy:
    providers = {}
    for name, site in SITES.items():
        base = ProviderPolicy.of(PROVIDERS[name])
        providers[name] = ProviderPolicy(
            name=name,
            origin=origin_of(name, setup.generation),
            scope=base.scope,
            pool_key=None if name in setup.keyless else Secret(site.key),
            auth_scheme=base.auth_scheme,
            messages_auth_scheme=base.messages_auth_scheme,
            dialect=base.dialect,
            key_prefixes=base.key_prefixes,
            base_url=base.base_url,
            on_client_abort=OnClientAbort.DRAIN if name in setup.draining_for else OnClientAbort.ABORT,
            idle_timeout=0.12,
            usage=base.usage,
        )
    return Policy(
        providers=providers,
        keyring=KeyRing({kid: public_key_of(SEEDS[kid]) for kid in setup.kids}),
        timeouts=TIMEOUTS,
        rate_limit_rps=setup.rate,
        byo_rate_limit_rps=setup.byo_rate,
        unverified_rate_limit_rps=setup.unverified_rate,
        max_request_bytes=setup.body_max,
        include_usage=setup.include_usage,
        cut_streams_on=setup.cut_on,
        deny_fail_closed=setup.fail_closed,
    )
