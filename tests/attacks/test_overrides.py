"""Fields by which some servers let a caller say something else than the request line and the headers that were judged:
method and path overrides, names that fold into dropped ones, a dropped ``anthropic-beta`` token in odd clothes.

With a virtual key none of them reaches a provider; with a caller's own key they pass as they are, except for framing.
"""

from __future__ import annotations

import pytest

from tests.e2e import keys
from tests.e2e.calls import BODY, CHAT, JSON_TYPE, MESSAGES
from tests.e2e.client import Client, Field, bearer, request
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider, Received

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

OVERRIDES: list[Field] = [
    (b"X-HTTP-Method-Override", b"DELETE"),
    (b"X-Method-Override", b"DELETE"),
    (b"X-HTTP-Method", b"DELETE"),
    (b"x_http_method_override", b"DELETE"),
    (b"X-Original-URL", b"/v1/files"),
    (b"X-Rewrite-URL", b"/v1/files"),
    (b"X_Rewrite_Url", b"/v1/files"),
    (b"X-Forwarded-Host", b"other.test"),
]
FOLDED: list[Field] = [
    (b"OpenAI_Organization", b"org-other"),
    (b"openai_project", b"proj-other"),
    (b"x_api_key", b"sk-other"),
    (b"x.goog.user.project", b"other"),
    (b"anthropic_beta", b"oauth-2025-04-20"),
    (b"accept_encoding", b"gzip"),
]
FRAMING: list[Field] = [
    (b"content_length", b"0"),
    (b"Transfer_Encoding", b"chunked"),
    (b"proxy_authorization", b"Basic eA=="),
]
BETAS = [
    b"files-api-2025-04-14",
    b"\tfiles-api-2025-04-14\t",
    b'"files-api-2025-04-14"',
    b"a;files-api-2025-04-14",
    b",,files-api-2025-04-14,,",
    b"x files-api-2025-04-14",
    b"\xa0files-api-2025-04-14",
]


def sent(gateway: Gateway, provider: Provider, key: str, fields: list[Field], target: str = CHAT) -> Received:
    """The request as the provider got it."""
    case = provider.case(OK)
    with Client(gateway) as client:
        client.send(request(target, BODY, bearer(key), JSON_TYPE, case.header, *fields))
        assert client.read_answer().status == 200
    received = case.wait()
    assert bytes(received.body) == BODY
    return received


def test_with_a_virtual_key_none_of_them_passes(gateway: Gateway, provider: Provider) -> None:
    fields = [*OVERRIDES, *FOLDED, *FRAMING]
    received = sent(gateway, provider, keys.virtual_key(), [*fields, (b"X_Kept", b"1")])
    names = {name.lower() for name, _ in received.headers}
    assert names & {name.lower() for name, _ in fields} == set()
    assert b"x_kept" in names


def test_with_an_own_key_all_pass_but_framing(gateway: Gateway, provider: Provider) -> None:
    received = sent(gateway, provider, keys.BYO_KEY, [*OVERRIDES, *FOLDED, *FRAMING])
    assert [field for field in received.headers if field in [*OVERRIDES, *FOLDED, *FRAMING]] == [*OVERRIDES, *FOLDED]


@pytest.mark.parametrize("odd", BETAS)
def test_a_dropped_beta_token_does_not_pass(gateway: Gateway, provider: Provider, odd: bytes) -> None:
    lines = [(b"anthropic-beta", b"kept-1"), (b"Anthropic-Beta", odd), (b"anthropic-beta", b"kept-2, " + odd)]
    received = sent(gateway, provider, keys.virtual_key(), lines, MESSAGES)
    values = received.values(b"anthropic-beta")
    assert b"files-api" not in b",".join(values)
    assert values[0] == b"kept-1"
    assert values[-1].startswith(b"kept-2")


@pytest.mark.parametrize("byte", [b"\x0b", b"\x0c", b"\x00", b"\x7f"])
def test_control_bytes_end_it(gateway: Gateway, byte: bytes) -> None:
    """The vertical tab, at which some split, does not get past the parser."""
    with Client(gateway) as client:
        beta = (b"anthropic-beta", b"a" + byte + b"files-api-1")
        client.send(request(MESSAGES, BODY, bearer(keys.virtual_key()), JSON_TYPE, beta))
        assert client.read_answer().status == 400
