"""What a head becomes on its way through, the pool key in it included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.auth import Authorized, authorize
from aigw_core.credentials import CREDENTIAL_HEADERS
from aigw_core.forwarding import (
    OVERRIDE_HEADERS,
    downstream_response_head,
    informational_head,
    upstream_request_head,
)
from aigw_core.headers import MEMBERS_MAX, Headers
from aigw_core.keymask import KeyMask
from aigw_core.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, Length, RequestHead, ResponseHead
from aigw_core.policy import DROP_HEADERS, Policy
from aigw_core.providers import AuthScheme
from tests.core.driver import BYO_KEY, POOL_KEY, VIRTUAL_KEY, make_gateway, make_policy
from tests.core.keyspellings import spelled

Pairs = list[tuple[bytes, bytes]]
CHAT = b"/openai/v1/chat/completions"
BEARER = (b"Authorization", b"Bearer " + VIRTUAL_KEY)
BYO = (b"Authorization", b"Bearer " + BYO_KEY)
HOST = (b"Host", b"gateway:8080")
STARS = b"*" * len(POOL_KEY)
MASK = KeyMask(POOL_KEY)
ID = (b"x-aigw-request-id", b"id-1")


def forward(
    pairs: Pairs,
    *,
    target: bytes = CHAT,
    method: bytes = b"POST",
    framing: Framing = NO_BODY,
    policy: Policy | None = None,
) -> RequestHead:
    """The head as the provider gets it; the framing is that of the forwarded body."""
    policy = policy if policy is not None else make_policy()
    head = RequestHead(method, target, Headers.of(pairs), framing)
    decision = authorize(head, policy, make_gateway(policy), 0.0)
    assert isinstance(decision, Authorized), decision
    return upstream_request_head(head, decision, policy, framing)


def managed_pairs(*pairs: tuple[bytes, bytes]) -> Pairs:
    """What arrives of these fields beside a virtual key; what we add ourselves is checked and left out."""
    out = list(forward([HOST, BEARER, *pairs]).headers)
    assert out[0] == (b"Host", b"openai.test")
    assert out[-2:] == [(b"Authorization", b"Bearer " + POOL_KEY), (b"accept-encoding", b"identity")]
    return out[1:-2]


def byo_pairs(*pairs: tuple[bytes, bytes]) -> Pairs:
    out = list(forward([HOST, BYO, *pairs]).headers)
    assert out[:2] == [(b"Host", b"openai.test"), BYO]
    return out[2:]


PLAIN: Pairs = [
    (b"X-b", b"1"),
    (b"x-A", b""),
    (b"X-B", b"2"),
    (b"User-AGENT", b"x/1 (y)"),
    (b"x-b", b"\xff\xa0"),
    (b"Content-Type", b"application/json"),
    (b"X_B", b"3"),
    (b"Accept", b"*/*"),
]


def test_order_case_duplicates_and_values_are_kept() -> None:
    assert managed_pairs(*PLAIN) == PLAIN
    assert byo_pairs(*PLAIN) == PLAIN


def test_the_start_line() -> None:
    head = forward([HOST, BEARER], target=CHAT + b"?a=%2F&b", method=b"POST")
    assert (head.method, head.target, head.framing) == (b"POST", b"/v1/chat/completions?a=%2F&b", NO_BODY)


# Dropped fields


@pytest.mark.parametrize(
    "pair",
    [
        (b"Connection", b"keep-alive"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Proxy-Authorization", b"Basic dTpw"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"proxy-anything", b"a"),
        (b"TE", b"trailers"),
        (b"Trailer", b"X-A"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"HTTP2-Settings", b"AAMAAABk"),
        (b"Expect", b"100-continue"),
        (b"X-Aigw-Request-Id", b"forged"),
        (b"x-aigw-anything", b"forged"),
    ],
    ids=lambda pair: pair[0].decode(),
)
def test_what_never_crosses(pair: tuple[bytes, bytes]) -> None:
    assert managed_pairs(PLAIN[0], pair, PLAIN[1], pair) == PLAIN[:2]
    assert byo_pairs(PLAIN[0], pair, PLAIN[1], pair) == PLAIN[:2]


@pytest.mark.parametrize(
    "pair",
    [
        (b"x-api-key", b"junk"),
        (b"Api-Key", b"junk"),
        (b"X-Goog-Api-Key", b"junk"),
        (b"Authorization", b"Basic dTpw"),
        (b"OpenAI-Organization", b"org-1"),
        (b"OpenAI-Project", b"proj_1"),
        (b"Cookie", b"a=b"),
        (b"X-Goog-User-Project", b"p"),
        (b"Accept-Encoding", b"gzip, br"),
    ],
    ids=lambda pair: pair[0].decode(),
)
def test_what_does_not_cross_beside_a_pool_key(pair: tuple[bytes, bytes]) -> None:
    """Credentials, and what chooses scope within the pool key's account; BYO callers keep them."""
    assert managed_pairs(PLAIN[0], pair, PLAIN[1], pair) == PLAIN[:2]
    assert byo_pairs(PLAIN[0], pair, PLAIN[1], pair) == [PLAIN[0], pair, PLAIN[1], pair]


