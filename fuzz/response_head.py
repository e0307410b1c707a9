"""Responses: heads, body and what becomes of the connection are the same in any split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aigw_core.errors import RemoteProtocolError
from aigw_core.http1.heads import parse_response_head
from aigw_core.messages import ResponseHead
from fuzz.inputs import case_of
from tests.core.http1.reading import Fault, ResponseRead, read_head, read_response, response_to

TOKENS: Final = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 204\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"\r\n\r\n",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Keep-Alive: timeout=5\r\n",
    b"Connection: close\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n",
)  # fmt: skip
_METHODS: Final = (b"POST", b"HEAD", b"GET")


def check(data: bytes) -> None:
    case = case_of(data)
    method = _METHODS[case.options % len(_METHODS)]
    parse = response_to(method)
    assert _head(case.pieces, parse) == _head([case.data], parse), "the split changes the head"
    whole, sent = read_response(method, [case.data]), read_response(method, case.pieces)
    assert _outcome(sent) == _outcome(whole), "the split changes the response"
    assert len(whole.payload) <= len(case.data)
    for head in whole.heads[:-1]:
        assert head.status < 200, "a head behind the final one"
    assert _status(case.data, method) in (None, 502)


def _status(block: bytes, method: bytes) -> int | None:
    try:
        parse_response_head(block, method)
    except RemoteProtocolError as error:
        return error.status
    return None


def _head(pieces: list[bytes], parse: Callable[[bytes], ResponseHead]) -> tuple[ResponseHead, bytes] | str | None:
    """As read_head; of a refusal only its text, since an upstream peer's is a 502 whatever its status says."""
    read = read_head(pieces, parse)
    return read.text if isinstance(read, Fault) else read


def _outcome(read: ResponseRead) -> tuple[object, ...]:
    return read.heads, read.payload, read.over, read.failed, read.reusable and not read.failed
