"""A virtual key where no credential belongs: as the method, as or in the name of a header, in the path or the query, in
a value, and each in other letters, percent-encoded, in hexadecimal or in base64.

A provider would get to see it, and log it. The answer is 400 and nothing goes out; where a place is never relayed,
as trailers and chunk extensions, the request is served and the key stays here.
"""

from __future__ import annotations

import base64

import pytest

from tests.e2e import keys
from tests.e2e.calls import BODY, CHAT, JSON_TYPE
from tests.e2e.client import Client, Field, bearer, request
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider

KEY = keys.virtual_key()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


SPELLINGS = {
    "as it is": KEY,
    "upper case": KEY.upper(),
    "percent-encoded": percent(KEY),
    "one letter percent-encoded twice": "b%2561i_" + KEY[4:],
    "hexadecimal": KEY.encode().hex(),
    "base64": base64.urlsafe_b64encode(f"user:{KEY}".encode()).decode().rstrip("="),
}
PLACES = ("method", "name", "middle of a name", "value", "other scheme", "path", "query")


def attack(place: str, text: str, *fields: Field) -> bytes:
    target, method, more = CHAT, "POST", []
    match place:
        case "method":
            method = text
        case "name":
            more = [(text.encode(), b"1")]
        case "middle of a name":
            more = [(b"X-" + text.encode() + b"-Y", b"1")]
        case "value":
            more = [(b"X-Note", b"my key is " + text.encode())]
        case "other scheme":
            more = [(b"Authorization", b"Basic " + text.encode())]
        case "path":
            target = f"/openai/v1/{text}/chat/completions"
        case "query":
            target = f"{CHAT}?key={text}"
    return request(target, BODY, *fields, JSON_TYPE, *more, method=method)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("caller", ["managed", "own key"])
def test_it_is_refused_and_goes_nowhere(
    gateway: Gateway, provider: Provider, place: str, spelling: str, caller: str
) -> None:
    case = provider.case(OK)
    credential = (b"x-api-key", (keys.virtual_key() if caller == "managed" else keys.BYO_KEY).encode())
    with Client(gateway) as client:
        client.send(attack(place, SPELLINGS[spelling], credential, case.header))
        answer = client.read_answer()
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "misplaced_key"
    assert KEY.encode() not in answer.head + answer.body
    assert case.received == []


@pytest.mark.parametrize("key", [keys.virtual_key(), keys.BYO_KEY], ids=["managed", "own key"])
def test_trailers_and_chunk_extensions_are_not_relayed(gateway: Gateway, provider: Provider, key: str) -> None:
    case = provider.case(OK)
    hidden = KEY.encode()
    head = request(CHAT, b"", bearer(key), JSON_TYPE, case.header, (b"Transfer-Encoding", b"chunked"))
    with Client(gateway) as client:
        client.send(head + b"%x;k=%b\r\n%b\r\n0;k=%b\r\nX-Key: %b\r\n\r\n" % (len(BODY), hidden, BODY, hidden, hidden))
        assert client.read_answer().status == 200
    received = case.wait()
    assert bytes(received.body) == BODY
    assert hidden not in received.head + bytes(received.raw_body)


def test_a_key_in_its_place_twice_is_in_its_place(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(OK)
    key = keys.virtual_key()
    with Client(gateway) as client:
        client.send(request(CHAT, BODY, bearer(key), (b"x-api-key", key.encode()), JSON_TYPE, case.header))
        assert client.read_answer().status == 200
    assert key.encode() not in case.wait().head
