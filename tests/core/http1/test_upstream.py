"""Reading the responses of one upstream connection."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.errors import RemoteProtocolError
from aigw_core.http1.heads import HEAD_MAX
from aigw_core.http1.upstream import ResponseReader
from tests.core.http1.reading import ResponseRead, cuts_in, pieces_of, read_response, single_bytes


def read_one(method: bytes, data: bytes) -> ResponseRead:
    """The one outcome of all splits."""
    outcomes = [read_response(method, pieces) for pieces in ([data], single_bytes(data))]
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


# What is asked and sent, then what is expected: statuses, payload, whether it is over, whether it is reusable.
RESPONSES: dict[str, tuple[bytes, bytes, list[int], bytes, bool, bool]] = {
    "a length": (b"POST", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", [200], b"abc", True, True),
    "a length not reached": (b"POST", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", [200], b"abc", False, True),
    "no byte": (b"POST", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", [200], b"", True, True),
    "chunks": (
        b"POST",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x\r\nbc\r\n0\r\nT: u\r\n\r\n",
        [200],
        b"abc",
        True,
        True,
    ),
    "chunks without the last one": (
        b"POST",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        [200],
        b"a",
        False,
        True,
    ),
    "until close": (b"POST", b"HTTP/1.1 200 OK\r\n\r\nabc", [200], b"abc", False, True),
    "HEAD": (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", [200], b"", True, True),
    "204": (b"POST", b"HTTP/1.1 204 x\r\nContent-Length: 3\r\n\r\n", [204], b"", True, True),
    "304": (b"GET", b"HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n", [304], b"", True, True),
    "1xx first": (
        b"POST",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\n"
        b"Content-Length: 1\r\n\r\na",
        [100, 103, 200],
        b"a",
        True,
        True,
    ),
    "101 is left to the exchange": (b"GET", b"HTTP/1.1 101 x\r\n\r\n", [101], b"", False, False),
    "Connection: close": (
        b"POST",
        b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 1\r\n\r\na",
        [200],
        b"a",
        True,
        False,
    ),
    "close on a second line": (
        b"POST",
        b"HTTP/1.1 200 OK\r\nConnection: x\r\nconnection: close\r\nContent-Length: 1\r\n\r\na",
        [200],
        b"a",
        True,
        False,
    ),
    "HTTP/1.0": (
        b"POST",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        [200],
        b"a",
        True,
        False,
    ),
    "an incomplete head": (b"POST", b"HTTP/1.1 200 OK\r\nA: b\r\n", [], b"", False, False),
}


@pytest.mark.parametrize(
    ("method", "data", "statuses", "payload", "over", "reusable"), RESPONSES.values(), ids=RESPONSES
)
def test_responses(method: bytes, data: bytes, statuses: list[int], payload: bytes, over: bool, reusable: bool) -> None:
    read = read_one(method, data)
    assert [head.status for head in read.heads] == statuses
    assert (read.payload, read.over, read.reusable, read.failed) == (payload, over, reusable, False)
    for size in range(len(data)):
        assert not read_one(method, data[:size]).over, "an incomplete response is not complete"


@pytest.mark.parametrize("name", [name for name, row in RESPONSES.items() if row[4]])
@pytest.mark.parametrize("behind", [b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb", b"\x00"])
def test_bytes_behind_the_response_spoil_the_connection(name: str, behind: bytes) -> None:
    """Nobody asked for them (response-queue poisoning): they are no response and no body."""
    method, data, statuses, payload, _, _ = RESPONSES[name]
    read = read_one(method, data + behind)
    assert [head.status for head in read.heads] == statuses
    assert (read.payload, read.over, read.reusable, read.failed) == (payload, True, False, False)


BROKEN = {
    "not HTTP": b"SSH-2.0-x\r\n\r\n",
    "LF alone": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "an empty head": b"\r\n\r\n",
    "a control byte first": b"\n",
    "a control byte first behind a 1xx": b"HTTP/1.1 103 x\r\n\r\n\n",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a broken 1xx": b"HTTP/1.1 100 x\r\nA : b\r\n\r\n",
    "a broken head behind a 1xx": b"HTTP/1.1 100 x\r\n\r\nHTTP/2 200 OK\r\n\r\n",
    "a body behind a 1xx": b"HTTP/1.1 103 x\r\nContent-Length: 3\r\n\r\nabc\r\n\r\n",
    "a chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nx\r\n",
    "too large": b"HTTP/1.1 200 OK\r\nA: " + b"b" * HEAD_MAX,
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 129 + b"\r\n",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_responses_raise(data: bytes) -> None:
    read = read_one(b"POST", data)
    assert (read.failed, read.over) == (True, False)
    assert read.payload == (b"ab" if b"2\r\nab" in data else b"")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 4.0),
        (b"timeout=5, max=100", 4.0),
        (b"max=100, timeout=75", 74.0),
        (b"Timeout=2;x", 1.0),
        (b"timeout=1", 0.0),
        (b"timeout=0", 0.0),
        (b"timeout=999999999", 999999998.0),
        (b"timeout=9999999999", None),
        (b"timeout=-5", None),
        (b"timeout=5s", None),
        (b"xtimeout=5", None),
        (b"timeout=", None),
        (b"", None),
    ],
)
def test_keep_alive_promises(value: bytes, seconds: float | None) -> None:
    """A second less than promised: the provider's clock began earlier than ours."""
    reader = ResponseReader(b"GET")
    reader.push(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: " + value + b"\r\n\r\n")
    assert reader.head() is not None
    assert reader.keep_alive == seconds


def test_without_the_field_nothing_is_promised() -> None:
    reader = ResponseReader(b"GET")
    reader.push(b"HTTP/1.1 100 x\r\nKeep-Alive: timeout=9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    heads = [reader.head(), reader.head(), reader.head()]
    assert [head.status if head else None for head in heads] == [100, 200, None]
    assert reader.keep_alive is None


def test_what_a_connection_asks() -> None:
    reader = ResponseReader(b"GET")
    assert (reader.answered, reader.in_body, reader.until_close) == (False, False, False)
    assert reader.head() is None
    reader.push(b"H")
    assert (reader.answered, reader.in_body) == (True, False)
    assert reader.head() is None
    reader.push(b"TTP/1.1 200 OK\r\n\r\nab")
    assert reader.head() is not None
    assert (reader.in_body, reader.until_close) == (True, True)
    assert reader.first_body() == (b"ab", False)
    assert reader.body(b"cd") == (b"cd", False)


def test_a_body_that_comes_later() -> None:
    reader = ResponseReader(b"GET")
    reader.push(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    assert reader.head() is not None
    assert reader.first_body() == (b"", False)
    assert not reader.until_close
    assert reader.body(b"ab") == (b"ab", True)
    assert reader.reusable
    assert reader.body(b"c") == (b"", True)
    assert not reader.reusable


HEADS = st.sampled_from(
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello"),
        (b"HTTP/1.1 429 x\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nhel\r\n02;e\r\nlo\r\n0\r\nA: b\r\n\r\n"),
        (b"HTTP/1.1 200\r\nConnection: close\r\n\r\n", b"hello"),
    ]
)


@settings(deadline=None)
@given(st.lists(st.sampled_from([100, 102, 103]), max_size=3), HEADS, st.data())
def test_reading_does_not_depend_on_the_split(
    informational: list[int], final: tuple[bytes, bytes], data: st.DataObject
) -> None:
    sent = b"".join(b"HTTP/1.1 %d x\r\nA: b\r\n\r\n" % status for status in informational) + final[0] + final[1]
    read = read_response(b"POST", pieces_of(sent, data.draw(cuts_in(len(sent)))))
    assert [head.status for head in read.heads[:-1]] == informational
    assert read.payload == b"hello"
    assert read == read_response(b"POST", [sent])


def test_faults_in_the_head_say_502_outside() -> None:
    reader = ResponseReader(b"GET")
    reader.push(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
    with pytest.raises(RemoteProtocolError) as caught:
        reader.head()
    assert caught.value.status == 502
