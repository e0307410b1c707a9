"""What providers answer: the bytes, and where in them the model finds what matters."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.simulation.faults import Fault
from tests.simulation.requests import Plan

_dense: Final = json.JSONEncoder(separators=(",", ":")).encode
_ERRORS: Final = (400, 404, 429, 500, 503, 529)
_EVIL: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
_PHRASES: Final = {200: b"OK", 204: b"No Content", 429: b"Slow Down"}


@dataclass(slots=True)
class Answer:
    """One answer. Offsets named ``…_at`` count payload bytes and are reached when so many were delivered."""

    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]]
    payload: bytes
    framing: str
    """``length``, ``chunked``, ``close`` or ``none``."""
    interim: bytes = b""
    reusable: bool = True
    terminal_at: int | None = None
    closed_at: int | None = None
    """Where the JSON root closes."""
    usage_at: int | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    usage_event: tuple[int, int] | None = None
    event_ends: list[int] = field(default_factory=list)
    head_size: int = 0
    wire: bytes = b""
    broken_at: int | None = None
    """The wire offset from which on the bytes are no HTTP."""
    echoes: bool = False
    _ends: list[tuple[int, int, int]] = field(default_factory=list)

    def payload_at(self, offset: int) -> int:
        """Payload bytes among the first ``offset`` bytes of the wire."""
        if self.broken_at is not None:
            offset = min(offset, self.broken_at)
        if offset <= self.head_size:
            return 0
        if self.framing != "chunked":
            return min(offset - self.head_size, len(self.payload))
        at = bisect_right(self._ends, (offset, -1, -1)) - 1
        if at < 0:
            return 0
        start, first, size = self._ends[at]
        return first + min(offset - start, size)

    @property
    def framed_size(self) -> int:
        """Where the answer ends on the wire; what lies behind is nobody's."""
        return len(self.wire) - (len(_EVIL) if self.wire.endswith(_EVIL) else 0)

    def frame(self, rng: Random) -> None:
        """Lays out head and body on the wire."""
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self.fields)
        head = b"%bHTTP/1.1 %d %b\r\n%b\r\n" % (self.interim, self.status, self.reason, lines)
        self.head_size = len(head)
        if self.framing == "none":
            self.wire = head
        elif self.framing != "chunked":
            self.wire = head + self.payload
        else:
            out, at, offset = [head], 0, len(head)
            while at < len(self.payload):
                piece = self.payload[at : at + rng.randrange(20, 400)]
                line = b"%x\r\n" % len(piece)
                offset += len(line)
                self._ends.append((offset, at, len(piece)))
                out += (line, piece, b"\r\n")
                offset += len(piece) + 2
                at += len(piece)
            out.append(b"0\r\n\r\n")
            self.wire = b"".join(out)


