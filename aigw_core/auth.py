"""The admission decision: steps 2 to 9 of the request path, in that order, and the proof of it.

Of a head that is repeated only what may come out otherwise is decided again: limits, size, deny-set, hook.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol

from aigw_core.credentials import Credential, find_credential
from aigw_core.denyset import DenyReason, DenySet
from aigw_core.errors import Dialect, LocalProtocolError, Reason, Rejection
from aigw_core.keys import KeyFault, VirtualKey, VirtualKeyError, fingerprint, parse_virtual_key
from aigw_core.limiter import Aggregate, Limiter
from aigw_core.messages import Length, NoBody, RequestHead
from aigw_core.peers import Peer, has_room, take
from aigw_core.policy import Byo, Policy, ProviderPolicy
from aigw_core.routing import Route, bare_dialect, dialect_of, split_target
from aigw_core.strangers import Strangers
from aigw_core.wires import Wire

ROUTES_MAX: Final = 1_024
"""Resolved targets that a policy remembers: an SDK uses a handful; model ids in paths are the long tail."""
ROUTE_TARGET_MAX: Final = 512
"""Bytes of a target worth remembering."""


class Shared(Protocol):
    """What admission needs of the gateway: the current, never the pinned, limiter and deny-set."""

    limiter: Limiter
    deny: DenySet
    strangers: Strangers
    hash_key: bytes

    def deny_unready(self) -> bool: ...


@dataclass(slots=True)
class Authorized:
    """Passed steps 1 to 9. Made by :func:`authorize` only."""

    caller: VirtualKey | None
    """None: BYO."""
    route: Route
    provider: ProviderPolicy
    is_bodiless: bool = False
    """A managed request that must not have a body."""
    credential: bytes = b""
    """Of BYO: what providers' verdicts are remembered by."""
    proven_until: float = 0.0
    """Of BYO: until when it need not be noted again that the provider accepts the credential."""
    identity: str | None = None
    """What facts say of caller and route, encoded once: a repeated request is authorized by the same object."""

    @property
    def managed(self) -> bool:
        return self.caller is not None


class Admitted:
    """The proof that an exchange may reach a provider: 100-continue, the index and the relay ask for it."""

    __slots__ = ("authorized",)

    def __init__(self, authorized: Authorized, opened: str | None, expected: str | None) -> None:
        """``opened`` is the id that the sink confirmed, ``expected`` the one that was asked; both None for BYO.

        Raises LocalProtocolError where a managed caller's open record is not confirmed.
        """
        if authorized.caller is not None and (opened is None or opened != expected):
            raise LocalProtocolError("a managed exchange is admitted by its own open record only")
        self.authorized = authorized


@dataclass(slots=True)
class Refused:
    """A refusal and the dialect in which the caller wants it."""

    rejection: Rejection
    dialect: Dialect
    route: Route | None = None
    """Where the request was to go; None where its path names no provider."""


@dataclass(slots=True, repr=False)
class _Known:
    """What a repeated head said before: good for as long as the policy is the same."""

    policy: Policy
    credential: Credential
    route: Route
    mark: bytes
    websocket: bool
    authorized: Authorized | None = None
    """What came of it once: the same credential is the same caller, with the same scope."""


def _find_route(head: RequestHead, policy: Policy, credential: bytes) -> Route | Refused:
    """Step 2."""
    first = head.headers.first
    anthropic = credential.startswith(b"sk-ant-") or b"x-api-key" in first or b"anthropic-version" in first
    known = policy.routes.get((head.target, anthropic))
    if known is not None:
        return known
    route = _resolve_route(head.target, policy, anthropic)
    if isinstance(route, Route) and len(route.target) <= ROUTE_TARGET_MAX:
        if len(policy.routes) >= ROUTES_MAX:
            policy.routes.clear()
        policy.routes[head.target, anthropic] = route
    return route


def _resolve_route(target: bytes, policy: Policy, anthropic: bool) -> Route | Refused:
    segment, path, query = split_target(target)
    if segment is None:
        dialect = bare_dialect(path, anthropic)
        segment = dialect.value
        bare = True
    else:
        bare = False
        provider = policy.providers.get(segment)
        default = provider.dialect if provider is not None else Dialect.OPENAI
        dialect = dialect_of(path, default, anthropic)
    provider = policy.providers.get(segment)
    if provider is None:
        return Refused(Rejection(Reason.UNKNOWN_ROUTE, _known_providers(policy)), dialect)
    scope = provider.scope.find(path)
    wire = Wire.OPAQUE if scope is None else scope.wire
    return Route(segment, path + query, path.decode("latin-1"), dialect, scope, bare, wire)