def test_an_operator_chooses_what_else_is_dropped() -> None:
    policy = make_policy(managed_drop_headers=frozenset({b"x-b"}))
    out = dict(forward([HOST, BEARER, *PLAIN, (b"Cookie", b"a=b")], policy=policy).headers)
    assert b"Cookie" in out
    assert not {b"X-b", b"X-B", b"x-b"} & set(out)
    byo = [name for name, _ in forward([HOST, BYO, *PLAIN], policy=policy).headers]
    assert [name for name in byo if name.lower() == b"x-b"] == [b"X-b", b"X-B", b"x-b"]


def test_connection_nominates_fields_of_one_hop() -> None:
    pairs = [(b"Connection", b"close, X-b"), (b"connection", b"user-agent")]
    kept = [pair for pair in PLAIN if pair[0].lower() not in (b"x-b", b"x_b", b"user-agent")]
    assert managed_pairs(*PLAIN, *pairs) == kept
    assert byo_pairs(*pairs, *PLAIN) == kept


def test_connection_cannot_nominate_what_the_provider_relies_on() -> None:
    names = b"Host, Authorization, Content-Length, Content-Encoding, X-Api-Key, Api-Key, X-Goog-Api-Key"
    pairs = [
        HOST,
        BYO,
        (b"Connection", names),
        (b"Content-Length", b"2"),
        (b"Content-Encoding", b"gzip"),
        (b"x-api-key", b"k"),
    ]
    assert list(forward(pairs, framing=Length(2)).headers) == [
        (b"Host", b"openai.test"),
        BYO,
        (b"Content-Length", b"2"),
        (b"Content-Encoding", b"gzip"),
        (b"x-api-key", b"k"),
    ]
    assert list(forward([HOST, BEARER, *pairs[2:]], framing=Length(2)).headers) == [
        (b"Host", b"openai.test"),
        (b"Content-Length", b"2"),
        (b"Content-Encoding", b"gzip"),
        (b"Authorization", b"Bearer " + POOL_KEY),
        (b"accept-encoding", b"identity"),
    ]


# Rewritten fields


def test_host_is_the_providers_in_its_place_and_spelling() -> None:
    head = forward([(b"X-A", b"1"), (b"hOST", b"gateway"), BYO])
    assert list(head.headers)[:2] == [(b"X-A", b"1"), (b"hOST", b"openai.test")]
    assert list(forward([BYO]).headers) == [(b"Host", b"openai.test"), BYO], "HTTP/1.0 may leave it out"


