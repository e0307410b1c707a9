"""Which body rules hold where."""

from __future__ import annotations

import pytest

from aigw_core.auth import Authorized
from aigw_core.errors import Dialect, Reason, Rejection
from aigw_core.keys import VirtualKey
from aigw_core.policy import Policy, StoredRefs
from aigw_core.requestbody import body_rules
from aigw_core.routing import Route
from aigw_core.usage.request import IncludeUsage
from aigw_core.wires import Wire
from tests.core.driver import make_policy

CALLER = VirtualKey(version=1, kid=1, tenant_id=1, vpc_id=1, key_id=None)


def authorized(policy: Policy, provider: str, wire: Wire) -> Authorized:
    route = Route(provider, b"/v1/x", "/v1/x", Dialect.OPENAI, None, False, wire)
    return Authorized(CALLER, route, policy.providers[provider])


@pytest.mark.parametrize(
    ("mode", "provider", "wire", "expected", "adds"),
    [
        (IncludeUsage.INJECT, "openai", Wire.CHAT_COMPLETIONS, IncludeUsage.INJECT, True),
        (IncludeUsage.INJECT, "openai", Wire.COMPLETIONS, IncludeUsage.INJECT, True),
        (IncludeUsage.INJECT, "xai", Wire.CHAT_COMPLETIONS, IncludeUsage.INJECT, True),
        (IncludeUsage.INJECT, "mistral", Wire.CHAT_COMPLETIONS, IncludeUsage.INJECT, False),
        (IncludeUsage.INJECT, "groq", Wire.COMPLETIONS, IncludeUsage.INJECT, False),
        (IncludeUsage.INJECT, "openai", Wire.RESPONSES, None, True),
        (IncludeUsage.VERBATIM, "openai", Wire.CHAT_COMPLETIONS, None, True),
        (IncludeUsage.REQUIRE, "mistral", Wire.CHAT_COMPLETIONS, IncludeUsage.REQUIRE, False),
        (IncludeUsage.REQUIRE, "openai", Wire.MESSAGES, None, True),
    ],
)
def test_include_usage_acts_only_where_provider_data_says_so(
    mode: IncludeUsage, provider: str, wire: Wire, expected: IncludeUsage | None, adds: bool
) -> None:
    policy = make_policy(include_usage=mode)
    rules = body_rules(authorized(policy, provider, wire), policy)
    assert (rules.include_usage, rules.adds_option) == (expected, adds)


def test_background_is_refused_on_responses_alone() -> None:
    policy = make_policy()
    refusing = {wire for wire in Wire if body_rules(authorized(policy, "openai", wire), policy).refuse_background}
    assert refusing == {Wire.RESPONSES}


def test_stored_references_are_refused_where_asked_for() -> None:
    strict = make_policy(managed_stored_refs=StoredRefs.REFUSE)
    refusing = {wire for wire in Wire if body_rules(authorized(strict, "openai", wire), strict).refuse_stored_refs}
    assert refusing == {Wire.RESPONSES, Wire.RESPONSES_COMPACT}
    lax = make_policy()
    assert not body_rules(authorized(lax, "openai", Wire.RESPONSES), lax).refuse_stored_refs


def test_the_hook_hears_caller_route_and_model() -> None:
    heard: list[object] = []

    def hook(caller: VirtualKey, route: Route, model: str | None) -> Rejection | None:
        heard.extend([caller, route.provider, model])
        return Rejection(Reason.HOOK)

    policy = make_policy(on_model=hook)
    rules = body_rules(authorized(policy, "openai", Wire.EMBEDDINGS), policy)
    assert rules.active
    assert rules.on_model is not None
    rules.on_model("m")
    assert heard == [CALLER, "openai", "m"]


def test_without_a_rule_nothing_is_in_force() -> None:
    policy = make_policy()
    assert not body_rules(authorized(policy, "openai", Wire.EMBEDDINGS), policy).active
