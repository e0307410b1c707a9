"""Feeds bytes to the codec the way a connection does, in pieces of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import strategies as st

from aigw_core.errors import RemoteProtocolError
from aigw_core.http1.bodies import BodyReader
from aigw_core.http1.heads import find_head_end, parse_response_head
from aigw_core.http1.shapes import ResponseShapes
from aigw_core.http1.upstream import ResponseReader
from aigw_core.messages import RequestHead, ResponseHead

Head = TypeVar("Head", RequestHead, ResponseHead)


@dataclass
class Fault:
    """What a refusal tells the outside."""

    status: int
    text: str


def pieces_of(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """The data split at these offsets, without empty pieces."""
    start = 0
    for cut in sorted({*(min(cut, len(data)) for cut in cuts), len(data)}):
        if cut > start:
            yield data[start:cut]
            start = cut


def single_bytes(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def cuts_in(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size), max_size=8)


def response_to(method: bytes) -> Callable[[bytes], ResponseHead]:
    return lambda block: parse_response_head(block, method)


def read_head(pieces: Iterable[bytes], parse: Callable[[bytes], Head]) -> tuple[Head, bytes] | Fault | None:
    """The head and the bytes behind it, a refusal, or None where the head is incomplete."""
    buffer = bytearray()
    searched = 0
    rest = iter(pieces)
    try:
        for piece in rest:
            buffer += piece
            end = find_head_end(buffer, searched)
            if end >= 0:
                return parse(bytes(buffer[:end])), bytes(buffer[end + 4 :]) + b"".join(rest)
            searched = len(buffer)
    except RemoteProtocolError as error:
        return Fault(error.status, str(error))
    return None


@dataclass
class BodyRead:
    """All that a body reader gave."""

    payload: bytes = b""
    rest: bytes | None = None
    """The bytes behind the body; None while it goes on."""
    fault: Fault | None = None


def read_body(reader: BodyReader, pieces: Iterable[bytes]) -> BodyRead:
    out = BodyRead()
    following = iter(pieces)
    try:
        for piece in following:
            payload, out.rest = reader.feed(piece)
            out.payload += payload
            if out.rest is not None:
                out.rest += b"".join(following)
                break
    except RemoteProtocolError as error:
        out.payload += error.payload
        out.fault = Fault(error.status, str(error))
    return out


@dataclass
class ResponseRead:
    """All that a ResponseReader gave."""

    heads: list[ResponseHead] = field(default_factory=list)
    payload: bytes = b""
    over: bool = False
    reusable: bool = False
    keep_alive: float | None = None
    failed: bool = False


def read_response(method: bytes, pieces: Iterable[bytes], shapes: ResponseShapes | None = None) -> ResponseRead:
    """Every 1xx head, the final one, the body; pieces behind the end are fed as well."""
    reader = ResponseReader(method, shapes)
    out = ResponseRead()
    try:
        for piece in pieces:
            _feed(reader, piece, out)
            if reader.broken:
                break
    except RemoteProtocolError:
        out.failed = True
    out.failed = out.failed or reader.broken
    out.reusable = reader.reusable
    out.keep_alive = reader.keep_alive
    return out


def _feed(reader: ResponseReader, piece: bytes, out: ResponseRead) -> None:
    if out.over and not reader.in_body:
        # Behind a response that came whole: whoever drives the reader has dropped it.
        reader.reusable = False
        return
    whole = None if reader.in_body else reader.whole(piece)
    if whole is not None:
        out.heads.append(whole[0])
        payload, over = whole[1], True
    elif reader.in_body:
        payload, over = reader.body(piece)
    else:
        reader.push(piece)
        payload, over = b"", False
        while (head := reader.head()) is not None:
            out.heads.append(head)
            if head.status >= 200:
                payload, over = reader.first_body()
                break
    out.payload += payload
    out.over = out.over or over
