"""The settings model: every name and default, and the core policy that it stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from aigw_anyio.settings.fields import (
    Addr,
    BasePath,
    BetaPattern,
    HeaderName,
    Kid,
    ListenAddr,
    Positive,
    ProviderName,
    ScopeEntry,
    Seconds,
    SecondsOrZero,
    SecretText,
    StreamName,
    Subject,
    Text,
    Whole,
    per_provider,
)
from aigw_core.denyset import DenyReason
from aigw_core.errors import Dialect
from aigw_core.keys import KeyRing, parse_public_key
from aigw_core.policy import (
    DROP_BETAS,
    DROP_HEADERS,
    Byo,
    OnClientAbort,
    Policy,
    ProviderPolicy,
    StoredRefs,
    Timeouts,
)
from aigw_core.providers import ADDED_BASES, PROVIDERS, AuthScheme, Provider
from aigw_core.usage.request import IncludeUsage

DEFAULT: Final = "default"
"""The member of a per-provider table that stands for every provider that it does not name."""


class DenySource(StrEnum):
    """Where the deny-set comes from."""

    NONE = "none"
    FILE = "file"
    NATS = "nats"


class FactSinkKind(StrEnum):
    """Where usage facts go."""

    STDOUT = "stdout"
    SPOOL = "spool"
    NATS = "nats"


class SpoolFsync(StrEnum):
    """When the spool is made safe against power loss."""

    ALWAYS = "always"
    INTERVAL = "interval"
    NEVER = "never"


class LogFormat(StrEnum):
    """``auto`` is ``console`` on a terminal and ``json`` elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The least severe record that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _public_key(value: object) -> bytes:
    if not isinstance(value, str | bytes):
        raise ValueError("a public key is the base64 of 32 bytes")
    return parse_public_key(value)


PublicKey = Annotated[bytes, BeforeValidator(_public_key)]

_ADDR = 'host:port, such as "0.0.0.0:8080" or "[::1]:0"'
_SECS = "seconds, more than 0 and at most 86400"
_SECS_OR_ZERO = "seconds, from 0 to 86400"
_RPS = "requests a second, a whole number; 0 is off"
_FILE = "the path of a readable file"
_BOOL = "true or false"
_PER_PROVIDER = '; one value, or a table provider = value with "default"'


