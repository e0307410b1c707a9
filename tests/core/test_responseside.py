"""The response half of an exchange: framing, metering and masking by who asked."""

from __future__ import annotations

import gzip
import json
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.auth import Authorized, authorize
from aigw_core.encodedanswer import Withheld
from aigw_core.headers import Headers
from aigw_core.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, Length, RequestHead, ResponseHead
from aigw_core.requestside import RequestSide
from aigw_core.responseside import METER_FEED_MAX, ResponseSide, mask_of
from aigw_core.spellings import base64_of
from tests.core.driver import BYO_KEY, CHAT, CHAT_STREAM, COMPLETION, POOL_KEY, VIRTUAL_KEY, make_gateway, make_policy
from tests.core.http1.reading import cuts_in, pieces_of
from tests.core.keyspellings import in_base64, spelled

POLICY = make_policy()
STARS = b"*" * len(POOL_KEY)
CHAT_PATH = b"/openai/v1/chat/completions"
ECHO = b'{"error":{"message":"Incorrect API key: ' + POOL_KEY + b'","code":"invalid_api_key"}}'


def ask(key: bytes, body: bytes = CHAT, target: bytes = CHAT_PATH) -> tuple[Authorized, RequestSide]:
    head = RequestHead(b"POST", target, Headers.of([(b"Host", b"g"), (b"x-api-key", key)]), Length(len(body)))
    decision = authorize(head, POLICY, make_gateway(POLICY), 0.0)
    assert isinstance(decision, Authorized)
    request = RequestSide(head)
    if decision.caller is not None:
        request.judge_by(decision, POLICY)
    request.feed(body)
    request.finish()
    return decision, request


def begin(
    key: bytes,
    framing: Framing,
    *pairs: tuple[bytes, bytes],
    status: int = 200,
    body: bytes = CHAT,
) -> tuple[ResponseSide, ResponseHead]:
    decision, request = ask(key, body)
    response = ResponseSide()
    head = response.begin(ResponseHead(status, b"", Headers.of(pairs), framing), decision, request.body, "id-1")
    return response, head


def fed(response: ResponseSide, data: bytes, now: float) -> bytes:
    """All that a piece gives, however its body is read."""
    if response.encoded is None:
        return response.feed(data, now)
    response.take(response.encoded, data, now)
    out = b""
    while response.is_waiting():
        out += response.step(response.encoded)
    return out


@pytest.mark.parametrize("key", [VIRTUAL_KEY, BYO_KEY])
@pytest.mark.parametrize(
    ("framing", "downstream"),
    [(Length(5), Length(5)), (CHUNKED, CHUNKED), (UNTIL_CLOSE, CHUNKED), (NO_BODY, NO_BODY)],
)
def test_framing(key: bytes, framing: Framing, downstream: Framing) -> None:
    response, head = begin(key, framing)
    assert head.framing == downstream
    assert (response.meter is not None) == (key is VIRTUAL_KEY and framing != NO_BODY)
    assert response.upstream_status == 200


def test_a_stripped_response_goes_without_length() -> None:
    length = (b"Content-Length", b"5")
    for pairs, status, body, downstream in (
        ([], 200, CHAT_STREAM, CHUNKED),
        ([], 200, CHAT, Length(5)),
        ([], 300, CHAT_STREAM, Length(5)),
        ([], 429, CHAT_STREAM, Length(5)),
        ([(b"Content-Encoding", b"gzip")], 200, CHAT_STREAM, Length(5)),
        ([(b"Content-Encoding", b"Identity")], 200, CHAT_STREAM, CHUNKED),
    ):
        _, head = begin(VIRTUAL_KEY, Length(5), length, *pairs, status=status, body=body)
        assert head.framing == downstream
        assert (b"content-length" in head.headers) == (downstream == Length(5))


@pytest.mark.parametrize(
    ("key", "status", "encoding", "masked"),
    [
        (VIRTUAL_KEY, 400, None, True),
        (VIRTUAL_KEY, 599, None, True),
        (VIRTUAL_KEY, 401, b"identity", True),
        (VIRTUAL_KEY, 401, b"Identity", True),
        (VIRTUAL_KEY, 401, b"", True),
        (VIRTUAL_KEY, 399, None, True),
        (VIRTUAL_KEY, 200, None, True),
        (VIRTUAL_KEY, 200, b"br", True),
        (VIRTUAL_KEY, 200, b"compress", True),
        (BYO_KEY, 200, None, False),
        (BYO_KEY, 401, None, False),
    ],
)
def test_the_pool_key_is_masked_in_bodies(key: bytes, status: int, encoding: bytes | None, masked: bool) -> None:
    pairs = [] if encoding is None else [(b"Content-Encoding", encoding)]
    response, _ = begin(key, CHUNKED, *pairs, status=status)
    relayed = fed(response, ECHO, 1.0) + response.finish()
    assert relayed == (ECHO.replace(POOL_KEY, STARS) if masked else ECHO)
    assert response.relayed == len(ECHO)


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"compress"])
def test_an_error_that_cannot_be_read_is_withheld(encoding: bytes) -> None:
    response, _ = begin(VIRTUAL_KEY, CHUNKED, (b"Content-Encoding", encoding), status=401)
    assert response.holds_head
    with pytest.raises(Withheld):
        fed(response, ECHO, 1.0)
    assert response.relayed == 0
    response, _ = begin(BYO_KEY, CHUNKED, (b"Content-Encoding", encoding), status=401)
    assert not response.holds_head
    assert fed(response, ECHO, 1.0) == ECHO


