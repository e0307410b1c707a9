"""The response half of an exchange: framing, metering and masking by who asked."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.auth import Authorized, authorize
from aigw_core.headers import Headers
from aigw_core.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, Length, RequestHead, ResponseHead
from aigw_core.requestside import RequestSide
from aigw_core.responseside import METER_FEED_MAX, ResponseSide, pool_key_of
from tests.core.driver import BYO_KEY, CHAT, CHAT_STREAM, COMPLETION, POOL_KEY, VIRTUAL_KEY, make_gateway, make_policy
from tests.core.http1.reading import cuts_in, pieces_of

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
        (VIRTUAL_KEY, 399, None, False),
        (VIRTUAL_KEY, 200, None, False),
        (VIRTUAL_KEY, 401, b"br", False),
        (BYO_KEY, 401, None, False),
    ],
)
def test_the_pool_key_is_masked_in_error_bodies(key: bytes, status: int, encoding: bytes | None, masked: bool) -> None:
    pairs = [] if encoding is None else [(b"Content-Encoding", encoding)]
    response, _ = begin(key, CHUNKED, *pairs, status=status)
    relayed = response.feed(ECHO, 1.0) + response.finish()
    assert relayed == (ECHO.replace(POOL_KEY, STARS) if masked else ECHO)
    assert response.relayed == len(ECHO)


@settings(deadline=None)
@given(st.data())
def test_masking_does_not_depend_on_the_split(data: st.DataObject) -> None:
    response, _ = begin(VIRTUAL_KEY, Length(len(ECHO)), status=401)
    relayed = b"".join(response.feed(piece, 0.0) for piece in pieces_of(ECHO, data.draw(cuts_in(len(ECHO)))))
    assert POOL_KEY not in relayed
    assert relayed + response.finish() == ECHO.replace(POOL_KEY, STARS)


def test_the_first_byte_is_timed_once() -> None:
    response, _ = begin(VIRTUAL_KEY, CHUNKED)
    seen = [response.ttft_at]
    for data, now in ((b"{", 3.0), (b"}", 4.0)):
        response.feed(data, now)
        seen.append(response.ttft_at)
    assert seen == [None, 3.0, 3.0]
    assert response.relayed == 2


def test_large_reads_are_metered_in_parts() -> None:
    """One call of the Meter is bounded; what is relayed is the same."""
    response, _ = begin(VIRTUAL_KEY, CHUNKED, (b"Content-Type", b"application/json"))
    body = COMPLETION[:-1] + b' ,"pad":"' + b"x" * (2 * METER_FEED_MAX) + b'"}'
    assert response.feed(body, 0.0) + response.finish() == body
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
    response.feed(body, 0.0)
    response.finish()
    assert response.cut_short is short


def test_where_nothing_is_read_nothing_looks_cut() -> None:
    response, _ = begin(BYO_KEY, UNTIL_CLOSE)
    response.feed(b"half", 0.0)
    assert not response.cut_short
    assert not ResponseSide().cut_short


def test_the_pool_key_belongs_to_managed_exchanges() -> None:
    assert pool_key_of(ask(VIRTUAL_KEY)[0]) == POOL_KEY
    assert pool_key_of(ask(BYO_KEY)[0]) is None
