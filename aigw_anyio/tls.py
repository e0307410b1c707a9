"""TLS contexts of the data listener and of provider connections."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """For new connections. Those that are open keep the context that they began with."""

    listener: ssl.SSLContext | None
    """None where the data listener speaks plain HTTP."""
    upstream: ssl.SSLContext


def tls_contexts(listener_files: tuple[Path, Path] | None, upstream_ca_file: Path | None) -> TlsContexts:
    """Reads every file: certificate chain and key of the listener, trust for providers. Raises ValueError.

    Takes tens of milliseconds where the system's trust is read.
    """
    listener = listener_context(*listener_files) if listener_files is not None else None
    return TlsContexts(listener, upstream_context(upstream_ca_file))


class _KeyIsEncrypted(Exception):
    pass


def _no_password() -> NoReturn:
    # Without this callback OpenSSL asks on the terminal and the start hangs.
    raise _KeyIsEncrypted


def listener_context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """For the data listener. Raises ValueError that says which file is wrong, quoting nothing of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("certificate", cert_file), ("key", key_file)):
        require_readable(path, name)
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except _KeyIsEncrypted:
        raise ValueError("the key is encrypted") from None
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ValueError(f"certificate and key cannot be loaded: {_reason(error)}") from None
    return context


def upstream_context(ca_file: Path | None) -> ssl.SSLContext:
    """For provider connections: certificates are checked against ``ca_file``, or the system's trust.

    Raises ValueError that quotes nothing of the file.
    """
    if ca_file is not None:
        require_readable(ca_file, "file")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ValueError(f"the certificates cannot be loaded: {_reason(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def require_readable(path: Path, name: str) -> None:
    """Raises ValueError unless the file can be opened."""
    try:
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise ValueError(f"the {name} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not valid PEM"
    return (error.strerror if isinstance(error, OSError) else None) or "not valid"
