"""A deny-set as bytes, to be put in force again before the feed is there.

Layout, big-endian: magic, u32 version, u64 length of the rest without the checksum; the entries, then the cursor;
SHA-256 of everything before it. A snapshot is a cache: whatever is not exactly this is refused whole.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aigw_core.denyset import DenyReason, DenyScope, DenySet, DenySubject
from aigw_core.denyview import Cursor, DenyView

MAGIC: Final = b"aigw deny-set\n\x00\x00"
VERSION: Final = 1
CHUNK_ENTRIES: Final = 4_096
"""Entries in one piece of output: about 80 KB."""
TEXT_MAX: Final = 4_096
"""UTF-8 bytes of a key or a name; subjects of NATS are no longer than a line of its protocol."""

_HEAD: Final = struct.Struct(">16sIQ")
_ENTRY: Final = struct.Struct(">BQBQ")
_COUNT: Final = struct.Struct(">Q")
_LENGTH: Final = struct.Struct(">H")
_CURSOR: Final = struct.Struct(">QQqd")
_SCOPES: Final = {DenyScope.TENANT: 1, DenyScope.KEY: 2}
_REASONS: Final = {DenyReason.SPEND: 1, DenyReason.FRAUD: 2, DenyReason.UNKNOWN: 3}
_SCOPE_OF: Final = {number: scope for scope, number in _SCOPES.items()}
_REASON_OF: Final = {number: reason for reason, number in _REASONS.items()}
_DIGEST_SIZE: Final = 32


class SnapshotError(ValueError):
    """Not a snapshot for us; the text says why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A set that was in force, and from where its feed may go on."""

    source: str
    """What fed it, such as ``nats:ai-gateway``: a snapshot of another source is refused."""
    view: DenyView
    cursor: Cursor | None
    confirmed_wall: float
    """Seconds since the epoch when the set was last known to be current; 0.0 where it never was."""

    def captured(self) -> Snapshot:
        """A copy that may be encoded in another thread while the original changes."""
        view = DenyView(self.view.deny.copy(), self.view.others.copy())
        return Snapshot(self.source, view, self.cursor, self.confirmed_wall)


def encode(snapshot: Snapshot) -> Iterator[bytes]:
    """The bytes, in pieces. The set must not change meanwhile."""
    deny, cursor = snapshot.view.deny, snapshot.cursor
    others = [
        encoded for key in snapshot.view.others if len(encoded := key.encode("utf-8", "surrogatepass")) <= TEXT_MAX
    ]
    # A set has no order of its own, and what holds the same is written the same.
    others.sort()
    if len(others) < len(snapshot.view.others):
        # Without all of them the number of subjects is unknown, so there is nothing to resume from.
        cursor = None
    source = snapshot.source.encode()
    created = cursor.created.encode() if cursor is not None else b""
    tail = _CURSOR.pack(
        deny.revision or 0,
        cursor.revision if cursor is not None else 0,
        cursor.anchor_ns if cursor is not None else 0,
        snapshot.confirmed_wall,
    )
    tail += _LENGTH.pack(len(created)) + created + _LENGTH.pack(len(source)) + source
    size = _COUNT.size * 2 + deny.size * _ENTRY.size + sum(_LENGTH.size + len(key) for key in others) + len(tail)
    digest = hashlib.sha256()
    for piece in _pieces(deny, others, size, tail):
        digest.update(piece)
        yield piece
    yield digest.digest()


def _pieces(deny: DenySet, others: list[bytes], size: int, tail: bytes) -> Iterator[bytes]:
    yield _HEAD.pack(MAGIC, VERSION, size)
    yield _COUNT.pack(deny.size)
    batch: list[bytes] = []
    for subject, reason, revision in deny.entries():
        batch.append(_ENTRY.pack(_SCOPES[subject.scope], subject.id, _REASONS[reason], revision))
        if len(batch) >= CHUNK_ENTRIES:
            yield b"".join(batch)
            batch.clear()
    batch.append(_COUNT.pack(len(others)))
    for key in others:
        batch.append(_LENGTH.pack(len(key)) + key)
        if len(batch) >= CHUNK_ENTRIES:
            yield b"".join(batch)
            batch.clear()
    yield b"".join(batch)
    yield tail


def decode(data: bytes, source: str) -> Snapshot:
    """Raises SnapshotError for what is corrupt, cut, of a newer version, or of another source."""
    if len(data) < _HEAD.size + _DIGEST_SIZE:
        raise SnapshotError("it is too short")
    magic, version, size = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise SnapshotError("it is no snapshot")
    if version > VERSION:
        raise SnapshotError(f"it is of version {version}, and {VERSION} is known")
    if len(data) != _HEAD.size + size + _DIGEST_SIZE:
        raise SnapshotError("its length is wrong")
    if hashlib.sha256(memoryview(data)[:-_DIGEST_SIZE]).digest() != data[-_DIGEST_SIZE:]:
        raise SnapshotError("its checksum is wrong")
    try:
        snapshot = _decode_body(data)
    except (struct.error, ValueError, KeyError) as error:
        raise SnapshotError("its content is wrong") from error
    if snapshot.source != source:
        raise SnapshotError("it is of another source")
    return snapshot


def _decode_body(data: bytes) -> Snapshot:
    """Raises struct.error, ValueError or KeyError."""
    place = _HEAD.size
    end = len(data) - _DIGEST_SIZE
    (number,) = _COUNT.unpack_from(data, place)
    place += _COUNT.size
    if number * _ENTRY.size > end - place:
        raise ValueError
    rows = _ENTRY.iter_unpack(memoryview(data)[place : place + number * _ENTRY.size])
    place += number * _ENTRY.size
    (number,) = _COUNT.unpack_from(data, place)
    place += _COUNT.size
    others = set()
    for _ in range(number):
        key, place = _text(data, place)
        others.add(key.decode("utf-8", "surrogatepass"))
    revision, cursor_revision, anchor_ns, confirmed_wall = _CURSOR.unpack_from(data, place)
    created, place = _text(data, place + _CURSOR.size)
    source, place = _text(data, place)
    if place != end or not 0.0 <= confirmed_wall < 1e12:
        raise ValueError
    entries = ((DenySubject(_SCOPE_OF[scope], of), _REASON_OF[reason], at) for scope, of, reason, at in rows)
    view = DenyView(DenySet.of(entries, revision), others)
    cursor = Cursor(created.decode(), cursor_revision, anchor_ns) if cursor_revision else None
    return Snapshot(source.decode(), view, cursor, confirmed_wall)


def _text(data: bytes, place: int) -> tuple[bytes, int]:
    (length,) = _LENGTH.unpack_from(data, place)
    place += _LENGTH.size
    text = data[place : place + length]
    if len(text) != length:
        raise ValueError
    return text, place + length
