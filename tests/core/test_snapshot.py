"""A snapshot comes back as it was, or not at all."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.denyset import DenyReason, DenySet
from aigw_core.denyview import Cursor, DenyView
from aigw_core.snapshot import CHUNK_ENTRIES, MAGIC, TEXT_MAX, VERSION, Snapshot, SnapshotError, decode, encode

SOURCE = "nats:ai-gateway"
CURSOR = Cursor("2026-01-02T03:04:05.123456789Z", 9, 1234)


def make(cursor: Cursor | None = CURSOR, others: tuple[str, ...] = ("x", "é")) -> Snapshot:
    deny = DenySet()
    deny.put("blackhole.1", b"spend", 3)
    deny.put("blackhole.key.7", b"fraud", 5)
    deny.put(f"blackhole.{2**64 - 1}", b"?", 9)
    deny.put("foreign", b"", 11)
    return Snapshot(SOURCE, DenyView(deny, set(others)), cursor, 1234.5)


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


GOOD = b"".join(encode(make()))


def test_a_snapshot_comes_back_as_it_was() -> None:
    found = decode(GOOD, SOURCE)
    assert found.view.deny.holds_same(make().view.deny)
    assert found.view.deny.revision == 11
    assert found.view.deny.check(1, None) is DenyReason.SPEND
    assert found.view.others == {"x", "é"}
    assert (found.cursor, found.confirmed_wall) == (make().cursor, 1234.5)


def test_what_holds_the_same_is_written_the_same() -> None:
    keys = tuple(f"foreign.{number}" for number in range(500))
    forwards, backwards = (b"".join(encode(make(others=order))) for order in (keys, keys[::-1]))
    assert forwards == backwards


def test_an_empty_set_and_no_cursor() -> None:
    found = decode(b"".join(encode(Snapshot("file:a", DenyView(), None, 0.0))), "file:a")
    assert (found.view.deny.size, found.view.others, found.cursor) == (0, set(), None)


@given(
    entries=st.dictionaries(
        st.tuples(st.sampled_from(("blackhole.", "blackhole.key.")), st.integers(0, 2**64 - 1)),
        st.sampled_from((b"spend", b"fraud", b"")),
    ),
    others=st.sets(st.text(max_size=20), max_size=5),
)
def test_any_set_comes_back(entries: dict[tuple[str, int], bytes], others: set[str]) -> None:
    deny = DenySet()
    for revision, ((prefix, number), value) in enumerate(entries.items(), 1):
        deny.put(f"{prefix}{number}", value, revision)
    found = decode(b"".join(encode(Snapshot(SOURCE, DenyView(deny, others), None, 0.0))), SOURCE)
    assert found.view.deny.holds_same(deny)
    assert found.view.others == others


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_a_file_that_was_cut_at_any_byte_is_refused(size: int) -> None:
    with pytest.raises(SnapshotError):
        decode(GOOD[:size], SOURCE)


@pytest.mark.parametrize("place", range(len(GOOD)))
def test_a_flipped_bit_is_refused(place: int) -> None:
    damaged = bytearray(GOOD)
    damaged[place] ^= 1
    with pytest.raises(SnapshotError):
        decode(bytes(damaged), SOURCE)


@given(st.binary(max_size=200))
def test_sealed_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(SnapshotError):
        decode(sealed(struct.pack(">16sIQ", MAGIC, VERSION, len(body)) + body), SOURCE)


@pytest.mark.parametrize("count", [CHUNK_ENTRIES - 1, CHUNK_ENTRIES, 2 * CHUNK_ENTRIES + 1])
def test_a_large_set_is_written_in_pieces(count: int) -> None:
    deny = DenySet()
    for number in range(count):
        deny.put(f"blackhole.{number}", b"fraud", number + 1)
    others = {f"other.{number}" for number in range(count)}
    pieces = list(encode(Snapshot(SOURCE, DenyView(deny, others), CURSOR, 1.0)))
    assert max(map(len, pieces)) <= CHUNK_ENTRIES * 24
    found = decode(b"".join(pieces), SOURCE)
    assert found.view.deny.holds_same(deny)
    assert found.view.others == others


NO_CURSOR = struct.pack(">QQqd", 0, 0, 0, 0.0) + b"\0\0" + struct.pack(">H", len(SOURCE)) + SOURCE.encode()
NO_ENTRIES = struct.pack(">Q", 0)
WRONG = {
    "more entries than bytes": struct.pack(">Q", 9) + NO_ENTRIES + NO_CURSOR,
    "a scope that is none": struct.pack(">QBQBQ", 1, 9, 7, 1, 3) + NO_ENTRIES + NO_CURSOR,
    "a reason that is none": struct.pack(">QBQBQ", 1, 1, 7, 9, 3) + NO_ENTRIES + NO_CURSOR,
    "a foreign key that is cut": NO_ENTRIES + struct.pack(">QH", 1, 999) + b"x" + NO_CURSOR,
    "a foreign key that is no text": NO_ENTRIES + struct.pack(">QH", 1, 1) + b"\xff" + NO_CURSOR,
    "a time that is none": NO_ENTRIES * 2 + NO_CURSOR.replace(bytes(32), bytes(24) + struct.pack(">d", float("nan"))),
    "a time before all time": NO_ENTRIES * 2 + NO_CURSOR.replace(bytes(32), bytes(24) + struct.pack(">d", -1.0)),
    "more behind the source": NO_ENTRIES * 2 + NO_CURSOR + b"x",
    "a cursor that is cut": NO_ENTRIES * 2 + NO_CURSOR[:20],
    "nothing": b"",
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_what_is_sealed_and_wrong_is_refused(body: bytes) -> None:
    with pytest.raises(SnapshotError, match="content is wrong"):
        decode(sealed(struct.pack(">16sIQ", MAGIC, VERSION, len(body)) + body), SOURCE)


def test_the_smallest_that_is_right() -> None:
    body = NO_ENTRIES * 2 + NO_CURSOR
    found = decode(sealed(struct.pack(">16sIQ", MAGIC, VERSION, len(body)) + body), SOURCE)
    assert (found.source, found.view.deny.size, found.cursor) == (SOURCE, 0, None)


def test_another_file_is_none_of_ours() -> None:
    with pytest.raises(SnapshotError, match="no snapshot"):
        decode(bytes(200), SOURCE)


def test_more_after_the_end_is_refused() -> None:
    with pytest.raises(SnapshotError, match="length"):
        decode(GOOD + b"x", SOURCE)


def test_another_source_or_a_newer_version_is_refused() -> None:
    with pytest.raises(SnapshotError, match="another source"):
        decode(GOOD, "nats:other")
    newer = bytearray(GOOD[:-32])
    struct.pack_into(">I", newer, 16, VERSION + 1)
    with pytest.raises(SnapshotError, match="version 2"):
        decode(sealed(bytes(newer)), SOURCE)


def test_a_key_that_is_too_long_leaves_nothing_to_resume_from() -> None:
    assert decode(b"".join(encode(make(others=("x" * TEXT_MAX,)))), SOURCE).cursor is not None
    assert decode(b"".join(encode(make(others=("x" * (TEXT_MAX + 1),)))), SOURCE).cursor is None


def test_a_captured_snapshot_does_not_change() -> None:
    snapshot = make()
    captured = snapshot.captured()
    snapshot.view.deny.put("blackhole.2", b"spend", 12)
    snapshot.view.others.add("y")
    assert b"".join(encode(captured)) == GOOD
