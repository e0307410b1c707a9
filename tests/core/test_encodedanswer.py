"""Answers in a content coding that hold the pool key, or may."""

from __future__ import annotations

import base64
import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.encodedanswer import (
    ECHOED,
    ERROR_HELD_MAX,
    OPEN_HELD_MAX,
    UNREADABLE,
    EncodedAnswer,
    Withheld,
)
from aigw_core.headers import Headers
from aigw_core.keymask import KeyMask
from aigw_core.messages import CHUNKED, ResponseHead
from aigw_core.usage.decoding import STEP_BYTES, open_decoder
from aigw_core.usage.meter import Meter
from aigw_core.usage.profile import usage_profile
from aigw_core.wires import Wire
from tests import codings
from tests.core.http1.reading import cuts_in, pieces_of
from tests.core.keyspellings import spelled

KEY = b"sk-proj-4fTq9ZbXw2LmVhK7cRjD0yUe"
MASK = KeyMask(KEY)
HEAD = ResponseHead(401, b"Unauthorized", Headers([]), CHUNKED)
CODINGS = {name.encode(): compress for name, compress in {**codings.CODINGS, "x-gzip": gzip.compress}.items()}
CLEAN = b'{"error":{"message":"no such model","code":"model_not_found"}}'
ECHO = b'{"error":{"message":"Incorrect API key: ' + KEY + b'"}}'


def answer(encoding: bytes = b"gzip", *, error: bool) -> EncodedAnswer:
    return EncodedAnswer(
        MASK.for_errors if error else MASK, encoding, is_error=error, held_head=HEAD if error else None
    )


def feed(one: EncodedAnswer, piece: bytes) -> bytes:
    """All steps of one piece."""
    one.take(piece)
    out = one.step()
    while one.is_unread:
        out += one.step()
    return out


def relayed(encoding: bytes, pieces: list[bytes], *, error: bool) -> bytes:
    one = answer(encoding, error=error)
    return b"".join([feed(one, piece) for piece in pieces]) + one.finish()


@pytest.mark.parametrize("encoding", CODINGS)
@pytest.mark.parametrize("error", [True, False])
@settings(max_examples=15, deadline=None)
@given(draw=st.data())
def test_an_answer_without_the_key_passes_as_it_is(encoding: bytes, error: bool, draw: st.DataObject) -> None:
    body = CODINGS[encoding](CLEAN)
    assert relayed(encoding, list(pieces_of(body, draw.draw(cuts_in(len(body))))), error=error) == body


@pytest.mark.parametrize("encoding", CODINGS)
@pytest.mark.parametrize("error", [True, False])
@settings(max_examples=15, deadline=None)
@given(draw=st.data())
def test_of_one_that_holds_it_no_part_from_which_it_can_be_read_is_given_out(
    encoding: bytes, error: bool, draw: st.DataObject
) -> None:
    body = CODINGS[encoding](ECHO)
    one, given_out, withheld = answer(encoding, error=error), b"", False
    try:
        for piece in pieces_of(body, draw.draw(cuts_in(len(body)))):
            given_out += feed(one, piece)
        given_out += one.finish()
    except Withheld as why:
        withheld = str(why) == ECHOED
    assert withheld
    assert not (error and given_out)
    assert KEY[:2] not in _decoded(encoding, given_out)


def _decoded(encoding: bytes, data: bytes) -> bytes:
    """As far as it goes."""
    decoder = open_decoder(encoding)
    assert decoder is not None
    return b"".join(decoder.feed(data))


@pytest.mark.parametrize("text", [text for _, text in spelled(KEY)] + [base64.b64encode(KEY)])
@pytest.mark.parametrize("error", [True, False])
def test_every_spelling_counts(text: bytes, error: bool) -> None:
    with pytest.raises(Withheld, match=ECHOED):
        relayed(b"gzip", [gzip.compress(b'{"key":"' + text + b'"}')], error=error)


