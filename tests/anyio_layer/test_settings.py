from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from aigw_anyio.limits import default_max_connections
from aigw_anyio.settings import (
    ADOPTED_AT_START,
    Settings,
    SettingsError,
    load_settings,
    max_connections,
    waits_for_restart,
)
from aigw_anyio.settings.fields import parse_listen_addr
from aigw_core.denyset import DenyReason
from aigw_core.errors import Dialect
from aigw_core.policy import Byo, OnClientAbort, Policy, StoredRefs, Timeouts
from aigw_core.providers import PROVIDERS, AuthScheme
from aigw_core.secrets import Secret
from aigw_core.usage.request import IncludeUsage
from aigw_core.wires import Wire

PUBLIC_KEY = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="
TAINT = "sk-proj-TAINTED0123456789"


def load(
    toml: str | None = None, environ: Mapping[str, str] | None = None, *, folder: Path | None = None
) -> tuple[Settings, list[str]]:
    config = None
    if toml is not None:
        assert folder is not None
        config = folder / "aigw.toml"
        config.write_text(toml)
    return load_settings(config=config, environ=environ or {})


def problems(
    toml: str | None = None, environ: Mapping[str, str] | None = None, *, folder: Path | None = None
) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(toml, environ, folder=folder)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


def test_defaults_are_those_of_the_reference() -> None:
    settings, warnings = load()
    assert warnings == []
    assert {name: getattr(settings, name) for name in Settings.model_fields} == {
        "listen_addr": ("0.0.0.0", 8080),
        "metrics_listen": ("0.0.0.0", 9090),
        "tls_cert_file": None,
        "tls_key_file": None,
        "signing_keys": {},
        "require_signing_keys": False,
        "pool_keys": {},
        "provider_authorities": {},
        "provider_auth_schemes": {},
        "provider_dialects": {},
        "provider_bases": {},
        "allow_plain_upstream": False,
        "upstream_ca_file": None,
        "deny_source": None,
        "deny_file": None,
        "nats_url": None,
        "nats_creds": None,
        "nats_ca_file": None,
        "nats_bucket": "ai-gateway",
        "deny_fail_closed": False,
        "snapshot_path": None,
        "fact_sink": "stdout",
        "spool_dir": None,
        "spool_fsync": "interval",
        "spool_max_bytes": None,
        "spool_retention_days": 0,
        "facts_subject": "ai.usage",
        "facts_stream": "AI_USAGE",
        "include_usage": IncludeUsage.INJECT,
        "on_client_abort": {"default": OnClientAbort.ABORT},
        "managed_stored_refs": StoredRefs.ALLOW,
        "managed_scope": {},
        "managed_drop_headers": ["cookie", "openai-organization", "openai-project", "x-goog-user-project"],
        "managed_drop_betas": ["oauth-*", "files-api-*"],
        "cut_streams_on": [DenyReason.FRAUD],
        "byo": Byo.ALLOW,
        "rate_limit_rps": 100,
        "byo_rate_limit_rps": 1000,
        "unverified_rate_limit_rps": 1000,
        "max_request_bytes": 64 * 1024 * 1024,
        "max_connections": None,
        "pool_max_idle": 100,
        "connect_timeout_secs": 10,
        "read_timeout_secs": 600,
        "stream_idle_timeout_secs": 600,
        "upstream_write_timeout_secs": 60,
        "client_head_timeout_secs": 30,
        "client_body_timeout_secs": 60,
        "client_upload_timeout_secs": 600,
        "client_write_timeout_secs": 60,
        "keepalive_timeout_secs": 75,
        "idle_timeout_secs": {"default": 30},
        "shutdown_delay_secs": 0,
        "shutdown_grace_secs": 600,
        "workers": 1,
        "log_format": "auto",
        "log_level": "info",
        "access_log": False,
    }
    assert settings.effective_deny_source == "none"