class Settings(BaseModel):
    """Everything an operator may set, by the names of the reference.

    ``description`` of a field says what is allowed; error lines repeat it. Three names are additions to the
    reference: ``log_format``, ``log_level`` and ``access_log``.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        validate_default=False,
    )

    listen_addr: Addr = Field(ListenAddr("0.0.0.0", 8080), description=_ADDR)  # noqa: S104  # a gateway serves the network
    metrics_listen: Addr = Field(ListenAddr("0.0.0.0", 9090), description=_ADDR)  # noqa: S104  # scraped from outside
    tls_cert_file: Text | None = Field(None, description="the path of a PEM certificate chain")
    tls_key_file: Text | None = Field(None, description="the path of its unencrypted PEM private key")

    signing_keys: dict[Kid, PublicKey] = Field({}, description='a table kid = "base64 public key"')
    require_signing_keys: bool = Field(False, description=_BOOL)
    pool_keys: dict[ProviderName, SecretText] = Field({}, description='a table provider = "key"')

    provider_authorities: dict[ProviderName, Text] = Field(
        {}, description='a table provider = "https://host[:port]" or "http://host[:port]"'
    )
    provider_auth_schemes: dict[ProviderName, AuthScheme] = Field(
        {}, description="a table provider = bearer, x-api-key or api-key"
    )
    provider_dialects: dict[ProviderName, Dialect] = Field({}, description="a table provider = openai or anthropic")
    provider_bases: dict[ProviderName, Annotated[list[BasePath], Field(min_length=1)]] = Field(
        {}, description='a table provider = list of base paths, such as ["", "/v1"]'
    )
    allow_plain_upstream: bool = Field(False, description=_BOOL)
    upstream_ca_file: Text | None = Field(None, description="the path of PEM certificates")

    deny_source: DenySource | None = Field(None, description="none, file or nats")
    deny_file: Text | None = Field(None, description=_FILE)
    nats_url: SecretText | None = Field(
        None, description='addresses such as "nats://host:4222" or "tls://user:password@host", separated by commas'
    )
    nats_creds: Text | None = Field(None, description=_FILE)
    nats_ca_file: Text | None = Field(None, description="the path of PEM certificates")
    nats_bucket: Text = Field("ai-gateway", description="the name of a key-value bucket")
    deny_fail_closed: bool = Field(False, description=_BOOL)
    snapshot_path: Text | None = Field(None, description="a path")

    fact_sink: FactSinkKind = Field(FactSinkKind.STDOUT, description="stdout, spool or nats")
    spool_dir: Text | None = Field(None, description="the path of a directory")
    spool_fsync: SpoolFsync = Field(SpoolFsync.INTERVAL, description="always, interval or never")
    spool_max_bytes: Positive | None = Field(None, description="bytes, a whole number of at least 1")
    spool_retention_days: Whole = Field(0, description="days, a whole number; 0 is for good")
    facts_subject: Subject = Field("ai.usage", description="a NATS subject without wildcards")
    facts_stream: StreamName = Field("AI_USAGE", description="the name of a stream: no space, dot, *, >, / or \\")

    include_usage: IncludeUsage = Field(IncludeUsage.INJECT, description="inject, verbatim or require")
    on_client_abort: Annotated[dict[str, OnClientAbort], BeforeValidator(per_provider)] = Field(
        {DEFAULT: OnClientAbort.ABORT}, description="abort or drain" + _PER_PROVIDER
    )
    managed_stored_refs: StoredRefs = Field(StoredRefs.ALLOW, description="allow or refuse")
    managed_scope: dict[ProviderName, list[ScopeEntry]] = Field(
        {}, description='a table provider = list of "METHOD /path" or "/path"; a final * matches any rest'
    )
    managed_drop_headers: list[HeaderName] = Field(
        sorted(h.decode() for h in DROP_HEADERS), description="a list of header names"
    )
    managed_drop_betas: list[BetaPattern] = Field(
        list(DROP_BETAS), description="a list of anthropic-beta tokens; a final * matches any rest"
    )
    cut_streams_on: list[DenyReason] = Field(
        [DenyReason.FRAUD], description="a list of deny reasons: spend, fraud, unknown"
    )

    byo: Byo = Field(Byo.ALLOW, description="allow or refuse")
    rate_limit_rps: Whole = Field(100, description=_RPS)
    byo_rate_limit_rps: Whole = Field(1000, description=_RPS)
    unverified_rate_limit_rps: Whole = Field(1000, description=_RPS)
    max_request_bytes: Positive = Field(64 * 1024 * 1024, description="bytes, a whole number of at least 1")
    max_connections: Positive | None = Field(None, description="a whole number of at least 1")
    pool_max_idle: Whole = Field(100, description="idle connections kept for each provider, a whole number")

    connect_timeout_secs: Seconds = Field(10.0, description=_SECS)
    read_timeout_secs: Seconds = Field(600.0, description=_SECS)
    stream_idle_timeout_secs: Seconds = Field(600.0, description=_SECS)
    upstream_write_timeout_secs: Seconds = Field(60.0, description=_SECS)
    client_head_timeout_secs: Seconds = Field(30.0, description=_SECS)
    client_body_timeout_secs: Seconds = Field(60.0, description=_SECS)
    client_upload_timeout_secs: Seconds = Field(600.0, description=_SECS)
    client_write_timeout_secs: Seconds = Field(60.0, description=_SECS)
    keepalive_timeout_secs: Seconds = Field(75.0, description=_SECS)
    idle_timeout_secs: Annotated[dict[str, Seconds], BeforeValidator(per_provider)] = Field(
        {DEFAULT: 30.0}, description=_SECS + _PER_PROVIDER
    )
    shutdown_delay_secs: SecondsOrZero = Field(0.0, description=_SECS_OR_ZERO)
    shutdown_grace_secs: SecondsOrZero = Field(600.0, description=_SECS_OR_ZERO)

    workers: Positive = Field(1, description="a whole number of at least 1")
    log_format: LogFormat = Field(LogFormat.AUTO, description="auto, json or console")
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error")
    access_log: bool = Field(False, description=_BOOL)

    @property
    def effective_deny_source(self) -> DenySource:
        """``nats`` where only ``nats_url`` is set."""
        if self.deny_source is not None:
            return self.deny_source
        return DenySource.NATS if self.nats_url is not None else DenySource.NONE

    @property
    def provider_names(self) -> list[str]:
        """The built-in providers and the added ones."""
        return [*PROVIDERS, *(name for name in self.provider_authorities if name not in PROVIDERS)]

    @property
    def upstream_ca_path(self) -> Path | None:
        """None for the system's trust."""
        return Path(self.upstream_ca_file) if self.upstream_ca_file is not None else None

    @property
    def tls_files(self) -> tuple[Path, Path] | None:
        """Certificate chain and key of the data listener; None serves plain HTTP."""
        if self.tls_cert_file is None or self.tls_key_file is None:
            return None
        return Path(self.tls_cert_file), Path(self.tls_key_file)

    def build_policy(self, generation: int = 0) -> Policy:
        """What the core obeys; ``generation`` tells its connections from those of earlier policies.

        Raises ValueError for an authority that is no origin; :func:`load_settings` has refused it before.
        """
        return Policy(
            providers={name: self._provider_policy(name, generation) for name in self.provider_names},
            keyring=KeyRing(self.signing_keys),
            timeouts=Timeouts(
                connect=self.connect_timeout_secs,
                read=self.read_timeout_secs,
                stream_idle=self.stream_idle_timeout_secs,
                upstream_write=self.upstream_write_timeout_secs,
                client_head=self.client_head_timeout_secs,
                client_body=self.client_body_timeout_secs,
                client_upload=self.client_upload_timeout_secs,
                client_write=self.client_write_timeout_secs,
                keepalive=self.keepalive_timeout_secs,
            ),
            byo=self.byo,
            rate_limit_rps=self.rate_limit_rps,
            byo_rate_limit_rps=self.byo_rate_limit_rps,
            unverified_rate_limit_rps=self.unverified_rate_limit_rps,
            max_request_bytes=self.max_request_bytes,
            include_usage=self.include_usage,
            managed_stored_refs=self.managed_stored_refs,
            managed_drop_headers=frozenset(name.lower().encode() for name in self.managed_drop_headers),
            managed_drop_betas=tuple(self.managed_drop_betas),
            cut_streams_on=frozenset(self.cut_streams_on),
            deny_fail_closed=self.deny_fail_closed,
        )

    def _provider_policy(self, name: str, generation: int) -> ProviderPolicy:
        provider = self._provider(name)
        scope = tuple(self.managed_scope.get(name, ()))
        return dataclasses.replace(
            ProviderPolicy.of(provider, generation=generation, extra_scope=scope),
            pool_key=self.pool_keys.get(name),
            on_client_abort=_for_provider(self.on_client_abort, name, OnClientAbort.ABORT),
            idle_timeout=_for_provider(self.idle_timeout_secs, name, 30.0),
        )

    def _provider(self, name: str) -> Provider:
        """The built-in entry with what the operator overrides, or the added one."""
        base = PROVIDERS.get(name) or Provider(name, "", "/v1", ADDED_BASES)
        dialect = self.provider_dialects.get(name, base.dialect)
        bases = tuple(self.provider_bases.get(name, base.bases))
        scheme = self.provider_auth_schemes.get(name)
        base_url = base.base_url
        if name not in PROVIDERS:
            # The anthropic SDK adds /v1 to its base URL itself.
            base_url = bases[0] if name in self.provider_bases else "/v1" if dialect is Dialect.OPENAI else ""
        return dataclasses.replace(
            base,
            authority=self.provider_authorities.get(name, base.authority),
            base_url=base_url,
            bases=bases,
            dialect=dialect,
            auth_scheme=base.auth_scheme if scheme is None else scheme,
            messages_auth_scheme=base.messages_auth_scheme if scheme is None else None,
        )


