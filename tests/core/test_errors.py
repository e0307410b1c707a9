"""The error catalogue: each reason, in both dialects, as the SDKs read it."""

from __future__ import annotations

import json

import pytest

from aigw_core.errors import (
    REASON_PHRASES,
    Dialect,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    rejection_of,
)

OPENAI, ANTHROPIC = Dialect.OPENAI, Dialect.ANTHROPIC
ID = "018f00000000aabbccddee0000000001"
INVALID = "invalid_request_error"
AUTHENTICATION = "authentication_error"

# name: status, OpenAI type and code, Anthropic type, x-should-retry, retry-after
CATALOGUE: dict[str, tuple[int, str, str, str, bool | None, int | None]] = {
    "MALFORMED": (400, INVALID, "malformed_request", INVALID, False, None),
    "HEAD_TOO_LARGE": (431, INVALID, "head_too_large", INVALID, False, None),
    "HEADS_WAITING": (503, "server_error", "overloaded", "api_error", None, 1),
    "NOT_IMPLEMENTED": (501, INVALID, "not_implemented", INVALID, False, None),
    "HTTP_VERSION": (505, INVALID, "http_version", INVALID, False, None),
    "UNKNOWN_ROUTE": (404, INVALID, "unknown_route", "not_found_error", False, None),
    "WRONG_PROVIDER": (400, INVALID, "wrong_provider", INVALID, False, None),
    "NO_CREDENTIAL": (401, INVALID, "missing_api_key", AUTHENTICATION, False, None),
    "VIRTUAL_KEY_NEEDED": (401, INVALID, "virtual_key_required", AUTHENTICATION, False, None),
    "CONFLICTING_KEYS": (400, INVALID, "conflicting_keys", INVALID, False, None),
    "MISPLACED_KEY": (400, INVALID, "misplaced_key", INVALID, False, None),
    "BAD_KEY": (401, INVALID, "invalid_api_key", AUTHENTICATION, False, None),
    "KEYS_REFUSED": (429, "requests", "provider_refuses_keys", "rate_limit_error", None, 1),
    "RATE_LIMITED": (429, "requests", "rate_limit_exceeded", "rate_limit_error", None, 1),
    "TOO_LARGE": (413, INVALID, "request_too_large", "request_too_large", False, None),
    "DENIED_SPEND": (402, "insufficient_quota", "spend_limit_exceeded", "billing_error", False, None),
    "DENIED": (403, INVALID, "access_denied", "permission_error", False, None),
    "OUT_OF_SCOPE": (404, INVALID, "endpoint_not_allowed", "not_found_error", False, None),
    "WRONG_METHOD": (405, INVALID, "method_not_allowed", INVALID, False, None),
    "UPGRADE": (426, INVALID, "upgrade_required", INVALID, False, None),
    "NO_POOL_KEY": (503, "server_error", "no_provider_key", "api_error", False, None),
    "NOT_READY": (503, "server_error", "not_ready", "api_error", None, 1),
    "NO_LEDGER": (503, "server_error", "usage_ledger", "api_error", None, 1),
    "HOOK": (403, INVALID, "refused", "permission_error", False, None),
    "BODY_RULE": (400, INVALID, "body_refused", INVALID, False, None),
    "UNSUPPORTED_CODING": (415, INVALID, "unsupported_content_encoding", INVALID, False, None),
    "BODY_TIMEOUT": (408, INVALID, "request_timeout", INVALID, None, None),
    "UPSTREAM_FAILED": (502, "server_error", "upstream_failed", "api_error", None, None),
    "UPSTREAM_BROKEN": (502, "server_error", "upstream_broken", "api_error", None, None),
    "UPSTREAM_WITHHELD": (502, "server_error", "upstream_withheld", "api_error", False, None),
    "UPSTREAM_TIMEOUT": (504, "server_error", "upstream_timeout", "timeout_error", None, None),
    "SHUTTING_DOWN": (503, "server_error", "shutting_down", "api_error", None, 1),
}


