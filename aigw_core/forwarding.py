"""What a head becomes on its way through: the only bytes of a head that may differ (design: transparency)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from aigw_core.auth import Authorized
from aigw_core.credentials import CREDENTIAL_HEADERS
from aigw_core.headers import DROPPED_PREFIXES, HOP_BY_HOP, Field, Headers, folded, hop_by_hop_of, make_field
from aigw_core.keymask import KeyMask
from aigw_core.messages import Chunked, Framing, Length, NoBody, RequestHead, ResponseHead
from aigw_core.policy import Policy
from aigw_core.routing import speaks_anthropic

_IDENTITY: Field = make_field(b"accept-encoding", b"identity")
_ID_NAME: Final = b"x-aigw-request-id"
_CHUNKED: Field = make_field(b"Transfer-Encoding", b"chunked")
_REWRITTEN = frozenset({b"host", b"content-length", b"anthropic-beta"})
_NEVER_FORWARDED = frozenset({b"expect"})
_PERCENT: Final = 0x25
_BACKSLASH: Final = 0x5C
OVERRIDE_HEADERS = frozenset(
    {
        b"x-forwarded-host",
        b"x-forwarded-path",
        b"x-forwarded-prefix",
        b"x-forwarded-uri",
        b"x-host",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-host",
        b"x-original-method",
        b"x-original-uri",
        b"x-original-url",
        b"x-override-url",
        b"x-rewrite-url",
    }
)
"""Dropped for managed callers: some servers take method, path or host from these, and not from what was authorized."""
_MANAGED_ONLY_DROPPED = CREDENTIAL_HEADERS | OVERRIDE_HEADERS | {b"accept-encoding"}
_FRAMING_AND_HOST = frozenset({b"host", b"content-length"})
# RFC 9110 §5.6.2 token, without the quotes.
_IN_WORDS: Final = rb"[!#$%&*+\-.^_|~0-9A-Za-z]"
BETAS_MAX: Final = 4_096
"""Bytes of an ``anthropic-beta`` of which members are taken out one by one; from a longer one all are."""
_LENGTH = frozenset({b"content-length"})


@dataclass(slots=True, repr=False)
class _Known:
    """The forwarded form of a repeated head: good for the same policy and kind of framing."""

    policy: Policy
    head: RequestHead
    length_at: int
    before: bytes
    """The lines in front of the digits of Content-Length."""
    after: bytes


def upstream_request_head(head: RequestHead, authorized: Authorized, policy: Policy, framing: Framing) -> RequestHead:
    """The request as the provider gets it; ``framing`` is that of the forwarded body."""
    notes = head.notes
    if notes is None or not isinstance(framing, Length):
        return _upstream_request_head(head, authorized, policy, framing)
    known = notes.forwarding
    if isinstance(known, _Known) and known.policy is policy:
        same = known.head
        headers = Headers.lazy(partial(_with_length, known, framing.n))
        lines = b"%b%d%b" % (known.before, framing.n, known.after)
        return RequestHead(same.method, same.target, headers, framing, False, None, lines)
    forwarded = _upstream_request_head(head, authorized, policy, framing)
    fields = forwarded.headers.fields
    at = [field[0] for field in fields].index(b"content-length")
    before = Headers(fields[:at]).lines() + fields[at][1] + b": "
    notes.forwarding = _Known(policy, forwarded, at, before, b"\r\n" + Headers(fields[at + 1 :]).lines())
    return forwarded


def _with_length(known: _Known, n: int) -> list[Field]:
    fields = known.head.headers.fields.copy()
    fields[known.length_at] = make_field(fields[known.length_at][1], b"%d" % n)
    return fields


def _upstream_request_head(head: RequestHead, authorized: Authorized, policy: Policy, framing: Framing) -> RequestHead:
    managed = authorized.caller is not None
    host, credential = _upstream_fields(authorized, policy)
    dropped = _folded_managed(policy.managed_drop_headers) if managed else _FOLDED_DROPPED
    hop_by_hop = hop_by_hop_of(head.headers)
    if hop_by_hop is not HOP_BY_HOP:
        dropped = dropped.union(map(folded, hop_by_hop))
    # In its own spelling such a field is rewritten; in another one it would stand beside ours.
    own_spelling = _REWRITTEN if managed else _FRAMING_AND_HOST
    out: list[Field] = []
    has_length = False
    for field in head.headers.fields:
        lower, name, value, _, _ = field
        fold = folded(lower)
        if fold in dropped or fold.startswith(DROPPED_PREFIXES):
            continue
        if fold != lower and fold in own_spelling:
            continue
        if lower in _REWRITTEN:
            if lower == b"host":
                field = make_field(name, host[2])
            elif lower == b"content-length":
                if not isinstance(framing, Length):
                    continue
                field = make_field(name, b"%d" % framing.n)
                has_length = True
            elif managed:
                betas = _kept_betas(value, policy.managed_drop_betas)
                if betas is None:
                    continue
                field = make_field(name, betas)
        out.append(field)
    first = head.headers.first
    if b"host" not in first:
        out.insert(0, host)
    if managed:
        assert credential is not None, "step 9 refuses managed callers of a provider without a pool key"
        out.append(credential)
        out.append(_IDENTITY)
    if isinstance(framing, Chunked):
        out.append(_CHUNKED)
    elif isinstance(framing, Length) and not has_length:
        out.append(make_field(b"Content-Length", b"%d" % framing.n))
    return RequestHead(head.method, authorized.route.target, Headers(out), framing)


_FOLDED_DROPPED = frozenset(map(folded, HOP_BY_HOP | _NEVER_FORWARDED))


@lru_cache(maxsize=16)
def _folded_managed(names: frozenset[bytes]) -> frozenset[bytes]:
    """What is dropped for managed callers; ``names`` are those of the policy."""
    return _FOLDED_DROPPED.union(map(folded, _MANAGED_ONLY_DROPPED | names))


def _upstream_fields(authorized: Authorized, policy: Policy) -> tuple[Field, Field | None]:
    """Host and, where there is a pool key, the credential in the scheme of this provider and wire."""
    provider, messages = authorized.provider, speaks_anthropic(authorized.route.wire)
    known = policy.upstream_fields.get((provider.name, messages))
    if known is not None:
        return known
    credential: Field | None = None
    if provider.pool_key is not None:
        scheme = provider.messages_auth_scheme if messages else None
        name, value = (scheme or provider.auth_scheme).header(provider.pool_key.reveal())
        credential = make_field(name, value)
    fields = (make_field(b"Host", provider.origin.authority.encode()), credential)
    policy.upstream_fields[provider.name, messages] = fields
    return fields


def _kept_betas(value: bytes, patterns: tuple[str, ...]) -> bytes | None:
    """The value without the dropped tokens: untouched where none is dropped, None where none is left.

    A member goes if any word in it is to be dropped, whatever stands around: servers split such values in more ways
    than at commas. One with bytes that are not ASCII goes as well, since some servers take them for white space.
    """
    has_dropped = _dropped_word(patterns).search
    if value.isascii() and has_dropped(value) is None:
        return value
    if len(value) > BETAS_MAX:
        return None
    members = [member.strip(b" \t") for member in value.split(b",")]
    kept = [member for member in members if member.isascii() and has_dropped(member) is None]
    return b",".join(kept) if any(kept) else None


@lru_cache(maxsize=16)
def _dropped_word(patterns: tuple[str, ...]) -> re.Pattern[bytes]:
    """An expression for a word that one of the patterns names."""
    words = []
    for pattern in patterns:
        prefix = re.escape(pattern.removesuffix("*").encode())
        words.append(prefix + _IN_WORDS + b"*+" if pattern.endswith("*") else prefix)
    # A word begins at its first character and ends at its last one; it has at least one.
    any_of = b"|".join(words) or rb"(?!)"
    return re.compile(b"(?<!%b)(?=%b)(?:%b)(?!%b)" % (_IN_WORDS, _IN_WORDS, any_of, _IN_WORDS), re.IGNORECASE)


def _relayed(head: ResponseHead, dropped: frozenset[bytes], mask: KeyMask | None) -> tuple[bytes, list[Field]]:
    """Reason phrase and fields of a provider's head; the pool key is overwritten where the provider echoes it."""
    fields = [f for f in head.headers.fields if f[0] not in dropped and not f[0].startswith(DROPPED_PREFIXES)]
    if mask is None:
        return head.reason, fields
    names_clear = mask.clears_names(head.headers.first)
    for at, (_, name, value, _, _) in enumerate(fields):
        masked = mask.whole(value), name if names_clear else mask.name(name)
        if masked != (value, name):
            fields[at] = make_field(masked[1], masked[0])
    return mask.whole(head.reason), fields