def test_default_settings_stand_for_the_default_policy() -> None:
    built, plain = load()[0].build_policy(), Policy.default()
    assert built.timeouts == plain.timeouts
    assert list(built.providers) == list(plain.providers)
    for name, provider in built.providers.items():
        assert provider.origin == plain.providers[name].origin
        assert provider.base_url == plain.providers[name].base_url
        assert provider.pool_key is None
    for name in (
        "rate_limit_rps",
        "byo_rate_limit_rps",
        "unverified_rate_limit_rps",
        "max_request_bytes",
        "include_usage",
        "managed_stored_refs",
        "managed_drop_headers",
        "managed_drop_betas",
        "cut_streams_on",
        "deny_fail_closed",
    ):
        assert getattr(built, name) == getattr(plain, name), name


def test_environment_wins_over_file(tmp_path: Path) -> None:
    toml = 'listen_addr = "127.0.0.1:1"\nrate_limit_rps = 5\n[pool_keys]\nopenai = "from-file"\nxai = "kept"\n'
    environ = {"AI_LISTEN_ADDR": "[::1]:0", "AI_POOL_KEY_OPENAI": " from-env\n", "AI_RATE_LIMIT_RPS": ""}
    settings, _ = load(toml, environ, folder=tmp_path)
    assert settings.listen_addr == ("::1", 0)
    assert str(settings.listen_addr) == "[::1]:0"
    assert settings.rate_limit_rps == 5
    assert settings.pool_keys == {"openai": Secret("from-env"), "xai": Secret("kept")}


