"""The catalogue of refusals, in both dialects."""

from __future__ import annotations

import json
from typing import Final

from aigw_core.errors import Dialect, Reason, Rejection
from docs.generator.markdown import code, table

CAUSES: Final = {
    "MALFORMED": "the request breaks HTTP/1.1 in one of the ways that [HTTP](http.md) lists; the text says which",
    "HEAD_TOO_LARGE": "more than 64 KiB of head, or more than 128 fields",
    "NOT_IMPLEMENTED": "a transfer coding other than chunked",
    "HTTP_VERSION": "neither HTTP/1.0 nor HTTP/1.1",
    "UNKNOWN_ROUTE": "the first path segment names no provider; the text lists those that there are",
    "WRONG_PROVIDER": "a bare `/v1/…` path with a key that plainly belongs to another provider",
    "NO_CREDENTIAL": "none of the four credential headers holds anything",
    "CONFLICTING_KEYS": "two different virtual keys in one request",
    "MISPLACED_KEY": "`bai_v…` in the URL or in a header that is no credential",
    "BAD_KEY": "malformed, of an unknown version or kid, or wrongly signed: one text for all",
    "RATE_LIMITED": "the limit of this key, of all BYO callers, or of keys not yet verified",
    "TOO_LARGE": "the declared or the streamed length is over `max_request_bytes`",
    "DENIED_SPEND": "the tenant or key is cut off for spend",
    "DENIED": "the tenant or key is cut off for fraud or another reason",
    "OUT_OF_SCOPE": "a managed caller on a path outside the [managed scope](providers.md#managed-scope)",
    "WRONG_METHOD": "a managed caller on such a path with another method; `Allow` names the right ones",
    "UPGRADE": "`Upgrade: websocket`",
    "NO_POOL_KEY": "a managed caller, and no pool key is configured for the provider",
    "NOT_READY": "`deny_fail_closed` is set and the deny-set was never seeded",
    "NO_LEDGER": "the fact sink has no room, or did not answer within 5 s",
    "HOOK": "an embedder's `on_admission` or `on_model`",
    "BODY_RULE": "`background`, a stored reference, a missing `include_usage`, or a body no rule can read",
    "UNSUPPORTED_CODING": "an unknown or stacked content coding where a body rule is in force",
    "BODY_TIMEOUT": "silence in a request head or body",
    "UPSTREAM_FAILED": "no look-up, connection or TLS handshake succeeded",
    "UPSTREAM_BROKEN": "the provider's connection ended before its answer began, or the answer is not HTTP/1.1",
    "UPSTREAM_TIMEOUT": "the connect or the read timeout",
    "SHUTTING_DOWN": "the drain grace is over",
}

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
