"""What no single field can tell: checks across fields, and checks of the files that they name."""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from aigw_anyio import tls
from aigw_anyio.deny.bucket import BUCKET
from aigw_anyio.limits import FILES_RESERVED, default_max_connections, open_files_limit
from aigw_anyio.names import shown
from aigw_anyio.nats.options import parse_nats_url
from aigw_anyio.settings.model import DEFAULT, DenySource, FactSinkKind, Settings
from aigw_core.keymask import KEY_MIN
from aigw_core.origin import Origin, parse_origin
from aigw_core.policy import Byo
from aigw_core.providers import PROVIDERS

Label = Callable[..., str]

_PROVIDER_TABLES: Final = (
    "pool_keys",
    "provider_auth_schemes",
    "provider_dialects",
    "provider_bases",
    "managed_scope",
    "on_client_abort",
    "idle_timeout_secs",
)
_RESERVED_NAMES: Final = frozenset({"v1", DEFAULT})
"""``/v1/…`` is the bare form of the default provider, ``default`` a member of per-provider tables."""


def cross_problems(settings: Settings, broken: set[str], label: Label) -> list[str]:
    """One line for each problem.

    What was refused of the names in ``broken`` is missing here; a check that would misjudge that lists the
    name beside it.
    """
    checks: tuple[tuple[tuple[str, ...], Callable[[Settings, Label], Iterator[str]]], ...] = (
        (("provider_authorities",), _authorities),
        (("provider_authorities",), _provider_tables),
        (("allow_plain_upstream",), _plain_upstreams),
        (("tls_cert_file", "tls_key_file"), _listener_tls),
        (("upstream_ca_file",), _upstream_tls),
        (("signing_keys", "require_signing_keys"), _signing_keys),
        (("listen_addr", "metrics_listen"), _addresses),
        (("fact_sink", "spool_dir", "nats_url"), _fact_sink),
        (("nats_url", "nats_creds", "nats_ca_file", "deny_source"), _nats),
        (("deny_file", "deny_source"), _deny_source),
        ((), _many_processes),
    )
    return [problem for names, check in checks if broken.isdisjoint(names) for problem in check(settings, label)]


def cross_warnings(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """One line for each thing that works, but hardly as meant."""
    found = [
        f"{variable}: outbound proxies are not used; providers are reached directly"
        for variable in ("HTTPS_PROXY", "https_proxy")
        if environ.get(variable)
    ]
    if environ.get("AI_SIGNING_SEED"):
        found.append("AI_SIGNING_SEED: a gateway verifies with public keys alone; keep the seed away from it")
    if settings.byo is Byo.REFUSE and not settings.signing_keys:
        found.append("byo: is refuse while signing_keys is empty, so every request is refused")
    elif settings.pool_keys and not settings.signing_keys:
        found.append("signing_keys: is empty, so every virtual key is refused; BYO works")
    found += [
        f"pool_keys.{shown(name)}: is shorter than {KEY_MIN} bytes, so it is not masked where the provider echoes it"
        for name, key in settings.pool_keys.items()
        if len(key.reveal()) < KEY_MIN
    ]
    if settings.snapshot_path is not None and settings.effective_deny_source is DenySource.NONE:
        found.append("snapshot_path: has no effect while deny_source is none")
    if settings.deny_fail_closed and settings.effective_deny_source is DenySource.NONE:
        found.append("deny_fail_closed: has no effect while deny_source is none")
    open_files = open_files_limit()
    if settings.max_connections is not None and 2 * settings.max_connections + FILES_RESERVED > open_files:
        found.append(f"max_connections: is more than {open_files} open files allow (raise the limit of open files)")
    return found


def max_connections(settings: Settings) -> int:
    """The configured number, or what the limit of open files is good for."""
    if settings.max_connections is not None:
        return settings.max_connections
    return default_max_connections(open_files_limit(), settings.pool_max_idle * len(settings.provider_names))


def _authorities(settings: Settings, label: Label) -> Iterator[str]:
    variables: dict[str, str] = {name.upper().replace("-", "_"): name for name in PROVIDERS}
    for name, authority in settings.provider_authorities.items():
        where = label("provider_authorities", shown(name))
        try:
            parse_origin(authority)
        except ValueError as error:
            yield f"{where}: {error}; allowed: https://host[:port] or http://host[:port]"
        variable = name.upper().replace("-", "_")
        if name in _RESERVED_NAMES or variable.endswith("_FILE"):
            yield f"{where}: this name is reserved; allowed: any but v1, default and what ends in _file"
        elif variables.setdefault(variable, name) != name:
            yield f"{where}: differs from another provider in - and _ only; allowed: a name of its own"


def _provider_tables(settings: Settings, label: Label) -> Iterator[str]:
    known = settings.provider_names
    for table in _PROVIDER_TABLES:
        members: Mapping[str, object] = getattr(settings, table)
        for name in members:
            if name in known or (name == DEFAULT and table in ("on_client_abort", "idle_timeout_secs")):
                continue
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]}?" if close else "; add it to provider_authorities"
            yield f"{label(table, shown(name))}: unknown provider{hint}"