def test_a_coded_error_goes_with_its_head_once_it_was_looked_at() -> None:
    response, head = begin(VIRTUAL_KEY, CHUNKED, (b"Content-Encoding", b"gzip"), status=429)
    body = gzip.compress(b'{"error":{"message":"slow down"}}')
    assert fed(response, body, 1.0) == b""
    assert response.finish() == body
    assert response.take_held_head() is head
    assert response.take_held_head() is None
    assert not response.holds_head
    assert response.relayed == len(body)


@pytest.mark.parametrize("text", [text for _, text in (*spelled(POOL_KEY), *in_base64(POOL_KEY))])
@pytest.mark.parametrize("whole", [True, False])
def test_the_meter_sees_what_the_caller_sees(text: bytes, whole: bool) -> None:
    """The key as the value of whatever goes into the fact, and as a name in it."""
    members = b'"model":"%b","service_tier":"%b","id":"x"' % (text, text)
    usage = b'"usage":{"prompt_tokens":1,"completion_tokens":2,"service_tier":"%b","%b":1,"x":["%b"]}' % (
        text,
        text,
        text,
    )
    kind = (b"Content-Type", b"application/json")
    decision, request = ask(VIRTUAL_KEY)
    body = b"{%b,%b}" % (members, usage)
    head = ResponseHead(200, b"", Headers.of([kind]), Length(len(body)))
    response = ResponseSide()
    response.begin(head, decision, request.body, "id-1", whole=whole)
    if whole:
        relayed = response.whole(body, decision, request.body, 0.0)
    else:
        relayed = b"".join([fed(response, body[i : i + 1], 0.0) for i in range(len(body))]) + response.finish()
    assert len(relayed) == len(body)
    assert text not in relayed
    result = response.result or (response.meter and response.meter.result())
    assert result
    assert result.tokens == {"input": 1, "output": 2}
    said = json.dumps(result.usage, ensure_ascii=False) + str(result.model) + str(result.service_tier)
    assert_unspelled(said)
    assert "*" * 10 in said


def assert_unspelled(said: str) -> None:
    """The key stands nowhere, whatever is decoded of it."""
    for shown in (said, unquote(said)):
        assert POOL_KEY.decode() not in shown
        assert not any(part.decode() in shown for part in base64_of(POOL_KEY))


@settings(deadline=None)
@given(st.data())
def test_masking_does_not_depend_on_the_split(data: st.DataObject) -> None:
    response, _ = begin(VIRTUAL_KEY, Length(len(ECHO)), status=401)
    relayed = b"".join(fed(response, piece, 0.0) for piece in pieces_of(ECHO, data.draw(cuts_in(len(ECHO)))))
    assert POOL_KEY not in relayed
    assert relayed + response.finish() == ECHO.replace(POOL_KEY, STARS)


def test_the_first_byte_is_timed_once() -> None:
    response, _ = begin(VIRTUAL_KEY, CHUNKED)
    seen = [response.ttft_at]
    for data, now in ((b"{", 3.0), (b"}", 4.0)):
        fed(response, data, now)
        seen.append(response.ttft_at)
    assert seen == [None, 3.0, 3.0]
    assert response.relayed == 2


def test_large_reads_are_metered_in_parts() -> None:
    """One call of the Meter is bounded; what is relayed is the same."""
    response, _ = begin(VIRTUAL_KEY, CHUNKED, (b"Content-Type", b"application/json"))
    body = COMPLETION[:-1] + b' ,"pad":"' + b"x" * (2 * METER_FEED_MAX) + b'"}'
    assert fed(response, body, 0.0) + response.finish() == body
    assert response.meter is not None
    assert response.meter.result().tokens == {"input": 9, "output": 3}


def test_ids_of_the_provider() -> None:
    response, head = begin(VIRTUAL_KEY, CHUNKED, (b"X-Request-Id", b"req_1"))
    assert response.upstream_id == "req_1"
    assert head.headers.get(b"x-request-id") == b"req_1"
    response, head = begin(VIRTUAL_KEY, CHUNKED, (b"X-Request-Id", b"a" + POOL_KEY))
    assert response.upstream_id is None
    assert head.headers.get(b"x-request-id") == b"a" + STARS


STREAM = (b"Content-Type", b"text/event-stream")
DONE = b'data: {"choices":[]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("pairs", "body", "status", "short"),
    [
        ([], COMPLETION, 200, False),
        ([], COMPLETION[:-1], 200, True),
        ([], b"", 200, True),
        ([STREAM], DONE, 200, False),
        ([STREAM], DONE[:20], 200, True),
        ([], b"oops", 500, False),
        ([(b"Content-Encoding", b"gzip")], gzip.compress(COMPLETION), 200, False),
        ([(b"Content-Encoding", b"gzip")], gzip.compress(COMPLETION)[:-12], 200, True),
    ],
)
def test_a_close_delimited_answer_must_look_finished(
    pairs: list[tuple[bytes, bytes]], body: bytes, status: int, short: bool
) -> None:
    response, _ = begin(VIRTUAL_KEY, UNTIL_CLOSE, *pairs, status=status)
    if body:
        fed(response, body, 0.0)
    response.finish()
    assert response.cut_short is short


def test_where_nothing_is_read_nothing_looks_cut() -> None:
    response, _ = begin(BYO_KEY, UNTIL_CLOSE)
    fed(response, b"half", 0.0)
    assert not response.cut_short
    assert not ResponseSide().cut_short


def test_the_pool_key_belongs_to_managed_exchanges() -> None:
    mask = mask_of(ask(VIRTUAL_KEY)[0])
    assert mask is POLICY.providers["openai"].mask
    assert mask is not None
    assert mask.whole(POOL_KEY) == STARS
    assert mask_of(ask(BYO_KEY)[0]) is None
