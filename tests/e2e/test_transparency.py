"""Bytes in, bytes out: what the caller sent and saw against what the provider saw and sent.

Both ends are plain sockets. The rules for what may differ are written down here once more, from the
transparency table of the reference and not from the code.
"""

from __future__ import annotations

import functools
import gzip
import json
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e import answers, keys
from tests.e2e.calls import CHAT, JSON_TYPE
from tests.e2e.client import Answer, Client, Field, bearer, request
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Case, Provider, Received

EXAMPLES: Final = 120
modest = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

HOP_BY_HOP: Final = {
    b"connection",
    b"keep-alive",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"http2-settings",
    b"expect",
}
CREDENTIALS: Final = {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"}
MANAGED_DROPPED: Final = CREDENTIALS | {
    b"accept-encoding",
    b"openai-organization",
    b"openai-project",
    b"cookie",
    b"x-goog-user-project",
}
FRAMING: Final = {b"content-length", b"transfer-encoding"}

# Strategies

TOKEN_BYTES: Final = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
VALUE_BYTES: Final = [9, *range(0x20, 0x7F), *range(0x80, 0x100)]

SPECIAL: Final = (
    HOP_BY_HOP | MANAGED_DROPPED | FRAMING | {b"host", b"anthropic-beta", b"content-encoding", b"content-type"}
)


def _ordinary(name: bytes) -> bool:
    lower = name.lower()
    return lower not in SPECIAL and not lower.startswith((b"x-aigw-", b"proxy-", b"x-test-case"))


names = st.one_of(
    st.text(TOKEN_BYTES, min_size=1, max_size=20).map(str.encode).filter(_ordinary),
    st.sampled_from([b"Accept", b"User-Agent", b"X-Stainless-Lang", b"x-under_score", b"Idempotency-Key", b"SERVER"]),
)
values = st.one_of(
    st.lists(st.sampled_from(VALUE_BYTES), max_size=30).map(bytes),
    st.sampled_from([b"", b"a, b", b"\xff\xfe obs", b"caf\xc3\xa9", b'"quoted; string"', b"0", b"a:b: c"]),
).filter(lambda value: b"bai_v" not in value)
fields = st.lists(st.tuples(names, values), max_size=12)
duplicated = fields.flatmap(
    lambda some: st.lists(st.sampled_from(some), max_size=3).map(lambda more: some + more) if some else st.just(some)
)
blanks = st.sampled_from([b"", b" ", b"  ", b"\t", b" \t "])
bodies = st.one_of(
    st.binary(max_size=200),
    st.binary(min_size=1, max_size=64).flatmap(lambda unit: st.integers(1, 3000).map(lambda n: unit * n)),
)
targets = st.text("abcXYZ019-._~!$&'()*+,;=:@/%?[]{}|\\^`\"<>", max_size=40).filter(lambda text: "bai_v" not in text)

request_extras = st.lists(
    st.sampled_from(
        [
            (b"Connection", b"keep-alive, X-Nominated"),
            (b"x-nominated", b"gone"),
            (b"Connection", b"Content-Type, x-aigw-request-id"),
            (b"Keep-Alive", b"timeout=5"),
            (b"TE", b"trailers"),
            (b"Trailer", b"X-After"),
            (b"Upgrade", b"h2c"),
            (b"HTTP2-Settings", b"AAMAAABkAAQAAP__"),
            (b"Proxy-Connection", b"keep-alive"),
            (b"Proxy-Features", b"x"),
            (b"Proxy-Authorization", b"Basic eDp5"),
            (b"x-aigw-request-id", b"spoofed"),
            (b"X-AIGW-Tenant", b"1"),
            (b"Accept-Encoding", b"gzip, br"),
            (b"accept-ENCODING", b"zstd"),
            (b"OpenAI-Organization", b"org-1"),
            (b"openai-project", b"proj-1"),
            (b"Cookie", b"a=b"),
            (b"cookie", b"c=d"),
            (b"anthropic-beta", b"tools-2024-05-16,  prompt-caching-2024-07-31"),
            (b"Content-Type", b"application/octet-stream"),
        ]
    ),
    max_size=5,
)
response_extras = st.lists(
    st.sampled_from(
        [
            (b"Connection", b"keep-alive, X-Nominated"),
            (b"X-Nominated", b"gone"),
            (b"Keep-Alive", b"timeout=5"),
            (b"Proxy-Authenticate", b"Basic"),
            (b"Proxy-Status", b"x"),
            (b"Upgrade", b"h2c"),
            (b"Trailer", b"X-After"),
            (b"x-aigw-request-id", b"spoofed"),
            (b"X-Aigw-Other", b"spoofed"),
            (b"Set-Cookie", b"a=b; Path=/"),
            (b"Set-Cookie", b"c=d; Path=/"),
            (b"Date", b"Mon, 01 Jan 2024 00:00:00 GMT"),
            (b"Server", b"cloudflare"),
            (b"X-Request-Id", b"req_1"),
            (b"Content-Type", b"application/octet-stream"),
        ]
    ),
    max_size=5,
)


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in at most nine pieces."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """The chunked coding with all that a receiver has to accept: extensions, hex case, leading zeros, trailers."""
    out = []
    for piece in draw(splits(body)):
        size = draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece)
        out.append(size + draw(st.sampled_from([b"", b";a=b", b'; name="v"'])) + b"\r\n" + piece + b"\r\n")
    trailers = draw(st.sampled_from([b"", b"X-After: 1\r\n", b"Content-Length: 5\r\nAuthorization: x\r\n"]))
    return b"".join(out) + b"0\r\n" + trailers + b"\r\n"


@dataclass
class Sent:
    """A message as one end puts it on the wire."""

    start_line: bytes
    fields: list[Field]
    body: bytes
    pieces: list[bytes]


@st.composite
def messages(draw: st.DrawFn, start_line: bytes, first: list[Field], extras: Any, until_close: bool) -> Sent:
    """``first`` are fields that must be there; they stand anywhere."""
    rows = draw(duplicated) + draw(extras) + first
    rows = draw(st.permutations(rows))
    body = draw(bodies)
    framing = draw(st.sampled_from(["length", "chunked", "close"] if until_close else ["length", "chunked"]))
    wire = body
    if framing == "length":
        rows.insert(draw(st.integers(0, len(rows))), (b"Content-Length", b"%d" % len(body)))
    elif framing == "chunked":
        rows.insert(
            draw(st.integers(0, len(rows))), (b"Transfer-Encoding", draw(st.sampled_from([b"chunked", b"Chunked"])))
        )
        wire = draw(chunked(body))
    lines = [start_line, *[name + b":" + draw(blanks) + value + draw(blanks) for name, value in rows]]
    head = b"\r\n".join([*lines, b"", b""])
    # What surrounds a value is not part of it (RFC 9112 §5.1).
    return Sent(start_line, [(name, value.strip(b" \t")) for name, value in rows], body, draw(splits(head + wire)))


def crossing(rows: list[Field], dropped: set[bytes]) -> list[Field]:
    """The fields that must arrive, in order."""
    nominated = {
        token.strip().lower() for name, value in rows if name.lower() == b"connection" for token in value.split(b",")
    }
    protected = FRAMING | CREDENTIALS | {b"host", b"content-encoding"}
    gone = HOP_BY_HOP | dropped | (nominated - protected)
    return [
        (name, value)
        for name, value in rows
        if name.lower() not in gone and not name.lower().startswith((b"x-aigw-", b"proxy-"))
    ]


def without(rows: list[Field], *added: Field) -> list[Field]:
    """The rest, after each of the added fields was found exactly once."""
    rest = list(rows)
    for field in added:
        assert rest.count(field) == 1, f"{field[0]!r} is not there once"
        rest.remove(field)
    return rest


def check_request(
    sent: Sent, received: Received, target: str, provider: Provider, *, managed: bool, key: Field
) -> None:
    method = sent.start_line.split(b" ")[0]
    assert received.request_line == b"%b %b HTTP/1.1" % (method, target.encode())
    authority = provider.url.removeprefix("http://").encode()
    expected = [(name, authority if name.lower() == b"host" else value) for name, value in sent.fields]
    dropped = MANAGED_DROPPED if managed else set()
    own: list[Field] = [key, (b"accept-encoding", b"identity")] if managed else []
    is_chunked = any(name.lower() == b"transfer-encoding" for name, _ in sent.fields)
    if is_chunked:
        own.append((b"Transfer-Encoding", b"chunked"))
    assert without(received.headers, *own) == crossing(expected, dropped)
    assert received.read() == sent.body


def check_answer(sent: Sent, answer: Answer) -> None:
    assert answer.head.partition(b"\r\n")[0] == sent.start_line
    own: list[Field] = [(b"x-aigw-request-id", answer.request_id.encode())]
    expected = crossing(sent.fields, set())
    if not any(name.lower() == b"content-length" for name, _ in sent.fields):
        own.append((b"Transfer-Encoding", b"chunked"))
    assert without(answer.headers, *own) == expected
    assert answer.complete
    assert answer.body == sent.body


def exchange(gateway: Gateway, case: Case, sent: Sent, method: str = "POST") -> Answer:
    with Client(gateway) as client:
        client.send_pieces(sent.pieces)
        answer = client.read_answer(method)
    assert case.failures == []
    return answer


@pytest.fixture(scope="module")
def echo(provider: Provider) -> Case:
    return provider.case(answers.json_answer({}))


@modest
@given(data=st.data())
def test_requests_with_the_callers_own_key(
    gateway: Gateway, provider: Provider, echo: Case, data: st.DataObject
) -> None:
    method = data.draw(st.sampled_from(["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "PROPFIND", "x-odd"]))
    target = "/v1/" + data.draw(targets)
    line = f"{method} /mistral{target} HTTP/1.1".encode()
    own = [echo.header, (b"Host", b"gateway.test"), (b"x-API-key", keys.BYO_KEY.encode())]
    sent = data.draw(messages(line, own, request_extras, until_close=False))
    before = len(echo.received)
    assert exchange(gateway, echo, sent).status == 200
    (received,) = echo.received[before:]
    check_request(sent, received, target, provider, managed=False, key=own[-1])


MANAGED: Final = {
    "/mistral/v1/embeddings": (b"Authorization", b"Bearer " + keys.pool_key("mistral").encode()),
    "/openai/v1/embeddings": (b"Authorization", b"Bearer " + keys.pool_key("openai").encode()),
    "/anthropic/v1/messages": (b"x-api-key", keys.pool_key("anthropic").encode()),
    "/deepseek/anthropic/v1/messages": (b"x-api-key", keys.pool_key("deepseek").encode()),
}
"""Endpoints on which no body rule is in force, so that any bytes may be sent, and what each provider is shown."""


@modest
@given(data=st.data())
def test_requests_with_a_virtual_key(gateway: Gateway, provider: Provider, echo: Case, data: st.DataObject) -> None:
    path, pool = data.draw(st.sampled_from(list(MANAGED.items())))
    query = data.draw(st.sampled_from(["", "?", "?beta=true", "?a=%62&a=b;c"]))
    key = keys.virtual_key(key_id=2**40)
    credential = data.draw(st.sampled_from([bearer(key), (b"X-Api-Key", key.encode()), (b"api-key", key.encode())]))
    own = [echo.header, (b"hOST", b"gateway.test"), credential]
    own += data.draw(st.sampled_from([[], [(b"x-goog-api-key", b"junk")], [(b"x-api-key", key.encode())]]))
    sent = data.draw(messages(f"POST {path}{query} HTTP/1.1".encode(), own, request_extras, until_close=False))
    before = len(echo.received)
    answer = exchange(gateway, echo, sent)
    assert answer.status == 200
    (received,) = echo.received[before:]
    target = path.removeprefix("/" + path.split("/")[1]) + query
    check_request(sent, received, target, provider, managed=True, key=pool)
    assert gateway.fact(answer.request_id)["request_bytes"] == len(sent.body)


statuses = st.one_of(
    st.sampled_from([b"200 OK", b"201 Created", b"400 Bad Request", b"418 ", b"500 Internal Server Error", b"599 x"]),
    st.tuples(st.integers(200, 599), st.text(TOKEN_BYTES + " ", max_size=10)).map(
        lambda pair: b"%d %b" % (pair[0], pair[1].encode())
    ),
).filter(lambda line: line[:3] not in (b"204", b"304"))


def _answering(sent: Sent, close: bool) -> Any:
    def script(received: Received) -> None:
        received.read()
        for piece in sent.pieces:
            received.connection.send(piece)
        if close:
            received.connection.close()

    return script


@modest
@given(data=st.data())
def test_answers_to_the_callers_own_key(gateway: Gateway, provider: Provider, data: st.DataObject) -> None:
    line = b"HTTP/1.1 " + data.draw(statuses)
    sent = data.draw(messages(line, [], response_extras, until_close=True))
    close = not any(name.lower() in FRAMING for name, _ in sent.fields)
    case = provider.case(_answering(sent, close))
    with Client(gateway) as client:
        client.send(request("/openai/v1/files", b"{}", bearer(keys.BYO_KEY), case.header))
        check_answer(sent, client.read_answer())
    assert case.failures == []


@modest
@given(data=st.data())
def test_answers_to_a_virtual_key(gateway: Gateway, provider: Provider, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(MANAGED)))
    line = b"HTTP/1.1 " + data.draw(statuses)
    sent = data.draw(messages(line, [], response_extras, until_close=False))
    case = provider.case(_answering(sent, False))
    with Client(gateway) as client:
        client.send(request(path, b"{}", bearer(keys.virtual_key(key_id=2**40)), case.header))
        answer = client.read_answer()
    check_answer(sent, answer)
    assert case.failures == []
    fact = gateway.fact(answer.request_id)
    assert (fact["status"], fact["response_bytes"]) == (answer.status, len(sent.body))
    assert fact["outcome"] == ("complete" if answer.status < 400 else "upstream_error")


# The deliberate changes


def chat_body(**members: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "Bonjour é 😀"}], **members}).encode()


@settings(modest, max_examples=40)
@given(data=st.data())
def test_include_usage_and_its_undoing(gateway: Gateway, provider: Provider, data: st.DataObject) -> None:
    """The provider is asked for usage; the caller sees its stream less the one event that this caused."""
    provider_name = data.draw(st.sampled_from(["openai/v1", "xai/v1", "fireworks/inference/v1"]))
    padding = "x" * data.draw(st.sampled_from([0, 10, 70_000]))
    body = chat_body(stream=True, user=padding, **data.draw(st.sampled_from([{}, {"stream_options": {}}])))
    events = answers.chat_events({"stream_options": {"include_usage": True}})
    wire = b"".join(answers.chunk(piece) for piece in data.draw(splits(b"".join(events))))
    pieces = data.draw(splits(answers.STREAM_HEAD + wire + answers.LAST_CHUNK))

    def script(received: Received) -> None:
        received.read()
        for piece in pieces:
            received.connection.send(piece)

    case = provider.case(script)
    is_chunked = data.draw(st.booleans())
    own = [bearer(keys.virtual_key(key_id=2**40)), JSON_TYPE, case.header]
    with Client(gateway) as client:
        if is_chunked:
            head = request(f"/{provider_name}/chat/completions", b"", *own, (b"Transfer-Encoding", b"chunked"))
            client.send_pieces(data.draw(splits(head + data.draw(chunked(body)))))
        else:
            client.send_pieces(data.draw(splits(request(f"/{provider_name}/chat/completions", body, *own))))
        answer = client.read_answer()
    (received,) = case.received
    sent = json.loads(body)
    assert json.loads(received.body) == {**sent, "stream_options": {"include_usage": True}}
    assert answer.body == b"".join(event for event in events if b'"choices": []' not in event)
    assert answer.values(b"content-length") == []
    fact = gateway.fact(answer.request_id)
    assert (fact["outcome"], fact["usage"], fact["streaming"]) == ("complete", answers.CHAT_USAGE, True)
    assert fact["request_bytes"] == len(received.body)
    assert fact["response_bytes"] == len(answer.body)


@pytest.mark.parametrize(
    "body",
    [
        chat_body(),
        chat_body(stream=False),
        chat_body(stream=True, stream_options={"include_usage": True}),
        b" \n" + chat_body(stream=True, stream_options={"include_usage": True, "x": 1}) + b"\n ",
    ],
)
def test_a_body_that_needs_nothing_is_untouched(gateway: Gateway, provider: Provider, body: bytes) -> None:
    case = provider.case(answers.by_path)
    with Client(gateway) as client:
        client.send(request(CHAT, body, bearer(keys.virtual_key()), JSON_TYPE, case.header))
        answer = client.read_answer()
    assert answer.status == 200
    (received,) = case.received
    assert bytes(received.raw_body).rstrip(b" ") == body.rstrip(b" ")
    if json.loads(body).get("stream"):
        assert answer.body == b"".join(answers.chat_events(json.loads(body)))


def test_an_encoded_request_passes_as_it_is_and_is_read(gateway: Gateway, provider: Provider) -> None:
    case = provider.case(answers.by_path)
    document = {"model": "claude-x", "max_tokens": 9, "stream": True, "messages": []}
    packed = gzip.compress(json.dumps(document).encode(), mtime=0)
    gzipped = (b"Content-Encoding", b"gzip")
    with Client(gateway) as client:
        own = (bearer(keys.virtual_key()), JSON_TYPE, gzipped, case.header)
        client.send(request("/anthropic/v1/messages", packed, *own))
        answer = client.read_answer()
    assert case.received[0].raw_body == packed
    assert case.received[0].values(b"content-encoding") == [b"gzip"]
    fact = gateway.fact(answer.request_id)
    assert (fact["requested_model"], fact["streaming"]) == ("claude-x", True)


@settings(modest, max_examples=40)
@given(data=st.data())
def test_an_echoed_pool_key_is_overwritten(gateway: Gateway, provider: Provider, data: st.DataObject) -> None:
    key = keys.pool_key("openai").encode()
    noise = st.sampled_from([b"", b"x", key[:5], key[:-1], b"pool-", key + key, b"\xff"])
    body = b"".join(data.draw(st.lists(st.one_of(st.just(key), noise), min_size=1, max_size=6)))
    wire = b"".join(answers.chunk(piece) for piece in data.draw(splits(body))) + answers.LAST_CHUNK
    head = b"HTTP/1.1 401 Bad %b\r\nX-Echo: a%bb\r\nTransfer-Encoding: chunked\r\n\r\n" % (key, key)
    pieces = data.draw(splits(head + wire))

    def script(received: Received) -> None:
        received.read()
        for piece in pieces:
            received.connection.send(piece)

    case = provider.case(script)
    with Client(gateway) as client:
        client.send(request(CHAT, chat_body(), bearer(keys.virtual_key(key_id=2**40)), JSON_TYPE, case.header))
        answer = client.read_answer()
    stars = b"*" * len(key)
    assert answer.body == body.replace(key, stars)
    assert answer.values(b"x-echo") == [b"a" + stars + b"b"]
    assert answer.head.startswith(b"HTTP/1.1 401 Bad " + stars + b"\r\n")


def test_each_piece_is_relayed_before_the_next_one_is_there(gateway: Gateway, provider: Provider) -> None:
    """Nothing waits for more: every event goes through while the provider holds back the one behind it."""
    asked = {"stream_options": {"include_usage": True}}
    events = answers.chat_events(asked)
    seen = [False] * len(events)

    def script(received: Received) -> None:
        received.read()
        received.connection.send(answers.STREAM_HEAD)
        for number, data in enumerate(events):
            received.connection.send(answers.chunk(data))
            wait_until(functools.partial(seen.__getitem__, number), f"event {number} downstream")
        received.connection.send(answers.LAST_CHUNK)

    for key, path in (
        (keys.BYO_KEY, CHAT),
        (keys.virtual_key(), CHAT),
        (keys.virtual_key(), "/groq/openai/v1/chat/completions"),
    ):
        seen[:] = [False] * len(events)
        case = provider.case(script)
        with Client(gateway) as client:
            client.send(request(path, chat_body(stream=True, **asked), bearer(key), JSON_TYPE, case.header))
            client.read_head()
            for number, data in enumerate(events):
                assert client.read_stream_until(data) == data
                seen[number] = True
            assert client.read_chunk() == b""
        assert case.failures == []