def _plain_upstreams(settings: Settings, label: Label) -> Iterator[str]:
    if settings.allow_plain_upstream:
        return
    for name, authority in settings.provider_authorities.items():
        origin = _origin_or_none(authority)
        if (
            origin is not None
            and origin.scheme == "http"
            and name in settings.pool_keys
            and not _is_loopback(origin.host)
        ):
            yield (
                f"{label('provider_authorities', name)}: plain http would show the pool key to the network; "
                "allowed: https, a loopback address, or allow_plain_upstream = true"
            )


def _origin_or_none(authority: str) -> Origin | None:
    try:
        return parse_origin(authority)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _listener_tls(settings: Settings, label: Label) -> Iterator[str]:
    if settings.tls_cert_file is None and settings.tls_key_file is None:
        return
    if settings.tls_files is None:
        missing = "tls_key_file" if settings.tls_key_file is None else "tls_cert_file"
        yield f"{label(missing)}: is not set; allowed: tls_cert_file and tls_key_file together, or neither"
        return
    try:
        tls.listener_context(*settings.tls_files)
    except ValueError as error:
        yield f"{label('tls_cert_file')}: {error}; allowed: a PEM chain and its unencrypted PEM key"


def _upstream_tls(settings: Settings, label: Label) -> Iterator[str]:
    if settings.upstream_ca_file is not None:
        try:
            tls.upstream_context(Path(settings.upstream_ca_file))
        except ValueError as error:
            yield f"{label('upstream_ca_file')}: {error}; allowed: the path of PEM certificates"


def _signing_keys(settings: Settings, label: Label) -> Iterator[str]:
    if settings.require_signing_keys and not settings.signing_keys:
        yield f"{label('signing_keys')}: is empty, but require_signing_keys is set; allowed: one key or more"


def _addresses(settings: Settings, label: Label) -> Iterator[str]:
    data, admin = settings.listen_addr, settings.metrics_listen
    if data.port == 0 or data.port != admin.port:
        return
    if data.host == admin.host:
        yield f"{label('metrics_listen')}: is the same address as listen_addr; allowed: another port"
    elif _takes_in(data.host, admin.host) or _takes_in(admin.host, data.host):
        what = "has the port of listen_addr, one of them on all addresses"
        yield f"{label('metrics_listen')}: {what}; allowed: another port"


def _takes_in(host: str, other: str) -> bool:
    """Whether the one stands for all addresses of the other's kind. A name is not looked up."""
    try:
        return ip_address(host).is_unspecified and ip_address(host).version == ip_address(other).version
    except ValueError:
        return False


def _fact_sink(settings: Settings, label: Label) -> Iterator[str]:
    if settings.fact_sink is FactSinkKind.STDOUT:
        return
    if settings.spool_dir is None:
        yield f"{label('spool_dir')}: is unset, but fact_sink is {settings.fact_sink}; allowed: the path of a directory"
    if settings.fact_sink is FactSinkKind.NATS and settings.nats_url is None:
        yield f'{label("nats_url")}: is unset, but fact_sink is nats; allowed: an address such as "nats://host:4222"'


def _nats(settings: Settings, label: Label) -> Iterator[str]:
    needs_nats = settings.effective_deny_source is DenySource.NATS
    if settings.nats_url is None:
        if needs_nats:
            yield f"{label('nats_url')}: is not set, but deny_source is nats; allowed: an address"
        return
    files = (Path(name) if name is not None else None for name in (settings.nats_creds, settings.nats_ca_file))
    try:
        parse_nats_url(settings.nats_url, creds_file=next(files), ca_file=next(files))
    except ValueError as error:
        allowed = "nats://host:4222 or tls://host:4222, with nats_creds and nats_ca_file"
        yield f"{label('nats_url')}: {error}; allowed: {allowed}"
    if needs_nats and BUCKET.fullmatch(settings.nats_bucket) is None:
        yield f"{label('nats_bucket')}: is no name of a bucket; allowed: up to 200 letters, digits, - and _"


def _deny_source(settings: Settings, label: Label) -> Iterator[str]:
    if settings.effective_deny_source is DenySource.FILE and settings.deny_file is None:
        yield f"{label('deny_file')}: is not set, but deny_source is file; allowed: the path of a JSON file"
    # Not Path.is_dir, which raises where a directory above it may not be entered.
    if settings.snapshot_path is not None and not os.path.isdir(Path(settings.snapshot_path).parent):
        yield f"{label('snapshot_path')}: its directory does not exist; allowed: a path in a directory that does"


def _many_processes(settings: Settings, label: Label) -> Iterator[str]:
    if settings.workers > 1 and not (hasattr(socket, "SO_REUSEPORT") and hasattr(os, "fork")):
        yield f"{label('workers')}: this system cannot share a port among processes; allowed: 1"
