"""Request head: any split reads as the whole does, what is accepted survives a rewrite, the memo adds nothing."""

from __future__ import annotations

from typing import Final

from aigw_core.errors import RemoteProtocolError
from aigw_core.http1.heads import parse_request_head
from aigw_core.http1.memo import HeadMemo
from aigw_core.http1.writing import request_head_bytes
from aigw_core.messages import RequestHead
from fuzz.inputs import case_of
from tests.core.http1.reading import Fault, read_head

TOKENS: Final = (
    b"POST / HTTP/1.1\r\n", b"GET http://a/b HTTP/1.0\r\n", b"Host: a\r\n", b"\r\n\r\n", b"Content-Length: 3\r\n",
    b"\t", b" ", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"\r", b"\n", b"\x00", b":",
    b"chunked, identity",
)  # fmt: skip
_STATUSES: Final = frozenset({400, 431, 501, 505})


def check(data: bytes) -> None:
    case = case_of(data)
    whole = read_head([case.data], parse_request_head)
    assert read_head(case.pieces, parse_request_head) == whole, "the split changes the reading"
    if isinstance(whole, Fault):
        assert whole.status in _STATUSES
    elif whole is not None:
        head, rest = whole
        assert case.data.endswith(rest)
        assert head.target.startswith(b"/")
        if not head.http_1_0:
            again = parse_request_head(request_head_bytes(head)[:-4])
            assert again == head, "the rewritten head reads differently"
    # Two heads on one connection, as the memo sees them.
    first, _, second = case.data.partition(b"\r\n\r\n")
    memo = HeadMemo()
    for block in (first, second.partition(b"\r\n\r\n")[0], first):
        assert _parsed(memo.parse, block) == _parsed(parse_request_head, block), "the memo reads differently"


def _parsed(parse: object, block: bytes) -> RequestHead | int:
    assert callable(parse)
    try:
        head = parse(block)
    except RemoteProtocolError as error:
        return error.status
    assert isinstance(head, RequestHead)
    return head
