"""Every parser of the core with an ordinary input and the most expensive ones that a search has found.

An input that was made to be expensive is a short unit over and over, between a beginning and an end: what it costs a
byte does not depend on its length then.
"""

from __future__ import annotations

import gzip
import importlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from aigw_core.auth import Authorized, authorize
from aigw_core.credentials import find_credential
from aigw_core.denyset import DenySet
from aigw_core.denyspelling import nearest_entry_key
from aigw_core.errors import RemoteProtocolError
from aigw_core.forwarding import upstream_request_head
from aigw_core.http1.bodies import ChunkedReader
from aigw_core.http1.heads import find_head_end, parse_request_head, parse_response_head
from aigw_core.http1.writing import request_head_bytes
from aigw_core.keymask import KeyMask, MaskedBody
from aigw_core.keys import VirtualKeyError, mint_virtual_key, parse_virtual_key
from aigw_core.secrets import Secret
from aigw_core.usage.meter import Meter
from aigw_core.usage.profile import usage_profile
from aigw_core.usage.request import BodyRules, IncludeUsage, RequestBody, RequestFault
from aigw_core.usage.textsize import TextSize
from aigw_core.wires import Wire
from bench import work
from bench.core import VIRTUAL_KEY, make_gateway

READ_SIZE: Final = 16_384
SMALL_READ: Final = 1_024
SIZE: Final = 16_384
"""Bytes of an input, some reads' worth; enough that its beginning and its end do not count."""
RATIO_MAX: Final = 5.0
"""How many times the instructions of an ordinary byte the most expensive one may take."""
FREE: Final = 8.0
"""Instructions a byte that are allowed in any case: some 100 ns, and an ordinary byte of a body, which the expressions
and decoders written in C read in hardly any instructions, takes 15 to 20 all told."""

_KEY: Final = mint_virtual_key(Secret(bytes(range(32))), kid=1, tenant_id=7, vpc_id=1, key_id=3).encode()
_POOL_KEY: Final = b"sk-proj-PtYgjmUhBel31iEl2hpChYgCfrL1spNxnyVmihA-2O76UMFxFkM"