def test_hex_counts_in_errors() -> None:
    body = gzip.compress(KEY.hex().encode())
    assert relayed(b"gzip", [body], error=False) == body
    with pytest.raises(Withheld, match=ECHOED):
        relayed(b"gzip", [body], error=True)


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"compress", b"gzip, br"])
def test_an_error_that_cannot_be_read_is_not_given_out(encoding: bytes) -> None:
    for body in (CLEAN, CODINGS.get(encoding, bytes)(CLEAN)[:-3]):
        with pytest.raises(Withheld, match=UNREADABLE):
            relayed(encoding, [body[:5], body[5:]], error=True)
    assert relayed(encoding, [], error=True) == b""


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"compress", b"gzip, br"])
def test_another_answer_that_cannot_be_read_is_masked_as_it_stands(encoding: bytes) -> None:
    for cut in (0, 1, len(ECHO) // 2, len(ECHO) - 12):
        pieces = [piece for piece in (ECHO[:cut], ECHO[cut:]) if piece]
        assert relayed(encoding, pieces, error=False) == ECHO.replace(KEY, b"*" * len(KEY))


def test_a_key_that_stands_verbatim_in_a_coded_body_is_seen_before_it_is_overwritten() -> None:
    with pytest.raises(Withheld, match=ECHOED):
        relayed(b"gzip", [gzip.compress(ECHO, compresslevel=0)], error=False)


def test_events_of_a_coded_stream_pass_at_once() -> None:
    coder = zlib.compressobj(wbits=31)
    one = answer(error=False)
    for text in (b'data: {"a":1}\n\n', b'data: {"b":"sk-"}\n\n', b"data: [DONE]\n\n"):
        piece = coder.compress(text) + coder.flush(zlib.Z_SYNC_FLUSH)
        assert feed(one, piece) == piece
    end = coder.flush()
    assert feed(one, end) + one.finish() == end


def test_a_piece_in_which_the_key_may_begin_waits_for_the_next() -> None:
    coder = zlib.compressobj(wbits=31)
    first = coder.compress(b'data: {"a":"' + KEY[:9]) + coder.flush(zlib.Z_SYNC_FLUSH)
    second = coder.compress(b'!"}\n\n') + coder.flush(zlib.Z_SYNC_FLUSH)
    one = answer(error=False)
    assert feed(one, first) == b""
    assert feed(one, second) == first + second


def test_nothing_is_held_without_end_for_a_key_that_may_begin() -> None:
    coder = zlib.compressobj(wbits=31)
    one = answer(error=False)
    first = coder.compress(KEY[:9]) + coder.flush(zlib.Z_SYNC_FLUSH)
    assert feed(one, first) == b""
    empty = b"\x00\x00\x00\xff\xff" * 100  # stored blocks of nothing
    held = len(first)
    while held + len(empty) <= OPEN_HELD_MAX:
        assert feed(one, empty) == b""
        held += len(empty)
    with pytest.raises(Withheld, match=ECHOED):
        feed(one, empty)


@pytest.mark.parametrize("size", [1, 7, ERROR_HELD_MAX, 3 * ERROR_HELD_MAX])
def test_a_long_error_is_held_up_to_its_bound(size: int) -> None:
    """And looked at piece by piece behind it, wherever the reads were split."""
    noise = bytes(range(256)) * 300
    body = gzip.compress(noise, compresslevel=0)
    one = answer(error=True)
    out, fed = b"", 0
    for piece in [body[i : i + size] for i in range(0, len(body), size)]:
        out += feed(one, piece)
        fed += len(piece)
        assert (out == b"") == (fed < ERROR_HELD_MAX)
    assert out + one.finish() == body
    one = answer(error=True)
    body = gzip.compress(noise + ECHO, compresslevel=0)
    assert feed(one, body[:ERROR_HELD_MAX]) == body[:ERROR_HELD_MAX]
    with pytest.raises(Withheld, match=ECHOED):
        feed(one, body[ERROR_HELD_MAX:])


def test_a_bomb_is_no_error_to_be_read() -> None:
    with pytest.raises(Withheld, match=UNREADABLE):
        relayed(b"gzip", [gzip.compress(bytes(5 * 1024 * 1024))], error=True)


def test_the_head_of_an_error_is_taken_once() -> None:
    one = answer(error=True)
    assert (one.holds_head, one.take_head(), one.holds_head, one.take_head()) == (True, HEAD, False, None)
    assert not answer(error=False).holds_head


class Recorder(Meter):
    """Remembers what it is given to read."""

    def __init__(self) -> None:
        super().__init__(Wire.CHAT_COMPLETIONS, usage_profile("openai"))
        self.seen = b""

    def read(self, piece: bytes) -> bytes:
        self.seen += piece
        return super().read(piece)


@pytest.mark.parametrize("encoding", CODINGS)
def test_the_meter_gets_all_that_was_decoded(encoding: bytes) -> None:
    """In steps, and with what was held at the end since the key might have gone on."""
    text = b"x" * (3 * STEP_BYTES) + b"\n" + KEY[:9]
    body = CODINGS[encoding](text)
    meter = Recorder()
    one = EncodedAnswer(MASK, encoding, meter, is_error=False)
    one.take(body)
    steps = 0
    out = b""
    while one.is_unread:
        out += one.step()
        steps += 1
    assert steps > 1
    assert out + one.finish() == body
    assert meter.seen == text
