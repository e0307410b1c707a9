from __future__ import annotations

import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.facts import FACT_MAX_BYTES, OpenRecord, Outcome, UsageFact
from aigw_core.spool import (
    HEADER_SIZE,
    MAGIC,
    PAYLOAD_MAX,
    RECORD_MAX,
    Kind,
    OpenSet,
    Record,
    SegmentHead,
    SegmentScan,
    SpoolFormatError,
    capacity,
    decode_open,
    id_of,
    lost_fact,
    pack,
    pack_run,
    parse_head,
    unpack,
    void_payload,
)
from tests.core.test_facts import OPENED

HEAD = SegmentHead("w0-0-ab", 3, 7, 2)


def payload(n: int, padding: int = 0) -> bytes:
    return b'{"v":1,"id":"%d","x":"%b"}' % (n, b"a" * padding)


def segment(*payloads: bytes, first: int = 7, spare: int = 0) -> bytes:
    """A head, facts and zeros."""
    records = [pack(Kind.FACT, first + n, data) for n, data in enumerate(payloads)]
    return replace(HEAD, first=first).encode() + b"".join(records) + bytes(spare)


def sequences(scan: SegmentScan) -> list[int]:
    return [record.sequence for record in scan]


payloads = st.lists(st.integers(0, 400), max_size=6).map(lambda sizes: [payload(n, s) for n, s in enumerate(sizes)])


# The format


def test_a_record_is_these_bytes() -> None:
    """What is on disks already must stay readable."""
    record = pack(Kind.VOID, 258, b'{"v":1,"id":"a"}')
    assert record[:16] == b"\xaf\x5a" + b"\x04" + b"\x01" + b"\x10\0\0\0" + b"\x02\x01\0\0\0\0\0\0"
    assert record[16:20] == zlib.crc32(record[:16] + record[20:]).to_bytes(4, "little")
    assert record[20:] == b'{"v":1,"id":"a"}'
    assert len(record) == HEADER_SIZE + 16


def test_a_head_is_a_record_of_its_own() -> None:
    kind, sequence, data = unpack(HEAD.encode(), 0) or (0, 0, b"")
    assert (kind, sequence) == (Kind.HEAD, HEAD.first)
    assert data == b'{"v":1,"id":"w0-0-ab","segment":3,"first":7,"scan_from":2}'
    assert parse_head(data) == HEAD


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{",
        b'{"v":1,"id":"a","segment":1,"first":1}',
        b'{"v":1,"id":1,"segment":1,"first":1,"scan_from":1}',
        b'{"v":1,"id":"a","segment":true,"first":1,"scan_from":1}',
    ],
)
def test_a_head_of_another_kind_is_told(data: bytes) -> None:
    with pytest.raises(SpoolFormatError):
        parse_head(data)


def test_no_payload_is_larger_than_a_fact() -> None:
    assert PAYLOAD_MAX == FACT_MAX_BYTES
    assert len(pack(Kind.FACT, 1, bytes(PAYLOAD_MAX))) == RECORD_MAX
    with pytest.raises(ValueError, match="larger"):
        pack(Kind.FACT, 1, bytes(PAYLOAD_MAX + 1))


def test_a_wild_length_is_no_record() -> None:
    record = bytearray(pack(Kind.FACT, 1, payload(1)))
    record[4:8] = (PAYLOAD_MAX + 1).to_bytes(4, "little")
    assert unpack(bytes(record) + bytes(PAYLOAD_MAX), 0) is None


@pytest.mark.parametrize(("at", "value"), [(0, 0), (2, 9), (2, 0), (3, 2), (16, 0xFF), (25, 0)])
def test_what_differs_in_one_byte_is_no_record(at: int, value: int) -> None:
    record = bytearray(pack(Kind.FACT, 1, payload(1)))
    assert record[at] != value
    record[at] = value
    assert unpack(bytes(record), 0) is None


def test_pack_run_takes_what_fits_in_order() -> None:
    items = [(int(Kind.OPEN), payload(n), str(n)) for n in range(3)]
    each = HEADER_SIZE + len(payload(0))
    assert pack_run(items, 5, 3 * each - 1) == (b"".join(pack(Kind.OPEN, 5 + n, payload(n)) for n in range(2)), 2)
    assert pack_run(items, 5, 3 * each)[1] == 3
    assert pack_run(items, 5, each - 1) == (b"", 0)
    assert pack_run([], 5, each) == (b"", 0)


# Scanning


