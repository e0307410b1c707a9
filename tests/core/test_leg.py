from __future__ import annotations

from aigw_core import leg
from aigw_core.leg import Leg


def test_every_member_stands_in_the_module_under_its_name() -> None:
    assert all(getattr(leg, member.name) is member for member in Leg)


def test_legs_are_ordered_as_a_connection_goes_through_them() -> None:
    assert sorted(Leg) == [leg.NONE, leg.CONNECTING, leg.READY, leg.BUSY, leg.RELEASED]
