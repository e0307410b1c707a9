"""Any split of the bytes gives equal output per socket, equal facts, and an equal final state."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.facts import Outcome
from tests.core.driver import (
    BYO_KEY,
    CHAT,
    CHAT_STREAM,
    COMPLETION,
    POOL_KEY,
    MemoryDriver,
    json_response,
    make_gateway,
    make_policy,
    request,
)
from tests.core.test_connection import CHUNKED_SSE, DONE, EVENT, USAGE_EVENT, chunk

POLICY = make_policy()
EMBED = b"/openai/v1/embeddings"

REQUESTS = {
    "collected": request(CHAT),
    "stream": request(CHAT_STREAM),
    "chunked": request(headers=b"Transfer-Encoding: chunked\r\n", length=False) + chunk(CHAT_STREAM) + b"0\r\n\r\n",
    "chunked with extensions and trailers": request(
        headers=b"Transfer-Encoding: chunked\r\n", length=False, target=EMBED
    )
    + b"3;a=b\r\nabc\r\n0;x\r\nX-Trailer: y\r\n\r\n",
    "byo": request(CHAT, key=BYO_KEY),
    "long": request(b'{"model":"m","stream":true,"messages":["' + b"y" * 66_000 + b'"]}'),
    "background": request(b'{"model":"m","background":true}', target=b"/openai/v1/responses"),
    "wrong key": request(CHAT, key=b"bai_v1.1.x.y"),
    "no key": request(CHAT, key=b""),
    "unknown provider": request(CHAT, target=b"/nobody/v1/chat/completions"),
    "empty line first": b"\r\n" + request(CHAT),
    "http/1.0": request(CHAT, version=b"HTTP/1.0"),
    "bare lf": b"POST /openai/v1/x HTTP/1.1\nHost: a\n\n",
    "broken chunk": request(headers=b"Transfer-Encoding: chunked\r\n", length=False, target=EMBED) + b"3\r\nabcX",
    "two lengths": request(CHAT, headers=b"Content-Length: 3\r\n"),
}
RESPONSES = {
    "json": json_response(COMPLETION),
    "json error that echoes the key": json_response(b'{"k":"' + POOL_KEY + b'"}', status=b"400 Bad Request"),
    "stream": CHUNKED_SSE + chunk(EVENT) + chunk(USAGE_EVENT) + chunk(EVENT + DONE) + b"0\r\n\r\n",
    "stream in odd chunks": CHUNKED_SSE
    + b"".join(chunk((EVENT + USAGE_EVENT + DONE)[i : i + 11]) for i in range(0, len(EVENT + USAGE_EVENT + DONE), 11))
    + b"0\r\nTrailer: x\r\n\r\n",
    "1xx first": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + json_response(COMPLETION),
    "until close": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + COMPLETION,
    "garbage": b"\x00\x01\x02 not http\r\n\r\n",
    "bytes beyond": json_response(COMPLETION) + b"junk",
    "broken chunk": CHUNKED_SSE + chunk(EVENT) + b"zz\r\n",
    "cut chunk": CHUNKED_SSE + chunk(EVENT) + b"5\r\nab",
}


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    bounds = [0, *places, len(data)]
    return [data[a:b] for a, b in pairwise(bounds) if a < b]


def _play(asked: list[bytes], answered: list[bytes]) -> tuple[object, ...]:
    driver = MemoryDriver(make_gateway(POLICY))
    for piece in asked:
        driver.receive(piece)
    for piece in answered:
        if driver.connects:
            driver.upstream(piece)
    if driver.connects:
        driver.upstream(b"")
    down = re.sub(rb"[0-9a-f]{32}", b"ID", driver.down)
    up = {attempt: _dechunked(data) for attempt, data in driver.up.items()}
    facts = [re.sub(rb"[0-9a-f]{32}", b"ID", fact.encode()) for fact in driver.ledger.facts]
    # A connection that carried nothing may still have been on its way when a body was refused.
    released = {attempt: reusable for attempt, reusable in driver.released.items() if attempt in driver.up}
    if answered and b"".join(answered).endswith(b"junk"):
        # Bytes beyond the answer that come with it spoil the connection here; those that come later, in the pool.
        released = {}
    if driver.ledger.facts and driver.ledger.facts[0].outcome is Outcome.REFUSED:
        # How much of a body passed before it broke a rule depends on when the sink and the provider were ready.
        up, released = {}, {}
        facts = [re.sub(rb'"request_bytes":[0-9]+', b"", fact) for fact in facts]
    return _joined_chunks(down), up, facts, driver.machine.state, driver.closed, released


def _dechunked(data: bytes) -> tuple[bytes, bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    return head, _joined_chunks(body) if b"Transfer-Encoding: chunked" in head else body


def _joined_chunks(data: bytes) -> bytes:
    """Chunk sizes follow the reads; what they carry must not."""
    return re.sub(rb"\r\n[0-9a-f]+\r\n(?!HTTP)", b"", re.sub(rb"^[0-9a-f]+\r\n", b"", data))


@settings(max_examples=250, deadline=None)
@given(
    asked=st.sampled_from(sorted(REQUESTS)),
    answered=st.sampled_from(sorted(RESPONSES)),
    request_cuts=st.lists(st.integers(0, 70_000), max_size=12),
    response_cuts=st.lists(st.integers(0, 2_000), max_size=12),
)
def test_any_split_gives_the_same(asked: str, answered: str, request_cuts: list[int], response_cuts: list[int]) -> None:
    whole = _play([REQUESTS[asked]], [RESPONSES[answered]])
    split = _play(_pieces(REQUESTS[asked], request_cuts), _pieces(RESPONSES[answered], response_cuts))
    assert split == whole


@settings(max_examples=30, deadline=None)
@given(asked=st.sampled_from(sorted(set(REQUESTS) - {"long"})), answered=st.sampled_from(sorted(RESPONSES)))
def test_byte_by_byte_gives_the_same(asked: str, answered: str) -> None:
    wire, back = REQUESTS[asked], RESPONSES[answered]
    whole = _play([wire], [back])
    assert _play([wire[i : i + 1] for i in range(len(wire))], [back[i : i + 1] for i in range(len(back))]) == whole
