from __future__ import annotations

import itertools

import pytest

from aigw_anyio.workers.readiness import Readiness, Row


def says(status: str, deny: str = "none", revision: int | None = None) -> Row:
    return {"status": status, "deny": deny, "deny_revision": revision}


OK = says("ok")


def judged(readiness: Readiness, *rows: Row | None) -> tuple[int, str]:
    status, row = readiness.judge(rows)
    return status, row["status"]


def started(workers: int) -> Readiness:
    """All of them have listened."""
    return Readiness(workers, lambda: True)


def test_not_ready_before_each_has_been_ready_once() -> None:
    readiness = Readiness(2, lambda: False)
    assert judged(readiness, None, None) == (503, "starting")
    assert judged(readiness, OK, None) == (503, "starting")
    assert judged(readiness, OK, says("starting")) == (503, "starting")
    assert judged(readiness, OK, OK) == (200, "ok")


def test_later_one_that_serves_is_enough() -> None:
    readiness = started(3)
    assert judged(readiness, OK, OK, says("degraded")) == (200, "degraded")
    assert judged(readiness, OK, OK, None) == (200, "degraded")
    assert judged(readiness, None, None, says("degraded")) == (200, "degraded")
    assert judged(readiness, None, OK, says("starting")) == (200, "degraded")
    assert judged(readiness, None, None, None) == (503, "starting")
    assert judged(readiness, says("starting"), None, None) == (503, "starting")


def test_once_all_have_listened_nobody_waits_for_one_that_is_gone() -> None:
    """Nobody may have asked before it went."""
    assert judged(started(2), OK, None) == (200, "degraded")
    assert judged(started(2), None, None) == (503, "starting")


def test_who_listens_and_is_not_ready_is_waited_for() -> None:
    readiness = started(2)
    assert judged(readiness, OK, says("starting")) == (503, "starting")
    assert judged(readiness, OK, OK) == (200, "ok")
    assert judged(readiness, OK, says("starting")) == (200, "degraded")


@pytest.mark.parametrize("other", [None, says("draining"), says("starting")])
def test_draining_where_nobody_serves(other: Row | None) -> None:
    readiness = started(2)
    assert judged(readiness, says("draining"), other) == (503, "draining")


def test_one_that_drains_alone_is_no_end_of_all() -> None:
    readiness = started(2)
    assert judged(readiness, says("draining"), OK) == (200, "degraded")


def test_the_feed_is_as_bad_as_the_worst() -> None:
    readiness = started(2)
    order = ["none", "live", "reconnecting", "seeding", "cold"]
    for better, worse in itertools.pairwise(order):
        _, row = readiness.judge([says("ok", better, 7), says("ok", worse, 5)])
        assert (row["deny"], row["deny_revision"]) == (worse, 5)
    _, row = readiness.judge([says("ok", "live", 7), None])
    assert (row["deny"], row["deny_revision"], row["workers"]) == ("live", 7, {"ready": 1, "of": 2})
    _, row = readiness.judge([None, None])
    assert (row["deny"], row["deny_revision"], row["workers"]) == ("cold", None, {"ready": 0, "of": 2})