def _events(plan: Plan, answer: Answer, rng: Random, *, with_usage: bool) -> None:
    out: list[bytes] = []

    def add(payload: object, name: str = "") -> int:
        text = payload if isinstance(payload, str) else _dense(payload)
        out.append((f"event: {name}\n" if name else "").encode() + b"data: " + text.encode() + b"\n\n")
        end = (answer.event_ends[-1] if answer.event_ends else 0) + len(out[-1])
        answer.event_ends.append(end)
        return end

    number, words = plan.number, rng.randrange(1, 5)
    into, outof = number % 1000 + 1, number % 77 + 1
    answer.tokens = {"input": into, "output": outof}
    if plan.wire == "messages":
        usage: dict[str, int] = {"input_tokens": into, "output_tokens": 1}
        add(
            {"type": "message_start", "message": {"id": f"msg-{number}", "model": "c", "usage": usage}}, "message_start"
        )
        for n in range(words):
            text = {"type": "text_delta", "text": f"w{number}-{n} "}
            add({"type": "content_block_delta", "index": 0, "delta": text}, "content_block_delta")
        last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": outof}}
        answer.usage_at = add(last, "message_delta")
        answer.terminal_at = add({"type": "message_stop"}, "message_stop")
    elif plan.wire == "responses":
        for n in range(words):
            add({"type": "response.output_text.delta", "delta": f"w{number}-{n}"}, "response.output_text.delta")
        usage = {"input_tokens": into, "output_tokens": outof, "total_tokens": into + outof}
        done = {"type": "response.completed", "response": {"id": f"resp-{number}", "model": "c", "usage": usage}}
        answer.usage_at = answer.terminal_at = add(done, "response.completed")
    else:
        for n in range(words):
            chunk = {"index": 0, "delta": {"content": f"w{number}-{n} "}, "finish_reason": None}
            add({"id": f"c-{number}", "model": "c", "choices": [chunk]})
        add({"id": f"c-{number}", "model": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if with_usage:
            usage = {"prompt_tokens": into, "completion_tokens": outof, "total_tokens": into + outof}
            start = answer.event_ends[-1]
            answer.usage_at = add({"id": f"c-{number}", "model": "c", "choices": [], "usage": usage})
            answer.usage_event = (start, answer.usage_at)
        else:
            answer.tokens = {}
        answer.terminal_at = add("[DONE]")
    answer.payload = b"".join(out)


def _document(plan: Plan, answer: Answer, rng: Random) -> None:
    number = plan.number
    into, outof = number % 1000 + 1, number % 77 + 1
    filler = "z" * rng.choice((5, 50, 300))
    if plan.wire == "messages":
        usage = {"input_tokens": into, "output_tokens": outof}
        root: dict[str, object] = {"id": f"msg-{number}", "type": "message", "model": "c", "content": filler}
    elif plan.wire == "responses":
        usage = {"input_tokens": into, "output_tokens": outof, "total_tokens": into + outof}
        root = {"id": f"resp-{number}", "object": "response", "status": "completed", "model": "c", "output": [filler]}
    elif plan.wire == "embeddings":
        usage, outof = {"prompt_tokens": into, "total_tokens": into}, 0
        root = {"object": "list", "model": "c", "data": [filler]}
    else:
        usage = {"prompt_tokens": into, "completion_tokens": outof, "total_tokens": into + outof}
        message = {"index": 0, "message": {"role": "assistant", "content": filler}, "finish_reason": "stop"}
        root = {"id": f"c-{number}", "object": "chat.completion", "model": "c", "choices": [message]}
    if plan.wire != "models":
        root["usage"] = usage
        answer.tokens = {"input": into} if plan.wire == "embeddings" else {"input": into, "output": outof}
    text = json.dumps(root)
    answer.payload = text.encode()
    answer.closed_at = answer.usage_at = len(answer.payload)
    if rng.random() < 0.2:
        answer.payload += b" \n"


def _error(plan: Plan, answer: Answer, *, echo: bytes) -> None:
    message = f"no {plan.number}"
    if echo:
        message += " for key " + echo.decode()
    answer.payload = json.dumps({"error": {"message": message, "type": "x"}}).encode()
    answer.tokens = {}


def draw_answer(plan: Plan, rng: Random, *, with_usage: bool, echo: bytes) -> Answer:
    """``with_usage``: whether a chat stream was asked for its numbers; ``echo``: a key that the provider repeats."""
    status = 200 if rng.random() < 0.9 and not echo else rng.choice(_ERRORS)
    answer = Answer(status, _PHRASES.get(status, b"Whatever"), [], b"", "length", echoes=bool(echo))
    kind = b"application/json"
    if status != 200:
        _error(plan, answer, echo=echo)
    elif plan.stream and plan.in_scope:
        kind = b"text/event-stream; charset=utf-8"
        _events(plan, answer, rng, with_usage=with_usage)
    else:
        _document(plan, answer, rng)
    answer.framing = rng.choice(("length", "chunked")) if status != 200 or not plan.stream else "chunked"
    if rng.random() < 0.04:
        answer.framing = "close"
    fields = [
        (b"Content-Type", kind),
        (b"X-Sim-Answer", b"%d" % plan.number),
        (b"x-request-id", b"up-%d" % plan.number),
    ]
    if rng.random() < 0.2:
        fields += [(b"Set-Cookie", b"a"), (b"set-cookie", b"b"), (b"Date", b"today"), (b"Server", b"s")]
    if rng.random() < 0.05:
        fields.append((b"Keep-Alive", b"timeout=5"))
    if echo:
        fields.append((b"X-Echo", b"key=" + echo))
    if plan.method == b"HEAD":
        fields.append((b"Content-Length", b"%d" % len(answer.payload)))
        answer.payload, answer.framing = b"", "none"
        answer.closed_at = answer.usage_at = None
    elif answer.framing == "length":
        fields.append((b"Content-Length", b"%d" % len(answer.payload)))
    elif answer.framing == "chunked":
        fields.append((b"Transfer-Encoding", b"chunked"))
    if answer.framing == "close" or rng.random() < 0.05:
        fields.append((b"Connection", b"close"))
        answer.reusable = False
    answer.fields = fields
    _interim(plan, answer, rng)
    answer.frame(rng)
    _spoil(plan, answer, rng)
    return answer


def _interim(plan: Plan, answer: Answer, rng: Random) -> None:
    heads = (
        {
            Fault.INTERIM_HEADS: rng.randrange(1, 16),
            Fault.INTERIM_FLOOD: 40,
            Fault.SWITCHING_PROTOCOLS: 1,
        }.get(plan.fault, 0)
        if plan.fault is not None
        else 0
    )
    if plan.fault is Fault.SWITCHING_PROTOCOLS:
        answer.interim = b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"
        answer.broken_at = len(answer.interim)
    elif heads:
        one = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        kinds = [one if rng.random() < 0.7 else b"HTTP/1.1 100 Continue\r\n\r\n" for _ in range(heads)]
        answer.interim = b"".join(kinds)
        if plan.fault is Fault.INTERIM_FLOOD:
            answer.broken_at = sum(len(kind) for kind in kinds[:17])


_BAD_HEADS: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\n\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
)


def _spoil(plan: Plan, answer: Answer, rng: Random) -> None:
    if plan.fault is Fault.GARBAGE_HEAD:
        answer.wire = rng.choice(_BAD_HEADS)
        answer.broken_at = len(answer.wire)
        answer.head_size = len(answer.wire) + 1
    elif plan.fault is Fault.GARBAGE_CHUNK and answer.framing == "chunked":
        start, _, _ = rng.choice(answer._ends)
        line = answer.wire.rfind(b"\r\n", 0, start - 2) + 2
        answer.wire = answer.wire[:line] + b"zz\r\n" + answer.wire[start:]
        answer.broken_at = line + 1
    elif plan.fault is Fault.EXTRA_BYTES and answer.framing in ("length", "chunked", "none"):
        answer.wire += _EVIL
