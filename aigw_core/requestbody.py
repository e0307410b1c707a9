"""Which body rules hold for a managed request."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from aigw_core.auth import Authorized
from aigw_core.policy import Policy, StoredRefs
from aigw_core.usage.request import BodyRules, IncludeUsage, RequestBody
from aigw_core.usage.wholebody import WholeBody
from aigw_core.wires import Wire

ManagedBody: TypeAlias = RequestBody | WholeBody
"""A body on its way to the provider: read as it comes, or there whole."""

_OPTION_WIRES = frozenset({Wire.CHAT_COMPLETIONS, Wire.COMPLETIONS})
"""Their requests take `stream_options` (OpenAI API reference)."""
_RESPONSES = frozenset({Wire.RESPONSES, Wire.RESPONSES_COMPACT})


def body_rules(authorized: Authorized, policy: Policy) -> BodyRules:
    """The rules in force for this managed caller, route and policy."""
    route = authorized.route
    rules = policy.body_rules.get((route.provider, route.wire))
    if rules is None:
        rules = _rules_without_hook(authorized, policy)
        policy.body_rules[route.provider, route.wire] = rules
    hook, caller = policy.on_model, authorized.caller
    if hook is None or caller is None:
        return rules
    return replace(rules, on_model=lambda model: hook(caller, route, model))


def _rules_without_hook(authorized: Authorized, policy: Policy) -> BodyRules:
    wire = authorized.route.wire
    has_option = wire in _OPTION_WIRES and policy.include_usage is not IncludeUsage.VERBATIM
    return BodyRules(
        include_usage=policy.include_usage if has_option else None,
        refuse_background=wire is Wire.RESPONSES,
        refuse_stored_refs=policy.managed_stored_refs is StoredRefs.REFUSE and wire in _RESPONSES,
        on_model=None,
        max_bytes=policy.max_request_bytes,
        adds_option=authorized.provider.usage.needs_include_usage,
    )
