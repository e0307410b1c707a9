"""The sets of header fields that do not cross."""

from __future__ import annotations

from aigw_core.credentials import CREDENTIAL_HEADERS
from aigw_core.forwarding import OVERRIDE_HEADERS
from aigw_core.headers import DROPPED_PREFIXES, HOP_BY_HOP
from aigw_core.policy import DROP_BETAS, DROP_HEADERS
from docs.generator.markdown import code


def hop_by_hop() -> str:
    names = [code(name.decode()) for name in sorted(HOP_BY_HOP)]
    prefixes = [code(f"{prefix.decode()}*") for prefix in DROPPED_PREFIXES]
    return ", ".join(names) + "; and every field " + " or ".join(prefixes) + "."


def dropped_for_managed() -> str:
    credentials = ", ".join(code(name.decode()) for name in sorted(CREDENTIAL_HEADERS))
    overrides = ", ".join(code(name.decode()) for name in sorted(OVERRIDE_HEADERS))
    headers = ", ".join(code(name.decode()) for name in sorted(DROP_HEADERS))
    betas = ", ".join(code(name) for name in DROP_BETAS)
    return (
        f"- credentials: {credentials}\n"
        f"- what some servers take method, path or host from: {overrides}\n"
        f"- `managed_drop_headers`, by default {headers}\n"
        f"- tokens of `anthropic-beta` that match `managed_drop_betas`, by default {betas}"
    )