def test_the_catalogue_is_complete() -> None:
    assert {reason.name for reason in Reason} == set(CATALOGUE)
    assert len(Reason.__members__) == len(CATALOGUE), "two equal reasons would be one"


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_reason_in_both_dialects(name: str) -> None:
    status, openai_type, openai_code, anthropic_type, retry, retry_after = CATALOGUE[name]
    rejection = Rejection(Reason[name])
    assert rejection.status == Reason[name].status == status
    assert rejection.text
    assert json.loads(rejection.body(OPENAI, ID)) == {
        "error": {"message": rejection.text, "type": openai_type, "param": None, "code": openai_code}
    }
    assert json.loads(rejection.body(ANTHROPIC, ID)) == {
        "type": "error",
        "error": {"type": anthropic_type, "message": rejection.text},
        "request_id": ID,
    }
    rest = [(b"content-type", b"application/json")]
    advice = [] if retry is None else [(b"x-should-retry", b"true" if retry else b"false")]
    if retry_after is not None:
        advice.append((b"retry-after", b"%d" % retry_after))
    if status == 426:
        advice += [(b"upgrade", b"websocket"), (b"connection", b"upgrade")]
    assert rejection.headers(OPENAI, ID) == [*rest, (b"x-request-id", ID.encode()), *advice]
    assert rejection.headers(ANTHROPIC, ID) == [*rest, (b"request-id", ID.encode()), *advice]


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_sdks_are_told_when_a_retry_cannot_help(reason: Reason) -> None:
    """Stainless SDKs retry 408, 409, 429 and 5xx by themselves; they sleep through any retry-after."""
    headers = dict(Rejection(reason).headers(OPENAI, ID))
    if reason.status in (400, 401, 402, 403, 404, 405, 413, 415, 426, 431, 501, 505):
        assert headers[b"x-should-retry"] == b"false"
    assert int(headers.get(b"retry-after", b"0")) <= 5
    if b"retry-after" in headers:
        assert reason.status in (429, 503)
        assert headers.get(b"x-should-retry") != b"false"


def test_every_status_of_ours_has_a_phrase() -> None:
    assert {reason.status for reason in Reason} <= set(REASON_PHRASES)
    assert REASON_PHRASES[100] == b"Continue"


def test_what_a_rejection_adds() -> None:
    rejection = Rejection(
        Reason.WRONG_METHOD, message="Use “POST”.", param="stream", status_override=451, allow="GET, HEAD"
    )
    assert rejection.status == 451
    assert json.loads(rejection.body(OPENAI, ID))["error"] == {
        "message": "Use “POST”.",
        "type": INVALID,
        "param": "stream",
        "code": "method_not_allowed",
    }
    assert json.loads(rejection.body(ANTHROPIC, ID))["error"]["message"] == "Use “POST”."
    assert (b"allow", b"GET, HEAD") in rejection.headers(OPENAI, ID)
    assert b"allow" not in dict(Rejection(Reason.WRONG_METHOD).headers(OPENAI, ID))


def test_bodies_are_ascii_whatever_the_text_holds() -> None:
    body = Rejection(Reason.HOOK, message='quote " line\n paragraph\u2029 lone \ud800').body(OPENAI, ID)
    assert body.isascii()
    assert b"\n" not in body


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, Reason.MALFORMED),
        (408, Reason.BODY_TIMEOUT),
        (413, Reason.TOO_LARGE),
        (431, Reason.HEAD_TOO_LARGE),
        (501, Reason.NOT_IMPLEMENTED),
        (505, Reason.HTTP_VERSION),
        (502, Reason.MALFORMED),
    ],
)
def test_a_broken_protocol_becomes_a_rejection(status: int, reason: Reason) -> None:
    rejection = rejection_of(RemoteProtocolError("What is wrong.", status))
    assert rejection == Rejection(reason, message="What is wrong.", detail="What is wrong.")
    assert rejection.why == f"{reason.name.lower()}: What is wrong."
    assert Rejection(reason, message="For the caller alone.").why == reason.name.lower()
    assert RemoteProtocolError("x").status == 400


def test_the_two_kinds_of_error_never_mix() -> None:
    assert not issubclass(LocalProtocolError, RemoteProtocolError)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
    assert not issubclass(LocalProtocolError, ValueError)
    assert not issubclass(RemoteProtocolError, RuntimeError)


@pytest.mark.parametrize(("own", "shown"), [(None, b"1"), (17, b"17")])
def test_a_refusal_may_say_how_long_to_wait(own: int | None, shown: bytes) -> None:
    headers = dict(Rejection(Reason.KEYS_REFUSED, retry_after=own).headers(OPENAI, ID))
    assert headers[b"retry-after"] == shown
