"""A head that is recognised says what parsing it says, whatever was learned before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.headers import HOP_BY_HOP, hop_by_hop_of
from aigw_core.http1.heads import HEAD_MAX, parse_response_head
from aigw_core.http1.shapes import (
    LEARNED_FIELDS_MAX,
    LEARNED_SIZE_MAX,
    SHAPES_MAX,
    SIGHTED_MAX,
    SIGHTINGS,
    ResponseShapes,
)
from aigw_core.messages import CHUNKED, Length, ResponseHead
from aigw_core.providers import UPSTREAM_ID_HEADERS
from tests.core.http1.reading import cuts_in, pieces_of, read_response, single_bytes

BODY = b'{"a":1}'
LINES = [
    b"Date: Mon, 24 Nov 2025 10:00:0%d GMT",
    b"x-request-id: req_%d",
    b"Request-Id: r-%d",
    b"openai-processing-ms: %d",
    b"Set-Cookie: a=%d; path=/; \xff",
    b"Content-Type: application/json",
    b"Content-Type: text/event-stream",
    b"content-encoding: gzip",
    b"Connection: keep-alive",
    b"connection: close",
    b"Keep-Alive: timeout=12",
    b"Trailer: x",
    b"Proxy-Status: y",
    b"x-aigw-request-id: z",
]
UNUSUAL = [
    b"request-id:%d",
    b"X-Blanks:   %d\t ",
    b"X-Empty:",
    b"X-Spaced: ",
    b"Connection: x-request-id",
    b"Connection: close, x",
    b"Keep-Alive: timeout=1%d",
    b"Content-Type: text/%d",
    b"Bad Name: %d",
    b"X-Control: \x01",
]
STATUS_LINES = [b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 429 Too Many Requests"]
UNUSUAL_STATUS_LINES = [b"HTTP/1.0 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 103 Early Hints", b"HTTP/2 200 OK"]
FRAMINGS = [b"Content-Length: 7", b"Transfer-Encoding: chunked"]
UNUSUAL_FRAMINGS = [
    b"content-length:7",
    b"Content-Length: 007",
    b"Content-Length: 0",
    b"Content-Length: 70",
    b"Content-Length: x",
    b"Content-Length: 7, 7",
    b"Content-Length: 7\r\nContent-Length: 7",
    b"Content-Length: " + b"0" * 18 + b"7",
    b"Transfer-Encoding: gzip",
    b"",
]


def shapes_of(*blocks: bytes) -> ResponseShapes:
    """What is learned of these heads, each of them seen often enough."""
    shapes = ResponseShapes(UPSTREAM_ID_HEADERS)
    for block in blocks:
        for _ in range(SIGHTINGS):
            shapes.learn(block, parse_response_head(block, b"POST"))
    return shapes


def read(shapes: ResponseShapes, data: bytes) -> ResponseHead | None:
    look = shapes.find(data)
    if look is None:
        return None
    shape, match = look
    return shape.head(match, shape.framing(match))


def filled(line: bytes, number: int) -> bytes:
    return line % number if b"%d" in line else line


Look = tuple[bytes, list[bytes], bytes]
LOOKS = st.tuples(
    st.sampled_from(STATUS_LINES), st.lists(st.sampled_from(LINES), max_size=6), st.sampled_from(FRAMINGS)
)


def response(look: Look, number: int) -> bytes:
    status, lines, framing = look
    at = len(lines) // 2
    fields = [filled(line, number) for line in (*lines[:at], framing, *lines[at:]) if line]
    body = b"7\r\n%b\r\n0\r\n\r\n" % BODY if b"chunked" in framing else BODY
    return b"\r\n".join([status, *fields, b"", body])


def changed(draw: st.DrawFn, look: Look) -> Look:
    """Mostly the same; else with one thing that is another."""
    status, lines, framing = look
    what = draw(st.integers(0, 11))
    if what == 0:
        lines = [*lines, draw(st.sampled_from(LINES + UNUSUAL))]
    elif what == 1 and lines:
        at = draw(st.integers(0, len(lines) - 1))
        lines = [*lines[:at], draw(st.sampled_from(LINES + UNUSUAL)), *lines[at + 1 :]]
    elif what == 2:
        status = draw(st.sampled_from(STATUS_LINES + UNUSUAL_STATUS_LINES))
    elif what == 3:
        framing = draw(st.sampled_from(FRAMINGS + UNUSUAL_FRAMINGS))
    return status, lines, framing


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_was_learned_the_reading_is_the_same(data: st.DataObject) -> None:
    looks = data.draw(st.lists(LOOKS, min_size=1, max_size=3))
    shapes = ResponseShapes(UPSTREAM_ID_HEADERS)
    for look in looks:
        for number in range(SIGHTINGS):
            read_response(b"POST", [response(look, number)], shapes)
    for look in looks:
        if hop_by_hop_of(parse_response_head(response(look, 0).partition(b"\r\n\r\n")[0], b"").headers) is HOP_BY_HOP:
            assert shapes.find(response(look, 5)) is not None
    for _ in range(data.draw(st.integers(1, 8))):
        look = data.draw(st.composite(changed)(data.draw(st.sampled_from(looks))))
        whole = response(look, data.draw(st.integers(0, 12)))
        whole += data.draw(st.sampled_from([b"", b"", b"", b"x", b"\r\n"]))
        before = data.draw(st.sampled_from([b"", b"", b"", b"HTTP/1.1 103 x\r\nLink: y\r\n\r\n"]))
        pieces = [before, whole] if before else [whole]
        if data.draw(st.booleans()):
            pieces = list(pieces_of(before + whole, data.draw(cuts_in(len(before + whole)))))
        method = data.draw(st.sampled_from([b"POST", b"POST", b"HEAD"]))
        read, plain = read_response(method, pieces, shapes), read_response(method, pieces)
        assert read == plain
        for head, parsed in zip(read.heads, plain.heads, strict=True):
            assert_says_the_same(head, parsed)


def assert_says_the_same(head: ResponseHead, parsed: ResponseHead) -> None:
    assert parsed.look is None
    if head.look is None:
        return
    shape, match = head.look
    headers = parsed.headers
    assert hop_by_hop_of(headers) is HOP_BY_HOP
    assert shape.relayed_lines(match) == headers.relayed_lines()
    assert shape.has_length == (b"content-length" in headers)
    assert shape.content_type == headers.first.get(b"content-type", b"")
    assert shape.content_encoding == headers.first.get(b"content-encoding", b"")
    ids = [headers.first[name] for name in UPSTREAM_ID_HEADERS if name in headers]
    assert (match[shape.id_at] if shape.id_at else None) == (ids[0] if ids else None)


USUAL = b"\r\n".join(
    [
        b"HTTP/1.1 200 OK",
        b"Date: Mon, 24 Nov 2025 10:00:00 GMT",
        b"Content-Type: application/json",
        b"Content-Length: 7",
        b"Connection: keep-alive",
        b"request-id: r-1",
        b"x-request-id: x-1",
        b"Set-Cookie: a=1",
        b"Set-Cookie: b=2",
    ]
)
STREAM = USUAL.replace(b"Content-Length: 7", b"Transfer-Encoding: chunked").replace(b"json", b"x")


def test_a_known_look_is_recognised_with_other_values() -> None:
    other = USUAL.replace(b"10:00:00", b"23:59:59").replace(b"Length: 7", b"Length: 1234").replace(b"x-1", b"x\t \xff2")
    head = read(shapes_of(STREAM, USUAL), other + b"\r\n\r\n" + BODY)
    assert head is not None
    assert head == parse_response_head(other, b"POST")
    assert_says_the_same(head, parse_response_head(other, b"POST"))
    assert head.look is not None
    assert (head.framing, head.look[1][head.look[0].id_at]) == (Length(1234), b"x\t \xff2")
    assert head.look[1].end() == len(other) + 4
    stream = read(shapes_of(USUAL, STREAM), STREAM + b"\r\n\r\n")
    assert stream is not None
    assert (stream.framing, stream.headers.fields) == (CHUNKED, parse_response_head(STREAM, b"POST").headers.fields)


@pytest.mark.parametrize(
    "other",
    [
        USUAL.replace(b"200", b"201"),
        USUAL.replace(b"OK", b"ok"),
        USUAL.replace(b"json", b"xml"),
        USUAL.replace(b"keep-alive", b"close"),
        USUAL.replace(b"Date", b"date"),
        USUAL.replace(b"Date: ", b"Date:"),
        USUAL.replace(b"Date: ", b"Date:  "),
        USUAL.replace(b"GMT", b"GMT "),
        USUAL.replace(b"GMT", b"G\x00T"),
        USUAL.replace(b"GMT", b"G\nT"),
        USUAL.replace(b"r-1", b""),
        USUAL.replace(b"Length: 7", b"Length: -7"),
        USUAL.replace(b"Length: 7", b"Length: " + b"7" * 19),
        USUAL + b"\r\nX: y",
        USUAL.replace(b"\r\nSet-Cookie: b=2", b""),
        USUAL + b"\r",
    ],
)
def test_any_other_look_is_left_to_parsing(other: bytes) -> None:
    assert shapes_of(USUAL).find(other + b"\r\n\r\n") is None


@pytest.mark.parametrize("size", range(len(USUAL) + 4))
def test_an_incomplete_head_is_not_read(size: int) -> None:
    assert shapes_of(USUAL).find((USUAL + b"\r\n\r\n")[:size]) is None


def test_the_first_of_repeated_ids_counts() -> None:
    twice = USUAL + b"\r\nX-Request-ID: x-2"
    head = read(shapes_of(twice), twice + b"\r\n\r\n")
    assert head is not None
    assert_says_the_same(head, parse_response_head(twice, b"POST"))


def test_an_expression_is_made_of_what_comes_often() -> None:
    shapes = ResponseShapes(())
    head = parse_response_head(USUAL, b"POST")
    for _ in range(SIGHTINGS - 1):
        shapes.learn(USUAL, head)
        assert shapes.find(USUAL + b"\r\n\r\n") is None
    shapes.learn(USUAL, head)
    found = shapes.find(USUAL + b"\r\n\r\n")
    assert found is not None
    assert found[0].id_at == 0, "nobody asked for one"


@pytest.mark.parametrize(
    "block",
    [
        USUAL.replace(b"1.1", b"1.0"),
        USUAL.replace(b"200", b"204"),
        USUAL.replace(b"200", b"103").replace(b"Content-Length: 7", b"X: y"),
        USUAL.replace(b"keep-alive", b"date"),
        USUAL.replace(b"Content-Length: 7", b"X: y"),
        USUAL.replace(b": r-1", b":r-1"),
        USUAL + b"\r\nX: " + b"y" * LEARNED_SIZE_MAX,
        USUAL + b"\r\nX: y" * LEARNED_FIELDS_MAX,
    ],
    ids=["HTTP/1.0", "no body", "informational", "nominates", "until close", "unusual blanks", "long", "many fields"],
)
def test_what_does_not_follow_from_the_look_is_not_learned(block: bytes) -> None:
    assert shapes_of(block, block)._known == ()


def test_a_head_that_is_too_large_is_left_to_parsing() -> None:
    shapes = shapes_of(USUAL)
    longest = USUAL + b"y" * (HEAD_MAX - len(USUAL))
    assert shapes.find(longest + b"\r\n\r\n") is not None
    assert shapes.find(longest + b"y\r\n\r\n") is None
    assert read_response(b"POST", [longest + b"y\r\n\r\n"], shapes).failed


def learn(shapes: ResponseShapes, block: bytes, times: int = 1) -> None:
    for _ in range(times):
        shapes.learn(block, parse_response_head(block, b"POST"))


def test_a_provider_that_never_looks_the_same_costs_no_expression() -> None:
    shapes = ResponseShapes(())
    for _ in range(SIGHTINGS):
        for number in range(2 * SIGHTED_MAX):
            learn(shapes, USUAL + b"\r\nX-%d: y" % number)
            assert len(shapes._sighted) <= SIGHTED_MAX
    assert shapes._known == ()


def test_old_looks_make_room_and_new_ones_take_longer_then() -> None:
    shapes = ResponseShapes(())
    blocks = [USUAL + b"\r\nY-%d: y" % number for number in range(SHAPES_MAX + 2)]
    for block in blocks[: SHAPES_MAX + 1]:
        learn(shapes, block, SIGHTINGS)
    assert [shapes.find(block + b"\r\n\r\n") is not None for block in blocks] == [False] * SHAPES_MAX + [True, False]
    learn(shapes, blocks[-1], 2 * SIGHTINGS - 1)
    assert shapes.find(blocks[-1] + b"\r\n\r\n") is None
    learn(shapes, blocks[-1])
    assert shapes.find(blocks[-1] + b"\r\n\r\n") is not None
    for number in range(20 * SHAPES_MAX):
        learn(shapes, USUAL + b"\r\nZ-%d: y" % number, shapes._sightings)
        assert len(shapes._known) <= SHAPES_MAX
        if shapes._sightings == 16 * SIGHTINGS:
            break
    else:
        pytest.fail("learning never slows down")


def test_a_head_that_cannot_be_learned_once_is_tried_again() -> None:
    """The fourth one has a blank too many; the eighth has not."""
    shapes = ResponseShapes(())
    learn(shapes, USUAL, SIGHTINGS - 1)
    learn(shapes, USUAL.replace(b": r-1", b":r-1"))
    assert shapes._known == ()
    learn(shapes, USUAL, SIGHTINGS)
    assert shapes.find(USUAL + b"\r\n\r\n") is not None


def test_heads_are_looked_up_while_others_are_learned() -> None:
    """Gateways in two threads may share a policy: one of them may learn between any two looks of the other."""
    shapes = shapes_of(USUAL, STREAM)

    def learns_meanwhile(_: bytes) -> None:
        learn(shapes, USUAL + b"\r\nX: y", SIGHTINGS)

    shapes._known[0].match = learns_meanwhile  # type: ignore[assignment]  # one of two forms is called
    assert shapes.find(STREAM + b"\r\n\r\n") is not None
    assert len(shapes._known) == 3


def test_a_head_in_pieces_is_looked_at_when_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a byte at a time would have all of it matched for each byte."""
    shapes, looks = shapes_of(USUAL), 0
    find = ResponseShapes.find

    def counted(self: ResponseShapes, data: bytes) -> object:
        nonlocal looks
        looks += 1
        return find(self, data)

    monkeypatch.setattr(ResponseShapes, "find", counted)
    data = USUAL + b"\r\n\r\n" + BODY
    read = read_response(b"POST", single_bytes(data), shapes)
    assert read == read_response(b"POST", [data])
    assert read.heads[0].look is not None
    assert looks == 3, "of the first byte twice, and of the whole head"
