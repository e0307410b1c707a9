"""What a key-value bucket's stream tells, as data, and what was made of it so far.

The bucket ``b`` is the stream ``KV_b``; the last message of each subject ``$KV.b.<key>`` is the key's entry, or its
tombstone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from aigw_core.denyset import DenyChange, DenySet, parse_entry_key

OPERATION_HEADER: Final = "KV-Operation"
"""Set by clients: absent for a put, ``DEL`` or ``PURGE`` for a removal."""
MARKER_HEADER: Final = "Nats-Marker-Reason"
"""Set by servers from 2.11 on, instead of the former, where an entry expired or was purged."""

_REMOVALS: Final = frozenset({"DEL", "PURGE"})
_MARKERS: Final = frozenset({"MaxAge", "Purge", "Remove"})


class EntryKind(Enum):
    """What a message of the stream does to its key."""

    PUT = "put"
    REMOVE = "remove"
    UNKNOWN = "unknown"
    """An operation or a marker that we do not know. It denies: whoever wrote it wanted to say something."""


def classify(headers: Mapping[str, str] | None) -> EntryKind:
    """By both headers; a message with neither is a put."""
    if not headers:
        return EntryKind.PUT
    operation, marker = headers.get(OPERATION_HEADER), headers.get(MARKER_HEADER)
    if operation is None and marker is None:
        return EntryKind.PUT
    if (operation is None or operation in _REMOVALS) and (marker is None or marker in _MARKERS):
        return EntryKind.REMOVE
    # The other way to spell that it is none.
    return EntryKind.PUT if operation in ("", "PUT") and marker is None else EntryKind.UNKNOWN


@dataclass(slots=True)
class StreamState:
    """The backing stream, as the server describes it."""

    created: str
    """When it was made, in the server's own words: only compared."""
    last_seq: int
    """The sequence of the newest message ever written; 0 for none. That message may be gone."""
    subjects: int
    """How many subjects have a message: entries, tombstones and foreign keys."""
    messages: int = 0


@dataclass(slots=True)
class Entry:
    """One message that a consumer delivered."""

    key: str
    """The subject less ``$KV.<bucket>.``."""
    kind: EntryKind
    value: bytes
    revision: int
    """Its sequence in the stream, from 1."""
    consumer_seq: int
    """Its number among the deliveries of this consumer, from 1, without gaps."""
    pending: int
    """How many more the consumer had to deliver at that moment."""
    time_ns: int
    """When the server stored it."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Up to where a stream was applied, and how to know that it is the same history.

    A stream's creation time and a last sequence that is not behind are no proof: a server that lost its newest
    messages in a power failure, or was restored from a backup, gives their sequences to others. The message at
    ``revision`` is the anchor: if it is still there with the time we know, everything before it is what we saw.
    """

    created: str
    revision: int
    anchor_ns: int
    """The anchor's time."""


@dataclass(slots=True)
class DenyView:
    """A deny-set, and the subjects that are in the bucket beside its entries."""

    deny: DenySet = field(default_factory=DenySet)
    others: set[str] = field(default_factory=set)
    """Tombstones and foreign keys. Bounded, like the entries, by the bucket alone: their number must be exact."""
    unknown: int = 0
    """Entries with an operation or marker that we do not know."""

    @property
    def subjects(self) -> int:
        """How many subjects the stream must have if nothing vanished unseen."""
        return self.deny.size + len(self.others)

    def apply(self, entry: Entry) -> DenyChange | None:
        """Takes an entry in; what changed for callers. Revisions must not decrease."""
        key = entry.key
        if parse_entry_key(key) is None:
            self.others.add(key)
            self.deny.put(key, b"", entry.revision)
            return None
        if entry.kind is EntryKind.REMOVE:
            self.others.add(key)
            return self.deny.remove(key, entry.revision)
        self.others.discard(key)
        value = entry.value
        if entry.kind is EntryKind.UNKNOWN:
            self.unknown += 1
            value = b""
        return self.deny.put(key, value, entry.revision)
