"""The control plane and the gateway agree on what a key is."""

from __future__ import annotations

import pytest

from aigw_core import DenyReason, DenySet, KeyRing, VirtualKeyError, parse_virtual_key
from examples.mint_keys import ControlPlane


def _ring(plane: ControlPlane) -> KeyRing:
    return KeyRing({int(kid): public for kid, public in plane.signing_keys().items()})


def test_issued_keys_are_known() -> None:
    plane = ControlPlane()
    with pytest.raises(ValueError, match="max"):
        plane.issue("too early", tenant_id=7)
    assert plane.rotate() == 1
    key = plane.issue("search team", tenant_id=7)
    assert plane.owner_of(key) == "search team"
    claimed = parse_virtual_key(key.encode()).claimed
    assert (claimed.kid, claimed.tenant_id, claimed.key_id) == (1, 7, 1)
    with pytest.raises(VirtualKeyError):
        plane.owner_of("bai_v2.1.nonsense")


def test_rotation_keeps_older_keys_until_they_are_dropped() -> None:
    plane = ControlPlane()
    plane.rotate()
    older = plane.issue("a", tenant_id=7)
    assert plane.rotate() == 2
    newer = plane.issue("b", tenant_id=7)
    assert (plane.owner_of(older), plane.owner_of(newer)) == ("a", "b")
    assert _ring(plane).kids == {1, 2}
    plane.drop(1)
    with pytest.raises(VirtualKeyError):
        plane.owner_of(older)
    assert plane.owner_of(newer) == "b"


def test_revoked_keys_are_denied() -> None:
    plane = ControlPlane()
    plane.rotate()
    plane.issue("a", tenant_id=7)
    plane.issue("b", tenant_id=7)
    plane.revoke(2)
    deny = DenySet()
    for revision, (name, reason) in enumerate(plane.denied.items(), 1):
        deny.put(name, reason.encode(), revision)
    assert (deny.check(7, 1), deny.check(7, 2)) == (None, DenyReason.FRAUD)


def test_seeds_do_not_show() -> None:
    plane = ControlPlane()
    plane.rotate()
    assert plane.seeds[1].reveal() not in repr(plane).encode()
    assert "redacted" in repr(plane)
