"""The deny-set: which tenants and keys are cut off, and why. State only; a feed keeps it current.

Entries are those of a key-value bucket: `blackhole.{tenant_id}` cuts off a tenant, `blackhole.key.{key_id}`
one key, both in canonical decimal; the value says why.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

TENANT_PREFIX: Final = "blackhole."
KEY_PREFIX: Final = "blackhole.key."
# A reason is a word or a small object. Nothing longer is decoded; it denies as an unknown reason.
REASON_SIZE_MAX: Final = 4096
# Removed entries whose revision is remembered by name, so that a replayed put does not bring them back:
# about 200 bytes each. Older ones are covered by one number, see DenySet.
TOMBSTONES_MAX: Final = 65_536

_U64_MAX: Final = 2**64 - 1
_ID: Final = re.compile(r"0|[1-9][0-9]{0,19}")


class DenyReason(Enum):
    """Why a tenant or key is cut off. Whatever is not understood is UNKNOWN and denies as well."""

    SPEND = "spend"
    FRAUD = "fraud"
    UNKNOWN = "unknown"

    @property
    def status(self) -> int:
        """The HTTP status of the refusal: 402 for SPEND, 403 otherwise."""
        return 402 if self is DenyReason.SPEND else 403


class DenyScope(Enum):
    """What a deny entry cuts off."""

    TENANT = "tenant"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class DenySubject:
    """Who is cut off: all keys of a tenant, or one key. `id` is a u64."""

    scope: DenyScope
    id: int


@dataclass(frozen=True, slots=True)
class DenyChange:
    """What an entry changed: the reason that is now in force for the subject, None where it is restored."""

    subject: DenySubject
    reason: DenyReason | None


def parse_entry_key(key: str) -> DenySubject | None:
    """The subject of an entry, or None for a key that is none of ours. Ids are canonical decimal u64."""
    if key.startswith(KEY_PREFIX):
        scope, digits = DenyScope.KEY, key[len(KEY_PREFIX) :]
    elif key.startswith(TENANT_PREFIX):
        scope, digits = DenyScope.TENANT, key[len(TENANT_PREFIX) :]
    else:
        return None
    if _ID.fullmatch(digits) is None:
        return None
    subject_id = int(digits)
    return DenySubject(scope, subject_id) if subject_id <= _U64_MAX else None


def parse_reason(value: bytes) -> DenyReason:
    """The reason in an entry's value: bare text, trimmed, or a JSON object with one `reason` member.

    Never raises: an entry denies whatever its value is.
    """
    if len(value) > REASON_SIZE_MAX:
        return DenyReason.UNKNOWN
    try:
        text = value.decode().strip()
        if text.startswith("{"):
            return _reason_in_object(text)
        return DenyReason(text)
    except (ValueError, RecursionError):
        return DenyReason.UNKNOWN


def _reason_in_object(text: str) -> DenyReason:
    """Raises ValueError or RecursionError for what is no JSON object with one known reason."""
    # Objects become tuples of their members, so that a repeated member is seen and arrays stay apart.
    root: object = json.loads(text, object_pairs_hook=tuple)
    if not isinstance(root, tuple):
        return DenyReason.UNKNOWN
    reasons = [member for name, member in root if name == "reason"]
    return DenyReason(reasons[0]) if len(reasons) == 1 else DenyReason.UNKNOWN


class DenySet:
    """Who is cut off. What is not listed is allowed.

    Entries are applied idempotently: one whose revision is not above the last one applied for its key is
    ignored, whether that one was a put or a removal. The revisions of removed keys are remembered for the
    newest TOMBSTONES_MAX removals. Of older ones, and of keys that a `replace` did not contain, only the
    highest revision is kept: a put at or below it for a key that is not known is a replay of something that
    was removed since, because revisions arrive in order, and is ignored.

    The number of entries is bounded by the bucket alone: to drop one would serve somebody who is cut off.

    Revisions are stream sequences, integers from 1.
    """

    __slots__ = (
        "_ignored_keys",
        "_keys",
        "_revision",
        "_revision_by_entry",
        "_tenants",
        "_tombstone_floor",
        "_tombstones",
        "_tombstones_max",
    )

    def __init__(self, *, tombstones_max: int = TOMBSTONES_MAX) -> None:
        self._tenants: dict[int, DenyReason] = {}
        self._keys: dict[int, DenyReason] = {}
        self._revision_by_entry: dict[str, int] = {}
        # An OrderedDict, because dropping the oldest entry of a large dict walks over all holes before it.
        self._tombstones: OrderedDict[str, int] = OrderedDict()
        self._tombstones_max = tombstones_max
        self._tombstone_floor = 0
        self._revision: int | None = None
        self._ignored_keys = 0

    @property
    def revision(self) -> int | None:
        """The highest revision seen since the last `replace`, or its own; None before the first entry."""
        return self._revision

    @property
    def size(self) -> int:
        """The number of tenants and keys that are cut off."""
        return len(self._tenants) + len(self._keys)

    @property
    def ignored_keys(self) -> int:
        """How many entries were ignored since construction because their key is none of ours."""
        return self._ignored_keys

    @property
    def tombstones(self) -> int:
        """The number of removed keys whose revision is remembered by name."""
        return len(self._tombstones)

    def check(self, tenant_id: int, key_id: int | None) -> DenyReason | None:
        """The reason to refuse this caller, or None. The tenant's entry goes before the key's."""
        reason = self._tenants.get(tenant_id)
        if reason is None and key_id is not None:
            return self._keys.get(key_id)
        return reason

    def put(self, key: str, value: bytes, revision: int) -> DenyChange | None:
        """Apply an entry. None where nothing changed: not newer, the same reason again, a foreign key."""
        subject = self._subject_of_newer(key, revision)
        if subject is None:
            return None
        self._tombstones.pop(key, None)
        self._revision_by_entry[key] = revision
        reason = parse_reason(value)
        reasons = self._reasons(subject.scope)
        if reasons.get(subject.id) is reason:
            return None
        reasons[subject.id] = reason
        return DenyChange(subject, reason)

    def remove(self, key: str, revision: int) -> DenyChange | None:
        """Apply a delete, purge or expiry. None where nothing changed: not newer, not held, a foreign key."""
        subject = self._subject_of_newer(key, revision)
        if subject is None:
            return None
        self._revision_by_entry.pop(key, None)
        self._bury(key, revision)
        if self._reasons(subject.scope).pop(subject.id, None) is None:
            return None
        return DenyChange(subject, None)

    def replace(self, entries: Mapping[str, tuple[bytes, int]], revision: int) -> None:
        """Put these entries, key to (value, revision), in the place of all that is held, tombstones included.

        `revision` is the last one that the entries account for, and no guess: puts up to it of keys that are
        not among the entries count as removed since, and are ignored. It may be lower than the present one,
        when the stream was made anew.
        """
        fresh = DenySet()
        for key, (value, entry_revision) in entries.items():
            fresh.put(key, value, entry_revision)
        self.adopt(fresh, revision)

    def adopt(self, fresh: "DenySet", revision: int) -> None:
        """Take the place of all that is held by what `fresh` holds, at once, however much it is.

        `fresh` must not be used afterwards. `revision` as in `replace`.
        """
        self._tenants = fresh._tenants
        self._keys = fresh._keys
        self._revision_by_entry = fresh._revision_by_entry
        self._tombstones = OrderedDict()
        self._tombstone_floor = revision
        self._revision = revision
        self._ignored_keys += fresh._ignored_keys

    def copy(self) -> "DenySet":
        """A set of the same entries that does not change with this one; tombstones stay behind."""
        twin = DenySet(tombstones_max=self._tombstones_max)
        twin._tenants = self._tenants.copy()
        twin._keys = self._keys.copy()
        twin._revision_by_entry = self._revision_by_entry.copy()
        twin._revision = self._revision
        twin._tombstone_floor = self._revision or 0
        return twin

    def holds_same(self, other: "DenySet") -> bool:
        """Whether both hold the same entries, for the same reasons, of the same revisions."""
        return (
            self._revision_by_entry == other._revision_by_entry
            and self._tenants == other._tenants
            and self._keys == other._keys
        )

    def entries(self) -> Iterator[tuple[DenySubject, DenyReason, int]]:
        """Who is cut off, why, and by which revision. The set must not change meanwhile."""
        for scope, reasons, prefix in (
            (DenyScope.TENANT, self._tenants, TENANT_PREFIX),
            (DenyScope.KEY, self._keys, KEY_PREFIX),
        ):
            for subject_id, reason in reasons.items():
                yield DenySubject(scope, subject_id), reason, self._revision_by_entry[f"{prefix}{subject_id}"]

    @classmethod
    def of(cls, entries: Iterable[tuple[DenySubject, DenyReason, int]], revision: int) -> "DenySet":
        """A set of what `entries` of another one gave. `revision` as in `replace`."""
        made = cls()
        for subject, reason, entry_revision in entries:
            prefix = TENANT_PREFIX if subject.scope is DenyScope.TENANT else KEY_PREFIX
            made._reasons(subject.scope)[subject.id] = reason
            made._revision_by_entry[f"{prefix}{subject.id}"] = entry_revision
        made._tombstone_floor = revision
        made._revision = revision
        return made

    def _subject_of_newer(self, key: str, revision: int) -> DenySubject | None:
        """Note the revision; the subject if the key is ours and the revision news for it."""
        if self._revision is None or revision > self._revision:
            self._revision = revision
        subject = parse_entry_key(key)
        if subject is None:
            self._ignored_keys += 1
            return None
        applied = self._revision_by_entry.get(key)
        if applied is None:
            applied = self._tombstones.get(key, self._tombstone_floor)
        return subject if revision > applied else None

    def _reasons(self, scope: DenyScope) -> dict[int, DenyReason]:
        return self._tenants if scope is DenyScope.TENANT else self._keys

    def _bury(self, key: str, revision: int) -> None:
        tombstones = self._tombstones
        tombstones[key] = revision
        tombstones.move_to_end(key)
        if len(tombstones) > self._tombstones_max:
            _, forgotten = tombstones.popitem(last=False)
            self._tombstone_floor = max(self._tombstone_floor, forgotten)
