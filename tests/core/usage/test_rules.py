"""The words of body rules: labels, truth, and what a caller is told."""

from __future__ import annotations

import pytest

from aigw_core.errors import Reason, Rejection
from aigw_core.usage.rules import (
    CONTENT_TYPE_MAX,
    BodyRules,
    IncludeUsage,
    content_type_fault,
    is_off,
    is_true,
    is_true_text,
    struck,
    text_of,
    too_large,
    unreadable,
)


@pytest.mark.parametrize(
    "label",
    [
        b"",
        b"application/json",
        b"Application/JSON; charset=UTF-8",
        b'application/json;charset="utf-8"',
        b"text/plain",
        b"application/json, application/json",
    ],
)
def test_labels_that_pass(label: bytes) -> None:
    assert content_type_fault(label) is None


@pytest.mark.parametrize(
    "label",
    [
        b"multipart/form-data; boundary=x",
        b"application/x-www-form-urlencoded",
        b"application/json; charset=utf-16",
        b"application/json; charset=utf-7",
        b"application/json, multipart/form-data; boundary=x",
        b"application/json; charset=utf-8; charset=utf-16",
    ],
)
def test_labels_under_which_a_provider_might_read_something_else(label: bytes) -> None:
    fault = content_type_fault(label)
    assert fault is not None
    assert fault.status == 400


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "TRUE", "on", "yes", "1"])
def test_what_any_provider_takes_for_true(value: object) -> None:
    assert is_true(value)


@pytest.mark.parametrize("value", [False, None, 0, 2, "", "false", "no", [], {}, [True]])
def test_what_none_takes_for_true(value: object) -> None:
    assert not is_true(value)


@pytest.mark.parametrize(("raw", "expected"), [(b"true", True), (b'"On"', True), (b"1e0", True), (b"0", False)])
def test_truth_of_raw_text(raw: bytes, expected: bool) -> None:
    assert is_true_text(raw) is expected


def test_raw_text_that_is_too_long_or_missing_is_not_true() -> None:
    assert not is_true_text(None)
    assert is_true_text(b" " * 28 + b"true")
    assert not is_true_text(b" " * 29 + b"true")


@pytest.mark.parametrize(
    ("raw", "off"), [(b"false", True), (b"null", True), (b"0", False), (b'""', False), (None, False)]
)
def test_only_false_and_null_are_off(raw: bytes | None, off: bool) -> None:
    assert is_off(raw) is off


def test_text_is_text_only() -> None:
    assert text_of(b'"a\\u0062"') == "ab"
    assert text_of(b"3") is None
    assert text_of(None) is None


def test_faults_carry_their_rejection() -> None:
    assert (struck("No.", "stream").status, struck("No.", "stream").param) == (400, "stream")
    assert (unreadable("No.").status, unreadable("No.").message) == (415, "No.")
    assert (too_large(9).status, "9" in too_large(9).message) == (413, True)


@pytest.mark.parametrize(
    ("changes", "active"),
    [
        ({}, False),
        ({"include_usage": IncludeUsage.VERBATIM}, False),
        ({"include_usage": IncludeUsage.INJECT}, True),
        ({"include_usage": IncludeUsage.REQUIRE}, True),
        ({"refuse_background": True}, True),
        ({"refuse_stored_refs": True}, True),
        ({"on_model": lambda _: Rejection(Reason.HOOK)}, True),
    ],
)
def test_what_puts_a_rule_in_force(changes: dict[str, object], active: bool) -> None:
    fields: dict[str, object] = {
        "include_usage": None,
        "refuse_background": False,
        "refuse_stored_refs": False,
        "on_model": None,
        "max_bytes": 10,
    }
    rules = BodyRules(**{**fields, **changes})  # type: ignore[arg-type]  # each case names its own field
    assert rules.active is active


def test_a_content_type_that_is_far_too_long_is_refused_unread() -> None:
    fault = content_type_fault(b"application/json" + b";a=b" * CONTENT_TYPE_MAX)
    assert fault is not None
    assert "too long" in (fault.rejection.message or "")
