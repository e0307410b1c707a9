"""The catalogue of refusals, in both dialects."""

from __future__ import annotations

import json
from typing import Final

from aigw_core.errors import Dialect, Reason, Rejection
from docs.generator.markdown import code, table

CAUSES: Final = {
    "MALFORMED": "the request breaks HTTP/1.1 in one of the ways that [HTTP](http.md) lists; the text says which",
    "HEAD_TOO_LARGE": "more than 64 KiB of head, or more than 128 fields",
    "HEADS_WAITING": "the beginnings of heads on all connections take up 16 MiB, or so much that this one would take more than a sixteenth of the rest",
    "NOT_IMPLEMENTED": "a transfer coding other than chunked",
    "HTTP_VERSION": "neither HTTP/1.0 nor HTTP/1.1",
    "UNKNOWN_ROUTE": "the first path segment names no provider; the text lists those that there are",
    "WRONG_PROVIDER": "a bare `/v1/…` path with a key that plainly belongs to another provider",
    "NO_CREDENTIAL": "none of the four credential headers holds anything",
    "VIRTUAL_KEY_NEEDED": '`byo = "refuse"`, and the request has no virtual key',
    "CONFLICTING_KEYS": "two different virtual keys in one request",
    "MISPLACED_KEY": "`bai_v…` in the URL, the method, the name of a header or a header that is no credential, in whatever spelling",
    "BAD_KEY": "malformed, of an unknown version or kid, or wrongly signed: one text for all",
    "KEYS_REFUSED": "the provider refused this key, or several keys from this address, again and again; `Retry-After` says how long to wait, from 1 s to 60 s",
    "RATE_LIMITED": "the limit of this key, of all BYO callers, or of keys not yet verified",
    "TOO_LARGE": "the declared or the streamed length is over `max_request_bytes`",
    "DENIED_SPEND": "the tenant or key is cut off for spend",
    "DENIED": "the tenant or key is cut off for fraud or another reason",
    "OUT_OF_SCOPE": "a managed caller on a path outside the [managed scope](providers.md#managed-scope)",
    "WRONG_METHOD": "a managed caller on such a path with another method; `Allow` names the right ones",
    "UPGRADE": "`Upgrade: websocket`",
    "NO_POOL_KEY": "a managed caller, and no pool key is configured for the provider",
    "NOT_READY": "`deny_fail_closed` is set and the deny-set was never seeded",
    "NO_LEDGER": "the fact sink has no room, the tenant holds its share of it, or the sink did not answer within 5 s",
    "HOOK": "an embedder's `on_admission` or `on_model`",
    "BODY_RULE": "`background`, a stored reference, a missing `include_usage`, a body no rule can read, or a body of a GET or HEAD",
    "UNSUPPORTED_CODING": "an unknown or stacked content coding where a body rule is in force",
    "BODY_TIMEOUT": "silence in a request head or body",
    "UPSTREAM_FAILED": "no look-up, connection or TLS handshake succeeded",
    "UPSTREAM_BROKEN": "the provider's connection ended before its answer began, or the answer is not HTTP/1.1",
    "UPSTREAM_WITHHELD": "a compressed answer of the provider holds the pool key, or an error cannot be decoded to see",
    "UPSTREAM_TIMEOUT": "the connect or the read timeout",
    "SHUTTING_DOWN": "the drain grace is over",
}

