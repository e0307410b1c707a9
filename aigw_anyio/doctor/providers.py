"""Checks of providers, step by step as a gateway reaches them: name, connection, TLS, credential; and our clock.

The call is a cheap one, a list of models, and its body is not read: what stands in it is nobody's business here.
"""

from __future__ import annotations

import email.utils
import ssl
import time
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.to_thread
import httpcore

from aigw_anyio.connecting import describe, look_up
from aigw_anyio.doctor.report import Finding, ok, skipped, warning, wrong
from aigw_core.errors import Dialect
from aigw_core.origin import Origin
from aigw_core.policy import ProviderPolicy

ANSWER_SECS: Final = 20.0
"""For the answer to the list of models: some providers make it anew each time."""
CERTIFICATE_DAYS: Final = 14
"""Left on a provider's certificate below which it is told; most are renewed a month ahead."""
SKEW_WARNING_SECS: Final = 5.0
"""Dates have whole seconds, and an answer takes a moment; more is the clock."""
SKEW_WRONG_SECS: Final = 60.0
"""From here on facts stand in the wrong minute, and short-lived tokens stop working."""
ANTHROPIC_VERSION: Final = "2023-06-01"
"""The API wants one; this is the one there is (facts: providers §1)."""

PUBLIC_LISTS: Final = {"openrouter": "/api/v1/key"}
"""Providers whose list of models is shown to anybody, and what asks for the credential instead."""


@dataclass(slots=True)
class Checked:
    """What was found about one provider."""

    findings: list[Finding] = field(default_factory=list)
    skew: float | None = None
    """Seconds by which its clock is ahead of ours, by the Date of its answer."""


async def check_provider(name: str, policy: ProviderPolicy, tls: ssl.SSLContext, connect_secs: float) -> Checked:
    """Every step up to the first that fails. Raises nothing."""
    found = Checked()
    origin = policy.origin
    addresses = await _resolve(name, origin, connect_secs, found)
    if not addresses:
        return found
    stream = await _connect(name, origin, addresses, connect_secs, found)
    if stream is None:
        return found
    try:
        if origin.scheme == "https":
            secured = await _secure(name, origin, stream, tls, connect_secs, found)
            if secured is None:
                return found
            stream = secured
        await _ask(name, policy, stream, found)
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(1.0):
            await stream.aclose()
    return found


async def _resolve(name: str, origin: Origin, secs: float, found: Checked) -> tuple[str, ...]:
    why = "no answer in time"
    with anyio.move_on_after(secs):
        try:
            addresses = await anyio.to_thread.run_sync(look_up, origin.host, origin.port, abandon_on_cancel=True)
        except OSError as error:
            why = describe(error)
        except UnicodeError:
            why = "it is no host name"
        else:
            found.findings.append(ok("dns", name, f"{origin.host}: {_count(len(addresses), 'address')}"))
            return addresses
    fix = f"look at provider_authorities.{name}, /etc/resolv.conf and the network policy of this machine"
    found.findings.append(wrong("dns", name, f"{origin.host} is not found", why=why, fix=fix))
    return ()


async def _connect(
    name: str, origin: Origin, addresses: tuple[str, ...], secs: float, found: Checked
) -> httpcore.AsyncNetworkStream | None:
    backend = httpcore.AnyIOBackend()
    failures: list[str] = []
    for address in addresses:
        try:
            stream = await backend.connect_tcp(address, origin.port, timeout=secs)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            failures.append(_cause(error))
            continue
        where = f"{origin.host}:{origin.port}"
        if failures:
            fix = "the gateway tries two more addresses; if it stays so, tell whoever runs that network"
            told = f"{where}: {len(failures)} of {len(failures) + 1} addresses do not answer"
            found.findings.append(warning("connect", name, told, why=failures[0], fix=fix))
        else:
            found.findings.append(ok("connect", name, f"{where} accepts connections"))
        return stream
    fix = "let this machine reach that host and port: firewall, egress policy, proxy (HTTPS_PROXY is not used)"
    told = f"{origin.host}:{origin.port} cannot be reached"
    found.findings.append(wrong("connect", name, told, why=failures[0], fix=fix))
    return None


async def _secure(
    name: str, origin: Origin, stream: httpcore.AsyncNetworkStream, tls: ssl.SSLContext, secs: float, found: Checked
) -> httpcore.AsyncNetworkStream | None:
    try:
        secured = await stream.start_tls(tls, origin.host, timeout=secs)
    except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
        told = f"{origin.host} is not trusted, or speaks no TLS"
        found.findings.append(wrong("tls", name, told, why=_cause(error), fix=_tls_fix(name, error)))
        return None
    connection = secured.get_extra_info("ssl_object")
    days = _days_left(connection)
    version = connection.version() if connection is not None else "TLS"
    if days is not None and days < CERTIFICATE_DAYS:
        fix = "if the host is yours, renew it; otherwise tell the provider"
        told = f"the certificate of {origin.host} ends in {_count(int(days), 'day')}"
        found.findings.append(warning("tls", name, told, fix=fix))
    else:
        found.findings.append(ok("tls", name, f"{version}, the certificate is trusted and for {origin.host}"))
    return secured


def _tls_fix(name: str, error: BaseException) -> str:
    cause = _find(error, ssl.SSLError)
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return f"look at scheme and port of provider_authorities.{name}: does that host speak TLS there?"
    if cause.verify_code in (9, 10):
        return "compare the clock of this machine; if it is right, the provider must renew its certificate"
    if cause.verify_code in (62, 64):
        return f"put a name that the certificate has into provider_authorities.{name}"
    return "set upstream_ca_file to the certificates of your own authority, or update those of the system"