def test_file_is_named_by_environment_unless_given(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("pool_max_idle = 1")
    (tmp_path / "b.toml").write_text("pool_max_idle = 2")
    environ = {"AI_CONFIG": str(tmp_path / "a.toml")}
    assert load_settings(config=None, environ=environ)[0].pool_max_idle == 1
    assert load_settings(config=tmp_path / "b.toml", environ=environ)[0].pool_max_idle == 2


def test_tables_and_lists_in_environment_are_json() -> None:
    environ = {
        "AI_SIGNING_KEYS": json.dumps({"7": PUBLIC_KEY}),
        "AI_CUT_STREAMS_ON": '["fraud", "spend"]',
        "AI_ON_CLIENT_ABORT": '{"default": "abort", "openai": "drain"}',
        "AI_IDLE_TIMEOUT_SECS": "2.5",
        "AI_MANAGED_SCOPE": '{"openai": ["POST /v1/images/*", "/v1/moderations"]}',
    }
    settings, _ = load(environ=environ)
    policy = settings.build_policy()
    assert policy.keyring.kids == {7}
    assert policy.cut_streams_on == {DenyReason.FRAUD, DenyReason.SPEND}
    assert policy.providers["openai"].on_client_abort is OnClientAbort.DRAIN
    assert policy.providers["xai"].on_client_abort is OnClientAbort.ABORT
    assert policy.providers["xai"].idle_timeout == 2.5
    scope = policy.providers["openai"].scope
    widened = scope.find(b"/v1/images/generations")
    assert widened is not None
    assert (widened.wire, widened.methods) == (Wire.OPAQUE, (b"POST",))
    assert policy.providers["xai"].scope.find(b"/v1/moderations") is None


def test_every_number_reaches_its_place_in_the_policy() -> None:
    names = (
        "connect",
        "read",
        "stream_idle",
        "upstream_write",
        "client_head",
        "client_body",
        "client_upload",
        "client_write",
        "keepalive",
    )
    environ = {f"AI_{name.upper()}_TIMEOUT_SECS": str(number) for number, name in enumerate(names, 1)}
    environ |= {
        "AI_RATE_LIMIT_RPS": "11",
        "AI_BYO_RATE_LIMIT_RPS": "12",
        "AI_UNVERIFIED_RATE_LIMIT_RPS": "13",
        "AI_MAX_REQUEST_BYTES": "14",
        "AI_INCLUDE_USAGE": "require",
        "AI_MANAGED_STORED_REFS": "refuse",
        "AI_BYO": "refuse",
        "AI_MANAGED_DROP_HEADERS": '["X-Team"]',
        "AI_MANAGED_DROP_BETAS": '["x-*"]',
    }
    policy = load(environ=environ)[0].build_policy()
    assert policy.timeouts == Timeouts(**{name: float(number) for number, name in enumerate(names, 1)})
    assert (policy.rate_limit_rps, policy.byo_rate_limit_rps, policy.unverified_rate_limit_rps) == (11, 12, 13)
    assert policy.max_request_bytes == 14
    assert policy.include_usage is IncludeUsage.REQUIRE
    assert policy.byo is Byo.REFUSE
    assert policy.managed_stored_refs is StoredRefs.REFUSE
    assert policy.managed_drop_headers == {b"x-team"}
    assert policy.managed_drop_betas == ("x-*",)


def test_added_provider(tmp_path: Path) -> None:
    toml = """
        [provider_authorities]
        local-llm = "http://127.0.0.1:8000"
        claude = "https://claude.example"
        openai = "https://eu.api.openai.com"
        [provider_dialects]
        claude = "anthropic"
        [provider_auth_schemes]
        claude = "x-api-key"
        [provider_bases]
        local-llm = ["/api/v3"]
        """
    environ = {"AI_POOL_KEY_LOCAL_LLM": "key-one-", "AI_POOL_KEY_OPENAI": "key-two-"}
    settings, warnings = load(toml, environ | {"AI_SIGNING_KEYS": json.dumps({"1": PUBLIC_KEY})}, folder=tmp_path)
    assert warnings == []
    providers = settings.build_policy(generation=4).providers
    local = providers["local-llm"]
    assert (local.origin.scheme, local.origin.host, local.origin.port) == ("http", "127.0.0.1", 8000)
    assert local.origin.generation == 4
    assert (local.base_url, local.dialect, local.auth_scheme) == ("/api/v3", Dialect.OPENAI, AuthScheme.BEARER)
    assert local.pool_key == Secret("key-one-")
    found = local.scope.find(b"/api/v3/chat/completions")
    assert found is not None
    assert local.scope.find(b"/v1/chat/completions") is None
    claude = providers["claude"]
    assert (claude.base_url, claude.dialect, claude.auth_scheme) == ("", Dialect.ANTHROPIC, AuthScheme.X_API_KEY)
    assert claude.scope.find(b"/v1/messages") is not None
    assert claude.scope.find(b"/messages") is not None
    openai = providers["openai"]
    assert (openai.origin.host, openai.base_url) == ("eu.api.openai.com", "/v1")
    assert openai.key_prefixes == PROVIDERS["openai"].key_prefixes


def test_pool_key_files_are_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    environ = {"AI_POOL_KEY_GROQ_FILE": str(file)}
    for key in ("first", "second"):
        file.write_text(f"{key}\n")
        assert load(environ=environ)[0].pool_keys == {"groq": Secret(key)}


class Spy:
    """Settings that note which of them are read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> object:
        if name in Settings.model_fields:
            self.read.add(name)
            return getattr(self._settings, name)
        return vars(Settings)[name].__get__(self, Spy)


ADOPTED_BESIDE_THE_POLICY = {
    "tls_cert_file",
    "tls_key_file",
    "upstream_ca_file",
    "require_signing_keys",
    "allow_plain_upstream",
    "shutdown_delay_secs",
    "shutdown_grace_secs",
    "log_format",
    "log_level",
    "access_log",
}


def test_a_reload_adopts_every_setting_or_says_that_it_cannot() -> None:
    spy = Spy(load()[0])
    Settings.build_policy(spy, 1)  # type: ignore[arg-type]  # stands in for the settings
    assert ADOPTED_AT_START.isdisjoint(spy.read | ADOPTED_BESIDE_THE_POLICY)
    assert spy.read | ADOPTED_BESIDE_THE_POLICY | ADOPTED_AT_START == set(Settings.model_fields)


def test_what_waits_for_a_restart() -> None:
    plain, tls, other_tls = (
        load()[0].model_copy(update=update)
        for update in (
            {},
            {"tls_cert_file": "a", "tls_key_file": "b", "workers": 2, "rate_limit_rps": 3},
            {"tls_cert_file": "c", "tls_key_file": "d", "workers": 2},
        )
    )
    assert waits_for_restart(plain, tls) == ["tls_cert_file", "tls_key_file", "workers"]
    assert waits_for_restart(tls, other_tls) == []
    assert waits_for_restart(tls, tls) == []


def test_all_problems_at_once(tmp_path: Path) -> None:
    toml = """
        listn_addr = "127.0.0.1:1"
        listen_addr = "localhost"
        rate_limit_rps = true
        byo_rate_limit_rps = -1
        read_timeout_secs = 0
        stream_idle_timeout_secs = 86401
        workers = 0
        cut_streams_on = ["fraud", "x"]
        on_client_abort = "wait"
        require_signing_keys = true
        fact_sink = "spool"
        snapshot_path = "none/x"
        [pool_keys]
        opnai = "k"
        plain = "k"
        [provider_authorities]
        plain = "http://10.0.0.1"
        v1 = "https://v1.example"
        [managed_scope]
        openai = ["POST v1/x"]
        """
    lines = problems(toml, {"AI_PROVIDER_BASES": "{"}, folder=tmp_path)
    starts = [
        "listn_addr: unknown name; did you mean listen_addr?",
        "provider_bases (AI_PROVIDER_BASES): is not valid JSON; allowed: ",
        'listen_addr: has no port; allowed: host:port, such as "0.0.0.0:8080" or "[::1]:0"',
        "managed_scope.openai: entry 1 an entry is not METHOD /path; allowed: ",
        "on_client_abort: is none of the allowed values; allowed: abort or drain",
        "cut_streams_on: entry 2 is none of the allowed values; allowed: ",
        "rate_limit_rps: is true or false, not a number; allowed: ",
        "byo_rate_limit_rps: is too small; allowed: ",
        "read_timeout_secs: is too small; allowed: seconds, more than 0",
        "stream_idle_timeout_secs: is too large; allowed: ",
        "provider_authorities.v1: this name is reserved; allowed: ",
        "pool_keys.opnai: unknown provider; did you mean openai?",
        "provider_authorities.plain: plain http would show the pool key",
        "signing_keys: is empty, but require_signing_keys is set; allowed: ",
        "snapshot_path: its directory does not exist; allowed: ",
        "spool_dir: is unset, but fact_sink is spool; allowed: the path of a directory",
        "workers: is too small; allowed: ",
    ]
    for start in starts:
        assert [line for line in lines if line.startswith(start)], start
    assert len(lines) == len(starts)


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"AI_DENY_SOURCE": "nats"}, "nats_url: is not set, but deny_source is nats; allowed: an address"),
        (
            {"AI_DENY_SOURCE": "file"},
            "deny_file: is not set, but deny_source is file; allowed: the path of a JSON file",
        ),
        (
            {"AI_NATS_URL": "http://h"},
            "nats_url (AI_NATS_URL): an address must begin with nats:// or tls://; allowed: ",
        ),
        (
            {"AI_NATS_URL": "nats://h", "AI_NATS_CREDS": "none"},
            "nats_url (AI_NATS_URL): the credentials file cannot be",
        ),
        ({"AI_NATS_URL": "nats://h", "AI_NATS_BUCKET": "a.b"}, "nats_bucket (AI_NATS_BUCKET): is no name of a bucket"),
        ({"AI_FACT_SINK": "spool"}, "spool_dir: is unset, but fact_sink is spool; allowed: "),
        ({"AI_FACT_SINK": "nats", "AI_SPOOL_DIR": "x"}, "nats_url: is unset, but fact_sink is nats; allowed: "),
        ({"AI_FACTS_SUBJECT": "ai.*"}, "facts_subject (AI_FACTS_SUBJECT): is no NATS subject of words and dots"),
        ({"AI_FACTS_STREAM": "A.B"}, "facts_stream (AI_FACTS_STREAM): is no name of a stream"),
        ({"AI_TLS_CERT_FILE": "/x"}, "tls_key_file: is not set; allowed: tls_cert_file and tls_key_file together"),
        (
            {"AI_METRICS_LISTEN": "0.0.0.0:8080"},
            "metrics_listen (AI_METRICS_LISTEN): is the same address as listen_addr",
        ),
        (
            {"AI_METRICS_LISTEN": "127.0.0.1:8080"},
            "metrics_listen (AI_METRICS_LISTEN): has the port of listen_addr, one of them on all addresses",
        ),
        (
            {"AI_LISTEN_ADDR": "[::1]:9090", "AI_METRICS_LISTEN": "[::]:9090"},
            "metrics_listen (AI_METRICS_LISTEN): has the port of listen_addr, one of them on all addresses",
        ),
        ({"AI_SIGNING_KEYS": '{"1": 1, "1": 2}'}, "signing_keys (AI_SIGNING_KEYS): names a member twice"),
        ({"AI_PROVIDER_BASES": '{"openai": []}'}, "provider_bases.openai (AI_PROVIDER_BASES): is empty"),
        (
            {"AI_PROVIDER_AUTHORITIES": '{"a-b": "https://x", "a_b": "https://y"}'},
            "provider_authorities.a_b (AI_PROVIDER_AUTHORITIES): differs from another provider in - and _ only",
        ),
        (
            {"AI_POOL_KEY_XAI": "k", "AI_POOL_KEY_XAI_FILE": "/x"},
            "pool_keys.xai (AI_POOL_KEY_XAI_FILE): the key is given twice; set one variable",
        ),
        (
            {"AI_POOL_KEY_XAI_FILE": "/nonexistent"},
            "pool_keys.xai (AI_POOL_KEY_XAI_FILE): the file cannot be read: No such file or directory",
        ),
        ({"AI_MAX_REQUEST_BYTES": "1.5"}, "max_request_bytes (AI_MAX_REQUEST_BYTES): is not a whole number"),
        ({"AI_CONNECT_TIMEOUT_SECS": "nan"}, "connect_timeout_secs (AI_CONNECT_TIMEOUT_SECS): is too small"),
        ({"AI_DENY_FAIL_CLOSED": "perhaps"}, "deny_fail_closed (AI_DENY_FAIL_CLOSED): is neither true nor false"),
        ({"AI_UPSTREAM_CA_FILE": "/nonexistent"}, "upstream_ca_file (AI_UPSTREAM_CA_FILE): the file cannot be read"),
        ({"AI_CONFIG": "/nonexistent.toml"}, "configuration file /nonexistent.toml: cannot be read: No such file"),
    ],
)
def test_one_problem(environ: dict[str, str], line: str) -> None:
    found = problems(environ=environ)
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"AI_LISTEN_ADR": "x"}, "AI_LISTEN_ADR: unknown variable; did you mean AI_LISTEN_ADDR?"),
        ({"AI_POOL_KEY_GROK": "x"}, "AI_POOL_KEY_GROK: no such provider; did you mean AI_POOL_KEY_GROQ?"),
        ({"HTTPS_PROXY": "http://p"}, "HTTPS_PROXY: outbound proxies are not used; providers are reached directly"),
        (
            {"AI_POOL_KEY_XAI": "a-key-of-some-length"},
            "signing_keys: is empty, so every virtual key is refused; BYO works",
        ),
        (
            {"AI_SIGNING_KEYS": json.dumps({"1": PUBLIC_KEY}), "AI_POOL_KEY_XAI": "1234567"},
            "pool_keys.xai: is shorter than 8 bytes, so it is not masked",
        ),
        ({"AI_BYO": "refuse"}, "byo: is refuse while signing_keys is empty, so every request is refused"),
        (
            {"AI_BYO": "refuse", "AI_POOL_KEY_XAI": "a-key-of-some-length"},
            "byo: is refuse while signing_keys is empty, so every request",
        ),
        ({"AI_SNAPSHOT_PATH": "deny.snapshot"}, "snapshot_path: has no effect while deny_source is none"),
        ({"AI_DENY_FAIL_CLOSED": "1"}, "deny_fail_closed: has no effect while deny_source is none"),
        ({"AI_SIGNING_SEED": "x"}, "AI_SIGNING_SEED: a gateway verifies with public keys alone; keep the seed away"),
        ({"AI_MAX_CONNECTIONS": "99999999"}, "max_connections: is more than "),
    ],
)
def test_one_warning(environ: dict[str, str], line: str) -> None:
    _, warnings = load(environ=environ)
    assert len(warnings) == 1
    assert warnings[0].startswith(line)


def test_plain_http_upstream_rules() -> None:
    for authority, more, is_refused in (
        ("http://10.0.0.1", {"AI_POOL_KEY_X": "k"}, True),
        ("http://localhost.example", {"AI_POOL_KEY_X": "k"}, True),
        ("http://10.0.0.1", {}, False),
        ("http://127.0.0.9:80", {"AI_POOL_KEY_X": "k"}, False),
        ("http://[::1]:80", {"AI_POOL_KEY_X": "k"}, False),
        ("http://localhost", {"AI_POOL_KEY_X": "k"}, False),
        ("https://10.0.0.1", {"AI_POOL_KEY_X": "k"}, False),
        ("http://10.0.0.1", {"AI_POOL_KEY_X": "k", "AI_ALLOW_PLAIN_UPSTREAM": "true"}, False),
    ):
        environ = {"AI_PROVIDER_AUTHORITIES": json.dumps({"x": authority}), **more}
        if is_refused:
            assert "plain http" in problems(environ=environ)[0]
        else:
            assert load(environ=environ)[0].provider_authorities == {"x": authority}


def everything_said(variable: str, text: str) -> str:
    try:
        settings, warnings = load(environ={variable: text})
    except SettingsError as error:
        return f"{error} {error.__context__}"
    return f"{warnings} {settings.pool_keys} {settings.nats_url}"


def test_no_error_repeats_a_value(tmp_path: Path) -> None:
    """The same marked text in every place where a value or a name can stand."""
    for name in Settings.model_fields:
        for text in (
            TAINT,
            f'{{"{TAINT}": "{TAINT}"}}',
            f'["{TAINT}"]',
            f'{{"openai": "{TAINT} {TAINT}"}}',
            f"{{{TAINT}",
        ):
            assert "TAINTED" not in everything_said(f"AI_{name.upper()}", text), name
    toml = f'"{TAINT}" = 1\n[pool_keys]\n"{TAINT}" = "openai"\nopenai = "{TAINT} x"\n[signing_keys]\n1 = "{TAINT}"\n'
    assert "TAINTED" not in "\n".join(problems(toml, folder=tmp_path))
    assert "TAINTED" not in "\n".join(problems(f'pool_keys = "{TAINT}', folder=tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "AI_sk-proj-TAINTED",
        "AI_SK_ANT_API03_TAINTED",
        "AI_bai_v2.1.TAINTED",
        "AI_POOL_KEY_sk-proj-TAINTED",
        "AI_POOL_KEY_SK_ANT_TAINTED_FILE",
        "AI_TAINTED0A1B2C3D4E5F",
        "AI_POOL_KEY_OPENAI_TAINTED0A1B2C3D4E5F",
    ],
)
def test_a_key_in_the_name_of_a_variable_or_a_member_is_not_repeated(name: str, tmp_path: Path) -> None:
    _, (warning,) = load(environ={name: "x"})
    assert warning.startswith("(a name that is not shown): ")
    assert "TAINTED" not in warning
    member = name.removeprefix("AI_")
    for table in Settings.model_fields:
        for value in ('"x"', "1", "{}"):
            said = problems(f'no_such = 1\n{table} = {{ "{member}" = {value} }}\n', folder=tmp_path)
            assert "TAINTED" not in "\n".join(said), table
    for toml in (f'"{member}" = 1\n', f'["{member}"]\nx = 1\n', f'[pool_keys."{member}"]\n"{member}" = 1\n'):
        assert "TAINTED" not in "\n".join(problems(toml, folder=tmp_path))


def test_file_that_is_no_toml(tmp_path: Path) -> None:
    assert problems("a = 1\nb = = 2", folder=tmp_path)[0].endswith("is not valid TOML at line 2, column 5")
    file = tmp_path / "raw.toml"
    file.write_bytes(b"\xff\xfe")
    assert problems(environ={"AI_CONFIG": str(file)})[0].endswith("is not UTF-8 text, or too deeply nested")
    file.write_bytes(b"#" * (1024 * 1024 + 1))
    assert problems(environ={"AI_CONFIG": str(file)})[0].endswith("is larger than 1048576 bytes")
    file.write_bytes(b"#" * (1024 * 1024))
    load(environ={"AI_CONFIG": str(file)})


def test_listener_tls_files(tmp_path: Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    certificate = ca.issue_cert("gateway.example")
    cert_file, key_file, wrong_file = tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "w.pem"
    certificate.cert_chain_pems[0].write_to_path(cert_file)
    certificate.private_key_pem.write_to_path(key_file)
    other.issue_cert("x.example").private_key_pem.write_to_path(wrong_file)
    settings, _ = load(environ={"AI_TLS_CERT_FILE": str(cert_file), "AI_TLS_KEY_FILE": str(key_file)})
    assert settings.tls_files == (cert_file, key_file)
    for key in (wrong_file, cert_file):
        lines = problems(environ={"AI_TLS_CERT_FILE": str(cert_file), "AI_TLS_KEY_FILE": str(key)})
        assert len(lines) == 1
        assert lines[0].startswith("tls_cert_file (AI_TLS_CERT_FILE): certificate and key cannot be loaded")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    load(environ={"AI_UPSTREAM_CA_FILE": str(tmp_path / "ca.pem")})
    assert "cannot be loaded" in problems(environ={"AI_UPSTREAM_CA_FILE": os.devnull})[0]


def test_encrypted_key_is_refused_without_asking(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    certificate = trustme.CA().issue_cert("gateway.example")
    cert_file, key_file = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.cert_chain_pems[0].write_to_path(cert_file)
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")))
    lines = problems(environ={"AI_TLS_CERT_FILE": str(cert_file), "AI_TLS_KEY_FILE": str(key_file)})
    assert lines[0].startswith("tls_cert_file (AI_TLS_CERT_FILE): the key is encrypted")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("[::]:9090", ("::", 9090)),
        ("gateway.internal:80", ("gateway.internal", 80)),
    ],
)
def test_listen_addr(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen_addr(text) == expected
    assert str(parse_listen_addr(text)) == text


@pytest.mark.parametrize(
    "text", ["", ":80", "h", "h:", "h:65536", "::1:80", "[h]:80", "[::1]", "h:-1", "h:\uff18\uff10", "a b:1"]
)
def test_no_listen_addr(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # its text is for the operator
        parse_listen_addr(text)


@given(st.text(max_size=40))
def test_listen_addr_never_does_anything_else(text: str) -> None:
    try:
        parsed = parse_listen_addr(text)
    except ValueError:
        return
    assert 0 <= parsed.port <= 65535
    assert parsed == parse_listen_addr(str(parsed))


@pytest.mark.parametrize(
    ("open_files", "idle", "expected"),
    [(1024, 1000, (1024 - 64 - 256) // 2), (20_000, 1000, (20_000 - 64 - 1000) // 2), (64, 1000, 1), (1024, 0, 480)],
)
def test_default_max_connections(open_files: int, idle: int, expected: int) -> None:
    assert default_max_connections(open_files, idle) == expected


@pytest.mark.parametrize("other", ["0.0.0.0:8081", "[::]:8080", "127.0.0.1:9090", "gateway.internal:8080"])
def test_listeners_that_do_not_meet(other: str) -> None:
    assert load(environ={"AI_METRICS_LISTEN": other})[1] == []


def test_both_listeners_may_let_the_system_choose() -> None:
    assert load(environ={"AI_LISTEN_ADDR": "0.0.0.0:0", "AI_METRICS_LISTEN": "0.0.0.0:0"})[1] == []


def test_max_connections_is_the_configured_one() -> None:
    assert max_connections(load(environ={"AI_MAX_CONNECTIONS": "7"})[0]) == 7
    assert max_connections(load()[0]) > 7


@pytest.mark.parametrize("name", ["defaul\\udcfat", "\\ud800", "openai"])
def test_a_member_whose_name_is_no_text_is_told(name: str) -> None:
    """Variables are bytes, and JSON has escapes for halves of characters."""
    told = problems(environ={"AI_IDLE_TIMEOUT_SECS": f'{{"{name}": 0}}'})
    assert len(told) == 1
    assert told[0].startswith("idle_timeout_secs")
    assert "is too small" in told[0]


def test_a_directory_behind_one_that_may_not_be_entered_is_a_mistake_like_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.stat", denied)
    found = problems(environ={"AI_SNAPSHOT_PATH": "/closed/inner/deny.snapshot", "AI_NATS_URL": "nats://127.0.0.1"})
    assert found == [
        "snapshot_path (AI_SNAPSHOT_PATH): its directory does not exist; allowed: a path in a directory that does",
    ]
