"""A memo gives what parsing gives, whatever it has seen before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.errors import RemoteProtocolError
from aigw_core.http1.heads import parse_request_head
from aigw_core.http1.memo import REMEMBERED_MAX, HeadMemo
from aigw_core.messages import RequestHead

LINES = [
    b"Content-Length: %b",
    b"content-length:%b",
    b"Content-Length:\t%b \t",
    b"X-Other: %b",
    b"Authorization: Bearer a",
    b"Transfer-Encoding: chunked",
    b"Accept: */*",
]
VALUES = [b"0", b"7", b"12", b"345678", b"9" * 18, b"9" * 19, b"+5", b"5, 5", b"", b"1_0", b"5 5", b"\xd9\xa3"]


@st.composite
def blocks(draw: st.DrawFn) -> list[bytes]:
    """Heads of one connection: mostly one head again, with other digits or one other line."""
    lines = draw(st.lists(st.sampled_from(LINES), max_size=4))
    out = []
    for _ in range(draw(st.integers(2, 6))):
        if draw(st.integers(0, 4)) == 0:
            lines = draw(st.lists(st.sampled_from(LINES), max_size=4))
        value = draw(st.sampled_from(VALUES))
        filled = [line % value if b"%b" in line else line for line in lines]
        out.append(b"\r\n".join([b"POST /openai/v1/x HTTP/1.1", b"Host: a", *filled]))
    return out


def outcome(parse: object, block: bytes) -> RequestHead | int:
    assert callable(parse)
    try:
        head = parse(block)
    except RemoteProtocolError as error:
        return error.status
    assert isinstance(head, RequestHead)
    return head


@settings(max_examples=400, deadline=None)
@given(blocks())
def test_a_memo_gives_what_parsing_gives(seen: list[bytes]) -> None:
    memo = HeadMemo()
    for block in seen:
        remembered, parsed = outcome(memo.parse, block), outcome(parse_request_head, block)
        assert remembered == parsed
        if isinstance(remembered, RequestHead) and isinstance(parsed, RequestHead):
            assert remembered.headers.first == parsed.headers.first
            assert remembered.headers.repeated == parsed.headers.repeated


def test_notes_are_shared_by_repeats_only() -> None:
    memo = HeadMemo()
    one = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: 1"
    first = memo.parse(one)
    again = memo.parse(one.replace(b"5", b"1234"))
    other = memo.parse(one.replace(b"X: 1", b"X: 2"))
    assert first.notes is not None
    assert again.notes is first.notes
    assert other.notes is not first.notes


def with_length(digits: bytes) -> bytes:
    return b"POST /a HTTP/1.1\r\nContent-Length: " + digits + b"\r\nHost: a"


@pytest.mark.parametrize("digits", [b"0", b"7", b"12", b"9" * 18])
def test_any_number_of_digits_that_is_a_length_is_known_again(digits: bytes) -> None:
    memo = HeadMemo()
    first = memo.parse(with_length(b"345"))
    again = memo.parse(with_length(digits))
    assert again == parse_request_head(with_length(digits))
    assert again.notes is first.notes


@pytest.mark.parametrize("digits", [b"", b"9" * 19, b"1_0", b"+1", b"-1", b" ", b"1 1", b"\xb2"])
def test_what_is_no_length_is_refused_behind_one_that_was(digits: bytes) -> None:
    memo = HeadMemo()
    memo.parse(with_length(b"345"))
    with pytest.raises(RemoteProtocolError):
        memo.parse(with_length(digits))


def test_a_head_without_a_length_is_known_again_only_whole() -> None:
    memo = HeadMemo()
    one = b"GET /a HTTP/1.1\r\nHost: a"
    first = memo.parse(one)
    assert memo.parse(one) is first
    for other in (one + b"\r\nX: 1", b"GET /b HTTP/1.1\r\nHost: a", one):
        assert memo.parse(other) == parse_request_head(other)
    assert memo.parse(one) is not first, "it remembers the last one alone"


@pytest.mark.parametrize(("size", "is_known"), [(4_096, True), (4_097, False)])
def test_a_head_is_remembered_up_to_4096_bytes(size: int, is_known: bool) -> None:
    memo = HeadMemo()
    start = b"GET /a HTTP/1.1\r\nHost: a\r\nX: "
    block = start + b"x" * (size - len(start))
    first = memo.parse(block)
    assert REMEMBERED_MAX == 4_096
    assert (memo.parse(block) is first) is is_known
    assert (first.notes is not None) is is_known
