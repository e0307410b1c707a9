"""The admission decision: which step refuses first, and what each of them asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core import auth
from aigw_core.auth import Admitted, Authorized, Refused, authorize, check_deny
from aigw_core.errors import Dialect, LocalProtocolError, Reason, Rejection
from aigw_core.gateway import Gateway
from aigw_core.headers import Headers
from aigw_core.http1.heads import parse_request_head
from aigw_core.http1.memo import HeadMemo
from aigw_core.keys import KeyRing, VirtualKey, fingerprint, mint_virtual_key
from aigw_core.limiter import Aggregate
from aigw_core.messages import CHUNKED, NO_BODY, Framing, Length, RequestHead
from aigw_core.peers import Peer
from aigw_core.policy import AdmissionHook, Byo, Policy, ProviderPolicy
from aigw_core.providers import PROVIDERS
from aigw_core.routing import Route, ScopeTable
from aigw_core.secrets import Secret
from aigw_core.stats import LIMITS
from aigw_core.strangers import REFUSALS_MAX
from aigw_core.wires import Wire
from tests.core.driver import BYO_KEY, SEED, VIRTUAL_KEY, VIRTUAL_KEY_V2, make_gateway, make_policy

CHAT = b"/openai/v1/chat/completions"
OPENAI, ANTHROPIC = Dialect.OPENAI, Dialect.ANTHROPIC
BAD_SIGNATURE = mint_virtual_key(Secret(bytes(32)), kid=1, tenant_id=1, vpc_id=2).encode()
UNKNOWN_KID = mint_virtual_key(SEED, kid=2, tenant_id=1, vpc_id=2).encode()
MALFORMED = b"bai_v1.01.x.y"
CALLER = VirtualKey(1, 1, 1, 2, None)
SHORT = Length(10)


def bearer(key: bytes) -> tuple[bytes, bytes]:
    return b"Authorization", b"Bearer " + key


def request(
    target: bytes = CHAT,
    *fields: tuple[bytes, bytes],
    key: bytes = VIRTUAL_KEY,
    method: bytes = b"POST",
    framing: Framing = SHORT,
) -> RequestHead:
    if framing is SHORT and method in (b"GET", b"HEAD"):
        framing = NO_BODY
    credential = [bearer(key)] if key else []
    return RequestHead(method, target, Headers.of([(b"Host", b"gateway"), *credential, *fields]), framing)


def decide(head: RequestHead, gateway: Gateway | None = None, now: float = 0.0) -> Authorized | Refused:
    gateway = gateway if gateway is not None else make_gateway()
    return authorize(head, gateway.policy, gateway, now)


def reason_of(head: RequestHead, gateway: Gateway | None = None, now: float = 0.0) -> Reason | None:
    decision = decide(head, gateway, now)
    return decision.rejection.reason if isinstance(decision, Refused) else None


def authorized(head: RequestHead, gateway: Gateway | None = None) -> Authorized:
    decision = decide(head, gateway)
    assert isinstance(decision, Authorized), decision
    return decision


def with_provider(policy: Policy, name: str, **changes: object) -> Policy:
    changed = replace(policy.providers[name], **changes)  # type: ignore[arg-type]  # tests name their own fields
    return replace(policy, providers={**policy.providers, name: changed})


# The order of the steps


@dataclass
class Attempt:
    """A request and a gateway; faults are built into them."""

    target: bytes = CHAT
    method: bytes = b"POST"
    key: bytes = VIRTUAL_KEY
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    length: int = 10
    changes: dict[str, object] = field(default_factory=dict)
    has_pool_key: bool = True
    prepare: list[Callable[[Gateway], object]] = field(default_factory=list)

    def run(self) -> Reason | None:
        policy = make_policy(max_request_bytes=100, **self.changes)
        if not self.has_pool_key:
            policy = with_provider(policy, "openai", pool_key=None)
        gateway = make_gateway(policy)
        for prepare in self.prepare:
            prepare(gateway)
        head = request(self.target, *self.fields, key=self.key, method=self.method, framing=Length(self.length))
        return reason_of(head, gateway)


def unknown_route(attempt: Attempt) -> None:
    attempt.target = b"/nobody/v1/chat/completions"


def no_credential(attempt: Attempt) -> None:
    attempt.key = b""


def conflicting_keys(attempt: Attempt) -> None:
    attempt.fields.append((b"x-api-key", VIRTUAL_KEY_V2))


def misplaced_key(attempt: Attempt) -> None:
    attempt.fields.append((b"x-other", VIRTUAL_KEY))


def virtual_keys_only(attempt: Attempt) -> None:
    attempt.changes["byo"] = Byo.REFUSE


def refused_by_provider(attempt: Attempt) -> None:
    def refuse(gateway: Gateway) -> None:
        credential = fingerprint(attempt.key, gateway.hash_key) + b"openai"
        for _ in range(REFUSALS_MAX + 1):
            gateway.strangers.refused(credential, None, 0.0, 0.0)

    attempt.prepare.append(refuse)


def foreign_key(attempt: Attempt) -> None:
    attempt.key, attempt.target = b"gsk_1", b"/v1/chat/completions"


def malformed_key(attempt: Attempt) -> None:
    attempt.key = MALFORMED


def own_limit(attempt: Attempt) -> None:
    attempt.changes["rate_limit_rps"] = 1
    attempt.prepare.append(lambda gateway: gateway.limiter.allow(fingerprint(attempt.key, gateway.hash_key), 1, 0))


def unverified_limit(attempt: Attempt) -> None:
    attempt.changes["unverified_rate_limit_rps"] = 1
    attempt.prepare.append(lambda gateway: gateway.limiter.allow_aggregate(Aggregate.UNVERIFIED, 1, 0))


def byo_limit(attempt: Attempt) -> None:
    attempt.changes["byo_rate_limit_rps"] = 1
    attempt.prepare.append(lambda gateway: gateway.limiter.allow_aggregate(Aggregate.BYO, 1, 0))


def too_large(attempt: Attempt) -> None:
    attempt.length = 101


def bad_signature(attempt: Attempt) -> None:
    attempt.key = BAD_SIGNATURE


def unknown_kid(attempt: Attempt) -> None:
    attempt.key = UNKNOWN_KID


def denied(attempt: Attempt) -> None:
    attempt.prepare.append(lambda gateway: gateway.deny.put("blackhole.1", b"spend", 1))


def unseeded(attempt: Attempt) -> None:
    attempt.changes["deny_fail_closed"] = True
    attempt.prepare.append(lambda gateway: setattr(gateway, "deny_state", "cold"))


def websocket(attempt: Attempt) -> None:
    attempt.fields += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]


def out_of_scope(attempt: Attempt) -> None:
    attempt.target = b"/openai/v1/files"


def wrong_method(attempt: Attempt) -> None:
    attempt.method = b"GET"


def no_pool_key(attempt: Attempt) -> None:
    attempt.has_pool_key = False


def hook(attempt: Attempt) -> None:
    attempt.changes["on_admission"] = lambda caller, route: Rejection(Reason.HOOK)


Fault = Callable[[Attempt], None]
# In the order of the request path; what sets the same part of the request excludes each other.
MANAGED_STEPS: list[tuple[Fault, Reason]] = [
    (unknown_route, Reason.UNKNOWN_ROUTE),
    (conflicting_keys, Reason.CONFLICTING_KEYS),
    (misplaced_key, Reason.MISPLACED_KEY),
    (no_credential, Reason.NO_CREDENTIAL),
    (malformed_key, Reason.BAD_KEY),
    (own_limit, Reason.RATE_LIMITED),
    (unverified_limit, Reason.RATE_LIMITED),
    (too_large, Reason.TOO_LARGE),
    (bad_signature, Reason.BAD_KEY),
    (unknown_kid, Reason.BAD_KEY),
    (denied, Reason.DENIED_SPEND),
    (unseeded, Reason.NOT_READY),
    (websocket, Reason.UPGRADE),
    (out_of_scope, Reason.OUT_OF_SCOPE),
    (wrong_method, Reason.WRONG_METHOD),
    (no_pool_key, Reason.NO_POOL_KEY),
    (hook, Reason.HOOK),
]
BYO_STEPS: list[tuple[Fault, Reason]] = [
    (unknown_route, Reason.UNKNOWN_ROUTE),
    (misplaced_key, Reason.MISPLACED_KEY),
    (virtual_keys_only, Reason.VIRTUAL_KEY_NEEDED),
    (no_credential, Reason.NO_CREDENTIAL),
    (foreign_key, Reason.WRONG_PROVIDER),
    (refused_by_provider, Reason.KEYS_REFUSED),
    (own_limit, Reason.RATE_LIMITED),
    (byo_limit, Reason.RATE_LIMITED),
    (too_large, Reason.TOO_LARGE),
    (websocket, Reason.UPGRADE),
    (hook, Reason.HOOK),
]
EXCLUSIVE: list[set[Fault]] = [
    {no_credential, malformed_key, bad_signature, unknown_kid, foreign_key},
    {no_credential, conflicting_keys},
    {unverified_limit, unknown_kid},
    {misplaced_key, conflicting_keys},
    {unknown_route, out_of_scope, foreign_key},
    {out_of_scope, wrong_method},
]


def pairs(steps: list[tuple[Fault, Reason]]) -> list[tuple[Fault, Fault, Reason]]:
    return [
        (first, second, reason)
        for (first, reason), (second, _) in combinations(steps, 2)
        if not any({first, second} <= group for group in EXCLUSIVE)
    ]


def name_of(one: object) -> str:
    return getattr(one, "__name__", getattr(one, "name", ""))


@pytest.mark.parametrize(("fault", "reason"), MANAGED_STEPS, ids=name_of)
def test_each_step_refuses_managed_callers(fault: Fault, reason: Reason) -> None:
    attempt = Attempt()
    fault(attempt)
    assert attempt.run() is reason


@pytest.mark.parametrize(("first", "second", "reason"), pairs(MANAGED_STEPS), ids=name_of)
def test_the_earlier_step_wins_for_managed_callers(first: Fault, second: Fault, reason: Reason) -> None:
    for faults in ((first, second), (second, first)):
        attempt = Attempt()
        for fault in faults:
            fault(attempt)
        assert attempt.run() is reason


@pytest.mark.parametrize(("fault", "reason"), BYO_STEPS, ids=name_of)
def test_each_step_refuses_byo_callers(fault: Fault, reason: Reason) -> None:
    attempt = Attempt(key=BYO_KEY)
    fault(attempt)
    assert attempt.run() is reason


@pytest.mark.parametrize(("first", "second", "reason"), pairs(BYO_STEPS), ids=name_of)
def test_the_earlier_step_wins_for_byo_callers(first: Fault, second: Fault, reason: Reason) -> None:
    for faults in ((first, second), (second, first)):
        attempt = Attempt(key=BYO_KEY)
        for fault in faults:
            fault(attempt)
        assert attempt.run() is reason


@pytest.mark.parametrize("fault", [unverified_limit, denied, unseeded, out_of_scope, wrong_method, no_pool_key])
def test_what_concerns_virtual_keys_leaves_byo_alone(fault: Fault) -> None:
    attempt = Attempt(key=BYO_KEY)
    fault(attempt)
    assert attempt.run() is None


@pytest.mark.parametrize("fault", [virtual_keys_only, refused_by_provider])
def test_what_concerns_byo_leaves_virtual_keys_alone(fault: Fault) -> None:
    attempt = Attempt()
    fault(attempt)
    assert attempt.run() is None


def test_a_credential_waits_where_it_was_refused_and_says_how_long() -> None:
    gateway = make_gateway()
    credential = fingerprint(BYO_KEY, gateway.hash_key) + b"openai"
    for now in range(REFUSALS_MAX + 3):
        gateway.strangers.refused(credential, None, float(now), float(now))
    decision = decide(request(key=BYO_KEY), gateway, 7.5)
    assert isinstance(decision, Refused)
    assert (decision.rejection.reason, decision.rejection.retry_after) == (Reason.KEYS_REFUSED, 3)
    assert reason_of(request(b"/groq/v1/chat/completions", key=BYO_KEY), gateway, 7.5) is None, "elsewhere it may hold"
    assert reason_of(request(key=BYO_KEY), gateway, 10.0) is None


def test_an_address_waits_for_the_keys_that_came_from_it() -> None:
    gateway = make_gateway()
    peer, other = gateway.peer("192.0.2.1"), gateway.peer("192.0.2.2")
    assert peer is not None
    for number in range(REFUSALS_MAX + 1):
        gateway.strangers.refused(b"%d" % number, peer.mark(Aggregate.BYO), 0.0, 0.0)

    def reason(key: bytes, one: Peer | None) -> Reason | None:
        decision = authorize(request(key=key), gateway.policy, gateway, 0.5, one)
        return decision.rejection.reason if isinstance(decision, Refused) else None

    assert [reason(BYO_KEY, one) for one in (peer, other, None)] == [Reason.KEYS_REFUSED, None, None]
    assert reason(VIRTUAL_KEY, peer) is None


def test_the_byo_aggregate_leaves_virtual_keys_alone() -> None:
    attempt = Attempt()
    byo_limit(attempt)
    assert attempt.run() is None


def test_without_faults() -> None:
    assert Attempt().run() is None
    assert Attempt(key=BYO_KEY).run() is None


# Step 2


def test_a_route() -> None:
    decision = authorized(request(CHAT + b"?a=%2F&b"))
    assert decision.route.provider == "openai"
    assert decision.route.target == b"/v1/chat/completions?a=%2F&b"
    assert decision.route.endpoint == "/v1/chat/completions"
    assert (decision.route.wire, decision.route.dialect, decision.route.bare) == (Wire.CHAT_COMPLETIONS, OPENAI, False)
    assert decision.provider.name == "openai"


def test_byo_may_call_anything_and_the_wire_is_read_where_it_is_known() -> None:
    for target, wire in ((b"/openai/v1/files/f_1", Wire.OPAQUE), (b"/openai/v1/responses", Wire.RESPONSES)):
        decision = authorized(request(target, key=BYO_KEY, method=b"DELETE"))
        assert (decision.caller, decision.managed, decision.route.wire) == (None, False, wire)
        assert decision.route.target == target.removeprefix(b"/openai")


@pytest.mark.parametrize(
    ("target", "fields", "key", "provider"),
    [
        (b"/v1/chat/completions", [], b"sk-1", "openai"),
        (b"/v1/models", [], b"sk-1", "openai"),
        (b"/v1", [], b"sk-1", "openai"),
        (b"/v1/messages", [], b"sk-1", "anthropic"),
        (b"/v1/messages/count_tokens", [], b"sk-1", "anthropic"),
        (b"/v1/models", [], b"sk-ant-1", "anthropic"),
        (b"/v1/models", [(b"x-api-key", b"k")], b"", "anthropic"),
        (b"/v1/models", [(b"Anthropic-Version", b"2023-06-01")], b"sk-1", "anthropic"),
        (b"/v1/threads/t/messages", [], b"sk-1", "openai"),
        (b"/v1/chat/completions", [], VIRTUAL_KEY, "openai"),
        (b"/v1/messages", [(b"x-api-key", VIRTUAL_KEY)], b"", "anthropic"),
    ],
)
def test_bare_paths(target: bytes, fields: list[tuple[bytes, bytes]], key: bytes, provider: str) -> None:
    decision = authorized(request(target, *fields, key=key, method=b"GET" if b"models" in target else b"POST"))
    assert (decision.route.provider, decision.route.bare) == (provider, True)
    assert decision.route.target == target
    assert decision.route.dialect is Dialect(provider)


PREFIXES = [(name, prefix) for name, provider in PROVIDERS.items() for prefix in provider.key_prefixes]


@pytest.mark.parametrize(("owner", "prefix"), PREFIXES)
def test_a_key_of_another_provider_on_a_bare_path(owner: str, prefix: bytes) -> None:
    key = prefix + b"0123"
    for target in (b"/v1/chat/completions", b"/v1/messages"):
        decision = decide(request(target, key=key))
        # A key that looks like Anthropic's makes Anthropic the default.
        provider = "anthropic" if target == b"/v1/messages" or owner == "anthropic" else "openai"
        if owner == provider:
            assert isinstance(decision, Authorized)
            assert decision.route.provider == owner
        else:
            assert isinstance(decision, Refused)
            assert decision.rejection.reason is Reason.WRONG_PROVIDER
            assert f"/{owner}/" in decision.rejection.text
            assert "0123" not in decision.rejection.text
    for named in ("openai", "mistral"):
        assert reason_of(request(f"/{named}/v1/chat/completions".encode(), key=key)) is None


def test_each_credential_is_looked_at_on_a_bare_path() -> None:
    """All of them are forwarded."""
    assert reason_of(request(b"/v1/chat/completions", (b"api-key", b"gsk_1"), key=b"sk-1")) is Reason.WRONG_PROVIDER
    assert reason_of(request(b"/v1/models", (b"x-api-key", b"sk-proj-1"), key=b"")) is Reason.WRONG_PROVIDER


def test_the_404_says_where_to_go() -> None:
    for target in (b"/", b"/openia/v1/models", b"/v1beta/models", b"/OpenAI/v1/models", b"//v1/models"):
        decision = decide(request(target))
        assert isinstance(decision, Refused)
        assert decision.rejection.reason is Reason.UNKNOWN_ROUTE
        for name, provider in PROVIDERS.items():
            assert f"/{name}{provider.base_url}" in decision.rejection.text
        assert "openia" not in decision.rejection.text


def test_what_callers_are_told() -> None:
    """Word by word: it is all that somebody with a wrong base URL has to go by."""
    policy = make_policy()
    policy = replace(policy, providers={name: policy.providers[name] for name in ("anthropic", "openai")})
    gateway = make_gateway(replace(policy, max_request_bytes=100))
    told = [
        decide(request(b"/nobody/x"), gateway),
        decide(request(key=b""), gateway),
        decide(request(b"/v1/messages", (b"x-api-key", b"sk-proj-0"), key=b""), gateway),
        decide(request(framing=Length(101)), gateway),
    ]
    assert [refused.rejection.text for refused in told if isinstance(refused, Refused)] == [
        "The first path segment names no known provider. Set the SDK's base URL to this gateway's address followed by"
        " one of: /anthropic, /openai/v1 (an Anthropic SDK takes it without /v1).",
        "No API key was given: send it as `Authorization: Bearer` or `x-api-key`.",
        "This looks like a key of openai: use the path /openai/… instead.",
        "The request body exceeds 100 bytes.",
    ]


@pytest.mark.parametrize(
    ("target", "fields", "dialect"),
    [
        (b"/nobody/x", [], OPENAI),
        (b"/nobody/x", [(b"anthropic-version", b"1")], ANTHROPIC),
        (b"/nobody/v1/messages", [], ANTHROPIC),
        (b"/anthropic/v1/files", [], ANTHROPIC),
        (b"/anthropic/v1/chat/completions", [], OPENAI),
        (b"/openrouter/api/v1/messages", [], ANTHROPIC),
        (b"/openai/v1/files", [], OPENAI),
        (b"/v1/files", [(b"anthropic-version", b"1")], ANTHROPIC),
    ],
)
def test_refusals_speak_the_dialect_of_the_caller(
    target: bytes, fields: list[tuple[bytes, bytes]], dialect: Dialect
) -> None:
    decision = decide(request(target, *fields, key=BAD_SIGNATURE))
    assert isinstance(decision, Refused)
    assert decision.dialect is dialect


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [CHAT, b"/v1/models", b"/v1/messages", b"/groq/openai/v1/models", b"/nobody", b"/openai?a"]
            ),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_remembered_routes_are_the_same_routes(calls: list[tuple[bytes, bool]]) -> None:
    with patch.object(auth, "ROUTES_MAX", 3):
        policy = make_policy()
        gateway = make_gateway(policy)
        for target, anthropic in calls:
            fields = [(b"anthropic-version", b"1")] if anthropic else []
            head = request(target, *fields, key=BYO_KEY)
            fresh = make_gateway()
            remembered, resolved = authorize(head, policy, gateway, 0.0), decide(head, fresh)
            if isinstance(resolved, Refused):
                assert remembered == resolved
            else:
                assert isinstance(remembered, Authorized)
                assert remembered.route == resolved.route
            assert len(policy.routes) <= 3


def test_long_targets_are_not_remembered() -> None:
    gateway = make_gateway()
    for size, remembered in ((512, True), (513, False)):
        target = b"/openai" + b"/v1/models/".ljust(size, b"m")
        assert isinstance(decide(request(target, method=b"GET"), gateway), Authorized)
        assert any(key[0] == target for key in gateway.policy.routes) is remembered


# Steps 3 to 6


@pytest.mark.parametrize("name", [b"Authorization", b"x-api-key", b"api-key", b"x-goog-api-key"])
def test_a_virtual_key_in_each_place(name: bytes) -> None:
    value = (b"Bearer " if name == b"Authorization" else b"") + VIRTUAL_KEY_V2
    decision = authorized(request(CHAT, (name, value), (b"api-key", b"junk"), key=b""))
    assert decision.caller == VirtualKey(2, 1, 1, 2, 9)
    assert decision.managed


@pytest.mark.parametrize("key", [MALFORMED, BAD_SIGNATURE, UNKNOWN_KID, b"bai_", b"bai_v3.1.a.b", VIRTUAL_KEY + b"A"])
def test_all_bad_keys_are_told_the_same(key: bytes) -> None:
    decision = decide(request(key=key))
    assert isinstance(decision, Refused)
    assert (decision.rejection, decision.dialect) == (Rejection(Reason.BAD_KEY), OPENAI)


def test_an_empty_key_ring_refuses_every_virtual_key() -> None:
    gateway = make_gateway(replace(make_policy(), keyring=Policy.default().keyring))
    assert reason_of(request(), gateway) is Reason.BAD_KEY
    assert reason_of(request(key=BYO_KEY), gateway) is None


def test_a_window_of_the_limiter() -> None:
    gateway = make_gateway(make_policy(rate_limit_rps=2))
    head = request()
    assert [reason_of(head, gateway, now) for now in (0.0, 0.5, 0.99, 1.0, 1.5, 1.99)] == [
        *[None, None, Reason.RATE_LIMITED],
        *[None, None, Reason.RATE_LIMITED],
    ]
    assert reason_of(request(key=VIRTUAL_KEY_V2), gateway, 1.99) is None, "each credential has its own"


def test_byo_is_limited_per_credential_and_as_a_whole() -> None:
    gateway = make_gateway(make_policy(rate_limit_rps=2, byo_rate_limit_rps=3))
    keys = [b"sk-1", b"sk-1", b"sk-1", b"sk-2", b"sk-3"]
    limited = Reason.RATE_LIMITED
    assert [reason_of(request(key=key), gateway) for key in keys] == [None, None, limited, None, limited]
    assert reason_of(request(), gateway) is None


@pytest.mark.parametrize(
    ("limits", "key", "detail"),
    [
        ({"rate_limit_rps": 1}, VIRTUAL_KEY, "key"),
        ({"rate_limit_rps": 1}, BYO_KEY, "key"),
        ({"byo_rate_limit_rps": 1}, BYO_KEY, "byo"),
        ({"unverified_rate_limit_rps": 1}, BAD_SIGNATURE, "unverified"),
    ],
)
def test_the_log_is_told_which_limit_it_was(limits: dict[str, int], key: bytes, detail: str) -> None:
    gateway = make_gateway(make_policy(**limits))
    decide(request(key=key), gateway)
    decision = decide(request(key=key), gateway)
    assert isinstance(decision, Refused)
    assert (decision.rejection.reason, decision.rejection.detail) == (Reason.RATE_LIMITED, detail)
    assert detail in LIMITS


def test_signatures_of_strangers_are_limited_as_a_whole() -> None:
    """Each costs a verification; a key that is in the cache costs none."""
    gateway = make_gateway(make_policy(unverified_rate_limit_rps=2))
    assert reason_of(request(), gateway) is None
    assert reason_of(request(key=BAD_SIGNATURE), gateway) is Reason.BAD_KEY
    assert reason_of(request(key=BAD_SIGNATURE), gateway) is Reason.BAD_KEY
    assert reason_of(request(key=BAD_SIGNATURE), gateway) is Reason.RATE_LIMITED
    assert reason_of(request(key=VIRTUAL_KEY_V2), gateway) is Reason.RATE_LIMITED
    assert [reason_of(request(), gateway) for _ in range(5)] == [None] * 5
    assert gateway.policy.keyring.cached == 1, "only what verified is remembered"


def test_keys_that_hold_and_keys_of_unknown_kids_use_nothing_up() -> None:
    gateway = make_gateway(make_policy(unverified_rate_limit_rps=1))
    keys = [mint_virtual_key(SEED, kid=1, tenant_id=1, vpc_id=2, key_id=n).encode() for n in range(5)]
    assert [reason_of(request(key=key), gateway) for key in keys] == [None] * 5
    assert [reason_of(request(key=UNKNOWN_KID), gateway) for _ in range(5)] == [Reason.BAD_KEY] * 5
    assert gateway.limiter.room(Aggregate.UNVERIFIED, 1, 0) == 1
    assert reason_of(request(key=BAD_SIGNATURE), gateway) is Reason.BAD_KEY
    assert gateway.limiter.room(Aggregate.UNVERIFIED, 1, 0) == 0
    assert reason_of(request(key=UNKNOWN_KID), gateway) is Reason.BAD_KEY, "not even where nothing is left"


@pytest.mark.parametrize(("key", "unshared"), [(BAD_SIGNATURE, 0), (BYO_KEY, 7)])
def test_limits_of_strangers_have_shares_by_address_and_connection(key: bytes, unshared: int) -> None:
    """Of 100: half for an address, a fifth of that for a connection; nobody else is refused for it."""
    gateway = make_gateway(make_policy(unverified_rate_limit_rps=100, byo_rate_limit_rps=100))

    def passes(peer: Peer | None) -> bool:
        decision = authorize(request(key=key), gateway.policy, gateway, 0.0, peer)
        return isinstance(decision, Authorized) or decision.rejection.reason is not Reason.RATE_LIMITED

    assert sum(passes(gateway.peer("192.0.2.1")) for _ in range(unshared)) == unshared
    one = gateway.peer("192.0.2.1")
    half = (100 - unshared + 1) // 2
    assert sum(passes(one) for _ in range(100)) == 10
    assert passes(gateway.peer("192.0.2.1")), "another connection of the same address"
    assert sum(passes(gateway.peer("192.0.2.1")) for _ in range(100)) == half - 11, "connections used once each"
    assert not passes(gateway.peer(b"192.0.2.1"))
    assert passes(gateway.peer("192.0.2.2"))
    assert passes(None), "of an unknown address the sum alone counts"


def test_malformed_keys_cost_nobody_anything() -> None:
    gateway = make_gateway(make_policy(rate_limit_rps=1, unverified_rate_limit_rps=1))
    assert {reason_of(request(key=MALFORMED), gateway) for _ in range(5)} == {Reason.BAD_KEY}
    assert reason_of(request(), gateway) is None


@pytest.mark.parametrize("key", [VIRTUAL_KEY, BYO_KEY])
@pytest.mark.parametrize(
    ("framing", "reason"), [(Length(100), None), (Length(101), Reason.TOO_LARGE), (CHUNKED, None), (Length(0), None)]
)
def test_the_declared_length(key: bytes, framing: Framing, reason: Reason | None) -> None:
    gateway = make_gateway(make_policy(max_request_bytes=100))
    decision = decide(request(key=key, framing=framing), gateway)
    assert (decision.rejection.reason if isinstance(decision, Refused) else None) is reason
    if isinstance(decision, Refused):
        assert "100 bytes" in decision.rejection.text


# Step 7


@pytest.mark.parametrize(
    ("tenant", "key", "reason"),
    [
        (None, None, None),
        (b"spend", None, Reason.DENIED_SPEND),
        (b"fraud", None, Reason.DENIED),
        (b"", None, Reason.DENIED),
        (b"what?", None, Reason.DENIED),
        (None, b"spend", Reason.DENIED_SPEND),
        (None, b"fraud", Reason.DENIED),
        (b"spend", b"fraud", Reason.DENIED_SPEND),
        (b"fraud", b"spend", Reason.DENIED),
    ],
)
def test_the_deny_set(tenant: bytes | None, key: bytes | None, reason: Reason | None) -> None:
    """402 for spend, 403 for everything else; the tenant's entry goes before the key's."""
    gateway = make_gateway()
    for name, value in (("blackhole.1", tenant), ("blackhole.key.9", key), ("blackhole.2", b"fraud")):
        if value is not None:
            gateway.deny.put(name, value, (gateway.deny.revision or 0) + 1)
    assert reason_of(request(key=VIRTUAL_KEY_V2), gateway) is reason
    # A version 1 key has no key id.
    expected = None if tenant is None else reason
    assert reason_of(request(), gateway) is expected


@pytest.mark.parametrize(
    ("closed", "state", "seeded", "reason"),
    [
        (True, "cold", False, Reason.NOT_READY),
        (True, "seeding", False, Reason.NOT_READY),
        (True, "live", False, None),
        (True, "none", False, None),
        (True, "reconnecting", False, None),
        (True, "cold", True, None),
        (True, "seeding", True, None),
        (False, "cold", False, None),
    ],
)
def test_before_the_first_seed(closed: bool, state: str, seeded: bool, reason: Reason | None) -> None:
    gateway = make_gateway(make_policy(deny_fail_closed=closed))
    gateway.deny_state = state
    gateway.deny_seeded = seeded
    assert reason_of(request(), gateway) is reason
    assert reason_of(request(key=BYO_KEY), gateway) is None


def test_the_deny_set_is_asked_again_by_itself() -> None:
    gateway = make_gateway()
    assert check_deny(CALLER, gateway.policy, gateway) is None
    gateway.deny.put("blackhole.1", b"fraud", 1)
    assert check_deny(CALLER, gateway.policy, gateway) == Rejection(Reason.DENIED)


@pytest.mark.parametrize("key", [VIRTUAL_KEY, BYO_KEY])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"websocket", Reason.UPGRADE),
        (b"WebSocket", Reason.UPGRADE),
        (b"h2c, websocket", Reason.UPGRADE),
        (b"h2c", None),
        (b"TLS/1.0", None),
        (b"websocketx", None),
    ],
)
def test_upgrades(key: bytes, value: bytes, reason: Reason | None) -> None:
    """426 for WebSocket; Java clients send h2c on every plain request."""
    assert reason_of(request(CHAT, (b"Upgrade", value), key=key)) is reason


# Steps 8 and 9, hooks


SCOPE: list[tuple[str, bytes, Reason | None]] = [
    ("/openai/v1/chat/completions", b"POST", None),
    ("/openai/v1/models", b"GET", None),
    ("/openai/v1/models", b"HEAD", None),
    ("/openai/v1/models/ft:gpt-4o:org::id", b"GET", None),
    ("/openai/v1/models/gpt-4o", b"DELETE", Reason.WRONG_METHOD),
    ("/openai/v1/responses", b"GET", Reason.WRONG_METHOD),
    ("/openai/v1/responses/resp_1", b"GET", Reason.OUT_OF_SCOPE),
    ("/openai/v1/threads/t_1/messages", b"POST", Reason.OUT_OF_SCOPE),
    ("/openai/v1/chat/completions/", b"POST", Reason.OUT_OF_SCOPE),
    ("/openai/chat/completions", b"POST", Reason.OUT_OF_SCOPE),
    ("/openai/v1/files", b"GET", Reason.OUT_OF_SCOPE),
    ("/openai/v1/models/..%2Ffiles", b"GET", Reason.OUT_OF_SCOPE),
    ("/openai/v1/models/%2e%2e", b"GET", Reason.OUT_OF_SCOPE),
    ("/openai/v1/models/a%5cb", b"GET", Reason.OUT_OF_SCOPE),
    ("/openai/v1//models", b"GET", Reason.OUT_OF_SCOPE),
    ("/openai/v1/x/../models", b"GET", Reason.OUT_OF_SCOPE),
    ("/openai", b"GET", Reason.OUT_OF_SCOPE),
    ("/openrouter/api/v1/messages", b"POST", None),
    ("/openrouter/api/v1/models/openai%2Fgpt-4o", b"GET", None),
    ("/openrouter/v1/messages", b"POST", Reason.OUT_OF_SCOPE),
    ("/openrouter/api/v1/generation", b"GET", Reason.OUT_OF_SCOPE),
    ("/fireworks/inference/v1/messages", b"POST", None),
    ("/fireworks/inference/chat/completions", b"POST", None),
    ("/fireworks/v1/chat/completions", b"POST", Reason.OUT_OF_SCOPE),
    ("/groq/openai/v1/models/openai%2Fgpt-oss-20b", b"GET", None),
    ("/groq/v1/chat/completions", b"POST", Reason.OUT_OF_SCOPE),
    ("/deepseek/chat/completions", b"POST", None),
    ("/deepseek/beta/completions", b"POST", None),
    ("/deepseek/anthropic/v1/messages", b"POST", None),
    ("/deepseek/anthropic/messages", b"POST", Reason.OUT_OF_SCOPE),
    ("/anthropic/v1/messages/count_tokens", b"POST", None),
    ("/anthropic/v1/messages/batches", b"POST", Reason.OUT_OF_SCOPE),
    ("/anthropic/messages", b"POST", Reason.OUT_OF_SCOPE),
    ("/together/v1/messages", b"POST", None),
    ("/cerebras/v1/tcp_warming", b"GET", None),
    ("/cerebras/v1/tcp_warming", b"POST", Reason.WRONG_METHOD),
    ("/cerebras/v1/tcp_warming", b"HEAD", Reason.WRONG_METHOD),
    ("/openai/v1/tcp_warming", b"GET", Reason.OUT_OF_SCOPE),
    ("/mistral/v1/embeddings", b"POST", None),
    ("/mistral/v1/conversations", b"POST", Reason.OUT_OF_SCOPE),
    ("/xai/v1/responses/compact", b"POST", None),
]


@pytest.mark.parametrize(("target", "method", "reason"), SCOPE)
def test_the_managed_scope(target: str, method: bytes, reason: Reason | None) -> None:
    assert reason_of(request(target.encode(), method=method)) is reason
    assert reason_of(request(target.encode() + b"?beta=true", method=method)) is reason
    assert reason_of(request(target.encode(), method=method, key=BYO_KEY)) is None


@pytest.mark.parametrize(
    ("target", "allow"),
    [(CHAT, "POST"), (b"/openai/v1/models", "GET, HEAD"), (b"/cerebras/v1/tcp_warming", "GET")],
)
def test_405_says_what_is_allowed(target: bytes, allow: str) -> None:
    decision = decide(request(target, method=b"PUT"))
    assert isinstance(decision, Refused)
    assert decision.rejection == Rejection(Reason.WRONG_METHOD, allow=allow)


@pytest.mark.parametrize("pool_key", [None, Secret(b"")])
def test_without_a_pool_key_nothing_is_sent_in_its_place(pool_key: Secret | None) -> None:
    gateway = make_gateway(with_provider(make_policy(), "openai", pool_key=pool_key))
    assert reason_of(request(), gateway) is Reason.NO_POOL_KEY
    assert reason_of(request(b"/groq/openai/v1/chat/completions"), gateway) is None


def test_the_hook_sees_caller_and_route() -> None:
    seen: list[tuple[VirtualKey | None, Route]] = []

    def watch(caller: VirtualKey | None, route: Route) -> Rejection | None:
        seen.append((caller, route))
        return Rejection(Reason.HOOK, "Not today.", status_override=451) if caller is None else None

    gateway = make_gateway(make_policy(on_admission=watch))
    assert isinstance(decide(request(), gateway), Authorized)
    refused = decide(request(b"/anthropic/v1/messages", key=BYO_KEY), gateway)
    assert isinstance(refused, Refused)
    assert refused.rejection == Rejection(Reason.HOOK, "Not today.", status_override=451)
    assert refused.dialect is ANTHROPIC
    assert [(caller, route.provider, route.wire) for caller, route in seen] == [
        (CALLER, "openai", Wire.CHAT_COMPLETIONS),
        (None, "anthropic", Wire.MESSAGES),
    ]


# The proof


def test_a_managed_exchange_is_admitted_by_its_own_open_record() -> None:
    managed = authorized(request())
    assert Admitted(managed, "id-1", "id-1").authorized is managed
    for opened, expected in ((None, None), (None, "id-1"), ("id-2", "id-1"), ("id-1", None)):
        with pytest.raises(LocalProtocolError):
            Admitted(managed, opened, expected)


def test_byo_is_admitted_at_once() -> None:
    byo = authorized(request(key=BYO_KEY))
    assert Admitted(byo, None, None).authorized is byo


def test_decisions_do_not_show_credentials() -> None:
    for key in (VIRTUAL_KEY, BYO_KEY, BAD_SIGNATURE, MALFORMED):
        text = repr(decide(request(CHAT, (b"x-other", b"a"), key=key)))
        assert key.decode() not in text
        assert "sk-pool-secret" not in text


def test_a_provider_of_the_operator() -> None:
    added = replace(ProviderPolicy.of(PROVIDERS["openai"]), name="local", pool_key=Secret(b"k"), key_prefixes=())
    policy = replace(make_policy(), providers={"local": added})
    gateway = make_gateway(policy)
    assert authorized(request(b"/local/v1/chat/completions"), gateway).provider is added
    assert reason_of(request(), gateway) is Reason.UNKNOWN_ROUTE
    assert reason_of(request(b"/v1/chat/completions"), gateway) is Reason.UNKNOWN_ROUTE


# What is remembered


def test_a_verified_key_is_known_from_then_on() -> None:
    """The cached claims decide as the verified ones did: the caller stays managed, and who it was."""
    gateway = make_gateway()
    first = authorized(request(), gateway)
    with patch.object(type(gateway.policy.keyring), "verify", side_effect=AssertionError("verified again")):
        again = authorized(request(), gateway)
    assert first.caller == again.caller == CALLER


@pytest.mark.parametrize("key", [VIRTUAL_KEY, VIRTUAL_KEY_V2, BYO_KEY, BAD_SIGNATURE, MALFORMED, b""])
@pytest.mark.parametrize("target", [CHAT, b"/openai/v1/files", b"/nowhere", b"/v1/messages"])
def test_a_repeated_head_is_decided_as_the_first_was(key: bytes, target: bytes) -> None:
    lines = [b"POST %b HTTP/1.1" % target, b"Host: gateway", b"Content-Length: 2"]
    if key:
        lines.append(b"Authorization: Bearer " + key)
    block = b"\r\n".join(lines)
    gateway, memo = make_gateway(), HeadMemo()
    decisions = [decide(memo.parse(block), gateway) for _ in range(3)]
    fresh = decide(parse_request_head(block), gateway)
    assert decisions == [fresh] * 3
    gateway.deny.put("blackhole.1", b"fraud", 1)
    denied = decide(memo.parse(block), gateway)
    assert denied == decide(parse_request_head(block), gateway)
    changed = replace(gateway.policy, keyring=KeyRing({}))
    assert authorize(memo.parse(block), changed, gateway, 0.0) == authorize(
        parse_request_head(block), changed, gateway, 0.0
    ), "what was remembered under another policy holds no more"


@pytest.mark.parametrize("key", [VIRTUAL_KEY, BYO_KEY])
def test_a_repeated_head_is_authorized_by_the_same_object(key: bytes) -> None:
    """What facts say of caller and route is encoded once and kept on it."""
    block = (
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAuthorization: Bearer " + key
    )
    gateway, memo = make_gateway(), HeadMemo()
    first, again = (decide(memo.parse(block % size), gateway) for size in (2, 345))
    assert isinstance(first, Authorized)
    assert again is first
    other = replace(gateway.policy, keyring=gateway.policy.keyring)
    assert authorize(memo.parse(block % 2), other, gateway, 0.0) is not first, "another policy decides anew"


def test_routes_are_remembered_up_to_a_bound() -> None:
    gateway = make_gateway()
    routes = gateway.policy.routes
    for n in range(1_024):
        authorized(request(b"/openai/v1/models/m-%d" % n, method=b"GET"), gateway)
    assert len(routes) == auth.ROUTES_MAX == 1_024
    authorized(request(b"/openai/v1/models/one-more", method=b"GET"), gateway)
    assert len(routes) == 1
    longest = b"/v1/models/".ljust(auth.ROUTE_TARGET_MAX, b"m")
    authorized(request(b"/openai" + longest, method=b"GET"), gateway)
    assert len(routes) == 2
    authorized(request(b"/openai" + longest + b"m", method=b"GET"), gateway)
    assert len(routes) == 2, "a target too long to be worth it"


# Bodies of what only reads


MODELS = b"/openai/v1/models"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    ("framing", "reason"),
    [(NO_BODY, None), (Length(0), None), (Length(1), Reason.BODY_RULE), (CHUNKED, Reason.BODY_RULE)],
)
def test_a_read_with_a_virtual_key_has_no_body(method: bytes, framing: Framing, reason: Reason | None) -> None:
    policy = with_provider(make_policy(), "openai", scope=ScopeTable(("/v1",), extra=("HEAD /v1/models",)))
    scoped = make_gateway(policy) if method == b"HEAD" else make_gateway()
    assert reason_of(request(MODELS, method=method, framing=framing), scoped) is reason
    assert reason_of(request(MODELS, method=method, framing=framing, key=BYO_KEY), scoped) is None


@pytest.mark.parametrize("hook", [None, lambda caller, route: None])
def test_a_repeated_read_has_no_body_either(hook: AdmissionHook | None) -> None:
    gateway = make_gateway(make_policy(on_admission=hook))
    memo = HeadMemo()
    found = []
    for length in (0, 0, 5, 0):
        block = b"GET %b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Length: %d"
        found.append(reason_of(memo.parse(block % (MODELS, VIRTUAL_KEY, length)), gateway))
    assert found == [None, None, Reason.BODY_RULE, None]
