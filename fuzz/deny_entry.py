"""Deny entries: whatever a value says, it denies; keys have one spelling; order and replays do not matter."""

from __future__ import annotations

import json
from typing import Final

from aigw_core.denyset import DenyReason, DenyScope, DenySet, parse_entry_key, parse_reason

TOKENS: Final = (
    b"blackhole.", b"blackhole.key.", b"0", b"1", b"01", b"18446744073709551615", b"18446744073709551616", b"\n",
    b"spend", b"fraud", b'{"reason": "spend"}', b'{"reason": "fraud", "reason": "spend"}', b"{", b"[", b" ", b"\xff",
    "٣".encode(), b"-1", b"+1", b"1_0",
)  # fmt: skip


def check(data: bytes) -> None:
    """The first line is the key, the rest its value."""
    first, _, value = data.partition(b"\n")
    key = first.decode("utf-8", "replace")
    reason = parse_reason(value)
    assert isinstance(reason, DenyReason)
    if reason is not DenyReason.UNKNOWN:
        assert _says(value, reason.value), "a reason that is not stated"
    subject = parse_entry_key(key)
    if subject is not None:
        prefix = "blackhole." if subject.scope is DenyScope.TENANT else "blackhole.key."
        assert key == f"{prefix}{subject.id}", "a key has two spellings"
        assert 0 <= subject.id < 2**64
    _check_set(key, value, reason)


def _says(value: bytes, reason: str) -> bool:
    text = value.decode().strip()
    return text == reason or json.loads(text)["reason"] == reason


def _check_set(key: str, value: bytes, reason: DenyReason) -> None:
    deny, subject = DenySet(), parse_entry_key(key)
    change = deny.put(key, value, 5)
    assert deny.put(key, value, 5) is None, "a replay changes something"
    assert deny.put(key, b"fraud", 4) is None, "an older entry wins"
    assert deny.remove(key, 5) is None, "an older removal wins"
    if subject is None:
        assert change is None
        assert deny.size == 0
        return
    assert change is not None
    assert change.reason is reason
    tenant, key_id = (subject.id, None) if subject.scope is DenyScope.TENANT else (subject.id + 1, subject.id)
    assert deny.check(tenant, key_id) is reason
    replaced = DenySet()
    replaced.replace({key: (value, 5)}, 5)
    assert replaced.check(tenant, key_id) is reason, "a whole set reads an entry in another way"
    assert deny.remove(key, 6) is not None
    assert deny.check(tenant, key_id) is None
    assert deny.put(key, value, 5) is None, "a removed entry comes back"
    assert deny.size == 0