@dataclass(frozen=True, slots=True)
class Parser:
    """One parser: how it is driven, what it gets in life, and what costs it most."""

    name: str
    read: Callable[[bytes], object]
    ordinary: bytes
    before: bytes
    after: bytes
    tokens: tuple[bytes, ...]
    """What a search builds units of."""
    worst: tuple[bytes, ...]
    """Units found to be the most expensive ones, in instructions or in time."""
    limit: float = 0.0
    """Instructions a byte at the most, where neither RATIO_MAX nor FREE is the right measure."""
    why: str = ""
    """Why so."""
    repeats_max: int = 1_000_000
    size: int = SIZE
    prepare: Callable[[bytes], bytes] = bytes
    """From the text that costs to what is read, a content coding for example; costs are those of a byte of text."""

    def filled(self, unit: bytes) -> bytes:
        """The input with this unit."""
        room = self.size - len(self.before) - len(self.after)
        return self.before + unit * max(1, min(self.repeats_max, room // max(1, len(unit)))) + self.after


def _reads(data: bytes, size: int = READ_SIZE) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _rules(*, stored: bool) -> BodyRules:
    return BodyRules(
        include_usage=None if stored else IncludeUsage.INJECT,
        refuse_background=stored,
        refuse_stored_refs=stored,
        on_model=None,
        max_bytes=1 << 30,
    )


def read_request(data: bytes, *, size: int = READ_SIZE, stored: bool = False, coding: bytes = b"") -> None:
    """A managed request body of unknown length, under a rule."""
    body = RequestBody(
        _rules(stored=stored),
        declared_length=None,
        chunked=True,
        content_type=b"application/json",
        content_encoding=coding,
    )
    try:
        for piece in _reads(data, size):
            body.feed(piece)
            while body.is_unread:
                body.resume()
        body.end()
    except RequestFault:
        pass


def read_answer(data: bytes, *, kind: bytes, wire: Wire = Wire.CHAT_COMPLETIONS, coding: bytes = b"") -> None:
    """A provider's answer, its usage event taken out."""
    meter = Meter(wire, usage_profile("openai"), strip_usage_event=wire is Wire.CHAT_COMPLETIONS)
    meter.response_head(200, kind, coding)
    for piece in _reads(data):
        meter.feed(piece)
        while meter.is_unread:
            meter.resume()
    meter.finish(True)
    meter.result()


def read_request_head(data: bytes) -> None:
    """The head, and the search for keys in it."""
    try:
        head = parse_request_head(data[: find_head_end(data, 0)])
        find_credential(head.headers, head.target, head.method)
    except RemoteProtocolError:
        pass


_GATEWAY: Final = make_gateway(rate_limit=0)


def forward_request_head(data: bytes) -> None:
    """The head of a managed caller, from its bytes to those that the provider gets."""
    head = parse_request_head(data[: find_head_end(data, 0)])
    decision = authorize(head, _GATEWAY.policy, _GATEWAY, 0.0)
    if isinstance(decision, Authorized):
        request_head_bytes(upstream_request_head(head, decision, _GATEWAY.policy, head.framing))


def read_response_head(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        parse_response_head(data[: find_head_end(data, 0)], b"POST")


def read_chunks(data: bytes) -> None:
    reader = ChunkedReader()
    try:
        for piece in _reads(data):
            reader.feed(piece)
    except RemoteProtocolError:
        pass


def read_text_size(data: bytes) -> None:
    size = TextSize()
    for piece in _reads(data):
        size.feed(piece)


def read_key(data: bytes) -> None:
    with suppress(VirtualKeyError):
        parse_virtual_key(data)


def read_deny_entry(data: bytes) -> None:
    """Key and value, a line each."""
    key, _, value = data.partition(b"\n")
    text = key.decode("latin-1")
    if DenySet().put(text, value, 1) is None:
        nearest_entry_key(text)


_MASK: Final = KeyMask(_POOL_KEY)


def read_masked(data: bytes, *, is_error: bool = False) -> None:
    """A body under the mask of the pool key."""
    body = MaskedBody(_MASK.for_errors if is_error else _MASK)
    for piece in _reads(data):
        body.feed(piece)
    body.finish()


def agent_request(member: str = "messages") -> bytes:
    """Some 100 KB as coding agents send them: tools, their calls, and files as text."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": f"tool_{number}",
                "description": "Reads a file of the workspace and returns its lines with their numbers. " * 4,
                "parameters": {
                    "type": "object",
                    "properties": {"path": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}},
                    "required": ["path"],
                },
            },
        }
        for number in range(20)
    ]
    messages: list[object] = [{"role": "system", "content": 'Answer "briefly".\n' * 60}]
    for number in range(30):
        call = {"name": "tool_1", "arguments": json.dumps({"path": "/a/b.py", "limit": number})}
        messages.append(
            {"role": "assistant", "tool_calls": [{"id": f"c{number}", "type": "function", "function": call}]}
        )
        text = '   12\tdef f(x):\n   13\t    return "x" + x\n' * 50
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": text})
    return json.dumps({"model": work.MODEL, "stream": True, "tools": tools, member: messages}).encode()


def ordinary_events(count: int = 70) -> bytes:
    return b"".join(work.event(number, number) for number in range(count)) + work.STREAM_END


def _head(value: bytes = b"") -> bytes:
    headers = (("Authorization", f"Bearer {_KEY.decode()}"), *((("X-Note", value.decode()),) if value else ()))
    return work.sdk_request(b"", path="/openai/v1/chat/completions", host="gateway:8080", headers=headers)


_JSON_TOKENS: Final = (
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"1", b"0", b"-1.5e3", b"null", b"true", b'""', b'"a"', b'"":', b"\\"),
    *(
        b'"a":',
        b"{}",
        b"[]",
        b",[1]",
        b",[[1]]",
        b",{}",
        b',{"a":1}',
        b',"a":1',
        b',"":[]',
        b" ",
        b"\n",
        b"\\n",
        b"\\u0061",
    ),
    *(b',"id":1', b',{"id":null}', b',{"id":1,"type":"a"}', b",[[[[[1]]]]]", b',"data":"', b'"data:a;base64,'),
)
_EVENT_TOKENS: Final = (
    *(
        b"data: ",
        b"data:",
        b"data",
        b"event: a",
        b"event",
        b":",
        b"a",
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"\r\n\r\n",
        b"id: 1\n",
    ),
    *(
        b"{}",
        b"1",
        b'"',
        b"[DONE",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"usage":{"":1}}',
        b'{"type":"a"}',
        b'{"error":1}',
    ),
)
_LINE_TOKENS: Final = (
    b"data: x\n",
    b"data\n",
    b"a\n",
    b":\n",
    b"event\r\n",
    b"event: a\n",
    b"data:\r",
    b"id: 1\n",
    b": a\r\n",
)
_BETWEEN_TOKENS: Final = (
    b":\n",
    b"\r",
    b"\n",
    b": a\r\n",
    b"event\n\n",
    b"a\r\n\r\n",
    b":\r",
    b"id: 1\n\n",
    b"event: a\n\n",
)
_HEAD_TOKENS: Final = (
    *(
        b"a",
        b":",
        b" ",
        b"\r\n",
        b"a:\r\n",
        b"b: x\r\n",
        b"%",
        b"%61",
        b"%2561",
        b"%31",
        b"bai_",
        b"YmFp",
        b"api-key:",
        b",",
    ),
    *(b"authorization:", b"Bearer ", b"connection:", b"\t", b"YmFpX3", b"6261695f"),
)
_TARGET_TOKENS: Final = (
    b"%",
    b"%3",
    b"%31",
    b"%25",
    b"25",
    b"%62",
    b"%61",
    b"%69",
    b"%5f",
    b"bai_",
    b"=",
    b"b",
    b"YmFp",
    b"a",
)
_CHUNK_TOKENS: Final = (
    *(
        b"1\r\nx\r\n",
        b"2\r\nxx\r\n",
        b"01\r\nx\r\n",
        b"1;\r\nx\r\n",
        b"10\r\n0123456789abcdef\r\n",
        b"f\r\n0123456789abcde\r\n",
    ),
    *(b"00010\r\n0123456789abcdef\r\n", b"\r\n", b"1", b"x", b"0", b"A\r\n0123456789\r\n"),
)
_FRAME_TOKENS: Final = (
    *(
        b"\x50\x2a\x4d\x18\0\0\0\0",
        b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00",
        b"\x28\xb5\x2f\xfd\x20\x01\x09\x00\x00\x31",
    ),
)
_MEMBER_TOKENS: Final = (gzip.compress(b"", mtime=0), gzip.compress(b"1", mtime=0), gzip.compress(b"[[[1,", mtime=0))
_KEY_TOKENS: Final = (b"bai_v", b"1", b"2", b".", b"A", b"_", b"-", b"9", b"%", b"=", b"a")
_MASK_TOKENS: Final = (
    b"sk-",
    b"s",
    b"%73",
    b"\\u0073",
    b"\\",
    b"%",
    b"c2st",
    b"736b2d",
    _POOL_KEY,
    _POOL_KEY[:20],
    b"7",
    b"x",
)
_EVENT_LIMIT: Final = 75.0
_WHY_EVENTS: Final = (
    "an event is a step of the reader whatever its size, and one of seven bytes takes fewer instructions than an"
    " ordinary one of 230"
)
_FIELD_LIMIT: Final = 30.0
_WHY_FIELDS: Final = "a head has 128 fields at the most, and the ordinary one consists of lines that are remembered"
_STREAM: Final = b"text/event-stream"
_JSON: Final = b"application/json"


def _bodies() -> list[Parser]:
    agent = agent_request()
    inside = (b'{"a":[1', b"]}", _JSON_TOKENS)
    narrow, deep = b",[[[[[[1]]]]]]", b',{"k":{"a":{"b":{"c":[1]}}}}'
    closing = b",[[[[[[1]]]]]]]]]]]]]]]]]"
    input_ = (b'{"input":[1', b"]}", _JSON_TOKENS)
    zstd = importlib.import_module("tests.zstd").compress
    return [
        Parser("request", read_request, agent, *inside, (narrow, deep, b',{"a":[[[]]]}', closing)),
        Parser(
            "request, members", read_request, agent, b'{"a":1', b"}", _JSON_TOKENS, (b',"":[[[[]]]]', b',"\\u0061":1')
        ),
        Parser("request, text", read_request, agent, b'{"a":"', b'"}', _JSON_TOKENS, (b"\\n", b"\\u0061")),
        Parser("request, small reads", partial(read_request, size=SMALL_READ), agent, *inside, (narrow, b',"\\u0061"')),
        Parser(
            "request, stored items",
            partial(read_request, stored=True),
            agent_request("input"),
            *input_,
            (
                b',{"id":null}',
                b',{"id":1,"type":"a"}',
                narrow,
                b',{"id":null},1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1',
            ),
        ),
        Parser(
            "answer",
            partial(read_answer, kind=_JSON),
            work.chat_answer(SIZE),
            *inside,
            (narrow, deep, closing, b",NaN"),
        ),
        Parser(
            "answer in gzip",
            partial(read_answer, kind=_JSON, coding=b"gzip"),
            work.chat_answer(SIZE),
            *inside,
            (narrow,),
            prepare=partial(gzip.compress, mtime=0),
        ),
        Parser(
            "answer in zstd",
            partial(read_answer, kind=_JSON, coding=b"zstd"),
            work.chat_answer(SIZE),
            *inside,
            (narrow,),
            prepare=zstd,
        ),
        Parser(
            "request, gzip members",
            partial(read_request, coding=b"gzip"),
            gzip.compress(agent, mtime=0) * 8,
            *(b"", b"", _MEMBER_TOKENS),
            (_MEMBER_TOKENS[0],),
        ),
        Parser(
            "request, zstd frames",
            partial(read_request, coding=b"zstd"),
            zstd(agent) * 8,
            *(b"", b"", _FRAME_TOKENS),
            (_FRAME_TOKENS[0], _FRAME_TOKENS[1]),
        ),
        Parser("text size", read_text_size, agent, *(b"", b"", _JSON_TOKENS), (b'"data":"', b'"data:a;base64,"')),
        Parser(
            "masked answer",
            read_masked,
            work.chat_answer(SIZE),
            *(b"", b"", _MASK_TOKENS),
            (b"\\u0073", b"%73", _POOL_KEY),
        ),
        Parser(
            "masked error",
            partial(read_masked, is_error=True),
            work.chat_answer(SIZE),
            *(b"", b"", _MASK_TOKENS),
            (b"s", b"736b", _POOL_KEY),
        ),
    ]


def _streams() -> list[Parser]:
    events = ordinary_events()
    in_event = (b"data: 1\n", b"\n", _LINE_TOKENS)
    between = (work.event(1, 1), b"", _EVENT_TOKENS)
    limit = {"limit": _EVENT_LIMIT, "why": _WHY_EVENTS}
    read = partial(read_answer, kind=_STREAM)
    tiny = (b"data:\n\n", b"data:\r\r", b'data: "\n\n', b"data:{}\n\n", b"a\n\n")
    return [
        Parser("events", read, events, *between, tiny, **limit),  # type: ignore[arg-type]
        Parser("events, Responses", partial(read, wire=Wire.RESPONSES), events, *between, tiny, **limit),  # type: ignore[arg-type]
        Parser("events, Messages", partial(read, wire=Wire.MESSAGES), events, *between, tiny, **limit),  # type: ignore[arg-type]
        Parser(
            "lines of an event",
            read,
            events,
            *in_event,
            (b"data\n", b"a\n", b"event\n", b"data\nevent\n", b"data:\r", b":\n"),
        ),
        Parser(
            "comments",
            read,
            events,
            *(work.event(1, 1), b"", _BETWEEN_TOKENS),
            (b":\n", b"\r", b"a\n\n", b"event:\n:\n\n"),
        ),
    ]


def _managed_head(field: bytes, end: bytes = b"\r\n\r\n") -> bytes:
    start = b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost:x\r\nauthorization:Bearer " + VIRTUAL_KEY.encode()
    return start + b"\r\ncontent-length:0\r\n" + field + end


def _heads() -> list[Parser]:
    limit = {"limit": _FIELD_LIMIT, "why": _WHY_FIELDS, "repeats_max": 126, "size": 65_000}
    return [
        Parser(
            "request head",
            read_request_head,
            _head(),
            *(b"GET / HTTP/1.1\r\nhost:x\r\n", b"\r\n", _HEAD_TOKENS),
            (b"a:\r\n", b"a:%\r\n", b"api-key:%\r\n", b"authorization:%\r\n", b"a:bai_\r\n"),
            **limit,  # type: ignore[arg-type]
        ),
        Parser(
            "target",
            read_request_head,
            _head(),
            *(b"GET /", b" HTTP/1.1\r\nhost:x\r\n\r\n", _TARGET_TOKENS),
            (b"%31", b"%31%%%%%%", b"%3", b"%", b"%25", b"%62%61%69%5f", b"=bai%5"),
            limit=_FIELD_LIMIT,
            why="it is looked at in the few lines of a head, and as a part of them",
        ),
        Parser(
            "header value",
            read_request_head,
            _head(b"x" * 200),
            *(b"GET / HTTP/1.1\r\nhost:x\r\nx-a:", b"\r\n\r\n", _TARGET_TOKENS),
            (b"%31", b"%", b"YmFp", b"b"),
            limit=_FIELD_LIMIT,
            why="a head has few lines, and a value is looked at by itself and as a part of them",
        ),
        Parser(
            "anthropic-beta",
            forward_request_head,
            _managed_head(b"x-other:" + b"x" * 200),
            *(
                _managed_head(b"anthropic-beta:", end=b""),
                b"\r\n\r\n",
                (b",", b"a", b"oauth-", b" ", b"\xff", b"files-api-"),
            ),
            (b"a,", b"oauth-", b",", b"oauth-a,", b"\xff,"),
            limit=1.0,
            why="of a long list only the first members are looked at one by one",
        ),
        Parser(
            "connection",
            forward_request_head,
            _managed_head(b"x-other:" + b"x" * 200),
            *(_managed_head(b"connection:", end=b""), b"\r\n\r\n", (b",", b"a", b"close", b"host", b" ", b"b_c")),
            (b"a,", b",", b"content_length,"),
            limit=1.0,
            why="of a long list only the first members are looked at one by one",
        ),
        Parser(
            "response head",
            read_response_head,
            work.provider_head(_JSON.decode(), 5),
            *(b"HTTP/1.1 200 OK\r\n", b"\r\n", _HEAD_TOKENS),
            (b"a:\r\n", b"connection:,\r\n"),
            **limit,  # type: ignore[arg-type]
        ),
        Parser(
            "chunks",
            read_chunks,
            b"".join(work.chunked(work.event(number, number)) for number in range(70)),
            *(b"", b"", _CHUNK_TOKENS),
            (b"1\r\nx\r\n", b"1\r\nx\r\n10\r\n0123456789abcdef\r\n", b"00010\r\n0123456789abcdef\r\n", b"01\r\nx\r\n"),
        ),
        Parser(
            "chunk extensions",
            read_chunks,
            b"".join(work.chunked(work.event(number, number)) for number in range(70)),
            *(b"", b"", (*_CHUNK_TOKENS, b"1;\r\nx\r\n")),
            (b"1;\r\nx\r\n",),
            limit=25.0,
            why="a message has 16 KiB of them at the most",
            size=4_096,
        ),
        Parser(
            "virtual key",
            read_key,
            _KEY,
            *(b"bai_v1.", b"", _KEY_TOKENS),
            (b"1", b"A", b"."),
            size=256,
        ),
        Parser(
            "deny entry",
            read_deny_entry,
            b"blackhole.key.7421\nspend",
            *(b"", b"\n{", _KEY_TOKENS),
            (b"1a", b"a", b"1", b"key"),
            size=4_096,
        ),
    ]


def make_parsers() -> list[Parser]:
    """Every parser, in the order of the table."""
    return _bodies() + _streams() + _heads()
