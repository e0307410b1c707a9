"""The built-in providers and what virtual keys may call there."""

from __future__ import annotations

from aigw_core.providers import ADDED_BASES, PROVIDERS
from aigw_core.routing import WARMING, WIRES
from aigw_core.usage.profile import usage_profile
from docs.generator.markdown import code, table


def providers() -> str:
    """The table of providers as they are without configuration."""
    rows = []
    for provider in PROVIDERS.values():
        scheme = str(provider.auth_scheme)
        if provider.messages_auth_scheme is not None:
            scheme += f" ({provider.messages_auth_scheme} for Messages)"
        prefixes = ", ".join(code(prefix.decode()) for prefix in provider.key_prefixes)
        bases = ", ".join(code(base or "(none)") for base in provider.bases)
        asked = "yes" if usage_profile(provider.name).needs_include_usage else "no"
        base_url = code(f"/{provider.name}{provider.base_url}")
        rows.append((provider.name, code(provider.authority), base_url, scheme, bases, prefixes, asked))
    columns = (
        "name",
        "authority",
        "base URL here",
        "key sent as",
        "managed base paths",
        "its keys begin",
        "usage asked for",
    )
    return table(columns, rows)


def managed_scope() -> str:
    """The suffixes that virtual keys may call under each managed base path."""
    rows = [
        (code(suffix), ", ".join(method.decode() for method in methods), code(wire), "yes" if wire.billable else "no")
        for suffix, (wire, methods) in WIRES.items()
    ]
    rows.append((code("/models/{id}"), "GET, HEAD", code("models"), "no"))
    warming = [provider.name for provider in PROVIDERS.values() if provider.warming]
    rows.append((f"{code(WARMING)} ({', '.join(warming)} only)", "GET", code("warming"), "no"))
    added = " and ".join(code(base or "(none)") for base in ADDED_BASES)
    return (
        table(("suffix", "methods", "wire", "billable"), rows)
        + f"\n\nAn added provider has the base paths {added} unless `provider_bases` says otherwise."
    )
