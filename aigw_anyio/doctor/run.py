"""All checks, in the order in which a gateway would fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import anyio
import anyio.to_thread

from aigw_anyio.doctor.disk import check_disk
from aigw_anyio.doctor.local import check_limits, check_listeners
from aigw_anyio.doctor.natscheck import check_nats
from aigw_anyio.doctor.providers import Checked, check_clock, check_provider
from aigw_anyio.doctor.report import Finding, ok, warning
from aigw_anyio.settings import Settings
from aigw_anyio.tls import upstream_context
from aigw_core.policy import ProviderPolicy

CONNECT_SECS_MAX: Final = 10.0
"""For each step towards a provider: a person waits."""


async def examine(settings: Settings, warnings: Sequence[str], only: Sequence[str] = ()) -> list[Finding]:
    """``warnings``: of the settings. ``only``: these providers and nothing else. Runs in asyncio."""
    found: list[Finding] = []
    if not only:
        found += [warning("configuration", "settings", text) for text in warnings]
        found += _configured(settings)
        found += check_limits(settings)
        found += check_listeners(settings)
        found += await anyio.to_thread.run_sync(check_disk, settings)
    found += await _providers(settings, only)
    if not only:
        found += await check_nats(settings)
    return found


def _configured(settings: Settings) -> list[Finding]:
    keys, pools = len(settings.signing_keys), len(settings.pool_keys)
    what = f"is valid: {keys} signing keys, {pools} pool keys"
    if settings.signing_keys and not settings.pool_keys:
        fix = "set AI_POOL_KEY_<PROVIDER> for the providers that virtual keys may use"
        why = "virtual keys are verified and then answered 503"
        return [warning("configuration", "settings", what, why=why, fix=fix)]
    return [ok("configuration", "settings", what)]


def chosen(settings: Settings, only: Sequence[str]) -> Mapping[str, ProviderPolicy]:
    """The providers to look at: those that were named, else those with a pool key or a place of their own, else all."""
    providers = settings.build_policy().providers
    names = list(only) or [n for n in providers if n in settings.pool_keys or n in settings.provider_authorities]
    return {name: providers[name] for name in names or providers}


async def _providers(settings: Settings, only: Sequence[str]) -> list[Finding]:
    tls = upstream_context(settings.upstream_ca_path)
    secs = min(settings.connect_timeout_secs, CONNECT_SECS_MAX)
    results: dict[str, Checked] = {}

    async def check(name: str, policy: ProviderPolicy) -> None:
        results[name] = await check_provider(name, policy, tls, secs)

    providers = chosen(settings, only)
    async with anyio.create_task_group() as tasks:
        for name, policy in providers.items():
            tasks.start_soon(check, name, policy)
    found = [finding for name in providers for finding in results[name].findings]
    skews = {name: checked.skew for name, checked in results.items() if checked.skew is not None}
    return [*found, check_clock(skews)]