@pytest.mark.parametrize(
    ("sent", "framing", "forwarded"),
    [
        ([(b"content-LENGTH", b"5")], Length(5), [(b"content-LENGTH", b"5")]),
        ([(b"Content-Length", b"5")], Length(39), [(b"Content-Length", b"39")]),
        ([(b"Content-Length", b"005")], Length(5), [(b"Content-Length", b"5")]),
        ([(b"Content-Length", b"0")], Length(0), [(b"Content-Length", b"0")]),
        ([(b"Content-Length", b"5")], CHUNKED, [(b"Transfer-Encoding", b"chunked")]),
        ([(b"Transfer-Encoding", b"Chunked")], CHUNKED, [(b"Transfer-Encoding", b"chunked")]),
        ([(b"Transfer-Encoding", b"chunked")], Length(5), [(b"Content-Length", b"5")]),
        ([], NO_BODY, []),
        ([], Length(5), [(b"Content-Length", b"5")]),
    ],
)
def test_framing_is_remade(sent: Pairs, framing: Framing, forwarded: Pairs) -> None:
    """One statement about the length, ours, whatever the caller sent."""
    for credential in (BEARER, BYO):
        head = forward([HOST, credential, *sent], framing=framing)
        out = [pair for pair in head.headers if pair[0].lower() in (b"content-length", b"transfer-encoding")]
        assert (out, head.framing) == (forwarded, framing)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"a-1, b-2", b"a-1, b-2"),
        (b" a-1 ,b-2", b" a-1 ,b-2"),
        (b"oauth-2025-04-20", None),
        (b"OAuth-2025-04-20", None),
        (b"a-1, oauth-2025-04-20", b"a-1"),
        (b"files-api-2025-04-14,a-1,oauth-x,b-2", b"a-1,b-2"),
        (b"oauth-x, files-api-y", None),
        (b"xoauth-1, files-apix", b"xoauth-1, files-apix"),
        (b"oauth", b"oauth"),
        (b"", b""),
    ],
)
def test_beta_tokens_that_choose_scope_are_dropped(value: bytes, kept: bytes | None) -> None:
    for name in (b"anthropic-beta", b"Anthropic-Beta"):
        assert managed_pairs((name, value)) == ([] if kept is None else [(name, kept)])
        assert byo_pairs((name, value)) == [(name, value)]


def test_beta_tokens_on_every_line_and_by_configuration() -> None:
    lines = [(b"anthropic-beta", b"a,oauth-1"), (b"anthropic-beta", b"oauth-2"), (b"anthropic-beta", b"b")]
    assert managed_pairs(*lines) == [(b"anthropic-beta", b"a"), (b"anthropic-beta", b"b")]
    policy = make_policy(managed_drop_betas=("Exact-1",))
    head = forward([HOST, BEARER, (b"anthropic-beta", b"exact-1,exact-12,oauth-1")], policy=policy)
    assert head.headers.get(b"anthropic-beta") == b"exact-12,oauth-1"


@pytest.mark.parametrize(
    ("target", "header"),
    [
        (CHAT, (b"Authorization", b"Bearer " + POOL_KEY)),
        (b"/anthropic/v1/messages", (b"x-api-key", POOL_KEY)),
        (b"/anthropic/v1/chat/completions", (b"x-api-key", POOL_KEY)),
        (b"/deepseek/anthropic/v1/messages", (b"x-api-key", POOL_KEY)),
        (b"/deepseek/anthropic/v1/messages/count_tokens", (b"x-api-key", POOL_KEY)),
        (b"/deepseek/chat/completions", (b"Authorization", b"Bearer " + POOL_KEY)),
        (b"/openrouter/api/v1/messages", (b"Authorization", b"Bearer " + POOL_KEY)),
    ],
)
def test_the_pool_key_in_the_scheme_of_the_provider(target: bytes, header: tuple[bytes, bytes]) -> None:
    policy = make_policy()
    for credential in (
        BEARER,
        (b"x-api-key", VIRTUAL_KEY),
        (b"api-key", VIRTUAL_KEY),
        (b"x-goog-api-key", VIRTUAL_KEY),
    ):
        head = forward([HOST, credential, (b"x-api-key", b"junk")], target=target, policy=policy)
        secrets = [pair for pair in head.headers if pair[0].lower() in (b"authorization", b"x-api-key", b"api-key")]
        assert secrets == [header]
        assert not any(b"bai_" in value or b"junk" in value for _, value in head.headers)


def test_each_provider_gets_its_own_key() -> None:
    policy = make_policy()
    other = replace(policy.providers["groq"], auth_scheme=AuthScheme.API_KEY)
    policy = replace(policy, providers={**policy.providers, "groq": other})
    for _ in range(2):
        groq = forward([HOST, BEARER], target=b"/groq/openai/v1/chat/completions", policy=policy)
        openai = forward([HOST, BEARER], policy=policy)
        assert list(groq.headers)[:2] == [(b"Host", b"groq.test"), (b"api-key", POOL_KEY)]
        assert list(openai.headers)[:2] == [(b"Host", b"openai.test"), (b"Authorization", b"Bearer " + POOL_KEY)]


