"""The spool's bytes: records with checksums, segments made of them, and what a dead process still owes.

Pure: files, locks and time are the business of whoever stores the bytes.

A **record** is a header of HEADER_SIZE bytes and a payload::

    magic 2 | kind 1 | version 1 | payload length 4 | sequence 8 | CRC-32 4 | payload       (little-endian)

The checksum covers the header before it and the payload. A payload is a JSON object in ASCII that begins with
``v`` and ``id``; the magic holds a byte that is not ASCII, so no payload can contain a record.

A **segment** begins with a HEAD record and goes on with records in the order of their sequence, which counts
over the life of a spool. Behind them stand zeros, the room that was reserved in advance. In a row of segments
the head of a later one decides: what an earlier one holds from that head's ``first`` on was given up by its
writer (after a failed write) or cut off by recovery, and does not count.

``scan_from`` of a head: every OPEN record in an earlier segment than that had its end before this head was
written. Recovery need not look further back.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from aigw_core.facts import FACT_MAX_BYTES, OpenRecord, Outcome, UsageFact

MAGIC: Final = b"\xaf\x5a"
VERSION: Final = 1
_PREFIX: Final = struct.Struct("<2sBBIQ")
_CHECK: Final = struct.Struct("<I")
HEADER_SIZE: Final = _PREFIX.size + _CHECK.size
"""Magic, kind, version, length, sequence, checksum."""
PAYLOAD_MAX: Final = FACT_MAX_BYTES
"""No record is larger than a fact may be, so a wild length is told from a true one."""
RECORD_MAX: Final = HEADER_SIZE + PAYLOAD_MAX
"""The room that each open record keeps for its fact."""


class Kind(IntEnum):
    """What a record is."""

    HEAD = 1
    """The first of a segment: whose it is and where it stands."""
    OPEN = 2
    """An exchange was admitted; its end follows."""
    FACT = 3
    """Its end: the usage fact."""
    VOID = 4
    """Its end: nothing was spent and no fact is due."""


_KINDS: Final = frozenset(Kind)


class SpoolFormatError(ValueError):
    """A record whose checksum holds does not say what it should: another version wrote it."""


@dataclass(slots=True, frozen=True)
class Record:
    """One record and where it ends, in bytes from the beginning of its segment."""

    kind: int
    sequence: int
    payload: bytes
    end: int

    @property
    def id(self) -> str:
        """Of the exchange. Raises SpoolFormatError."""
        return id_of(self.payload)


@dataclass(slots=True, frozen=True)
class SegmentHead:
    """The payload of a HEAD record."""

    spool: str
    segment: int
    first: int
    """The sequence of the first record behind it."""
    scan_from: int
    """The oldest segment in which an open record had no end yet when this one was begun."""

    def encode(self) -> bytes:
        row = {
            "v": VERSION,
            "id": self.spool,
            "segment": self.segment,
            "first": self.first,
            "scan_from": self.scan_from,
        }
        return pack(Kind.HEAD, self.first, json.dumps(row, separators=(",", ":")).encode("ascii"))


def parse_head(payload: bytes) -> SegmentHead:
    """Raises SpoolFormatError."""
    row = _object(payload)
    numbers = [row.get(name) for name in ("segment", "first", "scan_from")]
    spool = row.get("id")
    if not isinstance(spool, str) or any(type(number) is not int for number in numbers):
        raise SpoolFormatError("a segment head lacks a member")
    segment, first, scan_from = (number for number in numbers if isinstance(number, int))
    return SegmentHead(spool, segment, first, scan_from)


def pack(kind: int, sequence: int, payload: bytes) -> bytes:
    """The bytes of one record. Raises ValueError for a payload over PAYLOAD_MAX."""
    if len(payload) > PAYLOAD_MAX:
        raise ValueError("the payload is larger than a fact may be")
    prefix = _PREFIX.pack(MAGIC, kind, VERSION, len(payload), sequence)
    return prefix + _CHECK.pack(zlib.crc32(payload, zlib.crc32(prefix))) + payload


def pack_run(items: Iterable[tuple[int, bytes, str]], sequence: int, room: int) -> tuple[bytes, int]:
    """As many (kind, payload, id) in order as fit into ``room`` bytes: their bytes, and how many they are.

    The first gets ``sequence``, the others count on from there.
    """
    data, count = b"", 0
    # Local names: this runs for every record, on the path of every request.
    prefix_of, check_of, crc = _PREFIX.pack, _CHECK.pack, zlib.crc32
    parts: list[bytes] = []
    for kind, payload, _ in items:
        size = len(payload)
        room -= HEADER_SIZE + size
        if room < 0:
            break
        prefix = prefix_of(MAGIC, kind, VERSION, size, sequence + count)
        data = prefix + check_of(crc(payload, crc(prefix))) + payload
        parts.append(data)
        count += 1
    return data if count == 1 else b"".join(parts), count


def unpack(data: bytes, at: int) -> tuple[int, int, bytes] | None:
    """(kind, sequence, payload) of the record at this offset; None where there is none, or not all of it."""
    if len(data) - at < HEADER_SIZE:
        return None
    magic, kind, version, length, sequence = _PREFIX.unpack_from(data, at)
    if magic != MAGIC or version != VERSION or kind not in _KINDS or length > PAYLOAD_MAX:
        return None
    begin = at + HEADER_SIZE
    payload = data[begin : begin + length]
    if len(payload) != length:
        return None
    (check,) = _CHECK.unpack_from(data, at + _PREFIX.size)
    if zlib.crc32(payload, zlib.crc32(data[at : at + _PREFIX.size])) != check:
        return None
    return kind, sequence, payload


class SegmentScan:
    """Reads a segment, or its bytes from some record on, to the last record that can be read.

    Iterating gives every record but the head. What cannot be read is stepped over where a later record can,
    since one flipped bit, or one page that a power loss took, must not cost all that stands behind it.
    """

    def __init__(
        self, data: bytes, *, base: int = 0, after: int = -1, before: int | None = None, steps_over: bool = True
    ) -> None:
        """``base``: the offset of ``data`` in its segment. ``after``: the sequence of the record ahead of it.

        ``before``: records from this sequence on do not count; ``first`` of the next segment's head.
        ``steps_over``: whether to look behind what cannot be read; not while somebody may be writing it.
        """
        self._steps_over = steps_over
        self._data = data
        self._base = base
        self._after = after
        self._before = before
        self.head: SegmentHead | None = None
        """Where the scan began with it and it could be read."""
        self.damage: list[tuple[int, int]] = []
        """Offsets from and to: what cannot be read ahead of a record that can."""
        self.end = base
        """Behind the last record that counts."""
        self.torn = False
        """Whether bytes that are neither a record nor zero stand behind ``end``. Known after iterating."""

    @property
    def unused(self) -> bool:
        """Room that nobody has begun to fill. Known after iterating a scan from the segment's beginning."""
        return self.head is None and self.end == 0 and not self.torn

    def __iter__(self) -> Iterator[Record]:
        data, at = self._data, 0
        while True:
            found = self._record_at(at)
            if found is None:
                beyond = self._search(at + 1) if self._steps_over else None
                if beyond is None:
                    break
                self.damage.append((self._base + at, self._base + beyond))
                at = beyond
                continue
            kind, sequence, payload = found
            at += HEADER_SIZE + len(payload)
            self.end = self._base + at
            if kind == Kind.HEAD:
                self.head = parse_head(payload)
                self._after = max(self._after, sequence - 1)
            else:
                self._after = sequence
                yield Record(kind, sequence, payload, self.end)
        self.torn = data.count(0, at) != len(data) - at

    def _record_at(self, at: int) -> tuple[int, int, bytes] | None:
        """The record at this offset, if it counts."""
        found = unpack(self._data, at)
        if found is None:
            return None
        kind, sequence, _ = found
        if kind == Kind.HEAD:
            return found if self._base + at == 0 else None
        if sequence <= self._after or (self._before is not None and sequence >= self._before):
            return None
        return found

    def _search(self, at: int) -> int | None:
        """The offset of the next record that counts, from here on."""
        while (at := self._data.find(MAGIC, at)) >= 0:
            if self._record_at(at) is not None:
                return at
            at += 1
        return None