def _known_providers(policy: Policy) -> str:
    urls = ", ".join(f"/{name}{policy.providers[name].base_url}" for name in sorted(policy.providers))
    return (
        "The first path segment names no known provider. Set the SDK's base URL to this gateway's address"
        f" followed by one of: {urls} (an Anthropic SDK takes it without /v1)."
    )


def _foreign_key(credential: Credential, route: Route, policy: Policy) -> Rejection | None:
    """A caller's key must never go to the wrong provider because a path named none."""
    keys = (credential.value, *credential.others)
    for name, provider in policy.providers.items():
        if name != route.provider and any(key.startswith(provider.key_prefixes) for key in keys):
            return Rejection(Reason.WRONG_PROVIDER, f"This looks like a key of {name}: use the path /{name}/… instead.")
    return None


def authorize(
    head: RequestHead, policy: Policy, shared: Shared, now: float, peer: Peer | None = None
) -> Authorized | Refused:
    """Decides over one request head; ``now`` is monotonic seconds, ``peer`` the connection that it came on."""
    notes = head.notes
    if notes is not None:
        known = notes.auth
        if isinstance(known, _Known) and known.policy is policy:
            again = known.authorized
            if again is not None and again.caller is not None and policy.on_admission is None:
                verdict = _judge_again(head, again, again.caller, known, shared, now)
            else:
                verdict = _judge(head, known, shared, now, peer)
            return _refused(verdict, known.route) if isinstance(verdict, Rejection) else verdict
    credential = find_credential(head.headers, head.target, head.method)
    value = credential.value if isinstance(credential, Credential) else b""
    route = _find_route(head, policy, value)
    if isinstance(route, Refused):
        return route
    if isinstance(credential, Rejection):
        return _refused(credential, route)
    if policy.byo is Byo.REFUSE and (credential is None or not credential.managed):
        return _refused(Rejection(Reason.VIRTUAL_KEY_NEEDED), route)
    if credential is None:
        return _refused(Rejection(Reason.NO_CREDENTIAL, _NO_CREDENTIAL), route)
    websocket = b"upgrade" in head.headers.first and b"websocket" in head.headers.tokens(b"upgrade")
    known = _Known(policy, credential, route, fingerprint(credential.value, shared.hash_key), websocket)
    if notes is not None:
        notes.auth = known
    verdict = _judge(head, known, shared, now, peer)
    return _refused(verdict, route) if isinstance(verdict, Rejection) else verdict


def _refused(rejection: Rejection, route: Route) -> Refused:
    return Refused(rejection, route.dialect, route)


_NO_CREDENTIAL = "No API key was given: send it as `Authorization: Bearer` or `x-api-key`."


def _judge(head: RequestHead, known: _Known, shared: Shared, now: float, peer: Peer | None) -> Authorized | Rejection:
    policy, route = known.policy, known.route
    if route.bare and not known.credential.managed:
        foreign = _foreign_key(known.credential, route, policy)
        if foreign is not None:
            return foreign
    if not known.credential.managed and shared.strangers.waits:
        address = None if peer is None else peer.mark(Aggregate.BYO)
        seconds = shared.strangers.wait(_stranger(known), address, now)
        if seconds > 0:
            return Rejection(Reason.KEYS_REFUSED, retry_after=ceil(seconds))
    caller = _limit_and_verify(head, known, shared, int(now), peer)
    if isinstance(caller, Rejection):
        return caller
    if caller is not None and (denied := check_deny(caller, policy, shared)) is not None:
        return denied
    authorized = known.authorized
    if authorized is None:
        if known.websocket:
            return Rejection(Reason.UPGRADE)
        is_bodiless = caller is not None and head.method in _BODILESS
        authorized = Authorized(caller, route, policy.providers[route.provider], is_bodiless)
        if caller is None:
            authorized.credential = _stranger(known)
        rejection = _out_of_scope(head, authorized)
        if rejection is not None:
            return rejection
        known.authorized = authorized
    if authorized.is_bodiless and _has_body(head):
        return _BODY_OF_READ
    if policy.on_admission is not None:
        refused = policy.on_admission(caller, route)
        if refused is not None:
            return refused
    return authorized


def _stranger(known: _Known) -> bytes:
    """A credential as it is known to the provider that it is sent to: another may accept or refuse the same one."""
    return known.mark + known.route.provider.encode()


