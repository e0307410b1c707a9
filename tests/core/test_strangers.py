"""Waits of those whose keys providers refuse: who waits, how long, and who never does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core import strangers as module
from aigw_core.strangers import (
    ACCEPTED_SECS,
    FORGOTTEN_SECS,
    JUDGED_SIZE,
    LONGEST_WAIT_SECS,
    REFUSALS_MAX,
    Strangers,
    names_the_key,
)

HOME = b"address"


def key(number: int) -> bytes:
    return b"credential-%d" % number


def refuse(strangers: Strangers, count: int, now: float, first: int = 0, address: bytes | None = HOME) -> None:
    """One refused exchange after the other, each with a credential of its own."""
    for number in range(first, first + count):
        strangers.refused(key(number), address, now, now)


def test_the_first_refusals_cost_nothing() -> None:
    strangers = Strangers()
    refuse(strangers, REFUSALS_MAX, 10.0)
    assert strangers.wait(key(99), HOME, 10.0) == 0.0
    refuse(strangers, 1, 10.0, first=50)
    assert strangers.wait(key(99), HOME, 10.0) == 1.0
    assert strangers.wait(key(99), b"elsewhere", 10.0) == strangers.wait(key(99), None, 10.0) == 0.0


def test_waits_double_up_to_a_minute() -> None:
    strangers, now, waits = Strangers(), 100.0, []
    refuse(strangers, REFUSALS_MAX, now)
    for number in range(10):
        refuse(strangers, 1, now, first=100 + number)
        waits.append(strangers.wait(key(99), HOME, now))
        assert strangers.wait(key(99), HOME, now + waits[-1] - 0.25) == 0.25
        now += waits[-1]
        assert strangers.wait(key(99), HOME, now) == 0.0, "its end is not in it"
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]


def test_what_was_sent_before_the_wait_began_says_nothing_new() -> None:
    strangers = Strangers()
    for number in range(500):
        strangers.refused(key(number), HOME, 5.0, 6.0 + number / 1000)
    assert strangers.wait(key(999), HOME, 6.0) == pytest.approx(1.0 + REFUSALS_MAX / 1000)
    assert strangers.wait(key(999), HOME, 7.1) == 0.0


def test_one_wrong_key_again_and_again_waits_alone() -> None:
    strangers = Strangers()
    for now in range(REFUSALS_MAX + 1):
        strangers.refused(key(1), HOME, float(now), float(now))
    assert strangers.wait(key(1), HOME, 4.0) == 1.0
    assert strangers.wait(key(1), b"elsewhere", 4.0) == 1.0
    assert strangers.wait(key(2), HOME, 4.0) == 0.0


def test_a_credential_that_was_accepted_lately_never_waits() -> None:
    strangers = Strangers()
    strangers.accepted(key(7), 0.0)
    refuse(strangers, 50, 1.0, first=100)
    assert strangers.wait(key(7), HOME, 1.0) == 0.0
    assert strangers.wait(key(8), HOME, 1.0) == 1.0
    for _ in range(50):
        strangers.refused(key(7), b"elsewhere", 2.0, 2.0)
    assert strangers.wait(key(7), b"elsewhere", 2.0) == 0.0
    assert strangers.wait(key(9), b"elsewhere", 2.0) == 0.0, "nor does it make its address wait"


def test_acceptance_does_not_last_for_ever() -> None:
    strangers = Strangers()
    strangers.accepted(key(7), 0.0)
    refuse(strangers, REFUSALS_MAX + 1, ACCEPTED_SECS, first=100)
    assert strangers.wait(key(7), HOME, ACCEPTED_SECS) == 1.0
    strangers.accepted(key(7), ACCEPTED_SECS)
    assert strangers.wait(key(7), HOME, ACCEPTED_SECS) == 0.0
    assert strangers.wait(key(8), HOME, ACCEPTED_SECS) == 1.0


def test_success_ends_the_wait_of_a_credential() -> None:
    strangers = Strangers()
    for now in range(REFUSALS_MAX + 1):
        strangers.refused(key(1), None, float(now), float(now))
    assert strangers.wait(key(1), None, 4.0) == 1.0
    strangers.accepted(key(1), 4.0)
    assert strangers.known == (1, 0)


def test_refusals_are_forgotten() -> None:
    strangers = Strangers()
    refuse(strangers, REFUSALS_MAX + 2, 0.0)
    end = 1.0
    refuse(strangers, 1, end + FORGOTTEN_SECS - 1.0, first=200)
    assert strangers.wait(key(99), HOME, end + FORGOTTEN_SECS - 1.0) == 2.0
    start = end + 2 * FORGOTTEN_SECS + 2.0
    refuse(strangers, REFUSALS_MAX, start, first=300)
    assert strangers.wait(key(99), HOME, start) == 0.0


def test_memory_is_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACCEPTED_MAX", 3)
    monkeypatch.setattr(module, "WAITING_MAX", 4)
    strangers = Strangers()
    for number in range(5):
        strangers.accepted(key(number), 0.0)
        refuse(strangers, 9, 0.0, first=1_000 + 10 * number, address=b"address-%d" % number)
    assert strangers.known == (3, 4)
    # The last refusals were of one address, so the others are forgotten.
    assert [strangers.wait(key(99), b"address-%d" % n, 0.0) > 0 for n in (3, 4)] == [False, False]
    strangers = Strangers()
    for number in (0, 1, 2, 0, 3):
        strangers.accepted(key(number), 0.0)
    refuse(strangers, 1, 0.0, first=50)
    for number in range(4):
        for _ in range(REFUSALS_MAX + 1):
            strangers.refused(key(number), None, 0.0, 0.0)
    assert [strangers.wait(key(number), None, 0.0) for number in range(4)] == [0.0, 1.0, 0.0, 0.0]


def test_the_bounds_are_not_small() -> None:
    strangers = Strangers()
    for number in range(module.WAITING_MAX + 2):
        strangers.refused(key(number), None, 0.0, 0.0)
        strangers.accepted(b"good-%d" % number, 0.0)
    assert strangers.known == (module.ACCEPTED_MAX, module.WAITING_MAX)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"error": {"message": "Your API key is not allowed here"}}', True),
        (b'{"reason": "API_KEY_SERVICE_BLOCKED"}', True),
        (b'{"error": "invalid Credentials"}', True),
        (b'{"error": {"code": "unsupported_country_region_territory"}}', False),
        (b'{"error": "you may not use this model"}', False),
        (b"x" * JUDGED_SIZE + b"api key", False),
        (b"", False),
    ],
)
def test_what_a_403_is_about(body: bytes, names: bool) -> None:
    assert names_the_key(body) is names


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["accept", "refuse", "ask"]), st.integers(0, 5), st.integers(0, 2), st.floats(0.0, 20.0)
        ),
        max_size=80,
    )
)
def test_no_wait_is_longer_than_a_minute_and_none_comes_without_refusals(
    steps: list[tuple[str, int, int, float]],
) -> None:
    strangers, now = Strangers(), 0.0
    refused: dict[bytes, int] = {}
    good: dict[bytes, float] = {}
    for what, number, place, pause in steps:
        now += pause
        address = b"address-%d" % place
        if what == "accept":
            strangers.accepted(key(number), now)
            good[key(number)] = now
        elif what == "refuse":
            strangers.refused(key(number), address, now, now)
            for one in (key(number), address):
                refused[one] = refused.get(one, 0) + 1
        wait = strangers.wait(key(number), address, now)
        assert 0.0 <= wait <= LONGEST_WAIT_SECS
        if wait:
            assert max(refused.get(key(number), 0), refused.get(address, 0)) > REFUSALS_MAX
            assert key(number) not in good or now >= good[key(number)] + ACCEPTED_SECS
