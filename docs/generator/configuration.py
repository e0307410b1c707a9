"""The settings: names, defaults and allowed values from the model, meanings from here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import Final

from aigw_anyio.settings.model import ADOPTED_AT_START, DEFAULT, Settings
from docs.generator.markdown import code, table

MEANINGS: Final = {
    "listen_addr": "The data listener. Port 0 lets the system choose; the `listening` line on stderr says what it chose",
    "metrics_listen": "The admin listener: `/livez`, `/readyz`, `/metrics`",
    "tls_cert_file": "TLS on the data listener, together with `tls_key_file`",
    "tls_key_file": "The private key of `tls_cert_file`",
    "signing_keys": "Public keys that virtual keys are verified with, by kid. Empty: every virtual key is refused, BYO works",
    "require_signing_keys": "Refuse to start without signing keys",
    "pool_keys": "The gateway's own provider keys, set for managed callers. Better in files: see above",
    "provider_authorities": "Adds a provider, or sends a built-in one elsewhere",
    "provider_auth_schemes": "The header that carries the pool key",
    "provider_dialects": "The shape of refusals",
    "provider_bases": "Base paths under which virtual keys may call the wires of the managed scope",
    "allow_plain_upstream": "Let pool keys travel over plain http to hosts that are not loopback",
    "upstream_ca_file": "Trust for provider TLS in place of the system's",
    "deny_source": "Where the deny-set comes from. Unset: `nats` if `nats_url` is set, else `none`",
    "deny_file": 'The JSON file of `deny_source = "file"`, watched',
    "nats_url": "The NATS servers. `tls://` demands TLS. It may hold a password or token: better in the environment",
    "nats_creds": "A credentials file for NATS, read anew at every connection",
    "nats_ca_file": "Trust for NATS in place of the system's; demands TLS",
    "nats_bucket": "The key-value bucket of deny entries",
    "deny_fail_closed": "Answer 503 to managed callers until the deny-set was seeded once. Default: serve them",
    "snapshot_path": "The deny-set on disk, in force after a restart until its source is there",
    "fact_sink": "Where usage facts go: lines on `stdout`, segment files on disk (`spool`), or out of these into a `nats` stream",
    "spool_dir": "The directory of the spool, on a local disk; made if it is not there. For `spool` and `nats`",
    "spool_fsync": "When the spool is made safe against power loss: before each admission (`always`), each second, or never; "
    "the end of the process never loses anything",
    "spool_max_bytes": "Disk for the spool of one process, reserved room included; beyond it managed requests get 503. Unset: the disk",
    "spool_retention_days": "How long written segments stay. With `nats` only what the stream has acknowledged goes",
    "facts_subject": "The first words of the NATS subjects of facts; the spool's own name follows",
    "facts_stream": "The NATS stream that is made if none takes these subjects",
    "include_usage": "`inject` the option where a provider states usage only on request, and undo it on the way back; "
    "leave it `verbatim`; or `require` it: 400 with a hint",
    "on_client_abort": "What happens upstream when a caller leaves: `abort` closes it, `drain` reads on for the usage, bounded",
    "managed_stored_refs": "`refuse` managed Responses calls that name `previous_response_id`, `conversation` or a stored "
    "item: a shared pool key resolves any tenant's",
    "managed_scope": "Widens what virtual keys may call; what is added is relayed unmetered",
    "managed_drop_headers": "Headers removed for managed callers, since they choose scope within the pool key's account",
    "managed_drop_betas": "`anthropic-beta` tokens removed for managed callers",
    "cut_streams_on": "Deny reasons that also end running streams",
    "byo": "Whether callers may bring a provider's key of their own; `refuse` answers 401 to whoever has no virtual key",
    "rate_limit_rps": "For each credential",
    "byo_rate_limit_rps": "For all BYO callers together, with [shares](#shares-of-a-limit)",
    "unverified_rate_limit_rps": "For all virtual keys whose signature does not hold, with [shares](#shares-of-a-limit); asked before any signature work",
    "max_request_bytes": "Declared and streamed, transfer framing not counted",
    "max_connections": "Downstream connections. Unset: what the limit of open files is good for; more are closed at once",
    "pool_max_idle": "Idle upstream connections kept",
    "connect_timeout_secs": "Address look-up, connect and TLS, retries included",
    "read_timeout_secs": "From the end of the request to the response head",
    "stream_idle_timeout_secs": "Silence in a response body. Long, because models think; dead peers are found by TCP keepalive",
    "upstream_write_timeout_secs": "A provider that does not read",
    "client_head_timeout_secs": "To a complete request head",
    "client_body_timeout_secs": "Silence in a request body",
    "client_upload_timeout_secs": "All of a request body, however steadily it comes",
    "client_write_timeout_secs": "A caller who does not read",
    "keepalive_timeout_secs": "An idle downstream connection",
    "idle_timeout_secs": "An idle upstream connection; a provider's `Keep-Alive: timeout` shortens it",
    "shutdown_delay_secs": "After SIGTERM: connections are still accepted, readiness already fails",
    "shutdown_grace_secs": "After that: running exchanges may finish",
    "workers": "Processes that share the port, each on one core. Limits hold for all of them, sizes and connections for each",
    "log_format": "Of stderr: JSON lines, or text; `auto` is text on a terminal. Facts on stdout are JSON always",
    "log_level": "The least severe record that is written",
    "access_log": "One line for every exchange, not only for those that failed, whatever `log_level` is",
}


_RESTARTS: Final = {
    **dict.fromkeys(ADOPTED_AT_START, "yes"),
    **dict.fromkeys(("tls_cert_file", "tls_key_file"), "to switch TLS on or off"),
}


def configuration() -> str:
    """Every setting, in the order of the model."""
    fields = Settings.model_fields
    assert list(MEANINGS) == list(fields), "a setting without a meaning, or out of order"
    rows = [
        (
            code(name),
            code(f"AI_{name.upper()}"),
            _default(info.default),
            info.description or "",
            _RESTARTS.get(name, ""),
            MEANINGS[name],
        )
        for name, info in fields.items()
    ]
    return table(("name", "variable", "default", "allowed", "restart", "meaning"), rows)


def _default(value: object) -> str:
    """As TOML, except that nothing is TOML for unset."""
    if value is None:
        return "unset"
    if isinstance(value, Mapping) and set(value) == {DEFAULT}:
        value = value[DEFAULT]
    if isinstance(value, Mapping):
        return code("{}") if not value else code(json.dumps({str(k): str(v) for k, v in value.items()}))
    if isinstance(value, list):
        return code(json.dumps([str(entry.value if isinstance(entry, Enum) else entry) for entry in value]))
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, StrEnum) or not isinstance(value, int | float):
        return code(f'"{value}"')
    if isinstance(value, int) and value >= 2**20 and value % 2**20 == 0:
        return f"{code(value)} ({value // 2**20} MiB)"
    return code(f"{value:g}" if isinstance(value, float) else value)