def _judge_again(
    head: RequestHead, authorized: Authorized, caller: VirtualKey, known: _Known, shared: Shared, now: float
) -> Authorized | Rejection:
    """What of :func:`_judge` may come out otherwise for a key that this head was authorized with before."""
    policy = known.policy
    if not shared.limiter.allow(known.mark, policy.rate_limit_rps, int(now)):
        return Rejection(Reason.RATE_LIMITED, detail="key")
    if isinstance(head.framing, Length) and head.framing.n > policy.max_request_bytes:
        return _too_large(policy)
    if authorized.is_bodiless and _has_body(head):
        return _BODY_OF_READ
    return check_deny(caller, policy, shared) or authorized


_BODILESS: Final = frozenset({b"GET", b"HEAD"})
_BODY_OF_READ: Final = Rejection(
    Reason.BODY_RULE, "A GET or HEAD request with a virtual key must not have a body.", detail="body of a GET or HEAD"
)
"""A server that does not expect a body reads it as the next request of the connection (RFC 9110 §9.3.1)."""


def _has_body(head: RequestHead) -> bool:
    framing = head.framing
    return framing.n > 0 if isinstance(framing, Length) else not isinstance(framing, NoBody)


def _too_large(policy: Policy) -> Rejection:
    return Rejection(Reason.TOO_LARGE, f"The request body exceeds {policy.max_request_bytes} bytes.")


def _out_of_scope(head: RequestHead, authorized: Authorized) -> Rejection | None:
    """Steps 8 and 9, for managed callers."""
    if authorized.caller is None:
        return None
    scope = authorized.route.scope
    if scope is None:
        return Rejection(Reason.OUT_OF_SCOPE)
    methods = scope.methods
    if methods is not None and head.method not in methods:
        return Rejection(Reason.WRONG_METHOD, allow=", ".join(m.decode() for m in methods))
    if not authorized.provider.pool_key:
        return Rejection(Reason.NO_POOL_KEY)
    return None


def _limit_and_verify(
    head: RequestHead, about: _Known, shared: Shared, window: int, peer: Peer | None
) -> VirtualKey | Rejection | None:
    """Steps 4 to 6: None for BYO, the key for managed callers."""
    policy, credential, mark, limiter = about.policy, about.credential, about.mark, shared.limiter
    caller: VirtualKey | None = None
    parsed = None
    if credential.managed:
        caller = policy.keyring.lookup(mark)
        if caller is None:
            try:
                parsed = parse_virtual_key(credential.value)
            except VirtualKeyError:
                return Rejection(Reason.BAD_KEY)
    if not limiter.allow(mark, policy.rate_limit_rps, window):
        return Rejection(Reason.RATE_LIMITED, detail="key")
    if not credential.managed:
        limit = policy.byo_rate_limit_rps
        if not (
            limiter.allow_aggregate(Aggregate.BYO, limit, window)
            if peer is None
            else peer.allow(limiter, Aggregate.BYO, limit, window)
        ):
            return Rejection(Reason.RATE_LIMITED, detail="byo")
    elif (
        # The limit is there for signature work, of which a key of an unknown kid costs none.
        parsed is not None
        and policy.keyring.knows(parsed.claimed.kid)
        and not has_room(peer, limiter, Aggregate.UNVERIFIED, policy.unverified_rate_limit_rps, window)
    ):
        return Rejection(Reason.RATE_LIMITED, detail="unverified")
    if isinstance(head.framing, Length) and head.framing.n > policy.max_request_bytes:
        return _too_large(policy)
    if parsed is None:
        return caller
    try:
        return policy.keyring.verify(parsed, mark)
    except VirtualKeyError as error:
        if error.fault is KeyFault.BAD_SIGNATURE:
            # A key that holds is charged nothing: it is known from now on.
            take(peer, limiter, Aggregate.UNVERIFIED, policy.unverified_rate_limit_rps, window)
        return Rejection(Reason.BAD_KEY)


def denied_rejection(reason: DenyReason) -> Rejection:
    return Rejection(Reason.DENIED_SPEND if reason is DenyReason.SPEND else Reason.DENIED)


def check_deny(caller: VirtualKey, policy: Policy, shared: Shared) -> Rejection | None:
    """Step 7, asked again before the first upstream byte."""
    reason = shared.deny.check(caller.tenant_id, caller.key_id)
    if reason is not None:
        return denied_rejection(reason)
    if policy.deny_fail_closed and shared.deny_unready():
        return Rejection(Reason.NOT_READY)
    return None