def test_byo_gets_nothing_of_ours() -> None:
    head = forward([HOST, BYO, *PLAIN])
    assert not any(POOL_KEY in value for _, value in head.headers)
    assert list(head.headers) == [(b"Host", b"openai.test"), BYO, *PLAIN]


NAMES = st.sampled_from(
    [
        *[b"Authorization", b"x-api-key", b"Api-Key", b"Connection", b"TE", b"Expect", b"Cookie", b"anthropic-beta"],
        *[b"X-A", b"x-a", b"X-B", b"Accept-Encoding", b"Accept", b"x-aigw-x", b"Proxy-X", b"Content-Type"],
    ]
)
VALUES = st.sampled_from([b"", b"a", b"x-a", b"close", b"oauth-1", b"b, c", b"host", b"Basic x"])


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.booleans())
def test_what_is_forwarded_is_what_came_in_its_order(pairs: Pairs, managed: bool) -> None:
    head = forward([HOST, BEARER if managed else BYO, *pairs])
    out = list(head.headers)[1:]
    if managed:
        assert out[-2:] == [(b"Authorization", b"Bearer " + POOL_KEY), (b"accept-encoding", b"identity")]
        out = out[:-2]
    incoming = iter([BYO, *pairs])
    # Each field that left is one that came, further on than the one before it.
    assert all(any(pair == came or pair[0] == came[0] == b"anthropic-beta" for came in incoming) for pair in out)


# The way back


def backward(pairs: Pairs, framing: Framing, *, status: int = 200, mask: KeyMask | None = MASK) -> Pairs:
    head = ResponseHead(status, b"OK", Headers.of(pairs), framing)
    out = downstream_response_head(head, framing, "id-1", mask)
    assert (out.status, out.reason, out.framing) == (status, b"OK", framing)
    return list(out.headers)


RESPONSE: Pairs = [
    (b"Date", b"Mon, 23 Nov 2026 20:20:10 GMT"),
    (b"server", b"cloudflare"),
    (b"Set-Cookie", b"a=b"),
    (b"set-cookie", b"c=d"),
    (b"x-request-id", b"req_1"),
    (b"Retry-After", b"5"),
]


