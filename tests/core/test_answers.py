"""Our own responses."""

from __future__ import annotations

import pytest

from aigw_core.answers import own_answer
from aigw_core.errors import Dialect, Reason, Rejection
from aigw_core.messages import NO_BODY, Length

ID = "0123456789abcdef"


@pytest.mark.parametrize("dialect", Dialect)
def test_head_and_body(dialect: Dialect) -> None:
    rejection = Rejection(Reason.BAD_KEY)
    head, body = own_answer(rejection, dialect, ID, b"POST")
    assert body == rejection.body(dialect, ID)
    assert (head.status, head.reason) == (401, b"Unauthorized")
    assert head.framing == Length(len(body))
    assert list(head.headers) == [
        *rejection.headers(dialect, ID),
        (b"content-length", b"%d" % len(body)),
        (b"x-aigw-request-id", ID.encode()),
    ]


def test_head_requests_get_the_head_alone() -> None:
    """RFC 9110 §9.3.2: the fields that GET would have got, Content-Length included."""
    rejection = Rejection(Reason.OUT_OF_SCOPE)
    head, body = own_answer(rejection, Dialect.OPENAI, ID, b"HEAD")
    assert body == b""
    assert head.framing == NO_BODY
    assert head.headers.get(b"content-length") == b"%d" % len(rejection.body(Dialect.OPENAI, ID))


def test_a_hook_may_choose_any_status() -> None:
    head, _ = own_answer(Rejection(Reason.HOOK, status_override=451), Dialect.OPENAI, ID, b"POST")
    assert (head.status, head.reason) == (451, b"")


def test_before_there_is_a_method_the_body_is_sent() -> None:
    """A request line that could not be read."""
    assert own_answer(Rejection(Reason.MALFORMED), Dialect.OPENAI, ID, b"")[1] != b""