def _days_left(connection: ssl.SSLObject | None) -> float | None:
    certificate = connection.getpeercert() if connection is not None else None
    if not certificate:
        return None
    return (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86_400


def models_path(name: str, policy: ProviderPolicy) -> str:
    """Where the provider lists its models, or says something else to whoever holds a key."""
    if name in PUBLIC_LISTS:
        return PUBLIC_LISTS[name]
    base = policy.base_url
    if policy.dialect is Dialect.ANTHROPIC and not base.endswith("/v1"):
        base = f"{base}/v1"
    return f"{base}/models"


async def _ask(name: str, policy: ProviderPolicy, stream: httpcore.AsyncNetworkStream, found: Checked) -> None:
    origin = policy.origin
    headers = [(b"Host", origin.authority.encode()), (b"Accept", b"application/json"), (b"User-Agent", b"aigw-doctor")]
    if policy.dialect is Dialect.ANTHROPIC:
        headers.append((b"anthropic-version", ANTHROPIC_VERSION.encode()))
    if policy.pool_key:
        headers.append(policy.auth_scheme.header(policy.pool_key.reveal()))
    path = models_path(name, policy)
    url = httpcore.URL(scheme=origin.scheme.encode(), host=origin.host.encode(), port=origin.port, target=path.encode())
    target = httpcore.Origin(origin.scheme.encode(), origin.host.encode(), origin.port)
    timeouts = {"timeout": {"read": ANSWER_SECS, "write": ANSWER_SECS}}
    started = time.time()
    try:
        connection = httpcore.AsyncHTTP11Connection(target, stream)
        async with connection.stream("GET", url, headers=headers, extensions=timeouts) as response:
            status, fields = response.status, response.headers
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        fix = f"ask for {path} with curl; if it answers there, the network in between does something else for us"
        found.findings.append(wrong("credential", name, f"GET {path} has no answer", why=_cause(error), fix=fix))
        return
    found.skew = _skew(fields, started, time.time())
    found.findings.append(_judge(name, path, status, has_key=bool(policy.pool_key)))


def _judge(name: str, path: str, status: int, *, has_key: bool) -> Finding:
    answer = f"GET {path} is answered {status}"
    if status >= 500:
        fix = "look at the provider's status page; requests fail the same way at the moment"
        return wrong("credential", name, answer, why="the provider has a fault of its own", fix=fix)
    if not has_key:
        return skipped("credential", name, f"{answer}; there is no pool key, so virtual keys cannot use it")
    variable = f"AI_POOL_KEY_{name.upper().replace('-', '_')}"
    if status in (401, 403):
        fix = f"set {variable} (or …_FILE) to a key that the provider knows, and reload"
        why = "the key is not known" if status == 401 else "the key may not do this, or not from this address"
        return wrong("credential", name, answer, why=why, fix=fix)
    if status == 429:
        return warning(
            "credential",
            name,
            answer,
            why="the account is over its rate limit or out of credit",
            fix="look at the limits and the balance of the account at the provider",
        )
    if status >= 300:
        why = "it has no list of models there, so nothing is known about the key"
        fix = f"look at provider_bases.{name}, or try a request through the gateway"
        return warning("credential", name, answer, why=why, fix=fix)
    return ok("credential", name, f"{answer}: the pool key is accepted")


def _skew(fields: list[tuple[bytes, bytes]], started: float, ended: float) -> float | None:
    for name, value in fields:
        if name.lower() == b"date":
            try:
                date = email.utils.parsedate_to_datetime(value.decode("latin-1")).timestamp()
            except (ValueError, OverflowError):
                return None
            # It was true at some moment in between, and is cut to whole seconds.
            return date - ended if date > ended else min(0.0, date + 1.0 - started)
    return None


def check_clock(skews: dict[str, float]) -> Finding:
    """``skews``: seconds by which providers are ahead of us, by name."""
    if not skews:
        return skipped("clock", "wall clock", "no provider has told its time")
    ordered = sorted(skews.values())
    skew = ordered[len(ordered) // 2]
    told = f"this machine is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} {_count(len(skews), 'provider')}"
    fix = "let the machine keep time (chrony, systemd-timesyncd)"
    if abs(skew) >= SKEW_WRONG_SECS:
        return wrong("clock", "wall clock", told, why="facts get wrong times, certificates are misjudged", fix=fix)
    if abs(skew) >= SKEW_WARNING_SECS:
        return warning("clock", "wall clock", told, why="facts get wrong times", fix=fix)
    return ok("clock", "wall clock", f"agrees with {_count(len(skews), 'provider')}")


def _cause(error: BaseException) -> str:
    """The words of whoever failed at the bottom, TLS before sockets."""
    cause = _find(error, ssl.SSLError) or _find(error, OSError)
    if isinstance(error, httpcore.TimeoutException) or isinstance(cause, TimeoutError):
        return "no answer in time"
    return (describe(cause) if cause is not None else "") or "the connection was closed"


def _find(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The deepest error of that kind among the causes."""
    found = None
    while error is not None:
        if isinstance(error, kind):
            found = error
        error = error.__cause__ or error.__context__
    return found


def _count(number: int, noun: str) -> str:
    plural = "" if number == 1 else "es" if noun.endswith("ss") else "s"
    return f"{number} {noun}{plural}"
