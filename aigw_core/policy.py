"""Everything configurable that the core obeys: immutable, and swapped whole on reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aigw_core.denyset import DenyReason
from aigw_core.errors import Dialect, Rejection
from aigw_core.headers import Field
from aigw_core.http1.shapes import ResponseShapes
from aigw_core.keymask import KEY_MIN, KeyMask
from aigw_core.keys import KeyRing, VirtualKey
from aigw_core.origin import Origin, parse_origin
from aigw_core.providers import PROVIDERS, UPSTREAM_ID_HEADERS, AuthScheme, Provider
from aigw_core.routing import Route, ScopeTable
from aigw_core.secrets import Secret
from aigw_core.usage.profile import UsageProfile, usage_profile
from aigw_core.usage.request import BodyRules, IncludeUsage
from aigw_core.wires import Wire

AdmissionHook = Callable[[VirtualKey | None, Route], Rejection | None]
"""Called after step 9 of the request path; pure; None admits."""
ModelHook = Callable[[VirtualKey, Route, str | None], Rejection | None]
"""Called with the requested model before the provider holds the whole body; pure; None admits."""


class OnClientAbort(StrEnum):
    """What happens upstream when the caller leaves."""

    ABORT = "abort"
    DRAIN = "drain"
    """Read on, bounded in bytes and seconds, for the final usage."""


class Byo(StrEnum):
    """Whether callers may bring a provider's key of their own."""

    ALLOW = "allow"
    REFUSE = "refuse"
    """Virtual keys only."""


class StoredRefs(StrEnum):
    """Whether managed Responses calls may name what is stored under the shared pool key."""

    ALLOW = "allow"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. ``opening``, ``linger`` and ``usage_drain`` are part of the contract, the rest is configurable."""

    connect: float = 10.0
    read: float = 600.0
    stream_idle: float = 600.0
    upstream_write: float = 60.0
    client_head: float = 30.0
    client_body: float = 60.0
    client_upload: float = 600.0
    """For all of a request body, however steadily it comes."""
    client_write: float = 60.0
    keepalive: float = 75.0
    opening: float = 5.0
    linger: float = 2.0
    usage_drain: float = 60.0


@dataclass(frozen=True, slots=True)
class ProviderPolicy:
    """One provider as this gateway reaches it."""

    name: str
    origin: Origin
    scope: ScopeTable
    pool_key: Secret | None = None
    auth_scheme: AuthScheme = AuthScheme.BEARER
    messages_auth_scheme: AuthScheme | None = None
    dialect: Dialect = Dialect.OPENAI
    key_prefixes: tuple[bytes, ...] = ()
    base_url: str = "/v1"
    on_client_abort: OnClientAbort = OnClientAbort.ABORT
    idle_timeout: float = 30.0
    usage: UsageProfile = field(default_factory=lambda: usage_profile(""))
    response_shapes: ResponseShapes = field(
        default_factory=lambda: ResponseShapes(UPSTREAM_ID_HEADERS), repr=False, compare=False
    )
    """What its response heads look like, as far as they have come in; kept by :mod:`aigw_core.http1.upstream`. It
    depends on nothing else here, so a changed copy may go on with it."""
    mask: KeyMask | None = field(init=False, repr=False, compare=False)
    """Over the pool key in what this provider answers; None where there is no such key, or one too short for it."""

    def __post_init__(self) -> None:
        key = b"" if self.pool_key is None else self.pool_key.reveal()
        object.__setattr__(self, "mask", KeyMask(key) if len(key) >= KEY_MIN else None)

    @classmethod
    def of(cls, provider: Provider, *, generation: int = 0, extra_scope: tuple[str, ...] = ()) -> ProviderPolicy:
        """The built-in provider with its documented authority and no pool key."""
        return cls(
            name=provider.name,
            origin=parse_origin(provider.authority, generation),
            scope=ScopeTable(provider.bases, warming=provider.warming, extra=extra_scope),
            auth_scheme=provider.auth_scheme,
            messages_auth_scheme=provider.messages_auth_scheme,
            dialect=provider.dialect,
            key_prefixes=provider.key_prefixes,
            base_url=provider.base_url,
            usage=usage_profile(provider.name),
        )


DROP_HEADERS = frozenset({b"openai-organization", b"openai-project", b"cookie", b"x-goog-user-project"})
"""Dropped for managed callers: they choose scope within the pool key's account."""

DROP_BETAS = ("oauth-*", "files-api-*")
"""``anthropic-beta`` tokens dropped for managed callers; a final ``*`` matches any rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """An exchange pins the policy that was in force when its head was complete."""

    providers: Mapping[str, ProviderPolicy]
    keyring: KeyRing
    timeouts: Timeouts = Timeouts()
    byo: Byo = Byo.ALLOW
    rate_limit_rps: int = 100
    byo_rate_limit_rps: int = 1000
    unverified_rate_limit_rps: int = 1000
    max_request_bytes: int = 64 * 1024 * 1024
    include_usage: IncludeUsage = IncludeUsage.INJECT
    managed_stored_refs: StoredRefs = StoredRefs.ALLOW
    managed_drop_headers: frozenset[bytes] = DROP_HEADERS
    managed_drop_betas: tuple[str, ...] = DROP_BETAS
    cut_streams_on: frozenset[DenyReason] = frozenset({DenyReason.FRAUD})
    deny_fail_closed: bool = False
    usage_drain_max_bytes: int = 16 * 1024 * 1024
    """Bytes read on after a caller left, where that is asked for: several times the longest answer recorded."""
    on_admission: AdmissionHook | None = None
    on_model: ModelHook | None = None
    routes: dict[tuple[bytes, bool], Route] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Targets resolved under this policy; kept by :mod:`aigw_core.auth`, which bounds it."""
    body_rules: dict[tuple[str, Wire], BodyRules] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Kept by :mod:`aigw_core.requestbody`; one entry at most per provider and wire."""
    upstream_fields: dict[tuple[str, bool], tuple[Field, Field | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Host and credential as a provider wants them; kept by :mod:`aigw_core.forwarding`, two entries per provider."""

    @classmethod
    def default(cls, **changes: object) -> Policy:
        """The ten built-in providers, no keys: a base for embedders and tests."""
        providers = {name: ProviderPolicy.of(provider) for name, provider in PROVIDERS.items()}
        return cls(**{"providers": providers, "keyring": KeyRing({}), **changes})  # type: ignore[arg-type]  # checked by the dataclass's own callers
