"""Snapshots of a deny-set: what was written comes back, damage is refused, and nothing but SnapshotError is raised.

The first byte chooses: 0, the rest is a file as it stands; 1, the rest gets a head and a checksum, so that it is read
at all; others, the rest describes entries, foreign keys and a cursor, which are written and then hit at the place that
the byte says.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from aigw_core.denyset import DenyScope, DenySet
from aigw_core.denyview import Cursor, DenyView
from aigw_core.snapshot import MAGIC, VERSION, Snapshot, SnapshotError, decode, encode

SOURCE: Final = "nats:ai-gateway"
_HEAD: Final = struct.Struct(">16sIQ")
TOKENS: Final = (
    MAGIC, struct.pack(">I", VERSION), bytes(8), struct.pack(">Q", 1), struct.pack(">BQBQ", 1, 7, 1, 3), b"\xff" * 8,
    b"\x00\x0f" + SOURCE.encode(), struct.pack(">d", 1.5), struct.pack(">d", float("nan")), b"\xed\xa0\x80",
    b"\x02", b"\x03", b"blackhole.7", b"blackhole.key.7",
)  # fmt: skip
_KEYS: Final = ("blackhole.", "blackhole.key.")
_VALUES: Final = (b"spend", b"fraud", b"?", b"")


def check(data: bytes) -> None:
    option, rest = (data[0], data[1:]) if data else (0, b"")
    if option == 0:
        _read(rest)
    elif option == 1:
        body = _HEAD.pack(MAGIC, VERSION, len(rest)) + rest
        _read(body + hashlib.sha256(body).digest())
    else:
        _write(rest, option)


def _read(data: bytes) -> None:
    """What is accepted is what its own bytes say, and is denied as it says."""
    try:
        found = decode(data, SOURCE)
    except SnapshotError:
        return
    assert found.source == SOURCE
    assert 0.0 <= found.confirmed_wall < 1e12, "a time that is none"
    again = decode(b"".join(encode(found.captured())), SOURCE)
    assert _is_same(again, found), "it does not survive being written"
    for subject, reason, revision in found.view.deny.entries():
        # No tenant has the number beside the key, so that the key's own entry decides.
        asked = (subject.id, None) if subject.scope is DenyScope.TENANT else (2**64, subject.id)
        assert found.view.deny.check(*asked) is reason
        assert 0 <= revision < 2**64
    _is_hurt_by_any_change(data, len(data) * 7 // 11)


def _is_same(one: Snapshot, other: Snapshot) -> bool:
    same_set = one.view.deny.holds_same(other.view.deny) and one.view.others == other.view.others
    return same_set and (one.cursor, one.confirmed_wall) == (other.cursor, other.confirmed_wall)


def _write(data: bytes, option: int) -> None:
    snapshot = _described(data)
    pieces = list(encode(snapshot.captured()))
    whole = b"".join(pieces)
    found = decode(whole, SOURCE)
    assert _is_same(found, snapshot), "what was written is not what is read"
    assert found.view.deny.revision == (snapshot.view.deny.revision or 0)
    _is_hurt_by_any_change(whole, option * len(whole) // 256)


def _described(data: bytes) -> Snapshot:
    """Three bytes an entry: where and what, its number, how far the revision goes on; a foreign key among them."""
    deny, others, revision = DenySet(), set[str](), 0
    while len(data) >= 3:
        kind, number, step = data[:3]
        data = data[3:]
        revision += 1 + step
        if kind & 0x80:
            size = number % 32
            others.add(data[:size].decode("utf-8", "replace"))
            data = data[size:]
        else:
            deny.put(f"{_KEYS[kind & 1]}{number << (kind >> 3 & 0x0F) * 4}", _VALUES[kind >> 1 & 3], revision)
    cursor = Cursor(f"created {revision}", revision, -revision if revision % 2 else revision) if revision else None
    return Snapshot(SOURCE, DenyView(deny, others), cursor, float(revision))


def _is_hurt_by_any_change(data: bytes, at: int) -> None:
    for damaged in (data[:at], data + b"\0", data[:at] + bytes([data[at % len(data)] ^ 1]) + data[at + 1 :]):
        try:
            decode(damaged, SOURCE)
        except SnapshotError:
            continue
        raise AssertionError("damage goes unnoticed")
