"""Body readers: the same payload, end and refusal for any split of the bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.errors import RemoteProtocolError
from aigw_core.http1 import bodies
from aigw_core.http1.bodies import (
    CHUNK_EXTENSIONS_MAX,
    ChunkedReader,
    LengthReader,
    UntilCloseReader,
    reader_for,
)
from aigw_core.http1.heads import FIELDS_MAX, HEAD_MAX
from aigw_core.http1.writing import LAST_CHUNK, chunk
from aigw_core.messages import CHUNKED, NO_BODY, UNTIL_CLOSE, Length
from tests.core.http1.reading import BodyRead, Fault, cuts_in, pieces_of, read_body, single_bytes

BEHIND = b"GET /next HTTP/1.1\r\n\x00"
BAD_LINE = "A chunk size line is malformed or too long."
BAD_END = "A chunk is longer than its size says."
BAD_TRAILERS = "The trailer section contains control bytes or bare line breaks."


def read_chunked(data: bytes) -> BodyRead:
    """The one outcome of all splits."""
    outcomes = [read_body(ChunkedReader(), pieces) for pieces in ([data], single_bytes(data))]
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def assert_body(data: bytes, payload: bytes) -> None:
    for behind in (b"", BEHIND, b"\r\n"):
        assert read_chunked(data + behind) == BodyRead(payload, behind)
    for size in range(len(data)):
        read = read_chunked(data[:size])
        assert (read.rest, read.fault) == (None, None), "an incomplete body is neither complete nor refused"
        assert payload.startswith(read.payload)


def assert_refused(data: bytes, status: int, text: str, payload: bytes = b"") -> None:
    for behind in (b"", BEHIND, b"\r\n\r\n"):
        assert read_chunked(data + behind) == BodyRead(payload, None, Fault(status, text))


GOOD_CHUNKED = {
    "empty": (b"0\r\n\r\n", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "several": (b"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", b"abcdef"),
    "hexadecimal of both cases": (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
    "two digits": (b"10\r\n0123456789abcdef\r\n0\r\n\r\n", b"0123456789abcdef"),
    "leading zeros": (b"0000000000000001\r\na\r\n0000000000000000\r\n\r\n", b"a"),
    "payload that looks like framing": (b"c\r\n\r\n0\r\n\r\n5\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n5\r\n\r\n"),
    "extensions": (b'1;a=b\r\na\r\n0;c;d="e"\r\n\r\n', b"a"),
    "extensions of any bytes but control bytes": (b"1; \t\x80\xff;;\r\na\r\n0;\r\n\r\n", b"a"),
    "a trailer": (b"1\r\na\r\n0\r\nX-A: b\r\n\r\n", b"a"),
    "trailers that would frame or authorize a head": (
        b"0\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\nAuthorization: b\r\n\r\n",
        b"",
    ),
}


@pytest.mark.parametrize(("data", "payload"), GOOD_CHUNKED.values(), ids=GOOD_CHUNKED)
def test_chunked_bodies(data: bytes, payload: bytes) -> None:
    assert_body(data, payload)


BAD_SIZE_LINES = {
    "empty": b"\r\n",
    "a digit of no base 16": b"g\r\n",
    "a prefix": b"0x5\r\n",
    "an underscore": b"0_2e\r\n",
    "a plus sign": b"+5\r\n",
    "a minus sign": b"-5\r\n",
    "a point": b"5.\r\n",
    "a comma": b"5,5\r\n",
    "a space first": b" 5\r\n",
    "a space behind": b"5 \r\n",
    "a tab behind": b"5\t\r\n",
    "a space before the extension": b"5 ;a\r\n",
    "digits of another script": b"\xd9\xa5\r\n",
    "a digit that is none": b"\xb2\r\n",
    "seventeen digits": b"00000000000000005\r\n",
    "a size beyond 2^63-1": b"8000000000000000\r\n",
    "the largest of sixteen digits": b"ffffffffffffffff\r\n",
    "only an extension": b";a=b\r\n",
    "bare LF": b"5\n",
    "bare CR": b"5\rhello",
    "CR CR LF": b"5\r\r\n",
    "bare LF behind an extension": b"5;a\n",
    "bare CR in an extension": b"5;a\rb\r\n",
    "NUL in an extension": b"5;a\x00\r\n",
    "DEL in an extension": b"5;a\x7f\r\n",
    "bytes of nothing": b"\x00\r\n",
    "a control byte behind a digit": b"1\x01\r\n",
}


@pytest.mark.parametrize("line", BAD_SIZE_LINES.values(), ids=BAD_SIZE_LINES)
def test_bad_size_lines_are_refused(line: bytes) -> None:
    assert_refused(line, 400, BAD_LINE)
    assert_refused(b"3\r\nabc\r\n" + line, 400, BAD_LINE, b"abc")


@pytest.mark.parametrize("behind", [b"X", b"\n", b"\rX", b"\r\r\n", b"0\r\n\r\n", b" \r\n"])
def test_a_chunk_ends_with_crlf(behind: bytes) -> None:
    """What stands in the place of the CRLF is not skipped unread."""
    assert_refused(b"3\r\nabc" + behind, 400, BAD_END, b"abc")


BAD_TRAILER_SECTIONS = {
    "obs-fold": (b"X-A: a\r\n b: c\r\n\r\n", "A header field name is not a token."),
    "space before the colon": (b"X-A : a\r\n\r\n", "A header field name is not a token."),
    "empty name": (b": a\r\n\r\n", "A header field name is not a token."),
    "no colon": (b"X-A\r\n\r\n", "A header line has no colon."),
    "a chunk": (b"5\r\nhello\r\n\r\n", "A header line has no colon."),
    "bare LF": (b"X-A: a\nX-B: b\r\n\r\n", BAD_TRAILERS),
    "bare LF as the last line": (b"\n", BAD_TRAILERS),
    "CR without LF": (b"\rX", BAD_TRAILERS),
    "a second CR": (b"X-A: a\r\n\r\r\n", BAD_TRAILERS),
    "bare CR and bare LF apart": (b"X-A: a\rb\nc\r\n\r\n", BAD_TRAILERS),
    "NUL": (b"X-A: \x00\r\n\r\n", BAD_TRAILERS),
}


@pytest.mark.parametrize(("section", "text"), BAD_TRAILER_SECTIONS.values(), ids=BAD_TRAILER_SECTIONS)
def test_trailers_are_checked(section: bytes, text: str) -> None:
    assert_refused(b"3\r\nabc\r\n0\r\n" + section, 400, text, b"abc")


# Limits


def test_the_numbers() -> None:
    assert (HEAD_MAX, FIELDS_MAX, CHUNK_EXTENSIONS_MAX) == (65_536, 128, 16_384)


def test_the_longest_size_line() -> None:
    longest = b"1;" + b"e" * (4_096 - 4)
    assert_body_of_one(longest)
    assert_refused(longest + b"e\r\na\r\n0\r\n\r\n", 400, BAD_LINE)
    assert_refused(longest + b"e\r", 400, BAD_LINE)
    assert_refused(longest + b"e" * 4_096, 400, BAD_LINE)


def assert_body_of_one(line: bytes) -> None:
    assert read_chunked(line + b"\r\na\r\n0\r\n\r\n" + BEHIND) == BodyRead(b"a", BEHIND)


def test_extensions_are_summed_over_the_message() -> None:
    """Two extensions of the same length each chunk, up to the cap and one byte beyond it."""
    size = 64
    line = b"1;" + b"e" * (size - 1) + b"\r\na\r\n"
    full = CHUNK_EXTENSIONS_MAX // size
    assert CHUNK_EXTENSIONS_MAX % size == 0
    assert read_chunked(line * full + b"0\r\n\r\n") == BodyRead(b"a" * full, b"")
    assert_refused(line * full + b"1;\r\na\r\n", 400, BAD_LINE, b"a" * full)


@pytest.mark.parametrize(
    ("size", "accepted"), [(b"7fffffffffffffff", True), (b"8000000000000000", False), (b"0000000000000001", True)]
)
def test_the_largest_size(size: bytes, accepted: bool) -> None:
    read = read_chunked(size + b"\r\na")
    assert read.payload == (b"a" if accepted else b"")
    assert (read.fault is None) == accepted


def trailers_of(size: int) -> bytes:
    return b"X-A: " + b"t" * (size - 5)


def test_the_largest_trailer_section() -> None:
    whole = b"0\r\n" + trailers_of(HEAD_MAX) + b"\r\n\r\n"
    for pieces in ([whole + BEHIND], single_bytes(whole + BEHIND), pieces_of(whole + BEHIND, [len(whole) - 1])):
        assert read_body(ChunkedReader(), pieces) == BodyRead(b"", BEHIND)
    for data in (b"0\r\n" + trailers_of(HEAD_MAX + 1) + b"\r\n\r\n", b"0\r\n" + trailers_of(HEAD_MAX + 4)):
        assert read_chunked(data).fault == Fault(431, "The trailer section is too large.")


def test_the_number_of_trailers() -> None:
    assert read_chunked(b"0\r\n" + b"a:\r\n" * FIELDS_MAX + b"\r\n") == BodyRead(b"", b"")
    read = read_chunked(b"0\r\n" + b"a:\r\n" * (FIELDS_MAX + 1) + b"\r\n")
    assert read.fault == Fault(431, "There are too many header fields.")


# Early refusal


@pytest.mark.parametrize(
    ("data", "at"),
    [
        (b"5\n", 2),
        (b"\r", 1),
        (b"5\rX", 3),
        (b"xyz", 1),
        (b"5;\x00", 3),
        (b"00000000000000000", 17),
        (b"ffffffffffffffff", 16),
        (b"1\r\naX", 5),
        (b"1\r\na\rX", 6),
        (b"0\r\n\rX", 5),
        (b"0\r\nX: a\n", 8),
        (b"0\r\nX: a\r\rb", 9),
        (b"POST / HTTP/1.1\r\n", 1),
    ],
)
def test_what_cannot_become_a_body_is_refused_at_that_byte(data: bytes, at: int) -> None:
    assert read_chunked(data[: at - 1]).fault is None
    assert read_chunked(data[:at]).fault is not None


# Properties


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """(payload, chunked form with extensions, zeros and trailers)."""
    out, payload = b"", b""
    for piece in draw(st.lists(st.binary(min_size=1, max_size=30), max_size=6)):
        size = draw(st.sampled_from([b"%x", b"%X", b"%05x"])) % len(piece)
        extension = draw(st.sampled_from([b"", b";", b";a=b", b';q=";\t"']))
        out += size + extension + b"\r\n" + piece + b"\r\n"
        payload += piece
    trailers = draw(st.lists(st.sampled_from([b"A:\r\n", b"b-C: \xff d\r\n"]), max_size=3))
    return payload, out + draw(st.sampled_from([b"0", b"000", b"0;x"])) + b"\r\n" + b"".join(trailers) + b"\r\n"


@settings(deadline=None)
@given(chunked_bodies(), st.binary(max_size=20), st.data())
def test_chunked_reading_does_not_depend_on_the_split(
    body: tuple[bytes, bytes], behind: bytes, data: st.DataObject
) -> None:
    payload, framed = body
    pieces = pieces_of(framed + behind, data.draw(cuts_in(len(framed) + len(behind))))
    assert read_body(ChunkedReader(), pieces) == BodyRead(payload, behind)
    size = data.draw(st.integers(0, len(framed) - 1))
    assert read_body(ChunkedReader(), single_bytes(framed[:size])).rest is None


NOISE = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b"0", b"1", b"2\r\n", b"f", b"g", b";", b";e", b" ", b"\x00", b"a: b", b"0\r\n\r\n"]
    ),
    max_size=14,
).map(b"".join)


@settings(deadline=None)
@given(NOISE, st.data())
def test_any_bytes_have_one_outcome(noise: bytes, data: st.DataObject) -> None:
    cuts = data.draw(cuts_in(len(noise)))
    outcomes = [read_body(ChunkedReader(), pieces) for pieces in ([noise], pieces_of(noise, cuts), single_bytes(noise))]
    assert outcomes[1:] == outcomes[:-1]
    fault = outcomes[0].fault
    if fault is not None:
        # It is the earliest byte that is refused: less of the bytes are no fault, and more are the same one.
        assert read_body(ChunkedReader(), [noise + b"\r\n\r\n"]).fault == fault


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.binary(max_size=9), st.data())
def test_what_is_written_is_read(bodies: list[bytes], behind: bytes, data: st.DataObject) -> None:
    written = b"".join(chunk(piece) for piece in bodies) + LAST_CHUNK + behind
    pieces = pieces_of(written, data.draw(cuts_in(len(written))))
    assert read_body(ChunkedReader(), pieces) == BodyRead(b"".join(bodies), behind)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(1, 60), st.data())
def test_length_reading_does_not_depend_on_the_split(sent: bytes, length: int, data: st.DataObject) -> None:
    reader = LengthReader(length)
    read = read_body(reader, pieces_of(sent, data.draw(cuts_in(len(sent)))))
    assert read == BodyRead(sent[:length], sent[length:] if len(sent) >= length else None)
    assert reader.remaining == max(0, length - len(sent))


@pytest.mark.parametrize(
    ("sent", "payload", "rest"), [(b"ab", b"ab", None), (b"abc", b"abc", b""), (b"abcd", b"abc", b"d")]
)
def test_a_length_is_exact(sent: bytes, payload: bytes, rest: bytes | None) -> None:
    assert LengthReader(3).feed(sent) == (payload, rest)


def test_until_close_never_ends_by_itself() -> None:
    reader = UntilCloseReader()
    assert reader.feed(b"0\r\n\r\n") == (b"0\r\n\r\n", None)
    assert reader.feed(b"more") == (b"more", None)


def test_one_read_gives_one_payload() -> None:
    """Relaying makes one write of what came in one read; what need not be copied is not."""
    data = bytes(100)
    assert ChunkedReader().feed(b"1\r\na\r\n2\r\nbc\r\n3\r\nde") == (b"abcde", None)
    assert LengthReader(100).feed(data)[0] is data
    assert LengthReader(101).feed(data)[0] is data
    reader = ChunkedReader()
    reader.feed(b"ffff\r\n")
    assert reader.feed(data)[0] is data


def test_a_reader_for_each_framing() -> None:
    length = reader_for(Length(7))
    assert isinstance(length, LengthReader)
    assert length.remaining == 7
    assert isinstance(reader_for(CHUNKED), ChunkedReader)
    assert isinstance(reader_for(UNTIL_CLOSE), UntilCloseReader)
    assert reader_for(Length(0)) is None
    assert reader_for(NO_BODY) is None


def test_a_fault_carries_what_came_before_it() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        ChunkedReader().feed(b"1\r\na\r\n2\r\nbc\r\n1\r\nd!!")
    assert caught.value.payload == b"abcd"
    reader = ChunkedReader()
    reader.feed(b"4\r\nab")
    with pytest.raises(RemoteProtocolError) as caught:
        reader.feed(b"cd!!")
    assert caught.value.payload == b"cd"


@pytest.mark.parametrize("size", [b"1b", b"1B", b"001b", b"1b;x=1"])
@pytest.mark.parametrize("after", [b"", b"\r", b"\r\n", b"x", b"\r\n\r\n", b"\r\n0", b"\r\n0\r\n\r\n"])
def test_a_size_that_was_seen_before_decides_as_little_as_a_new_one(size: bytes, after: bytes) -> None:
    """Whole chunks of a known size are not read step by step."""

    def outcome() -> list[object]:
        reader = ChunkedReader()
        out: list[object] = []
        for data in (size + b"\r\n" + b"a" * 27 + after, size + b"\r\n" + b"b" * 26 + after):
            try:
                out.append(reader.feed(data))
            except RemoteProtocolError as error:
                return [*out, error.payload]
        return out

    bodies._usual_sizes.clear()
    first = outcome()
    assert outcome() == first
    assert (b";" in size) != bool(bodies._usual_sizes)


def prime(*sizes: bytes) -> None:
    """Each of these sizes has been seen, in this order."""
    bodies._usual_sizes.clear()
    for size in sizes:
        reader = ChunkedReader()
        assert reader.feed(size + b"\r\n" + b"x" * int(size, 16) + b"\r\n") == (b"x" * int(size, 16), None)


@pytest.mark.parametrize("size", [b"1", b"1b", b"0fff"])
def test_a_whole_chunk_of_a_known_size_is_not_read_step_by_step(size: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    prime(size)
    monkeypatch.setattr(ChunkedReader, "_read", None)
    payload = b"y" * int(size, 16)
    reader = ChunkedReader()
    assert [reader.feed(size + b"\r\n" + payload + b"\r\n") for _ in range(2)] == [(payload, None)] * 2


def test_of_sizes_a_bounded_number_of_short_ones_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_USUAL_SIZES_MAX", 2)
    prime(b"10000", b"00001", b"1", b"2", b"3")
    assert bodies._usual_sizes == {b"1": 1, b"2": 2}


@pytest.mark.parametrize("size", [b"b", b"00b"])
def test_payload_that_looks_like_a_chunk_is_payload(size: bytes) -> None:
    prime(size)
    alike = size + b"\r\n" + b"a" * 11 + b"\r\n"
    reader = ChunkedReader()
    total = b"%x" % (2 * len(alike))
    assert reader.feed(total + b"\r\n") == (b"", None)
    assert [reader.feed(alike) for _ in range(2)] == [(alike, None)] * 2
    assert reader.feed(b"\r\n0\r\n\r\n") == (b"", b"")


def test_a_size_line_that_ends_like_another_is_read_whole() -> None:
    prime(b"b")
    reader = ChunkedReader()
    assert reader.feed(b"1") == (b"", None)
    assert reader.feed(b"b\r\n" + b"a" * 11 + b"\r\n") == (b"a" * 11 + b"\r\n", None)
    assert reader.feed(b"a" * 14 + b"\r\n") == (b"a" * 14, None)


_TINY_SIZES = st.sampled_from((b"%x", b"%X", b"0%x", b"%016x", b"%x;", b"%x;a=b", b"%017x"))


@settings(max_examples=200, deadline=None)
@given(
    chunks=st.lists(st.tuples(_TINY_SIZES, st.binary(min_size=1, max_size=18)), max_size=12),
    junk=st.sampled_from((b"", b"", b"1", b"\r\n", b"g\r\n", b"1\r\nxy\r\n", b"1\r\n\r\n\r")),
    cuts=cuts_in(200),
)
def test_a_run_of_tiny_chunks_reads_as_its_bytes_one_by_one(
    chunks: list[tuple[bytes, bytes]], junk: bytes, cuts: list[int]
) -> None:
    """Runs are taken in one step, but nothing about them differs."""
    body = b"".join(size % len(data) + b"\r\n%b\r\n" % data for size, data in chunks) + junk + LAST_CHUNK + BEHIND
    whole = read_body(ChunkedReader(), [body])
    assert read_body(ChunkedReader(), single_bytes(body)) == whole == read_body(ChunkedReader(), pieces_of(body, cuts))
    if not junk and not any(size.startswith(b"%017") for size, _ in chunks):
        assert whole == BodyRead(b"".join(data for _, data in chunks), BEHIND)