class OpenSet:
    """Open records without their end, in their order."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[str, bytes] = {}

    def see(self, record: Record) -> None:
        """Records in the order of their sequence. Raises SpoolFormatError."""
        if record.kind == Kind.OPEN:
            self._open[record.id] = record.payload
        else:
            self._open.pop(record.id, None)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[str]:
        return iter(self._open)

    def lost_facts(self) -> list[bytes]:
        """What the dead process owed: one encoded ``gateway_lost`` fact for each. Raises SpoolFormatError."""
        return [lost_fact(decode_open(payload)) for payload in self._open.values()]


def capacity(remaining: int, spares: int, segment_size: int, head_size: int) -> int:
    """Bytes of records that find room for certain, whatever their sizes and order.

    Records are not divided, so up to RECORD_MAX at the end of each segment may stay unused. ``remaining`` is
    what the current segment still takes.
    """
    fresh = max(0, segment_size - head_size - RECORD_MAX)
    return max(0, remaining - RECORD_MAX) + spares * fresh


def decode_open(payload: bytes) -> OpenRecord:
    """Raises SpoolFormatError."""
    row = _object(payload)
    try:
        return OpenRecord(
            id=_text_of(row["id"]),
            time=_text_of(row["time"]),
            tenant_id=int(_text_of(row["tenant_id"])),
            vpc_id=int(_text_of(row["vpc_id"])),
            key_id=None if row["key_id"] is None else int(_text_of(row["key_id"])),
            kid=_number_of(row["kid"]),
            provider=_text_of(row["provider"]),
            wire=_text_of(row["wire"]),
            endpoint=_text_of(row["endpoint"]),
            deny_revision=_maybe_number_of(row["deny_revision"]),
            deny_stale_ms=_maybe_number_of(row["deny_stale_ms"]),
        )
    except (KeyError, ValueError):
        raise SpoolFormatError("an open record lacks a member, or has one of another type") from None


def lost_fact(opened: OpenRecord) -> bytes:
    """The encoded fact of an exchange whose process died: what the open record knew, all else unknown."""
    row = UsageFact(opened, Outcome.GATEWAY_LOST, "absent").as_dict()
    # How much was relayed died with the process, too.
    row["request_bytes"] = row["response_bytes"] = None
    return json.dumps(row, separators=(",", ":")).encode("ascii")


def void_payload(fact_id: str) -> bytes:
    return f'{{"v":{VERSION},"id":"{fact_id}"}}'.encode("ascii")


_ID: Final = re.compile(rb'\{"v":[0-9]{1,9},"id":"([\x20\x21\x23-\x5b\x5d-\x7e]{1,256})"')


def id_of(payload: bytes) -> str:
    """Raises SpoolFormatError."""
    found = _ID.match(payload)
    if found is None:
        raise SpoolFormatError("a record does not begin with an id")
    return found[1].decode("ascii")


def _object(payload: bytes) -> dict[str, object]:
    try:
        row = json.loads(payload)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise SpoolFormatError("a record is no JSON object")
    return row


def _text_of(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not text")
    return value


def _number_of(value: object) -> int:
    if type(value) is not int:
        raise ValueError("not a number")
    return value


def _maybe_number_of(value: object) -> int | None:
    return None if value is None else _number_of(value)