@given(payloads, st.integers(0, 300))
def test_a_scan_gives_back_what_was_written(datas: list[bytes], spare: int) -> None:
    whole = segment(*datas)
    scan = SegmentScan(whole + bytes(spare))
    assert [(r.kind, r.sequence, r.payload) for r in scan] == [(Kind.FACT, 7 + n, d) for n, d in enumerate(datas)]
    assert (scan.head, scan.end, scan.damage, scan.torn, scan.unused) == (HEAD, len(whole), [], False, False)


@given(payloads, st.data())
def test_a_torn_tail_costs_only_the_record_it_cuts(datas: list[bytes], data: st.DataObject) -> None:
    whole = segment(*datas)
    cut = data.draw(st.integers(0, len(whole)))
    ends = [len(segment(*datas[:n])) for n in range(len(datas) + 1)]
    kept = sum(end <= cut for end in ends) - 1
    for tail in (b"", bytes(50)):
        scan = SegmentScan(whole[:cut] + tail)
        assert [r.payload for r in scan] == datas[: max(0, kept)]
        assert scan.end == (ends[kept] if kept >= 0 else 0)
        assert scan.torn == (cut > scan.end)


@given(payloads, st.data())
def test_a_flipped_bit_costs_one_record(datas: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(segment(*datas, spare=8))
    ends = [len(segment(*datas[:n])) for n in range(len(datas) + 1)]
    at = data.draw(st.integers(0, ends[-1] - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    hit = sum(end <= at for end in ends) - 1
    scan = SegmentScan(bytes(whole))
    found = [(r.sequence, r.payload) for r in scan]
    assert found == [(7 + n, d) for n, d in enumerate(datas) if n != hit]
    assert (scan.head is None) == (hit == -1)
    starts = [0, *ends]
    if hit + 1 < len(datas):
        assert scan.damage == [(starts[hit + 1], starts[hit + 2])]
    else:
        # Nothing readable stands behind it, so nobody can tell it from a torn tail.
        assert scan.torn


@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_bytes_can_be_scanned(junk: bytes, with_head: bool, with_magic: bool) -> None:
    data = (HEAD.encode() if with_head else b"") + (MAGIC if with_magic else b"") + junk
    scan = SegmentScan(data)
    assert all(record.end <= len(data) for record in scan)
    assert scan.end + (len(data) - scan.end) == len(data)
    assert scan.torn == any(data[scan.end :])


def test_room_that_nobody_uses_yet() -> None:
    for data in (b"", bytes(100)):
        scan = SegmentScan(data)
        assert sequences(scan) == []
        assert scan.unused
    scan = SegmentScan(HEAD.encode() + bytes(100))
    assert sequences(scan) == []
    assert not scan.unused


def test_a_hole_is_stepped_over_only_when_nobody_may_be_filling_it() -> None:
    data = bytearray(segment(payload(1), payload(2), payload(3)))
    begin, end = len(segment(payload(1))), len(segment(payload(1), payload(2)))
    data[begin:end] = bytes(end - begin)
    careful = SegmentScan(bytes(data), steps_over=False)
    assert (sequences(careful), careful.end, careful.damage) == ([7], begin, [])
    scan = SegmentScan(bytes(data))
    assert (sequences(scan), scan.damage) == ([7, 9], [(begin, end)])


def test_records_that_were_given_up_do_not_count() -> None:
    scan = SegmentScan(segment(payload(1), payload(2), payload(3)), before=8)
    assert sequences(scan) == [7]
    assert (scan.end, scan.torn) == (len(segment(payload(1))), True)


def test_a_record_left_over_from_a_failed_write_does_not_count() -> None:
    """A later, shorter write went over the beginning of the failed one."""
    data = segment(payload(1), payload(2)) + pack(Kind.FACT, 8, payload(9))
    scan = SegmentScan(data)
    assert [(r.sequence, r.id) for r in scan] == [(7, "1"), (8, "2")]
    assert scan.torn


def test_a_scan_from_a_position() -> None:
    whole = segment(payload(1), payload(2), payload(3))
    base = len(segment(payload(1)))
    scan = SegmentScan(whole[base:], base=base, after=7)
    assert [(r.sequence, r.end) for r in scan] == [(8, len(segment(payload(1), payload(2)))), (9, len(whole))]
    assert scan.head is None


def test_a_second_head_is_no_record() -> None:
    scan = SegmentScan(segment(payload(1)) + HEAD.encode())
    assert sequences(scan) == [7]
    assert scan.torn


def test_a_head_of_another_version_ends_the_scan() -> None:
    with pytest.raises(SpoolFormatError):
        list(SegmentScan(pack(Kind.HEAD, 1, b"{}")))


# Recovery


def record(kind: Kind, sequence: int, data: bytes) -> Record:
    return Record(kind, sequence, data, 0)


def test_open_records_without_an_end_are_lost_in_their_order() -> None:
    opened = [replace(OPENED, id=str(n)) for n in range(4)]
    open_set = OpenSet()
    for n, one in enumerate(opened):
        open_set.see(record(Kind.OPEN, n, one.encode()))
    open_set.see(record(Kind.FACT, 4, UsageFact(opened[1], Outcome.COMPLETE, "final").encode()))
    open_set.see(record(Kind.VOID, 5, void_payload("2")))
    open_set.see(record(Kind.FACT, 6, payload(77)))
    assert (len(open_set), list(open_set)) == (2, ["0", "3"])
    assert [json.loads(fact)["id"] for fact in open_set.lost_facts()] == ["0", "3"]


def test_a_lost_fact_states_what_the_open_record_knew_and_nothing_else() -> None:
    row = json.loads(lost_fact(OPENED))
    known = json.loads(OPENED.encode())
    assert list(row) == list(UsageFact(OPENED, Outcome.COMPLETE, "final").as_dict())
    assert {name: row.pop(name) for name in known} == known
    assert {name: value for name, value in row.items() if value not in (None, [], {})} == {
        "outcome": "gateway_lost",
        "usage_status": "absent",
    }
    assert id_of(lost_fact(OPENED)) == OPENED.id


@given(
    st.builds(
        OpenRecord,
        id=st.from_regex(r"[0-9a-f]{1,32}", fullmatch=True),
        time=st.just("2026-01-31T09:05:00.042Z"),
        tenant_id=st.integers(0, 2**64 - 1),
        vpc_id=st.integers(0, 2**64 - 1),
        key_id=st.none() | st.integers(0, 2**64 - 1),
        kid=st.integers(0, 2**32 - 1),
        provider=st.text(max_size=20),
        wire=st.text(max_size=20),
        endpoint=st.text(max_size=100),
        deny_revision=st.none() | st.integers(0, 2**63),
        deny_stale_ms=st.none() | st.integers(0, 2**40),
    )
)
def test_open_records_come_back(opened: OpenRecord) -> None:
    assert decode_open(opened.encode()) == opened
    assert id_of(opened.encode()) == opened.id
    assert len(opened.encode()) <= PAYLOAD_MAX


@pytest.mark.parametrize(
    "change", [{"tenant_id": 7}, {"tenant_id": "x"}, {"kid": "1"}, {"deny_revision": True}, {"wire": None}]
)
def test_an_open_record_of_another_shape_is_told(change: dict[str, object]) -> None:
    row = json.loads(OPENED.encode())
    with pytest.raises(SpoolFormatError):
        decode_open(json.dumps(row | change).encode())


@pytest.mark.parametrize("data", [b"{}", b"", b'{"id":"a"}', b'{"v":1,"id":""}', b'{"v":1,"id":"a\\"}', b'["v"]'])
def test_a_record_without_an_id_is_told(data: bytes) -> None:
    with pytest.raises(SpoolFormatError):
        id_of(data)


def test_a_void_has_an_id() -> None:
    assert id_of(void_payload("0f")) == "0f"


# Room


@given(
    st.integers(0, 5 * RECORD_MAX),
    st.integers(0, 3),
    st.lists(st.integers(HEADER_SIZE, RECORD_MAX), min_size=1, max_size=30),
)
def test_what_is_promised_finds_room_whatever_its_sizes(remaining: int, spares: int, sizes: list[int]) -> None:
    segment_size, head_size = 4 * RECORD_MAX, 100
    promised = capacity(remaining, spares, segment_size, head_size)
    for size in sizes:
        if size > promised:
            break
        promised -= size
        if size > remaining:
            assert spares > 0, "a promise was broken"
            spares -= 1
            remaining = segment_size - head_size
        remaining -= size
        # What is left is never less than what remains of the promise says.
        assert capacity(remaining, spares, segment_size, head_size) >= promised - RECORD_MAX


def test_no_room_is_promised_that_is_not_there() -> None:
    assert capacity(0, 0, 4 * RECORD_MAX, 100) == 0
    assert capacity(RECORD_MAX, 0, 4 * RECORD_MAX, 100) == 0
    assert capacity(RECORD_MAX + 1, 0, 4 * RECORD_MAX, 100) == 1
    assert capacity(0, 1, RECORD_MAX, 100) == 0
