"""Where NATS is and who we are there: addresses and credentials, read once and checked before anything connects."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from aigw_anyio.tls import require_readable
from aigw_core.secrets import Secret

DEFAULT_PORT: Final = 4222
SERVERS_MAX: Final = 32
"""A cluster's seed addresses are few; a longer list is a mistake."""

_SCHEMES: Final = ("nats", "tls")


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """Addresses without credentials, and the credentials apart from them."""

    servers: tuple[str, ...]
    """``nats://host:port`` or ``tls://host:port``."""
    tls_required: bool = False
    """Whether credentials and data travel only over TLS."""
    user: Secret | None = None
    password: Secret | None = None
    token: Secret | None = None
    creds_file: Path | None = None
    """A ``.creds`` file of a user's JWT and seed; read at every connect, so a renewed one is taken up."""
    ca_file: Path | None = None
    """PEM certificates to trust; the system's where unset."""

    def tls_context(self) -> ssl.SSLContext:
        """Raises ValueError that quotes nothing of the file."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (ssl.SSLError, OSError, ValueError):
            raise ValueError("the certificates for NATS cannot be loaded") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def parse_nats_url(url: Secret, *, creds_file: Path | None = None, ca_file: Path | None = None) -> NatsOptions:
    """Options out of ``scheme://[user:password@|token@]host[:port]``, several separated by commas.

    ``tls://`` in one address demands TLS of all. Raises ValueError that quotes nothing of the address, which may
    hold a password.
    """
    parts = [_split(part.strip()) for part in url.reveal().decode().split(",") if part.strip()]
    if not 1 <= len(parts) <= SERVERS_MAX:
        raise ValueError(f"between 1 and {SERVERS_MAX} addresses are needed")
    logins = {(part.username, part.password) for part in parts if part.username is not None}
    if len(logins) > 1:
        raise ValueError("all addresses must carry the same credentials, or one of them alone")
    user: Secret | None = None
    password: Secret | None = None
    token: Secret | None = None
    if logins:
        name, word = logins.pop()
        if word is None:
            token = Secret(unquote(name or ""))
        else:
            user, password = Secret(unquote(name or "")), Secret(unquote(word))
    if creds_file is not None and (user is not None or token is not None):
        raise ValueError("credentials are given twice, in the address and as a file")
    if creds_file is not None:
        require_readable(creds_file, "credentials file")
    if ca_file is not None:
        require_readable(ca_file, "file of certificates")
    tls_required = ca_file is not None or any(part.scheme == "tls" for part in parts)
    options = NatsOptions(
        servers=tuple(_server(part, tls_required=tls_required) for part in parts),
        tls_required=tls_required,
        user=user,
        password=password,
        token=token,
        creds_file=creds_file,
        ca_file=ca_file,
    )
    options.tls_context()
    return options


def _split(text: str) -> SplitResult:
    try:
        found = urlsplit(text if "://" in text else f"nats://{text}")
        port = found.port
    except ValueError:
        # The error of urlsplit quotes what it was given.
        raise ValueError("an address is not well-formed") from None
    if found.scheme not in _SCHEMES:
        raise ValueError("an address must begin with nats:// or tls://")
    if not found.hostname or port == 0:
        raise ValueError("an address has no host, or port 0")
    if found.path not in ("", "/") or found.query or found.fragment:
        raise ValueError("an address ends after its port")
    return found


def _server(part: SplitResult, *, tls_required: bool) -> str:
    host = part.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{'tls' if tls_required else 'nats'}://{shown}:{part.port or DEFAULT_PORT}"
