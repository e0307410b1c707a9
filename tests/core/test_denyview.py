"""Messages of a bucket are told apart by both headers, and every subject is counted once."""

from __future__ import annotations

import pytest

from aigw_core.denyset import DenyReason
from aigw_core.denyview import DenyView, Entry, EntryKind, classify


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        (None, EntryKind.PUT),
        ({}, EntryKind.PUT),
        ({"Nats-TTL": "1s", "X": "y"}, EntryKind.PUT),
        ({"KV-Operation": "PUT"}, EntryKind.PUT),
        ({"KV-Operation": ""}, EntryKind.PUT),
        ({"KV-Operation": "DEL"}, EntryKind.REMOVE),
        ({"KV-Operation": "PURGE", "Nats-Rollup": "sub"}, EntryKind.REMOVE),
        ({"Nats-Marker-Reason": "MaxAge"}, EntryKind.REMOVE),
        ({"Nats-Marker-Reason": "Purge"}, EntryKind.REMOVE),
        ({"Nats-Marker-Reason": "Remove", "Nats-TTL": "1s"}, EntryKind.REMOVE),
        ({"KV-Operation": "DEL", "Nats-Marker-Reason": "MaxAge"}, EntryKind.REMOVE),
        ({"KV-Operation": "del"}, EntryKind.UNKNOWN),
        ({"KV-Operation": "MERGE"}, EntryKind.UNKNOWN),
        ({"Nats-Marker-Reason": "Later"}, EntryKind.UNKNOWN),
        ({"KV-Operation": "PUT", "Nats-Marker-Reason": "Later"}, EntryKind.UNKNOWN),
        ({"KV-Operation": "DEL", "Nats-Marker-Reason": "Later"}, EntryKind.UNKNOWN),
    ],
)
def test_kinds(headers: dict[str, str] | None, kind: EntryKind) -> None:
    assert classify(headers) is kind


def test_every_subject_counts_once() -> None:
    view = DenyView()
    steps = [
        ("blackhole.1", EntryKind.PUT, b"spend", 1),
        ("blackhole.1", EntryKind.PUT, b"fraud", 1),
        ("blackhole.1", EntryKind.REMOVE, b"", 1),
        ("blackhole.1", EntryKind.PUT, b"spend", 1),
        ("blackhole.2", EntryKind.REMOVE, b"", 2),
        ("foreign", EntryKind.PUT, b"x", 3),
        ("foreign", EntryKind.REMOVE, b"", 3),
        ("blackhole.x", EntryKind.UNKNOWN, b"", 4),
        ("blackhole.3", EntryKind.UNKNOWN, b"spend", 5),
    ]
    for revision, (key, kind, value, subjects) in enumerate(steps, 1):
        view.apply(Entry(key, kind, value, revision, revision, 0, revision))
        assert view.subjects == subjects, key
    assert view.others == {"blackhole.2", "foreign", "blackhole.x"}
    assert view.deny.check(1, None) is DenyReason.SPEND


def test_what_is_not_understood_denies() -> None:
    view = DenyView()
    view.apply(Entry("blackhole.1", EntryKind.UNKNOWN, b"spend", 1, 1, 0, 1))
    assert view.deny.check(1, None) is DenyReason.UNKNOWN
    assert view.unknown == 1
