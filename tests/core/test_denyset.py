"""The deny-set: what denies, what restores, and what a replayed or late entry may not do."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.denyset import (
    KEY_PREFIX,
    REASON_SIZE_MAX,
    TENANT_PREFIX,
    TOMBSTONES_MAX,
    DenyChange,
    DenyReason,
    DenyScope,
    DenySet,
    DenySubject,
    parse_entry_key,
    parse_reason,
)

U64_MAX = 2**64 - 1


def tenant(number: int) -> DenySubject:
    return DenySubject(DenyScope.TENANT, number)


def key(number: int) -> DenySubject:
    return DenySubject(DenyScope.KEY, number)


def test_the_words_are_pinned() -> None:
    """They stand in entries, logs and metrics."""
    assert [reason.value for reason in DenyReason] == ["spend", "fraud", "unknown"]
    assert [scope.value for scope in DenyScope] == ["tenant", "key"]


# --- entry keys --------------------------------------------------------------------------------------------


def test_prefixes_are_pinned() -> None:
    """A typo here would serve every tenant that is cut off, in silence."""
    assert TENANT_PREFIX == "blackhole."
    assert KEY_PREFIX == "blackhole.key."
    assert parse_entry_key("blackhole.42") == tenant(42)
    assert parse_entry_key("blackhole.key.42") == key(42)


@pytest.mark.parametrize("number", [0, 1, 10, 2**53 + 1, U64_MAX])
def test_ids_up_to_u64(number: int) -> None:
    assert parse_entry_key(f"blackhole.{number}") == tenant(number)
    assert parse_entry_key(f"blackhole.key.{number}") == key(number)


@pytest.mark.parametrize(
    "number",
    [
        *("", "-", "-1", "+1", "01", "00", " 1", "1 ", "1\n", "1_0", "1.0", "0x1", "1e3", "\u0661", "\u00b2"),
        *("x", "key", "key.", "*", str(U64_MAX + 1), "9" * 20, "9" * 21, "1" * 1000),
    ],
)
def test_keys_that_are_none_of_ours(number: str) -> None:
    assert parse_entry_key(f"blackhole.{number}") is None
    assert parse_entry_key(f"blackhole.key.{number}") is None


@pytest.mark.parametrize(
    "name",
    ["", "42", "blackhole", "blackhole42", "Blackhole.42", "xblackhole.42", "blackhole.keys.4", "allow.42"],
)
def test_other_names_are_none_of_ours(name: str) -> None:
    assert parse_entry_key(name) is None


@given(st.text(max_size=30))
def test_only_the_canonical_spelling_parses(text: str) -> None:
    for prefix in (TENANT_PREFIX, KEY_PREFIX):
        subject = parse_entry_key(prefix + text)
        if subject is not None and not text.startswith("key."):
            assert str(subject.id) == text


# --- reasons -----------------------------------------------------------------------------------------------


def test_statuses() -> None:
    assert {reason: reason.status for reason in DenyReason} == {
        DenyReason.SPEND: 402,
        DenyReason.FRAUD: 403,
        DenyReason.UNKNOWN: 403,
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"spend", DenyReason.SPEND),
        (b"fraud", DenyReason.FRAUD),
        (b" \t spend \r\n", DenyReason.SPEND),
        (b'{"reason": "spend"}', DenyReason.SPEND),
        (b' {"by": ["ops", {"reason": "spend"}], "reason": "fraud", "at": 1e999} ', DenyReason.FRAUD),
        (b'{"rea\\u0073on": "spend"}', DenyReason.SPEND),
        (b"unknown", DenyReason.UNKNOWN),
        (b"", DenyReason.UNKNOWN),
        (b"   ", DenyReason.UNKNOWN),
        (b"SPEND", DenyReason.UNKNOWN),
        (b"spend fraud", DenyReason.UNKNOWN),
        (b'"spend"', DenyReason.UNKNOWN),
        (b'["spend"]', DenyReason.UNKNOWN),
        (b'[["reason", "spend"]]', DenyReason.UNKNOWN),
        (b"{}", DenyReason.UNKNOWN),
        (b'{"Reason": "spend"}', DenyReason.UNKNOWN),
        (b'{"reason": "SPEND"}', DenyReason.UNKNOWN),
        (b'{"reason": null}', DenyReason.UNKNOWN),
        (b'{"reason": true}', DenyReason.UNKNOWN),
        (b'{"reason": ["spend"]}', DenyReason.UNKNOWN),
        (b'{"reason": {"reason": "spend"}}', DenyReason.UNKNOWN),
        (b'{"nested": {"reason": "spend"}}', DenyReason.UNKNOWN),
        (b'{"reason": "spend", "reason": "spend"}', DenyReason.UNKNOWN),
        (b'{"reason": "spend"', DenyReason.UNKNOWN),
        (b'{"reason": "spend"} x', DenyReason.UNKNOWN),
        (b"\xef\xbb\xbfspend", DenyReason.UNKNOWN),
        (b"\xff\xfe", DenyReason.UNKNOWN),
        ('{"reason": "spend"}'.encode("utf-16"), DenyReason.UNKNOWN),
        (b"spend\x00", DenyReason.UNKNOWN),
        (b'{"reason": "\\ud800"}', DenyReason.UNKNOWN),
        (b'{"a":' * 700 + b"1" + b"}" * 700, DenyReason.UNKNOWN),
        (b'{"reason":' + b"[" * 2000 + b"]" * 2000 + b"}", DenyReason.UNKNOWN),
        (b'{"a":' + b"[" * 100_000, DenyReason.UNKNOWN),
        (b'{"reason":"spend","n":' + b"9" * 5000 + b"}", DenyReason.UNKNOWN),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
def test_reasons(value: bytes, reason: DenyReason) -> None:
    assert parse_reason(value) is reason


def test_reason_size_limit() -> None:
    frame = len(b'{"reason":"spend","n":""}')
    fits = b'{"reason":"spend","n":"' + b"x" * (REASON_SIZE_MAX - frame) + b'"}'
    assert len(fits) == REASON_SIZE_MAX == 4_096
    assert parse_reason(fits) is DenyReason.SPEND
    assert parse_reason(fits + b" ") is DenyReason.UNKNOWN


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["spend", "fraud"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["reason", "x"]), inner),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_value_gives_a_reason(value: bytes) -> None:
    reason = parse_reason(value)
    assert isinstance(reason, DenyReason)
    if reason is not DenyReason.UNKNOWN:
        assert reason.value.encode() in value


# --- the set -----------------------------------------------------------------------------------------------


def test_default_is_allow() -> None:
    deny = DenySet()
    assert deny.check(1, None) is None
    assert deny.check(1, 1) is None
    assert (deny.size, deny.revision, deny.ignored_keys) == (0, None, 0)


def test_tenant_goes_before_key() -> None:
    deny = DenySet()
    assert deny.put("blackhole.key.7", b"fraud", 1) == DenyChange(key(7), DenyReason.FRAUD)
    assert deny.put("blackhole.5", b"spend", 2) == DenyChange(tenant(5), DenyReason.SPEND)
    assert deny.check(5, 7) is DenyReason.SPEND
    assert deny.check(5, None) is DenyReason.SPEND
    assert deny.check(6, 7) is DenyReason.FRAUD
    assert deny.check(6, 5) is None
    assert deny.check(7, None) is None
    assert (deny.size, deny.revision) == (2, 2)


def test_id_zero_is_an_id() -> None:
    deny = DenySet()
    deny.put("blackhole.0", b"spend", 1)
    deny.put("blackhole.key.0", b"fraud", 2)
    assert deny.check(0, None) is DenyReason.SPEND
    assert deny.check(1, 0) is DenyReason.FRAUD
    assert deny.check(1, None) is None


def test_removal_restores() -> None:
    deny = DenySet()
    deny.put("blackhole.5", b"spend", 1)
    deny.put("blackhole.key.7", b"spend", 2)
    assert deny.remove("blackhole.5", 3) == DenyChange(tenant(5), None)
    assert deny.check(5, 7) is DenyReason.SPEND
    assert deny.remove("blackhole.key.7", 4) == DenyChange(key(7), None)
    assert deny.check(5, 7) is None
    assert (deny.size, deny.revision) == (0, 4)


def test_a_broken_value_denies() -> None:
    deny = DenySet()
    assert deny.put("blackhole.5", b"\xff{", 1) == DenyChange(tenant(5), DenyReason.UNKNOWN)
    assert deny.check(5, None) is DenyReason.UNKNOWN


def test_changes_tell_what_changed() -> None:
    deny = DenySet()
    assert deny.put("blackhole.5", b"spend", 1) is not None
    assert deny.put("blackhole.5", b'{"reason":"spend"}', 2) is None
    assert deny.put("blackhole.5", b"fraud", 3) == DenyChange(tenant(5), DenyReason.FRAUD)
    assert deny.size == 1
    assert deny.remove("blackhole.6", 4) is None
    assert deny.remove("blackhole.5", 5) is not None
    assert deny.remove("blackhole.5", 6) is None
    assert deny.revision == 6


@pytest.mark.parametrize("revision", [9, 10])
def test_entries_that_are_not_newer_are_ignored(revision: int) -> None:
    deny = DenySet()
    deny.put("blackhole.5", b"spend", 10)
    assert deny.put("blackhole.5", b"fraud", revision) is None
    assert deny.remove("blackhole.5", revision) is None
    assert deny.check(5, None) is DenyReason.SPEND
    deny.remove("blackhole.5", 11)
    assert deny.put("blackhole.5", b"fraud", revision + 1) is None
    assert deny.check(5, None) is None
    assert deny.put("blackhole.5", b"fraud", 12) == DenyChange(tenant(5), DenyReason.FRAUD)
    assert deny.revision == 12


def test_the_same_reason_again_still_counts_as_applied() -> None:
    deny = DenySet()
    deny.put("blackhole.5", b"spend", 10)
    assert deny.put("blackhole.5", b"spend", 20) is None
    assert deny.remove("blackhole.5", 15) is None
    assert deny.check(5, None) is DenyReason.SPEND


def test_revisions_are_per_entry() -> None:
    deny = DenySet()
    deny.put("blackhole.5", b"spend", 10)
    assert deny.put("blackhole.key.5", b"fraud", 3) == DenyChange(key(5), DenyReason.FRAUD)
    assert deny.put("blackhole.6", b"fraud", 4) == DenyChange(tenant(6), DenyReason.FRAUD)
    assert deny.revision == 10


def test_foreign_keys_are_counted_and_move_the_revision() -> None:
    deny = DenySet()
    assert deny.put("allowance.5", b"spend", 1) is None
    assert deny.remove("blackhole.05", 2) is None
    assert (deny.ignored_keys, deny.revision, deny.size) == (2, 2, 0)
    deny.replace({"blackhole.x": (b"spend", 1), "blackhole.5": (b"spend", 2)}, 3)
    assert (deny.ignored_keys, deny.revision, deny.size) == (3, 3, 1)


# --- replacing ---------------------------------------------------------------------------------------------


def test_replace_swaps_whole() -> None:
    deny = DenySet()
    deny.put("blackhole.1", b"spend", 1)
    deny.put("blackhole.key.1", b"spend", 2)
    deny.put("blackhole.2", b"spend", 3)
    deny.replace({"blackhole.2": (b"fraud", 4), "blackhole.key.9": (b"", 6)}, 8)
    assert (deny.size, deny.revision) == (2, 8)
    assert [deny.check(1, 1), deny.check(2, None), deny.check(3, 9)] == [
        None,
        DenyReason.FRAUD,
        DenyReason.UNKNOWN,
    ]


def test_after_replace_entries_keep_their_own_revisions() -> None:
    deny = DenySet()
    deny.replace({"blackhole.2": (b"fraud", 4)}, 8)
    assert deny.put("blackhole.2", b"spend", 4) is None
    assert deny.remove("blackhole.2", 4) is None
    assert deny.remove("blackhole.2", 5) == DenyChange(tenant(2), None)


@pytest.mark.parametrize(("revision", "applied"), [(7, False), (8, False), (9, True)])
def test_after_replace_a_replay_brings_nobody_back(revision: int, applied: bool) -> None:
    deny = DenySet()
    deny.put("blackhole.1", b"spend", 7)
    deny.replace({}, 8)
    assert (deny.put("blackhole.1", b"spend", revision) is not None) is applied
    assert (deny.check(1, None) is not None) is applied


def test_replace_with_a_lower_revision_starts_over() -> None:
    deny = DenySet()
    deny.put("blackhole.1", b"spend", 1000)
    deny.remove("blackhole.2", 1001)
    deny.replace({"blackhole.3": (b"fraud", 1)}, 1)
    assert deny.revision == 1
    assert deny.tombstones == 0
    assert deny.put("blackhole.2", b"spend", 2) == DenyChange(tenant(2), DenyReason.SPEND)
    assert deny.revision == 2


def test_replace_with_nothing_seen() -> None:
    deny = DenySet()
    deny.replace({}, 0)
    assert (deny.revision, deny.size) == (0, 0)
    assert deny.put("blackhole.1", b"spend", 1) is not None


# --- tombstones --------------------------------------------------------------------------------------------


def test_tombstones_are_bounded_and_the_older_ones_still_hold() -> None:
    deny = DenySet(tombstones_max=3)
    for number in range(1, 6):
        deny.put(f"blackhole.{number}", b"spend", number)
    for number in range(1, 4):
        deny.remove(f"blackhole.{number}", 10 + number)
    assert deny.tombstones == 3
    deny.remove("blackhole.4", 14)
    assert deny.tombstones == 3
    for number in range(1, 5):
        assert deny.put(f"blackhole.{number}", b"spend", number) is None
        assert deny.check(number, None) is None
    # The floor is the revision of the forgotten removal, and no higher.
    assert deny.put("blackhole.77", b"spend", 11) is None
    assert deny.put("blackhole.78", b"spend", 12) is not None
    # What is held is judged by its own revision, however far the floor has come.
    assert deny.put("blackhole.5", b"fraud", 6) == DenyChange(tenant(5), DenyReason.FRAUD)


def test_a_new_put_takes_its_tombstone_away() -> None:
    deny = DenySet()
    deny.remove("blackhole.1", 1)
    assert deny.tombstones == 1
    deny.put("blackhole.1", b"spend", 2)
    assert deny.tombstones == 0


def test_a_repeated_removal_renews_its_tombstone() -> None:
    deny = DenySet(tombstones_max=2)
    deny.remove("blackhole.1", 1)
    deny.remove("blackhole.2", 2)
    deny.remove("blackhole.1", 3)
    deny.remove("blackhole.3", 4)
    assert deny.tombstones == 2
    # Number 2 was forgotten, number 1 was not.
    assert deny.put("blackhole.9", b"spend", 2) is None
    assert deny.put("blackhole.9", b"spend", 3) is not None
    assert deny.put("blackhole.1", b"spend", 3) is None


def test_default_tombstone_bound() -> None:
    deny = DenySet()
    for number in range(TOMBSTONES_MAX + 2):
        deny.remove(f"blackhole.{number}", number + 1)
    assert deny.tombstones == TOMBSTONES_MAX == 65_536


Operation = tuple[str, bytes | None]
names = st.sampled_from(["blackhole.1", "blackhole.2", "blackhole.3", "blackhole.key.1", "blackhole.key.2", "x.1"])
values = st.sampled_from([None, b"spend", b"fraud", b"?"])


def apply(deny: DenySet, operation: Operation, revision: int) -> DenyChange | None:
    name, value = operation
    return deny.remove(name, revision) if value is None else deny.put(name, value, revision)


def in_force(deny: DenySet) -> list[DenyReason | None]:
    return [deny.check(number, None) for number in range(4)] + [deny.check(0, number) for number in range(4)]


@settings(max_examples=150)
@given(st.lists(st.tuples(names, values), max_size=30), st.integers(0, 3), st.data())
def test_a_log_with_any_replays_ends_as_the_log(log: list[Operation], tombstones_max: int, data: st.DataObject) -> None:
    """In stream order, with any earlier part repeated at any point, however few tombstones there are."""
    deny = DenySet(tombstones_max=tombstones_max)
    last: dict[str, bytes] = {}
    for revision, operation in enumerate(log, start=1):
        name, value = operation
        apply(deny, operation, revision)
        if value is None:
            last.pop(name, None)
        else:
            last[name] = value
        before = in_force(deny)
        replay_from = data.draw(st.integers(1, revision + 1))
        for earlier in range(replay_from, revision + 1):
            assert apply(deny, log[earlier - 1], earlier) is None
        assert in_force(deny) == before
        assert deny.revision == revision
        assert deny.tombstones <= tombstones_max
    expected = DenySet()
    expected.replace({name: (value, 1) for name, value in last.items()}, len(log))
    assert in_force(deny) == in_force(expected)
    assert deny.size == expected.size == sum(name != "x.1" for name in last)


# Whole sets


def _held() -> DenySet:
    deny = DenySet()
    deny.put("blackhole.1", b"spend", 3)
    deny.put("blackhole.key.7", b"fraud", 5)
    deny.remove("blackhole.key.8", 6)
    return deny


def test_a_copy_holds_the_same_and_does_not_follow() -> None:
    deny = _held()
    twin = deny.copy()
    assert twin.holds_same(deny)
    assert (twin.revision, twin.size, twin.tombstones) == (6, 2, 0)
    assert twin.put("blackhole.key.8", b"fraud", 6) is None, "what was removed up to there stays removed"
    assert twin.put("blackhole.2", b"fraud", 7) is not None
    assert not twin.holds_same(deny)
    assert deny.check(2, None) is None


def test_a_copy_of_an_unread_set_takes_the_first_entry() -> None:
    twin = DenySet().copy()
    assert twin.revision is None
    assert twin.put("blackhole.1", b"fraud", 1) is not None


def test_sets_differ_by_entries_reasons_and_revisions() -> None:
    for key, value, revision in (
        ("blackhole.1", b"fraud", 9),
        ("blackhole.1", b"spend", 9),
        ("blackhole.key.7", b"spend", 9),
        ("blackhole.9", b"spend", 9),
    ):
        other = _held()
        other.put(key, value, revision)
        assert not other.holds_same(_held())
    assert _held().holds_same(_held())
    assert not DenySet().holds_same(_held())


def test_a_set_is_made_of_the_entries_of_another() -> None:
    deny = _held()
    entries = list(deny.entries())
    assert [(subject.scope, subject.id, reason, revision) for subject, reason, revision in entries] == [
        (DenyScope.TENANT, 1, DenyReason.SPEND, 3),
        (DenyScope.KEY, 7, DenyReason.FRAUD, 5),
    ]
    made = DenySet.of(entries, 6)
    assert made.holds_same(deny)
    assert made.revision == 6
    assert made.check(1, None) is DenyReason.SPEND
    assert made.check(5, 7) is DenyReason.FRAUD
    assert made.put("blackhole.key.8", b"fraud", 6) is None
