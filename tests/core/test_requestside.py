"""The request half of an exchange."""

from __future__ import annotations

import pytest

from aigw_core.auth import Authorized, authorize
from aigw_core.headers import Headers
from aigw_core.messages import CHUNKED, NO_BODY, Framing, HeadNotes, Length, NoBody, RequestHead
from aigw_core.requestside import HELD_JOINED_MAX, RequestSide
from aigw_core.usage.request import RequestFault
from tests.core.driver import BYO_KEY, CHAT, CHAT_STREAM, VIRTUAL_KEY, make_gateway, make_policy

CHAT_PATH = b"/openai/v1/chat/completions"


def head_of(
    framing: Framing, *pairs: tuple[bytes, bytes], target: bytes = CHAT_PATH, http_1_0: bool = False
) -> RequestHead:
    return RequestHead(b"POST", target, Headers.of([(b"Host", b"g"), *pairs]), framing, http_1_0)


def managed(framing: Framing, *pairs: tuple[bytes, bytes], target: bytes = CHAT_PATH) -> RequestSide:
    policy = make_policy()
    head = head_of(framing, (b"x-api-key", VIRTUAL_KEY), *pairs, target=target)
    decision = authorize(head, policy, make_gateway(policy), 0.0)
    assert isinstance(decision, Authorized)
    side = RequestSide(head)
    side.judge_by(decision, policy)
    return side


@pytest.mark.parametrize(
    ("framing", "empty"),
    [(NO_BODY, True), (NoBody(), True), (Length(0), True), (Length(1), False), (CHUNKED, False)],
)
def test_an_empty_request(framing: Framing, empty: bool) -> None:
    side = RequestSide(head_of(framing))
    assert side.empty is empty
    assert side.forward_framing == framing
    assert (side.received, side.sent, side.done, side.stopped, side.ready) == (0, 0, False, False, None)


@pytest.mark.parametrize(
    ("pairs", "http_1_0", "received", "expects"),
    [
        ([(b"Expect", b"100-continue")], False, 0, True),
        ([(b"expect", b"100-Continue")], False, 0, True),
        ([(b"Expect", b"100-continue")], True, 0, False),
        ([(b"Expect", b"100-continue")], False, 1, False),
        ([(b"Expect", b"other")], False, 0, False),
        ([], False, 0, False),
    ],
)
def test_who_waits_for_100(pairs: list[tuple[bytes, bytes]], http_1_0: bool, received: int, expects: bool) -> None:
    """RFC 9110 §10.1.1: not HTTP/1.0, and not once body bytes have come."""
    side = RequestSide(head_of(Length(5), *pairs, http_1_0=http_1_0))
    side.received = received
    assert side.expects_continue is expects


def test_byo_bodies_pass_unread() -> None:
    side = RequestSide(head_of(Length(9), (b"x-api-key", BYO_KEY)))
    assert (side.body, side.collecting) == (None, False)
    assert side.feed(b"\x00any") == b"\x00any"
    assert side.finish() == b""
    assert side.forward_framing == Length(9)


def test_held_bytes_are_taken_once_and_in_order() -> None:
    side = RequestSide(head_of(CHUNKED))
    long = b"l" * HELD_JOINED_MAX
    for piece in (b"ab", b"c", b"d", long, b"e"):
        side.hold(piece)
    assert side.held_size == 5 + HELD_JOINED_MAX
    assert [side.next_held(), side.next_held(), side.next_held()] == [b"abcd", long, b"e"]
    assert side.held_size == 0
    side.hold(b"d")
    side.drop_held()
    assert side.held_size == 0


def test_a_managed_body_is_collected_and_judged() -> None:
    side = managed(Length(len(CHAT)), (b"Content-Type", b"application/json"))
    assert side.collecting
    assert side.feed(CHAT[:5]) == b""
    assert side.feed(CHAT[5:]) == b""
    assert side.finish() == CHAT
    assert side.forward_framing == Length(len(CHAT))
    assert side.body is not None
    assert (side.body.requested_model, side.body.streaming) == ("gpt-4o-mini", False)


def test_a_body_that_is_there_whole_is_taken_at_once() -> None:
    policy = make_policy()
    for body, sent in ((CHAT, CHAT), (CHAT_STREAM, None), (CHAT + b" ", CHAT + b" ")):
        head = head_of(Length(len(body)), (b"x-api-key", VIRTUAL_KEY), (b"Content-Type", b"application/json"))
        decision = authorize(head, policy, make_gateway(policy), 0.0)
        assert isinstance(decision, Authorized)
        side = RequestSide(head)
        is_taken = side.judge_by(decision, policy, body)
        # Blanks behind the root are the scanner's.
        assert is_taken is not body.endswith(b" ")
        assert side.received == (len(body) if is_taken else 0)
        assert side.collecting
        if not is_taken:
            side.feed(body)
        forwarded = side.finish()
        assert forwarded == (sent or forwarded)
        assert (b"include_usage" in forwarded) is (sent is None)
        assert side.forward_framing == Length(len(forwarded))


def test_the_splice_shows_in_the_framing() -> None:
    side = managed(Length(len(CHAT_STREAM)), (b"Content-Type", b"application/json"))
    side.feed(CHAT_STREAM)
    forwarded = side.finish()
    assert b"include_usage" in forwarded
    assert side.forward_framing == Length(len(forwarded))


def test_a_chunked_body_stays_chunked() -> None:
    side = managed(CHUNKED)
    assert not side.collecting
    assert side.feed(CHAT) + side.finish() == CHAT
    assert side.forward_framing == CHUNKED


def test_every_content_encoding_line_counts() -> None:
    """An empty first line must not hide the second."""
    side = managed(Length(len(CHAT_STREAM)), (b"Content-Encoding", b""), (b"Content-Encoding", b"x-unknown"))
    with pytest.raises(RequestFault) as caught:
        side.feed(CHAT_STREAM)
    assert caught.value.status == 415


def test_a_managed_request_without_a_body_is_judged_as_well() -> None:
    side = managed(NO_BODY, target=b"/openai/v1/embeddings")
    assert side.empty
    assert side.finish() == b""
    assert side.forward_framing == NO_BODY


@pytest.mark.parametrize(
    ("field", "status"),
    [((b"Content-Type", b"multipart/form-data; boundary=x"), 400), ((b"Content-Encoding", b"br"), 415)],
)
def test_a_head_that_repeats_is_judged_alike_each_time(field: tuple[bytes, bytes], status: int) -> None:
    policy = make_policy()
    head = head_of(Length(len(CHAT)), (b"x-api-key", VIRTUAL_KEY), field)
    head.notes = HeadNotes()
    decision = authorize(head, policy, make_gateway(policy), 0.0)
    assert isinstance(decision, Authorized)
    for whole in (b"", b"", CHAT, CHAT):
        side = RequestSide(head)
        assert side.judge_by(decision, policy, whole) is False
        with pytest.raises(RequestFault) as fault:
            side.feed(CHAT)
        assert fault.value.status == status
