"""The short way for the usual request body sends and says what the scanner's way does, or is not taken."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.errors import Reason, Rejection
from aigw_core.usage.request import BodyRules, IncludeUsage, RequestBody, RequestFault
from aigw_core.usage.wholebody import WHOLE_MAX, read_whole_body
from tests.core.usage.helpers import split_at
from tests.core.usage.json_texts import Members, documents, values

FREE = BodyRules(None, refuse_background=False, refuse_stored_refs=False, on_model=None, max_bytes=1_000_000)
INJECT = replace(FREE, include_usage=IncludeUsage.INJECT)
REQUIRE = replace(FREE, include_usage=IncludeUsage.REQUIRE)
BACKGROUND = replace(FREE, refuse_background=True)
STORED = replace(BACKGROUND, refuse_stored_refs=True)
REFUSING = replace(INJECT, on_model=lambda model: Rejection(Reason.HOOK) if model != "m" else None)
ALL = (FREE, INJECT, REQUIRE, BACKGROUND, STORED, REFUSING)

members = st.lists(
    st.one_of(
        st.tuples(st.just("model"), st.sampled_from(["m", "other", None, 1])),
        st.tuples(st.just("stream"), st.sampled_from([True, False, 1, "on", None])),
        st.tuples(
            st.just("stream_options"),
            st.sampled_from([None, Members(), Members([("include_usage", True)]), Members([("include_usage", False)])]),
        ),
        st.tuples(st.sampled_from(["background", "previous_response_id", "input", "x"]), values),
    ),
    max_size=5,
).map(Members)


def scanned(rules: BodyRules, body: bytes) -> tuple[RequestBody, bytes | str]:
    """The same body in two pieces, which the scanner reads: what was sent, or why it was refused."""
    request = RequestBody(
        rules, declared_length=len(body), chunked=False, content_type=b"application/json", content_encoding=b""
    )
    try:
        sent = b"".join(request.feed(piece) for piece in split_at(body, [len(body) // 2])) + request.end()
    except RequestFault as fault:
        return request, fault.message
    return request, sent


@settings(max_examples=300, deadline=None)
@given(documents(members), st.sampled_from(ALL))
def test_it_sends_what_the_scanner_sends(body: bytes, rules: BodyRules) -> None:
    whole = read_whole_body(rules, body)
    if whole is None:
        return
    slow, expected = scanned(rules, body)
    try:
        sent: bytes | str = whole.feed(body) + whole.end()
    except RequestFault as fault:
        sent = fault.message
    assert sent == expected
    assert whole.requested_model == slow.requested_model
    assert whole.streaming is slow.streaming
    assert whole.client_asked_usage is slow.client_asked_usage
    if isinstance(sent, bytes):
        assert whole.injected is slow.injected
        assert whole.forward_length == slow.forward_length == len(sent)


@pytest.mark.parametrize("rules", ALL)
def test_the_usual_body_takes_it(rules: BodyRules) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    whole = read_whole_body(rules, body)
    assert whole is not None
    assert whole.collecting is rules.active
    assert (whole.feed(body), whole.end()) == ((b"", body) if rules.active else (body, b""))
    assert whole.text_bytes_hint == len(body)


@pytest.mark.parametrize(
    ("rules", "body"),
    [
        (INJECT, b' {"model":"m"}'),
        (INJECT, b'{"model":"m"} '),
        (INJECT, b"[1]"),
        (INJECT, b'{"model":"m"'),
        (INJECT, b'{"model":NaN}'),
        (INJECT, b'{"model":"\xff"}'),
        (INJECT, b'{"a":' * 20_000),
        (INJECT, b'{"stream":true,"stream_options":null}'),
        (INJECT, b'{"stream":true,"stream_options":{"include_usage":false}}'),
        (INJECT, b'{"Stream":true}'),
        (INJECT, b'{"stream_options":{"include_usage":true,"Include_usage":false}}'),
        (INJECT, '{"\u212aey":1}'.encode()),
        (INJECT, b'{"x":"' + b"x" * WHOLE_MAX + b'"}'),
        (replace(INJECT, max_bytes=5), b'{"a":1}'),
        (BACKGROUND, b'{"background":false}'),
        (STORED, b'{"conversation":null}'),
        (STORED, b'{"input":"text"}'),
    ],
)
def test_anything_else_is_scanned(rules: BodyRules, body: bytes) -> None:
    assert read_whole_body(rules, body) is None
