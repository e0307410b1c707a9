"""What callers send: one Plan for each request, with everything that the model must know of it."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.simulation.faults import Fault
from tests.simulation.setup import FORGED, HOT_TENANTS, KEYS, SITES, TENANTS, UNKNOWN_KID, Key, Site

BYO: Final = [b"sk-own-%d" % n for n in range(12)]
LARGE: Final = 70_000
"""More than is collected for a verdict, and more than is held while nothing may go upstream."""


@dataclass(slots=True)
class Plan:
    """One request. ``credential``: ``managed``, ``byo``, or how it is wrong."""

    number: int
    site: Site
    wire: str
    method: bytes = b"POST"
    path: bytes = b""
    key: Key | None = None
    token: bytes = b""
    credential: str = "managed"
    fault: Fault | None = None
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    chunked: bool = False
    stream: bool = False
    asked: bool | None = None
    """What the request says of include_usage."""
    http_1_0: bool = False
    closes: bool = False
    expects: bool = False
    upgrade: bool = False
    routed: bool = True
    in_scope: bool = True
    method_fits: bool = True
    background: bool = False
    encoded: bool = False
    """The body is compressed, and long when it is not."""
    malformed: int | None = None
    """The status of a head that cannot be read."""
    pieces: list[bytes] = field(default_factory=list)
    head_size: int = 0
    target: bytes = b""

    @property
    def managed(self) -> bool:
        return self.credential == "managed"

    def make_chunked(self) -> None:
        if not self.chunked:
            self.chunked = True
            self.fields = [pair for pair in self.fields if pair[0] != b"Content-Length"]
            self.fields.append((b"Transfer-Encoding", b"chunked"))

    @property
    def declared(self) -> int | None:
        return None if self.chunked or not self.body else len(self.body)


_dense: Final = json.JSONEncoder(separators=(",", ":")).encode
_WIRES: Final = ("chat", "chat", "chat", "chat", "messages", "messages", "embeddings", "models", "responses")
_SUFFIX: Final = {
    "chat": b"/chat/completions",
    "messages": b"/messages",
    "embeddings": b"/embeddings",
    "models": b"/models",
    "responses": b"/responses",
}
WIRE_NAMES: Final = {"chat": "chat_completions"}
_MALFORMED: Final = (
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET  /openai/v1/models HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"POST /openai/v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", None),
    (b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"GET /x HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
    (b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n", None),
    (b"GET /x HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", None),
    (b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
)
"""A head and its status; None where any refusal will do."""


def _body_of(plan: Plan, rng: Random) -> bytes:
    content = "x" * rng.choice((1, 20, 400))
    if rng.random() < 0.01:
        content = "y" * LARGE
    request: dict[str, object] = {"model": f"m-{plan.number}"}
    if plan.wire in ("embeddings", "responses"):
        request["input"] = content
        if plan.background:
            request["background"] = True
    else:
        request["messages"] = [{"role": "user", "content": content}]
    if plan.wire == "messages":
        request["max_tokens"] = 5
    if plan.stream:
        request["stream"] = True
    if plan.asked is not None:
        request["stream_options"] = {"include_usage": plan.asked}
    if plan.encoded:
        request["metadata"] = {"words": [[[[[rng.randrange(10**9)]]]] for _ in range(9_000)]}
    text = _dense(request) if rng.random() < 0.5 else json.dumps(request)
    body = text.encode() + b"\n" * (rng.random() < 0.1)
    return gzip.compress(body, 1) if plan.encoded else body


def _credential(plan: Plan, rng: Random) -> None:
    draw = rng.random()
    if draw < 0.80:
        tenant = rng.randrange(HOT_TENANTS) if rng.random() < 0.35 else rng.randrange(TENANTS)
        plan.key = rng.choice(KEYS[tenant])
        plan.token = plan.key.text
    elif draw < 0.93:
        plan.credential, plan.token = "byo", rng.choice(BYO)
    elif draw < 0.94:
        plan.credential = "none"
    elif draw < 0.95:
        plan.credential, plan.token = "malformed", b"bai_v1.1.nonsense"
    elif draw < 0.97:
        plan.credential, plan.token = "forged", rng.choice((*FORGED, UNKNOWN_KID))
    elif draw < 0.985:
        plan.credential, plan.token = "conflict", KEYS[0][0].text
    else:
        plan.credential, plan.token = "misplaced", b"sk-own-0"


def _credential_fields(plan: Plan, rng: Random) -> list[tuple[bytes, bytes]]:
    if plan.credential == "none":
        return []
    name = rng.choice((b"Authorization", b"x-api-key", b"api-key"))
    value = b"Bearer " + plan.token if name == b"Authorization" else plan.token
    out = [(name, value)]
    if plan.credential == "conflict":
        out.append((b"X-Goog-Api-Key", KEYS[1][0].text))
    elif plan.credential == "misplaced":
        out.append((b"X-Note", KEYS[1][0].text))
    elif plan.managed and rng.random() < 0.2:
        # Junk beside the virtual key; the caller stays managed and none of it travels.
        out.insert(rng.randrange(2), (b"X-Api-Key" if name == b"Authorization" else b"X-Goog-Api-Key", b"junk"))
    return out


def draw_plan(rng: Random, number: int) -> Plan:
    site = rng.choice(tuple(SITES.values()))
    wire = rng.choice(_WIRES)
    if (wire == "messages") != (site.name == "anthropic"):
        wire = "messages" if site.name == "anthropic" else "chat"
    plan = Plan(number, site, wire)
    _credential(plan, rng)
    if wire == "models":
        plan.method = rng.choice((b"GET", b"GET", b"HEAD"))
    plan.stream = wire in ("chat", "messages", "responses") and rng.random() < 0.6
    if wire == "chat" and plan.stream:
        plan.asked = rng.choice((None, None, True, False))
    plan.background = wire == "responses" and rng.random() < 0.05
    plan.encoded = wire in ("messages", "embeddings", "responses") and rng.random() < 0.02
    _spoil(plan, rng)
    plan.path = site.base + _SUFFIX[wire]
    if not plan.in_scope:
        plan.path = site.base + rng.choice((b"/files", b"/threads/1/messages", b"/models/..%2ffiles"))
    plan.target = plan.path + (b"?a=b&c=%20d" if rng.random() < 0.1 else b"")
    if plan.method == b"POST":
        plan.body = _body_of(plan, rng)
        plan.chunked = not plan.http_1_0 and rng.random() < 0.15
    plan.expects = bool(plan.body) and not plan.http_1_0 and rng.random() < 0.04
    plan.fields = _fields(plan, rng)
    return plan


def _spoil(plan: Plan, rng: Random) -> None:
    draw = rng.random()
    if draw < 0.01:
        plan.routed = False
    elif draw < 0.02:
        plan.in_scope = False
    elif draw < 0.03:
        plan.method_fits = False
        plan.method = b"DELETE" if plan.wire == "models" else b"GET"
    elif draw < 0.035:
        plan.upgrade = True
    elif draw < 0.065:
        plan.http_1_0 = plan.closes = True
    elif draw < 0.10:
        plan.closes = True


def _fields(plan: Plan, rng: Random) -> list[tuple[bytes, bytes]]:
    fields = _credential_fields(plan, rng)
    fields.append((b"X-Sim", b"%d" % plan.number))
    if rng.random() < 0.7 or not plan.http_1_0:
        fields.insert(rng.randrange(len(fields) + 1), (b"Host", b"gateway"))
    if rng.random() < 0.3:
        fields += [(b"X-Twice", b"1"), (b"x-twice", b"2")]
    if rng.random() < 0.1:
        fields += [(b"Cookie", b"a=b"), (b"Accept-Encoding", b"gzip"), (b"TE", b"trailers")]
    if plan.upgrade:
        fields += [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")]
    elif plan.closes and not plan.http_1_0:
        fields.append((b"Connection", b"close"))
    elif rng.random() < 0.1:
        fields += [(b"Connection", b"X-Hop, keep-alive"), (b"X-Hop", b"1")]
    if plan.body:
        fields.append((b"Content-Type", b"application/json"))
        if plan.encoded:
            fields.append((b"Content-Encoding", b"gzip"))
    if plan.expects:
        fields.append((b"Expect", b"100-continue"))
    if plan.chunked:
        fields.append((b"Transfer-Encoding", b"chunked"))
    elif plan.body:
        fields.append((b"Content-Length", b"%d" % len(plan.body)))
    return fields


def _chunks(body: bytes, rng: Random, *, broken: bool) -> bytes:
    out = []
    at = 0
    while at < len(body):
        size = rng.randrange(1, len(body) + 1)
        piece = body[at : at + size]
        at += size
        extension = b";a=b" if rng.random() < 0.1 else b""
        out.append(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece))
    if broken:
        out[-1] = out[-1][:-2] + b"XX"
    out.append(b"0\r\n\r\n" if rng.random() < 0.8 else b"0\r\nX-Trailer: 1\r\n\r\n")
    return b"".join(out)


def wire_bytes(plan: Plan, rng: Random) -> bytes:
    """The request as it is sent; notes where its head ends."""
    if plan.fault is Fault.CALLER_GARBAGE:
        raw, plan.malformed = rng.choice(_MALFORMED)[0], None
        plan.malformed = next(status or 0 for text, status in _MALFORMED if text == raw)
        plan.head_size = len(raw)
        return raw
    segment = b"/nowhere" if not plan.routed else b"/" + plan.site.name.encode()
    version = b"HTTP/1.0" if plan.http_1_0 else b"HTTP/1.1"
    lines = b"".join(b"%b: %b\r\n" % pair for pair in plan.fields)
    head = b"%b %b%b %b\r\n%b\r\n" % (plan.method, segment, plan.target, version, lines)
    plan.head_size = len(head)
    if not plan.chunked:
        return head + plan.body
    return head + _chunks(plan.body, rng, broken=plan.fault is Fault.CALLER_BROKEN_CHUNK)