@pytest.mark.parametrize("mask", [MASK, None])
def test_responses_keep_all_but_hop_by_hop_fields(mask: KeyMask | None) -> None:
    dropped = [
        (b"Connection", b"x-hop"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Trailer", b"X-A"),
        (b"Upgrade", b"h2"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"X-Aigw-Request-Id", b"forged"),
        (b"x-aigw-other", b"forged"),
    ]
    assert backward([*dropped[:3], *RESPONSE, *dropped[3:]], CHUNKED, mask=mask) == [*RESPONSE, ID]


@pytest.mark.parametrize(
    ("framing", "status", "kept"),
    [
        (Length(5), 200, True),
        (NO_BODY, 200, True),
        (NO_BODY, 304, True),
        (NO_BODY, 204, False),
        (CHUNKED, 200, False),
        (UNTIL_CLOSE, 200, False),
    ],
)
def test_content_length_on_the_way_back(framing: Framing, status: int, kept: bool) -> None:
    """HEAD and 304 keep it, 204 must not have it, and a body that is re-framed has none."""
    length = (b"Content-length", b"5")
    assert backward([length, *RESPONSE], framing, status=status) == [*([length] if kept else []), *RESPONSE, ID]


def test_the_pool_key_is_overwritten_in_heads() -> None:
    pairs = [(b"X-Echo", b"a" + POOL_KEY + b"b" + POOL_KEY), (b"X-Part", POOL_KEY[:-1])]
    masked = [(b"X-Echo", b"a" + STARS + b"b" + STARS), (b"X-Part", POOL_KEY[:-1])]
    assert backward([*pairs, *RESPONSE], CHUNKED) == [*masked, *RESPONSE, ID]
    assert backward(pairs, CHUNKED, mask=None) == [*pairs, ID]
    head = ResponseHead(401, b"Bad " + POOL_KEY, Headers([]), CHUNKED)
    assert downstream_response_head(head, CHUNKED, "id-1", MASK).reason == b"Bad " + STARS
    assert head.reason == b"Bad " + POOL_KEY


def test_1xx_heads() -> None:
    pairs = [
        (b"Link", b"</a>; rel=preload"),
        (b"Connection", b"x-hop"),
        (b"X-Hop", b"1"),
        (b"Content-Length", b"5"),
        (b"x-aigw-request-id", b"forged"),
        (b"X-Echo", POOL_KEY),
    ]
    head = ResponseHead(103, b"Early " + POOL_KEY, Headers.of(pairs), NO_BODY)
    out = informational_head(head, MASK)
    assert (out.status, out.reason, out.framing) == (103, b"Early " + STARS, NO_BODY)
    assert list(out.headers) == [pairs[0], (b"X-Echo", STARS)]
    assert list(informational_head(head, None).headers) == [pairs[0], pairs[5]]


@pytest.mark.parametrize("change", [bytes.lower, bytes.upper, bytes.title])
@pytest.mark.parametrize("status", [200, 401])
def test_the_pool_key_is_overwritten_in_names_whatever_their_case(
    change: Callable[[bytes], bytes], status: int
) -> None:
    name = b"X-" + change(POOL_KEY)
    masked = [(b"X-" + STARS, b"v"), (b"Via", b"1.1 x")]
    assert backward([(name, b"v"), (b"Via", b"1.1 x")], CHUNKED, status=status) == [*masked, ID]
    assert backward([(name, b"v"), (b"Connection", b"x-hop"), (b"Via", b"1.1 x")], CHUNKED) == [*masked, ID]
    head = ResponseHead(103, b"", Headers.of([(name, b"v")]), NO_BODY)
    assert list(informational_head(head, MASK).headers) == masked[:1]


# Other ways to say what was not authorized


@pytest.mark.parametrize("name", sorted(OVERRIDE_HEADERS))
def test_what_some_servers_take_instead_of_the_request_line(name: bytes) -> None:
    assert managed_pairs((name.title(), b"/v1/files"), (b"X-Kept", b"1")) == [(b"X-Kept", b"1")]
    assert byo_pairs((name, b"1")) == [(name, b"1")]


DROPPED_NAMES = sorted(
    OVERRIDE_HEADERS
    | CREDENTIAL_HEADERS
    | DROP_HEADERS
    | {b"accept-encoding", b"anthropic-beta", b"content-length", b"transfer-encoding", b"keep-alive", b"x-aigw-tenant"}
    | {b"proxy-authorization", b"http2-settings"}
)


@pytest.mark.parametrize("name", [name for name in DROPPED_NAMES if b"-" in name])
@pytest.mark.parametrize("mark", [b"_", b".", b"~", b"!", b"'"])
def test_names_that_servers_fold_into_dropped_ones(name: bytes, mark: bytes) -> None:
    other = name.replace(b"-", mark)
    for spelt in (other, other.upper(), name.replace(b"-", mark, 1)):
        assert managed_pairs((spelt, b"1"), (b"X_Kept", b"1")) == [(b"X_Kept", b"1")]


@pytest.mark.parametrize("name", [b"transfer_encoding", b"Content_Length", b"keep_alive", b"proxy_x", b"x_aigw_a"])
def test_framing_in_another_spelling_is_dropped_for_everyone(name: bytes) -> None:
    """Connections to a provider carry the requests of others as well."""
    assert byo_pairs((name, b"1")) == []


@pytest.mark.parametrize("name", [b"openai_organization", b"anthropic_beta", b"x_api_key", b"x_http_method_override"])
def test_what_an_own_key_may_say_it_may_say_in_any_spelling(name: bytes) -> None:
    assert byo_pairs((name, b"1")) == [(name, b"1")]


def test_an_operators_own_list_is_folded_too() -> None:
    policy = replace(make_policy(), managed_drop_headers=frozenset({b"x_team", b"x-org"}))
    sent = [HOST, BEARER, (b"X-Team", b"1"), (b"x_org", b"2"), (b"x_other", b"3")]
    assert (b"x_other", b"3") in list(forward(sent, policy=policy).headers)
    assert not {b"x-team", b"x_org"} & {name.lower() for name, _ in forward(sent, policy=policy).headers}


BETA = b"Anthropic-Beta"
ODD_BETAS = [
    b"\toauth-2025-04-20",
    b'"oauth-2025-04-20"',
    b"'oauth-2025-04-20'",
    b'"a b oauth-2025-04-20',
    b"x;oauth-2025-04-20",
    b"x oauth-2025-04-20 y",
    b"x\toauth-2025-04-20",
    b";OAUTH-2025-04-20;q=1",
    b"(oauth-2025-04-20)",
    b"\\oauth-2025-04-20",
    b"a/files-api-2025-04-14",
    b"[files-api-2025-04-14]",
    b"a=files-api-1",
    b"\xa0oauth-2025-04-20",
    b"\xc2\xa0oauth-2025-04-20",
    b"\x85files-api-1",
    b"file\xc5\xbf-api-1",
]


@pytest.mark.parametrize("odd", ODD_BETAS)
def test_a_dropped_beta_does_not_pass_in_odd_clothes(odd: bytes) -> None:
    assert managed_pairs((BETA, odd)) == []
    assert managed_pairs((BETA, b"a, " + odd + b" ,,b")) == [(BETA, b"a,,b")]
    assert managed_pairs((BETA, b",," + odd + b",")) == []
    assert managed_pairs((BETA, b'"a'), (BETA, odd + b',"'), (BETA, b"b")) == [
        (BETA, b'"a'),
        (BETA, b'"'),
        (BETA, b"b"),
    ]
    assert byo_pairs((BETA, odd)) == [(BETA, odd.strip(b" \t"))] or odd != odd.strip(b" \t")


@pytest.mark.parametrize(
    "kept", [b"a,,b", b"context-1m-2025-08-07;q=1", b" a ", b'"x y"', b"xoauth-1", b"my-files-api"]
)
def test_other_betas_stay_as_they_were_written(kept: bytes) -> None:
    assert managed_pairs((BETA, kept)) == [(BETA, kept)]


@pytest.mark.parametrize("text", [text for _, text in spelled(POOL_KEY)])
def test_the_pool_key_is_overwritten_in_values_in_every_spelling(text: bytes) -> None:
    pairs = [(b"X-Echo", b"key=" + text + b";"), (b"X-Other", b"100%")]
    masked = [(b"X-Echo", b"key=" + b"*" * len(text) + b";"), (b"X-Other", b"100%")]
    assert backward(pairs, CHUNKED) == [*masked, ID]
    assert backward(pairs, CHUNKED, status=401) == [*masked, ID]
    assert backward([*pairs, (b"Connection", b"x-hop")], CHUNKED) == [*masked, ID]
    head = ResponseHead(200, text, Headers.of([]), CHUNKED)
    assert downstream_response_head(head, CHUNKED, "id-1", MASK).reason == b"*" * len(text)


def test_of_a_long_list_of_betas_nothing_is_left_where_one_is_dropped() -> None:
    kept = b",".join(b"beta-%d" % number for number in range(1_000))
    assert managed_pairs((b"anthropic-beta", kept)) == [(b"anthropic-beta", kept)]
    assert managed_pairs((b"anthropic-beta", kept + b",oauth-1")) == []


def test_of_a_long_connection_the_first_names_count() -> None:
    names = [b"x-%d" % number for number in range(MEMBERS_MAX + 1)]
    pairs = managed_pairs((b"Connection", b",".join(names)), *((name, b"1") for name in names))
    assert pairs == [(names[-1], b"1")]


@pytest.mark.parametrize(
    "nominated", [b"content_length", b"Content.Length", b"x_api_key", b"HOST", b"content~encoding"]
)
def test_no_spelling_of_what_others_rely_on_can_be_nominated(nominated: bytes) -> None:
    body = [(b"Content-Length", b"5"), (b"Content-Encoding", b"gzip")]
    head = forward([HOST, BEARER, *body, (b"Connection", nominated)], framing=Length(5))
    assert head.headers.get(b"content-length") == b"5"
    assert head.headers.get(b"content-encoding") == b"gzip"
    assert head.headers.get(b"host") is not None
    assert head.headers.get(b"authorization") == b"Bearer " + POOL_KEY