def _is_clear(head: ResponseHead, lines: bytes, mask: KeyMask) -> bool:
    """Whether the pool key stands nowhere in a head; ``lines`` are those that cross."""
    if not (mask.clears(lines) and mask.clears(head.reason) and mask.clears_names(head.headers.first)):
        return False
    if head.look is not None:
        head.look[0].names_cleared_by = mask
    return True


def downstream_response_head(
    head: ResponseHead, framing: Framing, request_id: str, mask: KeyMask | None
) -> ResponseHead:
    """The provider's final head as the caller gets it; ``mask`` is that over the pool key."""
    look = head.look
    if look is not None and (isinstance(framing, Length) or not look[0].has_length):
        shape = look[0]
        lines = shape.relayed_lines(look[1])
        if (
            mask is None
            or (shape.names_cleared_by is mask and not (mask.sign in lines or _PERCENT in lines or _BACKSLASH in lines))
            or _is_clear(head, lines, mask)
        ):
            return _with_id(head, framing, lines, request_id)
    dropped = hop_by_hop_of(head.headers)
    lengthless = not isinstance(framing, Length) and (not isinstance(framing, NoBody) or head.status == 204)
    if lengthless and b"content-length" in head.headers.first:
        dropped = dropped | _LENGTH
    if dropped is HOP_BY_HOP:
        lines = head.headers.relayed_lines()
        if mask is None or _is_clear(head, lines, mask):
            return _with_id(head, framing, lines, request_id)
    reason, fields = _relayed(head, dropped, mask)
    fields.append(_own_field(request_id))
    return ResponseHead(head.status, reason, Headers(fields), framing)


def _with_id(head: ResponseHead, framing: Framing, lines: bytes, request_id: str) -> ResponseHead:
    headers = Headers.lazy(partial(_relayed_fields, head, request_id))
    lines = b"%bx-aigw-request-id: %b\r\n" % (lines, request_id.encode())
    return ResponseHead(head.status, head.reason, headers, framing, False, lines)


def _own_field(request_id: str) -> Field:
    value = request_id.encode()
    return _ID_NAME, _ID_NAME, value, b"%b: %b\r\n" % (_ID_NAME, value), b""


def _relayed_fields(head: ResponseHead, request_id: str) -> list[Field]:
    return [*_relayed(head, HOP_BY_HOP, None)[1], _own_field(request_id)]


def informational_head(head: ResponseHead, mask: KeyMask | None) -> ResponseHead:
    """A 1xx head to relay: no id of ours, and no length (RFC 9110 §8.6)."""
    reason, fields = _relayed(head, hop_by_hop_of(head.headers) | _LENGTH, mask)
    return ResponseHead(head.status, reason, Headers(fields), head.framing)
