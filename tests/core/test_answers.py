"""Our own responses as effects."""

from __future__ import annotations

import pytest

from aigw_core.answers import own_answer
from aigw_core.effects import SendResponseBody, SendResponseEnd, SendResponseHead
from aigw_core.errors import Dialect, Reason, Rejection
from aigw_core.messages import NO_BODY, Length

ID = "0123456789abcdef"


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("close", [True, False])
def test_head_body_and_end(dialect: Dialect, close: bool) -> None:
    rejection = Rejection(Reason.BAD_KEY)
    head, body, end = own_answer(rejection, dialect, ID, b"POST", close)
    assert isinstance(head, SendResponseHead)
    assert isinstance(body, SendResponseBody)
    assert end == SendResponseEnd()
    assert body.data == rejection.body(dialect, ID)
    assert head.close is close
    assert (head.head.status, head.head.reason) == (401, b"Unauthorized")
    assert head.head.framing == Length(len(body.data))
    assert list(head.head.headers) == [
        *rejection.headers(dialect, ID),
        (b"content-length", b"%d" % len(body.data)),
        (b"x-aigw-request-id", ID.encode()),
    ]


def test_head_requests_get_the_head_alone() -> None:
    """RFC 9110 §9.3.2: the fields that GET would have got, Content-Length included."""
    rejection = Rejection(Reason.OUT_OF_SCOPE)
    head, end = own_answer(rejection, Dialect.OPENAI, ID, b"HEAD", False)
    assert isinstance(head, SendResponseHead)
    assert end == SendResponseEnd()
    assert head.head.framing == NO_BODY
    assert head.head.headers.get(b"content-length") == b"%d" % len(rejection.body(Dialect.OPENAI, ID))


def test_a_hook_may_choose_any_status() -> None:
    head = own_answer(Rejection(Reason.HOOK, status_override=451), Dialect.OPENAI, ID, b"POST", False)[0]
    assert isinstance(head, SendResponseHead)
    assert (head.head.status, head.head.reason) == (451, b"")


def test_before_there_is_a_method_the_body_is_sent() -> None:
    """A request line that could not be read."""
    kinds = [type(effect) for effect in own_answer(Rejection(Reason.MALFORMED), Dialect.OPENAI, ID, b"", True)]
    assert kinds == [SendResponseHead, SendResponseBody, SendResponseEnd]