CURES: Final = {
    "MALFORMED": "send what [HTTP](http.md) accepts; the log's `detail` names the rule. A proxy in between may be the sender",
    "HEAD_TOO_LARGE": "send fewer or shorter headers: cookies and baggage grow unnoticed",
    "HEADS_WAITING": "try again; somebody opens connections and does not finish heads: limit connections in front, or lower `client_head_timeout_secs`",
    "NOT_IMPLEMENTED": "send the body chunked or with its length, and any compression as `Content-Encoding`",
    "HTTP_VERSION": "speak HTTP/1.1; over HTTP/2 a load balancer must translate",
    "UNKNOWN_ROUTE": "set the SDK's base URL to one that the text lists, or add the provider: [how to](../how-to/add-a-provider.md)",
    "WRONG_PROVIDER": "put the provider's name into the base URL, as the text says",
    "NO_CREDENTIAL": "give the SDK an API key; look whether a proxy takes `Authorization` away",
    "VIRTUAL_KEY_NEEDED": "use a virtual key, or set `byo` to `allow`",
    "CONFLICTING_KEYS": "send the virtual key in one header only, or the same one in both",
    "MISPLACED_KEY": "send it as `Authorization: Bearer` or `x-api-key`, nowhere else",
    "BAD_KEY": "`aigw key inspect` says what is wrong; after a rotation, is the kid in `signing_keys` of this gateway?",
    "KEYS_REFUSED": "use a key that the provider accepts. One that it accepted within the hour never waits",
    "RATE_LIMITED": "wait and try again, as SDKs do. The log's `detail` names the limit: raise `rate_limit_rps` (`key`), `byo_rate_limit_rps` or `unverified_rate_limit_rps`",
    "TOO_LARGE": "send less, or raise `max_request_bytes`",
    "DENIED_SPEND": "`aigw deny rm` once the tenant may spend again; it is in force within a second",
    "DENIED": "`aigw deny ls` shows the entry and its reason, `aigw deny rm` removes it",
    "OUT_OF_SCOPE": "use a key of one's own for this endpoint, or widen `managed_scope`, unmetered",
    "WRONG_METHOD": "use a method that `Allow` names",
    "UPGRADE": "nothing: clients go on over HTTP",
    "NO_POOL_KEY": "set `AI_POOL_KEY_<PROVIDER>` and reload, or let callers bring their own key",
    "NOT_READY": "wait; if it stays so, the deny source cannot be read: `aigw doctor`",
    "NO_LEDGER": "`aigw doctor`: the disk is full, `spool_max_bytes` is reached, or nobody reads stdout. One tenant alone: it has too many requests open",
    "HOOK": "ask whoever wrote the hook",
    "BODY_RULE": "change the request as the text says, or the setting that asks for it (`include_usage`, `managed_stored_refs`)",
    "UNSUPPORTED_CODING": "send the body as it is, or with gzip or zstd alone",
    "BODY_TIMEOUT": "look at the network in between, or raise `client_head_timeout_secs`, `client_body_timeout_secs` or `client_upload_timeout_secs`",
    "UPSTREAM_FAILED": "`aigw doctor --provider NAME` names the step that fails; the log has the cause beside it",
    "UPSTREAM_BROKEN": "try again; if it happens often on reused connections, lower `idle_timeout_secs` for this provider",
    "UPSTREAM_WITHHELD": "the fact's `upstream_status` says what it was; the log's `detail`, which of both. Check the pool key first",
    "UPSTREAM_TIMEOUT": "the log's `detail` names the timer: `connect` is the network, `read` a slow model (`read_timeout_secs`)",
    "SHUTTING_DOWN": "try again: another gateway answers. Raise `shutdown_grace_secs` if streams are longer than that",
}
"""What to do: for the caller, and for whoever runs the gateway."""

_EXAMPLE_ID: Final = "019ab3f2c1d47a3e9c5b1f0000000001"


def rejections() -> str:
    """One row for each reason, in the order of the request path."""
    assert list(CAUSES) == [reason.name for reason in Reason], "a reason without a cause, or out of order"
    rows = []
    for reason in Reason:
        kind = reason.value
        retry = "" if kind.retry is None else str(kind.retry).lower()
        after = "" if kind.retry_after is None else str(kind.retry_after)
        openai = f"{code(kind.openai_type)}, {code(kind.openai_code)}"
        rows.append(
            (code(reason.name), str(kind.status), openai, code(kind.anthropic_type), retry, after, CAUSES[reason.name])
        )
    columns = ("reason", "status", "openai: type, code", "anthropic: type", "x-should-retry", "retry-after", "when")
    return table(columns, rows)


def catalogue() -> str:
    """Each refusal: status, cause, cure, and the body in both dialects."""
    assert list(CURES) == [reason.name for reason in Reason], "a reason without a cure, or out of order"
    parts = []
    for reason in Reason:
        rejection = Rejection(reason)
        name = reason.name.lower()
        parts.append(f"### {name}\n\n{rejection.status}. Cause: {CAUSES[reason.name]}. Cure: {CURES[reason.name]}.")
        bodies = [f"```json\n{rejection.body(dialect, _EXAMPLE_ID).decode()}\n```" for dialect in Dialect]
        parts += [f"{dialect.value}:\n\n{body}" for dialect, body in zip(Dialect, bodies, strict=True)]
    return "\n\n".join(parts)


def examples() -> str:
    """One refusal as each SDK gets it."""
    parts = []
    for dialect in Dialect:
        rejection = Rejection(Reason.DENIED_SPEND)
        headers = "\n".join(
            f"{name.decode()}: {value.decode()}" for name, value in rejection.headers(dialect, _EXAMPLE_ID)
        )
        body = json.dumps(json.loads(rejection.body(dialect, _EXAMPLE_ID)), indent=2)
        parts.append(
            f"{dialect}:\n\n```text\n{rejection.status} Payment Required\n{headers}\n```\n\n```json\n{body}\n```"
        )
    return "\n\n".join(parts)