ADOPTED_AT_START: Final = frozenset(
    {
        "listen_addr",
        "metrics_listen",
        "max_connections",
        "pool_max_idle",
        "fact_sink",
        "spool_dir",
        "spool_fsync",
        "spool_max_bytes",
        "spool_retention_days",
        "facts_subject",
        "facts_stream",
        "deny_source",
        "deny_file",
        "nats_url",
        "nats_creds",
        "nats_ca_file",
        "nats_bucket",
        "snapshot_path",
        "workers",
    }
)
"""Settings that a reload leaves as they were at the start. So does it with whether the data listener speaks TLS;
which certificate it shows is no such setting."""


def waits_for_restart(old: Settings, new: Settings) -> list[str]:
    """The names whose new value a running gateway cannot adopt, in the order of the reference."""
    changed = {name for name in ADOPTED_AT_START if getattr(old, name) != getattr(new, name)}
    if (old.tls_files is None) != (new.tls_files is None):
        changed |= {"tls_cert_file", "tls_key_file"}
    return [name for name in Settings.model_fields if name in changed]


def restartable(old: Settings, new: Settings) -> Settings:
    """``new`` as far as a running gateway adopts it: for a process that joins those that run since ``old``."""
    names = {*ADOPTED_AT_START}
    if (old.tls_files is None) != (new.tls_files is None):
        names |= {"tls_cert_file", "tls_key_file"}
    return new.model_copy(update={name: getattr(old, name) for name in names})


V = TypeVar("V")


def _for_provider(table: Mapping[str, V], name: str, fallback: V) -> V:
    return table.get(name, table.get(DEFAULT, fallback))
