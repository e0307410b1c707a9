"""Spool segments: nothing is read that was not written, order holds, what is left is found, any bytes can be scanned.

The first byte chooses: even, the rest is a segment as it stands; odd, the rest describes records (kind, sequence,
length, payload), which get their checksums and are then hit at the place that the first byte says.
"""

from __future__ import annotations

from typing import Final

from aigw_core.spool import (
    HEADER_SIZE,
    Kind,
    OpenSet,
    Record,
    SegmentHead,
    SegmentScan,
    SpoolFormatError,
    id_of,
    pack,
)

TOKENS: Final = (
    b"\xaf\x5a", b"\x01", b"\x02", b"\x03", b"\x04", b'{"v":1,"id":"', b'"}', b"\x00" * HEADER_SIZE, b'"segment":1',
)  # fmt: skip
_KINDS: Final = (Kind.OPEN, Kind.FACT, Kind.VOID, Kind.HEAD)


def check(data: bytes) -> None:
    option, rest = (data[0], data[1:]) if data else (0, b"")
    written: set[tuple[int, int, bytes]] = set()
    segment = rest
    if option % 2:
        segment, written = _segment(rest)
        at = option * 37 % (len(segment) + 1)
        segment = segment[:at] if option % 4 == 1 else segment[:at] + b"\xff" + segment[at + 1 :]
    try:
        scan = SegmentScan(segment)
        found = list(scan)
    except SpoolFormatError:
        return
    assert not option % 2 or {(r.kind, r.sequence, r.payload) for r in found} <= written, "read what nobody wrote"
    sequences = [record.sequence for record in found]
    assert sequences == sorted(set(sequences)), "out of order"
    assert all(record.end <= scan.end <= len(segment) for record in found)
    again = list(SegmentScan(segment[: scan.end]))
    assert again == found, "cutting the tail changes what stands before it"
    careful = SegmentScan(segment, steps_over=False)
    assert list(careful) == found[: len(list(SegmentScan(segment, steps_over=False)))], "two readings"
    _recover(found)


def _segment(data: bytes) -> tuple[bytes, set[tuple[int, int, bytes]]]:
    """A head and the records that the data describes."""
    parts, written = [SegmentHead("w0-0-f", 1, 1, 1).encode()], set()
    while len(data) >= 3:
        kind, sequence, size = _KINDS[data[0] % 4], data[1], data[2]
        # ASCII, as every payload is: so none can contain a record.
        payload, data = bytes(byte & 0x7F for byte in data[3 : 3 + size]), data[3 + size :]
        parts.append(pack(kind, sequence, payload))
        written.add((int(kind), sequence, payload))
    return b"".join(parts) + bytes(HEADER_SIZE), written


def _recover(found: list[Record]) -> None:
    open_set = OpenSet()
    try:
        for record in found:
            open_set.see(record)
        lost = open_set.lost_facts()
    except SpoolFormatError:
        return
    assert [id_of(fact) for fact in lost] == list(open_set)
