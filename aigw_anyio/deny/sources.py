"""From settings to a source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aigw_anyio.deny.control import DenySource
from aigw_anyio.deny.file import FileDenySource
from aigw_anyio.nats.options import NatsOptions, parse_nats_url
from aigw_anyio.settings import Settings
from aigw_anyio.settings.model import DenySource as Kind

if TYPE_CHECKING:
    from aigw_anyio.nats.hosting import Host

MakeHost = Callable[[], "Host"]
"""Makes the event loop that NATS code runs in; called in the machine's thread."""


def make_deny_source(settings: Settings, make_host: MakeHost | None = None) -> DenySource | None:
    """None where there is to be none. ``make_host``: by default
    :func:`~aigw_anyio.nats.hosting.host_here`.

    Raises ValueError for addresses and files that :func:`~aigw_anyio.settings.load_settings` refuses.
    """
    kind = settings.effective_deny_source
    if kind is Kind.NONE:
        return None
    if kind is Kind.FILE:
        if settings.deny_file is None:
            raise ValueError("deny_file is not set")
        return FileDenySource(Path(settings.deny_file))
    # Nothing of NATS is loaded where it is not wanted.
    from aigw_anyio.deny.nats import NatsDenySource
    from aigw_anyio.nats.hosting import host_here

    host = make_host() if make_host is not None else host_here()
    return NatsDenySource(nats_options(settings), settings.nats_bucket, host)


def nats_options(settings: Settings) -> NatsOptions:
    """Raises ValueError."""
    if settings.nats_url is None:
        raise ValueError("nats_url is not set")
    return parse_nats_url(
        settings.nats_url,
        creds_file=Path(settings.nats_creds) if settings.nats_creds is not None else None,
        ca_file=Path(settings.nats_ca_file) if settings.nats_ca_file is not None else None,
    )
