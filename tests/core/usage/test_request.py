"""Body rules and the include_usage splice, case by case and as properties."""

from __future__ import annotations

import gc
import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.errors import Reason, Rejection
from aigw_core.usage.request import HOLD_MAX, BodyRules, IncludeUsage, RequestBody, RequestFault
from aigw_core.usage.scanner import RootScanner
from aigw_core.usage.splice import SPLICE_MAX
from tests.core.usage.helpers import byte_by_byte, split_at
from tests.core.usage.json_texts import Members, broken_documents, documents, loaded, spelt
from tests.zstd import compress as zstd

MIB = 1024 * 1024
FREE = BodyRules(None, refuse_background=False, refuse_stored_refs=False, on_model=None, max_bytes=64 * MIB)
INJECT = replace(FREE, include_usage=IncludeUsage.INJECT)
REQUIRE = replace(FREE, include_usage=IncludeUsage.REQUIRE)
VERBATIM = replace(FREE, include_usage=IncludeUsage.VERBATIM)
BACKGROUND = replace(FREE, refuse_background=True)
STORED = replace(BACKGROUND, refuse_stored_refs=True)
ASKING = b'"stream_options":{"include_usage":true}'
LONG = b'{"messages":[{"role":"user","content":"' + b"four " * 20_000 + b'"}]'
"""The open beginning of a chat request that is too long to be collected."""


class Sent:
    """One body through a RequestBody."""

    def __init__(
        self,
        rules: BodyRules,
        pieces: bytes | list[bytes],
        *,
        chunked: bool = False,
        content_type: bytes = b"application/json",
        content_encoding: bytes = b"",
    ) -> None:
        pieces = [pieces] if isinstance(pieces, bytes) else pieces
        self.given = b"".join(pieces)
        self.body = RequestBody(
            rules,
            declared_length=None if chunked else len(self.given),
            chunked=chunked,
            content_type=content_type,
            content_encoding=content_encoding,
        )
        self.collected = self.body.collecting
        self.promised = self.body.forward_length
        self.out = b""
        self.fault: RequestFault | None = None
        try:
            for piece in pieces:
                out = self.body.feed(piece)
                while self.body.is_unread:
                    assert not out
                    out = self.body.resume()
                assert not (self.collected and out)
                self.out += out
            self.before_end = self.out
            self.out += self.body.end()
        except RequestFault as fault:
            self.fault = fault
        if self.fault is None:
            assert self.body.forward_length == (None if chunked else len(self.out))
            assert self.collected or self.promised == self.body.forward_length

    @property
    def status(self) -> int | None:
        return self.fault.status if self.fault is not None else None

    @property
    def root(self) -> dict[str, object]:
        root = loaded(self.out)
        assert root is not None
        return root


def each_way(rules: BodyRules, body: bytes, **heads: bytes) -> list[Sent]:
    """Collected; relayed with a length and chunked, each whole, cut and byte by byte."""
    relayed = replace(rules, collect_max=0)
    cuts = [3, len(body) // 3, len(body) - 2]
    splits = [[body], split_at(body, cuts)]
    if len(body) <= 1_000:
        splits.append(byte_by_byte(body))
    ways = [Sent(rules, pieces, **heads) for pieces in splits]  # type: ignore[arg-type]  # heads are bytes
    for pieces in splits:
        ways.append(Sent(relayed, pieces, **heads))  # type: ignore[arg-type]  # as above
        ways.append(Sent(relayed, pieces, chunked=True, **heads))
    return ways


def assert_refused(sent: Sent, status: int, param: str | None = None) -> None:
    assert sent.fault is not None
    assert (sent.fault.status, sent.fault.param) == (status, param)
    assert sent.fault.message
    assert len(sent.out) < len(sent.given)
    assert sent.given.startswith(sent.out)
    assert not (sent.collected and sent.out)


def assert_untouched(sent: Sent) -> None:
    assert sent.fault is None
    assert sent.out.rstrip(b" ") == sent.given.rstrip(b" ")
    assert sent.out.startswith(sent.given)
    assert not sent.body.injected


# Mode inject


def test_inject_adds_the_option_as_the_last_root_member() -> None:
    sent = Sent(INJECT, b'{"model":"gpt-4o","stream":true} \n')
    assert sent.out == b'{"model":"gpt-4o","stream":true,' + ASKING + b"} \n"
    assert sent.body.injected
    assert (sent.body.requested_model, sent.body.streaming, sent.body.client_asked_usage) == ("gpt-4o", True, False)


@pytest.mark.parametrize("stream", [b"", b',"stream":false', b',"stream":null', b',"x":{"stream":true}'])
def test_inject_leaves_a_request_that_does_not_stream(stream: bytes) -> None:
    for sent in each_way(INJECT, b'{"model":"m"' + stream + b"}"):
        assert_untouched(sent)
        assert sent.body.streaming is False
        assert sent.out == sent.given + b" " * ((sent.promised or len(sent.given)) - len(sent.given))


def test_inject_leaves_a_client_that_asked() -> None:
    for sent in each_way(INJECT, b'{"stream":true,' + ASKING + b"}"):
        assert_untouched(sent)
        assert sent.body.client_asked_usage is True


@pytest.mark.parametrize(
    "options",
    [b"{}", b"null", b'{"include_usage":false}', b'{"include_usage":null}', b'{"include_obfuscation":false}'],
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_half_set_stream_options_are_completed_in_place(options: bytes, order: str) -> None:
    members = [b'"stream":true', b'"stream_options": ' + options + b" "]
    body = b'{"a":1,' + b",".join(members if order == "before" else members[::-1]) + b',"z":2}'
    for sent in each_way(INJECT, body):
        assert sent.fault is None
        assert sent.body.injected
        pairs: list[tuple[str, object]] = json.loads(sent.out, object_pairs_hook=list)
        assert [key for key, _ in pairs].count("stream_options") == 1
        kept = {"include_obfuscation": False} if b"obfuscation" in options else {}
        assert sent.root == {**json.loads(body), "stream_options": {**kept, "include_usage": True}}


@pytest.mark.parametrize("options", [b'"on"', b"[]", b"5", b"true"])
def test_stream_options_of_another_type_are_left_to_the_provider(options: bytes) -> None:
    for sent in each_way(INJECT, b'{"stream":true,"stream_options":' + options + b"}"):
        assert_untouched(sent)


def test_duplicated_stream_the_last_wins() -> None:
    for sent in each_way(INJECT, b'{"stream":true,"stream":false}'):
        assert_untouched(sent)
    for sent in each_way(INJECT, b'{"stream":false,"stream":true}'):
        assert sent.body.injected
        assert sent.root["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("first", [b"true", b"false"])
def test_stream_that_turns_after_the_options_were_relayed_is_refused(first: bytes) -> None:
    second = b"false" if first == b"true" else b"true"
    body = LONG + b',"stream":' + first + b',"stream_options":null,"stream":' + second + b"}"
    for pieces in ([body], split_at(body, list(range(len(body) - 60, len(body))))):
        sent = Sent(INJECT, pieces)
        assert (sent.status, sent.fault and sent.fault.param) == (400, "stream")
        assert second + b"}" not in sent.out
    assert Sent(INJECT, body.replace(second + b"}", first + b"}")).body.injected == (first == b"true")


def test_escaped_keys_are_seen() -> None:
    body = rb'{"str\u0065am":true,"stream\u005foptions":{"include\u005Fusage":false}}'
    for sent in each_way(INJECT, body):
        assert sent.root == {"stream": True, "stream_options": {"include_usage": True}}


def test_duplicated_stream_options_collected_the_last_is_completed() -> None:
    body = b'{"stream_options":{"include_usage":true},"stream":true,"stream_options":{"a":1}}'
    sent = Sent(INJECT, body)
    assert sent.out == body[:-2] + b',"include_usage":true}}'
    assert (sent.body.injected, sent.body.client_asked_usage) == (True, False)


@pytest.mark.parametrize("chunked", [False, True])
def test_duplicated_stream_options_relayed_are_refused(chunked: bool) -> None:
    body = LONG + b',"stream":true,"stream_options":{},"stream_options":{}}'
    for pieces in ([body], split_at(body, list(range(len(body) - 70, len(body))))):
        sent = Sent(INJECT, pieces, chunked=chunked)
        assert (sent.status, sent.fault and sent.fault.param) == (400, "stream_options")
        assert (LONG + b',"stream":true,"stream_options":{"include_usage":true},"stream_options":').startswith(sent.out)


def test_duplicated_include_usage_is_true_whichever_is_taken() -> None:
    body = b'{"stream":true,"stream_options":{"include_usage":true,"x":1,"include_usage":false}}'
    for sent in each_way(INJECT, body):
        assert sent.out.rstrip() == body.replace(b"false", b"true")


def test_include_usage_repeated_beyond_the_promised_length_is_refused() -> None:
    repeats = SPLICE_MAX // len("true"[1:]) + 1
    body = LONG + b',"stream":true,"stream_options":{' + b",".join([b'"include_usage":0'] * repeats) + b"}}"
    assert Sent(INJECT, body).status == 400
    fits = body.replace(b'"include_usage":0,', b"", 1)
    assert Sent(INJECT, fits).status is None


def test_stream_after_megabytes_of_messages() -> None:
    body = b'{"messages":[{"role":"user","content":"' + b"four " * (3 * MIB // 5) + b'"}],"stream":true}'
    for chunked in (False, True):
        sent = Sent(INJECT, split_at(body, list(range(0, len(body), 60_000))), chunked=chunked)
        assert sent.out == body[:-1] + b"," + ASKING + b"}"
        assert sent.body.injected
        assert len(body) - 70_000 < len(sent.before_end) < len(body)


def test_a_relayed_body_keeps_its_length_by_whitespace() -> None:
    body = LONG + b',"stream":false}'
    sent = Sent(INJECT, body)
    assert sent.promised == len(body) + SPLICE_MAX
    assert sent.out == body + b" " * SPLICE_MAX
    assert sent.before_end == body[:-1]


def test_a_chunked_body_stays_chunked_and_gets_no_whitespace() -> None:
    body = LONG + b',"stream":false}'
    sent = Sent(INJECT, body, chunked=True)
    assert (sent.promised, sent.out) == (None, body)


def test_the_declared_length_decides_what_is_collected() -> None:
    limit = INJECT.collect_max
    body = b'{"stream":true,"a":"' + b"x" * (limit - 22) + b'"}'
    assert len(body) == limit
    assert Sent(INJECT, body).collected
    assert not Sent(INJECT, body[:-2] + b'x"}').collected
    assert not Sent(INJECT, body, chunked=True).collected
    assert not Sent(FREE, body).collected


@pytest.mark.parametrize("distance", [HOLD_MAX, HOLD_MAX + 1])
@pytest.mark.parametrize("options", [b"{}", b"null"])
@pytest.mark.parametrize("pieces", [1, 50])
def test_stream_options_are_held_until_stream_is_known(distance: int, options: bytes, pieces: int) -> None:
    """``distance`` counts from the first byte of the options to the end of the `stream` member."""
    gap = distance - len(options) - len(b',"x":"",') - len(b'"stream":true')
    body = LONG + b',"stream_options":' + options + b',"x":"' + b"y" * gap + b'","stream":true}'
    start = body.index(options + b',"x"')
    assert body.index(b'"stream":true') + len(b'"stream":true') - start == distance
    sent = Sent(INJECT, split_at(body, [len(body) * at // pieces for at in range(pieces)]))
    if options == b"null" and distance > HOLD_MAX:
        assert (sent.status, sent.fault and sent.fault.param) == (400, "stream_options")
        assert len(sent.out) < len(body)
    else:
        assert sent.root == {**json.loads(body), "stream_options": {"include_usage": True}}
        assert sent.body.injected


def test_nothing_held_leaves_before_stream_is_known() -> None:
    body = LONG + b',"stream_options":null,"x":1'
    for chunked in (False, True):
        request = RequestBody(
            INJECT,
            declared_length=None if chunked else len(body) + 100,
            chunked=chunked,
            content_type=b"",
            content_encoding=b"",
        )
        assert request.feed(body) == body[: body.index(b"null")]
        held = b'null,"x":1,"stream":false,'
        assert request.feed(b',"stream":false,') == (held[:-1] if chunked else held)


def test_a_held_null_of_a_request_that_never_streams_is_untouched() -> None:
    for sent in each_way(INJECT, b'{"stream_options":null,"a":1}'):
        assert_untouched(sent)
    assert_untouched(Sent(INJECT, LONG + b',"stream_options":null,"a":1}'))


@pytest.mark.parametrize("size", [HOLD_MAX, HOLD_MAX + 1])
def test_both_sides_of_the_hold_for_one_value(size: int) -> None:
    options = b'{"a":"' + b"x" * (size - 8) + b'"}'
    assert len(options) == size
    body = LONG + b',"stream":true,"stream_options":' + options + b"}"
    for pieces in ([body], split_at(body, list(range(0, len(body), 999)))):
        assert Sent(INJECT, pieces).status == (None if size == HOLD_MAX else 400)


@pytest.mark.parametrize("stream", [b"1", b'"true"', b'"on"', b"1.0"])
def test_what_a_lenient_parser_takes_for_true_streams(stream: bytes) -> None:
    for sent in each_way(INJECT, b'{"stream":' + stream + b"}"):
        assert sent.body.injected
        assert sent.body.streaming is True


def test_an_endless_value_is_refused_before_more_is_held() -> None:
    begin = LONG + b',"stream":true,"stream_options":{"a":"'
    request = RequestBody(INJECT, declared_length=None, chunked=True, content_type=b"", content_encoding=b"")
    assert request.feed(begin) == begin[: begin.rindex(b"{")]
    for _ in range((HOLD_MAX - 6) // 1_000):
        assert request.feed(b"x" * 1_000) == b""
    with pytest.raises(RequestFault):
        request.feed(b"x" * 1_000)


def test_a_hold_ends_where_stream_does_not_come() -> None:
    request = RequestBody(INJECT, declared_length=None, chunked=True, content_type=b"", content_encoding=b"")
    begin = LONG + b',"stream_options":{},"x":"'
    request.feed(begin)
    room = HOLD_MAX - len(b'{},"x":"')
    assert request.feed(b"x" * room) == b""
    assert request.feed(b"x") == b'{"include_usage":true},"x":"' + b"x" * room


def test_an_empty_object_gets_no_comma() -> None:
    options = Sent(INJECT, b'{"stream":true,"stream_options":{ }}')
    assert options.out == b'{"stream":true,"stream_options":{ "include_usage":true}}'
    assert_untouched(Sent(INJECT, b"{ }"))


def test_verbatim_changes_nothing_and_collects_nothing() -> None:
    for body in (b'{"stream":true}', b"not json", b"\xff\xfe{", b""):
        sent = Sent(VERBATIM, body)
        assert (sent.out, sent.status, sent.collected) == (body, None, False)


# Mode require


def test_require_refuses_a_stream_that_does_not_ask() -> None:
    for tail in (b"", b',"stream_options":null', b',"stream_options":{"include_usage":false}', b',"stream_options":3'):
        for sent in each_way(REQUIRE, b'{"stream":true' + tail + b"}"):
            assert_refused(sent, 400, "stream_options")
            assert sent.fault is not None
            assert "include_usage" in sent.fault.message


def test_require_passes_what_asks_and_what_does_not_stream() -> None:
    for body in (b'{"stream":true,' + ASKING + b"}", b'{"stream":false}', b"{}", b'{"stream":null}'):
        for sent in each_way(REQUIRE, body):
            assert (sent.fault, sent.out) == (None, body)


# Background responses and stored references


@pytest.mark.parametrize("value", [b"true", b"1", b'"true"', b"0", b"[]", b"{}", b'""'])
@pytest.mark.parametrize("rules", [BACKGROUND, STORED])
def test_background_is_refused_plain(value: bytes, rules: BodyRules) -> None:
    for sent in each_way(rules, b'{"model":"m","background":' + value + b',"input":"hi"}'):
        assert_refused(sent, 400, "background")


@pytest.mark.parametrize("value", [b"false", b"null"])
def test_background_that_is_off_passes(value: bytes) -> None:
    for sent in each_way(BACKGROUND, b'{"background":' + value + b',"x":{"background":true}}'):
        assert (sent.fault, sent.out) == (None, sent.given)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"b\u0061ckground":true}',
        b'{"background":false,"background":true}',
        b'{"background":true,"background":false}',
        b'{"background":"' + b"x" * (HOLD_MAX + 1) + b'"}',
    ],
)
def test_background_escaped_duplicated_or_long_is_refused(body: bytes) -> None:
    for sent in each_way(BACKGROUND, body):
        assert_refused(sent, 400, "background")


@pytest.mark.parametrize("rules", [FREE, INJECT])
def test_background_passes_where_the_rule_is_not_in_force(rules: BodyRules) -> None:
    for sent in each_way(rules, b'{"background":true}'):
        assert_untouched(sent)


@pytest.mark.parametrize("name", [b"previous_response_id", b"conversation"])
def test_stored_references_at_the_root_are_refused(name: bytes) -> None:
    for value in (b'"resp_1"', b'{"id":"conv_1"}', b'""', b"0"):
        for sent in each_way(STORED, b'{"input":[],"' + name + b'":' + value + b"}"):
            assert_refused(sent, 400, name.decode())
    for sent in each_way(STORED, b'{"input":"hi","' + name + b'":null}'):
        assert (sent.fault, sent.out) == (None, sent.given)
    for sent in each_way(BACKGROUND, b'{"' + name + b'":"resp_1"}'):
        assert sent.fault is None


STORED_ITEMS = [
    b'{"type":"item_reference","id":"msg_1"}',
    rb'{"typ\u0065":"item\u005freference","\u0069d":"msg_1"}',
    b'{"id":"msg_1"}',
    b'{"id":"msg_1","type":null}',
    b'{"id":"msg_1","role":"user"}',
    b'{"id":"rs_1","type":"reasoning","summary":[]}',
    b'{"id":"rs_1","type":"reasoning","encrypted_content":null}',
    b'{"type":"image_generation_call","id":"ig_1"}',
    b'{"id":"msg_1","type":"message","type":"item_reference"}',
    b'{"id":"msg_1","type":"item_reference","type":"message"}',
    b'{ "a" : {"type":"message"} , "id" : 7 }',
]
OTHER_ITEMS = [
    b'"text"',
    b"{}",
    b'{"type":"message","role":"user","content":"{\\"type\\":\\"item_reference\\",\\"id\\":1}"}',
    b'{"role":"user","content":"hi"}',
    b'{"role":"user","content":"hi","id":"msg_1"}',
    b'{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"item_reference","id":"x"}]}',
    b'{"id":"rs_1","type":"reasoning","encrypted_content":"gAAA"}',
    b'{"id":"rs_1","type":"reasoning","content":[{"type":"reasoning_text","text":"hm"}]}',
    b'{"id":"ig_1","type":"image_generation_call","result":"iVBO"}',
    b'{"id":"fc_1","type":"function_call","call_id":"c","name":"f","arguments":"{}"}',
    b'{"type":"item_reference","id":null}',
    b'{"content":[[[[[[{"id":1}]]]]]]}',
    b'[{"a":[{"id":"x"}]}]',
]


@pytest.mark.parametrize("item", STORED_ITEMS)
def test_items_that_name_stored_content_are_refused(item: bytes) -> None:
    body = b'{"input":[' + b",".join([*OTHER_ITEMS, item, b'"x"']) + b'],"model":"m"}'
    for sent in each_way(STORED, body) + each_way(STORED, b'{"input":[' + item + b"]}"):
        assert_refused(sent, 400, "input")
    assert Sent(BACKGROUND, body).fault is None


def test_other_items_pass() -> None:
    for items in (OTHER_ITEMS, OTHER_ITEMS[::-1], OTHER_ITEMS * 3):
        body = (
            b'{"input":[ ' + b" , ".join(items) + b' ],"model":"m","x":[{"id":1}],"tools":[{"type":"item_reference"}]}'
        )
        for sent in each_way(STORED, body):
            assert (sent.fault, sent.out, sent.body.requested_model) == (None, body, "m")


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.sampled_from(OTHER_ITEMS), max_size=4),
    stored=st.none() | st.sampled_from(STORED_ITEMS),
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(0, 10_000), max_size=5),
)
def test_items_are_found_among_any_others(items: list[bytes], stored: bytes | None, seed: int, cuts: list[int]) -> None:
    chosen = items if stored is None else [*items, stored]
    Random(seed).shuffle(chosen)
    body = b'{"a":[1],"input":[' + b",".join(chosen) + b'],"b":2}'
    for pieces in ([body], split_at(body, cuts), byte_by_byte(body)):
        assert Sent(replace(STORED, collect_max=0), pieces).status == (None if stored is None else 400)


def test_an_input_object_is_refused_and_repeated_inputs_are_all_searched() -> None:
    for body in (
        b'{"input":{"type":"item_reference","id":"msg_1"}}',
        b'{"input":[{"id":"msg_1"}],"input":"hi"}',
        b'{"input":"hi","input":[{"id":"msg_1"}]}',
        rb'{"inp\u0075t":[{"id":"msg_1"}]}',
    ):
        for sent in each_way(STORED, body):
            assert_refused(sent, 400, "input")


def test_an_item_reference_after_megabytes_of_input() -> None:
    item = b'{"role":"user","content":[{"type":"input_text","text":"' + b"four " * 20_000 + b'"}]},'
    body = b'{"input":[' + item * 30 + b'{"type":"item_reference","id":"msg_1"}]}'
    sent = Sent(STORED, split_at(body, list(range(0, len(body), 50_000))))
    assert_refused(sent, 400, "input")
    assert len(sent.out) > 2 * MIB


# The model hook


def hook(*, allowed: str | None) -> tuple[BodyRules, list[str | None]]:
    asked: list[str | None] = []

    def on_model(model: str | None) -> Rejection | None:
        asked.append(model)
        return None if model == allowed else Rejection(Reason.HOOK, "Not this model.", "model")

    return replace(FREE, on_model=on_model), asked


def test_on_model_decides_before_the_provider_has_the_body() -> None:
    rules, asked = hook(allowed="good")
    for sent in each_way(rules, b'{"x":1,"model":"go\\u006fd"}'):
        assert (sent.fault, sent.out) == (None, sent.given)
    for sent in each_way(rules, b'{"model":"good","model":"bad"}'):
        assert_refused(sent, 403, "model")
        assert sent.fault is not None
        assert sent.fault.rejection.reason is Reason.HOOK
        assert sent.fault.code == "refused"
    assert set(asked) == {"good", "bad"}


@pytest.mark.parametrize("body", [b"{}", b'{"model":null}', b'{"model":5}', b'{"x":{"model":"good"}}'])
def test_on_model_is_asked_with_none_where_no_string_is_stated(body: bytes) -> None:
    rules, asked = hook(allowed="good")
    for sent in each_way(rules, body):
        assert_refused(sent, 403, "model")
    assert set(asked) == {None}


def test_on_model_is_asked_once_and_without_a_body_with_none() -> None:
    rules, asked = hook(allowed=None)
    for chunked in (False, True):
        assert Sent(rules, b"", chunked=chunked).fault is None
    assert asked == [None, None]
    body = RequestBody(rules, declared_length=None, chunked=False, content_type=b"", content_encoding=b"")
    body.judge_empty()
    rules, asked = hook(allowed="x")
    body = RequestBody(rules, declared_length=None, chunked=False, content_type=b"", content_encoding=b"")
    with pytest.raises(RequestFault):
        body.judge_empty()
    assert asked == [None]


def test_a_model_too_long_to_be_read_is_refused() -> None:
    rules, asked = hook(allowed=None)
    body = b'{"model":"' + b"x" * HOLD_MAX + b'"}'
    assert_refused(Sent(rules, body), 400, "model")
    assert asked == []


# Encodings


CODINGS: list[tuple[bytes, Callable[[bytes], bytes]]] = [(b"gzip", gzip.compress), (b"zstd", zstd)]
coded = pytest.mark.parametrize(("coding", "encode"), CODINGS)


@coded
def test_background_is_refused_encoded(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    body = encode(b'{"model":"m","background":true,"input":"hi"}')
    for sent in each_way(BACKGROUND, body, content_encoding=coding):
        assert_refused(sent, 400, "background")


@coded
def test_an_encoded_body_goes_on_verbatim(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    for plain in (b'{"model":"m","stream":false}', b'{"model":"m","stream":true,' + ASKING + b"}"):
        for sent in each_way(INJECT, encode(plain), content_encoding=coding):
            assert (sent.fault, sent.out) == (None, sent.given)
            assert sent.body.requested_model == "m"


@coded
def test_an_encoded_body_that_needs_the_splice_is_415(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    for plain in (b'{"stream":true}', b'{"stream":true,"stream_options":{}}', b'{"stream_options":null,"stream":true}'):
        for sent in each_way(INJECT, encode(plain), content_encoding=coding):
            assert_refused(sent, 415)


@coded
def test_a_long_encoded_body_streams_through_the_scanner(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    text = "".join(Random(1).choices("abcdefghij ", k=500_000)).encode()
    for tail, status in ((b"}", None), (b',"background":true}', 400)):
        body = encode(b'{"input":"' + text + b'"' + tail)
        assert len(body) > BACKGROUND.collect_max
        sent = Sent(BACKGROUND, split_at(body, list(range(0, len(body), 30_000))), content_encoding=coding)
        assert sent.status == status
        assert sent.out == (body if status is None else body[: len(sent.out)])
        assert len(body) - 30_000 <= len(sent.out) <= len(body) - (status is not None)


@coded
def test_a_cut_or_corrupt_encoding_is_400(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    body = encode(b'{"input":"' + bytes(Random(2).choices(b"abcdefgh", k=300)) + b'"}')
    for broken in (body[:-1], body[:-9], body[:20], b"\x00" + body, body + b"junk", b'{"a":1}', b"\x1f"):
        for sent in each_way(BACKGROUND, broken, content_encoding=coding):
            assert_refused(sent, 400)


@coded
def test_a_decoded_copy_beyond_the_cap_is_400(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    plain = b'{"input":"' + bytes(Random(3).choices(b"abcdefgh", k=990_000)) + b'"}'
    body = encode(plain)
    assert Sent(replace(BACKGROUND, max_bytes=len(plain)), body, content_encoding=coding).fault is None
    assert_refused(Sent(replace(BACKGROUND, max_bytes=len(plain) - 1), body, content_encoding=coding), 400)


def test_a_bomb_is_400() -> None:
    body = gzip.compress(b'{"input":"' + b"x" * 30 * MIB + b'"}')
    assert len(body) < 64_000
    assert_refused(Sent(BACKGROUND, body, content_encoding=b"gzip"), 400)


@pytest.mark.parametrize(
    "coding", [b"br", b"deflate", b"compress", b"gzip, gzip", b"gzip,zstd", b"gzip, identity", b"x"]
)
@pytest.mark.parametrize("rules", [BACKGROUND, INJECT, REQUIRE])
def test_an_unknown_or_stacked_coding_is_415(coding: bytes, rules: BodyRules) -> None:
    for sent in each_way(rules, b'{"model":"m"}', content_encoding=coding):
        assert_refused(sent, 415)
        assert sent.out == b""


def test_any_coding_passes_where_no_rule_is_in_force() -> None:
    for coding in (b"br", b"gzip", b"zstd", b"gzip, br"):
        sent = Sent(FREE, b"whatever", content_encoding=coding)
        assert (sent.out, sent.fault, sent.body.requested_model, sent.body.streaming) == (b"whatever", None, None, None)


def test_identity_is_no_coding() -> None:
    assert Sent(INJECT, b'{"stream":true}', content_encoding=b" Identity ").body.injected


# What is not JSON in UTF-8


@pytest.mark.parametrize("rules", [INJECT, REQUIRE, BACKGROUND, STORED, hook(allowed=None)[0]])
@pytest.mark.parametrize(
    "body",
    [
        '{"background":true,"stream":true}'.encode("utf-16"),
        '{"background":false}'.encode("utf-16-le"),
        '{"background":false}'.encode("utf-8-sig"),
        b'[{"stream":false}]',
        b'"text"',
        b"stream=true",
        b'{"a":NaN}',
        b'{"a":1}{"a":1}',
        b'{"a":1',
        b'{"a":"\xff"}',
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n",
        b" \n",
    ],
    ids=["utf-16", "utf-16-le", "bom", "array", "string", "form", "nan", "two", "cut", "latin-1", "multipart", "blank"],
)
def test_a_root_that_is_not_one_utf8_json_object_is_400(rules: BodyRules, body: bytes) -> None:
    for sent in each_way(rules, body):
        assert_refused(sent, 400)


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json; charset=utf-16",
        b'Application/JSON; Charset="UTF-16LE"',
        b"application/json;charset=iso-8859-1",
        b"application/json; charset=utf-8; charset=utf-16",
        b"multipart/form-data; boundary=x",
        b"application/x-www-form-urlencoded",
        b"application/json, multipart/form-data",
    ],
)
def test_a_label_that_reads_the_body_otherwise_is_400(content_type: bytes) -> None:
    for sent in each_way(INJECT, b'{"stream":false}', content_type=content_type):
        assert_refused(sent, 400)
        assert sent.out == b""
    assert Sent(FREE, b'{"stream":false}', content_type=content_type).fault is None


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json; charset=utf-8",
        b'text/plain; charset="UTF8"',
        b"application/vnd.x+json;charset=us-ascii",
    ],
)
def test_other_labels_do_not_matter(content_type: bytes) -> None:
    assert Sent(INJECT, b'{"stream":true}', content_type=content_type).body.injected


# Size


@pytest.mark.parametrize("rules", [FREE, INJECT, BACKGROUND])
def test_the_streamed_cap(rules: BodyRules) -> None:
    body = b'{"a":"' + b"x" * 100 + b'"}'
    fits, over = replace(rules, max_bytes=len(body)), replace(rules, max_bytes=len(body) - 1)
    for pieces in ([body], byte_by_byte(body)):
        assert Sent(fits, pieces, chunked=True).out == body
        sent = Sent(over, pieces, chunked=True)
        assert sent.status == 413
        assert len(sent.out) < len(body)


def test_a_rule_struck_within_the_cap_comes_first() -> None:
    body = b'{"background":true,"a":"' + b"x" * 100 + b'"}'
    for pieces in ([body], byte_by_byte(body)):
        assert Sent(replace(BACKGROUND, max_bytes=50), pieces, chunked=True).status == 400
        assert Sent(replace(BACKGROUND, max_bytes=10), pieces, chunked=True).status == 413


def test_a_fault_stays() -> None:
    body = RequestBody(BACKGROUND, declared_length=None, chunked=True, content_type=b"", content_encoding=b"")
    with pytest.raises(RequestFault):
        body.feed(b'{"background":1,')
    with pytest.raises(RequestFault):
        body.feed(b'"a":1}')
    with pytest.raises(RequestFault):
        body.end()


# Facts that are read beside


@pytest.mark.parametrize("size", [10, 70_000])
def test_without_a_rule_bytes_pass_and_model_and_stream_are_read(size: int) -> None:
    body = b'{"model":"claude","messages":"' + b"x" * size + b'","stream":true}'
    for chunked in (False, True):
        for pieces in ([body], split_at(body, list(range(0, len(body), 999)))):
            sent = Sent(FREE, pieces, chunked=chunked)
            assert (sent.out, sent.before_end, sent.fault) == (body, body, None)
            assert (sent.body.requested_model, sent.body.streaming) == ("claude", True)


@coded
def test_without_a_rule_an_encoded_body_is_read_as_well(coding: bytes, encode: Callable[[bytes], bytes]) -> None:
    body = encode(b'{"model":"claude","stream":true}')
    for pieces in ([body], byte_by_byte(body)):
        sent = Sent(FREE, pieces, content_encoding=coding)
        assert (sent.out, sent.body.requested_model, sent.body.streaming) == (body, "claude", True)
    for broken in (body[:-3], body + b"junk", b"\x00" + body):
        sent = Sent(FREE, broken, content_encoding=coding)
        assert (sent.out, sent.fault, sent.body.requested_model, sent.body.streaming) == (broken, None, None, None)


@pytest.mark.parametrize(
    "body", [b'{"model":"m","stream":true', b'{"model":"m"}x', b'["model"]', b"\xff", b'{"model":NaN}']
)
def test_without_a_rule_an_unreadable_body_is_nobodys_business(body: bytes) -> None:
    for pieces in ([body], byte_by_byte(body)):
        sent = Sent(FREE, pieces)
        assert (sent.out, sent.fault) == (body, None)
        assert (sent.body.requested_model, sent.body.streaming, sent.body.client_asked_usage) == (None, None, None)


@pytest.mark.parametrize(("count", "rules"), [(30_000, INJECT), (5_000, INJECT), (30_000, FREE)])
def test_numbers_beyond_the_standard_decoder_are_read(count: int, rules: BodyRules) -> None:
    sent = Sent(rules, b'{"a":' + b"1" * count + b',"model":"m","stream":true}')
    assert sent.fault is None
    assert (sent.body.requested_model, sent.body.streaming) == ("m", True)
    assert sent.body.injected == (rules is INJECT)


@pytest.mark.parametrize("filler", [b"", b"x" * 70_000])
def test_nesting_beyond_any_client_is_400_under_a_rule(filler: bytes) -> None:
    for depth in (30_000, 1_500):
        body = b'{"x":"' + filler + b'","a":' + b"[" * depth + b"]" * depth + b',"model":"m","stream":true}'
        for pieces in ([body], split_at(body, list(range(0, len(body), 999)))):
            assert_refused(Sent(INJECT, pieces), 400)
            assert Sent(FREE, pieces).out == body


@pytest.mark.parametrize(
    ("rules", "member"),
    [
        (INJECT, b'"Stream":true'),
        (INJECT, b'"STREAM_options":{"include_usage":true}'),
        (INJECT, '"\u017ftream":true'.encode()),
        (INJECT, b'"stream":true,"stream_options":{"Include_Usage":true}'),
        (INJECT, b'"stream":true,"stream_options":{"include_usage":true,"INCLUDE_USAGE":false}'),
        (BACKGROUND, '"bac\u212aground":true'.encode()),
        (BACKGROUND, b'"bac\\u212Aground":true'),
        (STORED, b'"Previous_Response_Id":"resp_1"'),
        (STORED, b'"Input":[{"type":"item_reference","id":"msg_1"}]'),
        (STORED, b'"input":[{"type":"item_reference","ID":"msg_1"}]'),
    ],
)
def test_a_member_that_differs_in_case_alone_is_400(rules: BodyRules, member: bytes) -> None:
    body = b'{"model":"m",' + member + b',"x":1}'
    for sent in each_way(rules, body):
        assert_refused(sent, 400, sent.fault.param if sent.fault else None)
        assert sent.fault is not None
        assert "lower case" in sent.fault.message
    assert Sent(FREE, body).out == body
    nested = b'{"model":"m","x":{' + member + b"}}"
    assert Sent(rules, nested).fault is None


@pytest.mark.parametrize(
    "options", [b'{"include_usage":false}', b'{"include_usage":null,"x":1}', b'{"include_usage":"no"}']
)
def test_an_option_that_says_no_is_made_true_where_none_is_added(options: bytes) -> None:
    rules = replace(INJECT, adds_option=False)
    for stream, changes in ((b"true", True), (b"false", False)):
        body = b'{"stream":' + stream + b',"stream_options":' + options + b"}"
        for sent in each_way(rules, body):
            assert sent.fault is None
            assert sent.body.injected == changes
            asks = sent.root["stream_options"]
            assert isinstance(asks, dict)
            assert (asks["include_usage"] is True) == changes
    short = b'{"stream":true,"stream_options":{"include_usage":0},"x":"' + b"y" * 70_000 + b'"}'
    assert_refused(Sent(rules, short), 400, "stream_options")  # its length is promised before it is read
    for body in (b'{"stream":true}', b'{"stream":true,"stream_options":{}}', b'{"stream":true,"stream_options":null}'):
        for sent in each_way(rules, body):
            assert (sent.out.rstrip(), sent.body.injected) == (body, False)


MEDIA = b"iVBORw0KGgo/+" * 5_000


@pytest.mark.parametrize("head", [b'"image_url":{"url":"data:image/png;base64,', b'"source":{"type":"base64","data":"'])
@pytest.mark.parametrize("step", [1, 700, 10_000, 10**6])
def test_inline_media_is_not_text(head: bytes, step: int) -> None:
    body = b'{"model":"m","messages":[{"x":' + b'"four words of text",' + head + MEDIA + b'"},"y":"more text"}]}'
    sent = Sent(FREE, split_at(body, list(range(0, len(body), step))))
    text = len(body) - len(MEDIA)
    assert text - 60 <= sent.body.text_bytes_hint <= text + 60


def test_text_is_text_and_what_is_not_decoded_counts_as_sent() -> None:
    body = b'{"messages":"' + b"some words, and code = base64; " * 1_000 + b'"}'
    for pieces in ([body], split_at(body, list(range(0, len(body), 99)))):
        assert Sent(FREE, pieces).body.text_bytes_hint == len(body)
    assert Sent(FREE, b"x" * 77, content_encoding=b"br").body.text_bytes_hint == 77
    assert Sent(FREE, gzip.compress(body), content_encoding=b"gzip").body.text_bytes_hint == len(body)


# Properties


def chat_value(key: str) -> st.SearchStrategy[object]:
    flags = st.sampled_from([True, False, None, 1, "x"])
    if key == "stream":
        return st.sampled_from([True, True, False, None, "true", 0])
    if key == "stream_options":
        members = st.lists(st.tuples(st.sampled_from(["include_usage", "x"]), flags), max_size=2).map(Members)
        return st.one_of(members, st.none(), st.just([]))
    return st.sampled_from(["m", None, 3, [1, "stream"], "😀"])


chats = documents(
    st.lists(
        st.sampled_from(["stream", "stream_options", "model", "messages"]).flatmap(
            lambda key: st.tuples(st.just(key), chat_value(key))
        ),
        max_size=5,
    ).map(Members)
)


def truthy(value: object) -> bool:
    return value is True or value == 1 or value == "true"


@settings(max_examples=250, deadline=None)
@given(body=chats, cuts=st.lists(st.integers(0, 1_000), max_size=5))
def test_inject_gives_the_same_document_plus_the_option(body: bytes, cuts: list[int]) -> None:
    root = loaded(body)
    assert root is not None
    options = root.get("stream_options")
    asked = isinstance(options, dict) and truthy(options.get("include_usage"))
    fixable = options is None or isinstance(options, dict)
    needed = truthy(root.get("stream")) and fixable and not asked
    if needed:
        expected = {**root, "stream_options": {**(options if isinstance(options, dict) else {}), "include_usage": True}}
    else:
        expected = root

    sent = Sent(INJECT, split_at(body, cuts))
    assert sent.root == expected
    assert sent.body.injected == needed
    assert (sent.body.streaming, sent.body.client_asked_usage) == (truthy(root.get("stream")), asked)
    assert sent.out == body or needed

    relayed = replace(INJECT, collect_max=0)
    for chunked in (False, True):
        ways = [Sent(relayed, pieces, chunked=chunked) for pieces in ([body], split_at(body, cuts), byte_by_byte(body))]
        assert len({(way.status, way.out if way.fault is None else b"") for way in ways}) == 1
        first = ways[0]
        if first.fault is None:
            assert first.body.injected == needed
            assert first.root == expected
        else:
            # Only what repeats a member is refused beyond what a collected body allows.
            pairs: list[tuple[str, object]] = json.loads(body, object_pairs_hook=list)
            keys = [key for key, _ in pairs]
            assert first.status == 400
            assert max(keys.count("stream"), keys.count("stream_options")) > 1
            assert all(len(way.out) < len(body) + SPLICE_MAX for way in ways)


@settings(max_examples=250, deadline=None)
@given(
    body=documents() | broken_documents() | chats,
    rules=st.sampled_from([INJECT, REQUIRE, BACKGROUND, STORED, hook(allowed="m")[0]]),
    coding=st.sampled_from([b"", b"gzip", b"zstd"]),
    chunked=st.booleans(),
    collect_max=st.sampled_from([0, 65_536]),
    cuts=st.lists(st.integers(0, 1_000), max_size=5),
)
def test_what_is_refused_never_reaches_a_provider_whole(
    body: bytes, rules: BodyRules, coding: bytes, chunked: bool, collect_max: int, cuts: list[int]
) -> None:
    readable = loaded(body)
    encoders: dict[bytes, Callable[[bytes], bytes]] = {b"": bytes, b"gzip": gzip.compress, b"zstd": zstd}
    sent_bytes = encoders[coding](body)
    rules = replace(rules, collect_max=collect_max)
    ways = [
        Sent(rules, pieces, chunked=chunked, content_encoding=coding)
        for pieces in ([sent_bytes], split_at(sent_bytes, cuts), byte_by_byte(sent_bytes))
    ]
    verdicts = {(way.status, way.fault and way.fault.param) for way in ways}
    assert len(verdicts) == 1
    if readable is None and body:
        assert ways[0].fault is not None
    for way in ways:
        if way.fault is None:
            continue
        if rules.include_usage is IncludeUsage.INJECT and not coding:
            assert way.promised is None or len(way.out) < way.promised
            assert len(way.out) < len(body) + SPLICE_MAX
        else:
            assert way.out != sent_bytes
            assert sent_bytes.startswith(way.out)


@settings(max_examples=100, deadline=None)
@given(body=documents() | broken_documents() | chats, cuts=st.lists(st.integers(0, 1_000), max_size=5))
def test_without_a_rule_everything_passes_and_facts_do_not_depend_on_the_split(body: bytes, cuts: list[int]) -> None:
    root = loaded(body)
    for pieces in ([body], split_at(body, cuts), byte_by_byte(body)):
        sent = Sent(FREE, pieces)
        assert (sent.out, sent.before_end, sent.fault) == (body, body, None)
        if body:
            model = None if root is None else root.get("model")
            assert sent.body.requested_model == (model if isinstance(model, str) else None)
            assert (sent.body.streaming is None) == (root is None)


def test_spelling_of_a_collected_body_is_kept() -> None:
    body = spelt(Members([("stream", True), ("messages", [Members([("é", 1.0)])])]), Random(3)).encode()
    sent = Sent(INJECT, body)
    at = body.rindex(b"}")
    assert sent.out == body[:at] + b"," + ASKING + body[at:]


def test_recorded_requests_are_spliced_and_otherwise_untouched() -> None:
    corpus = os.environ.get("AIGW_CORPUS")
    if not corpus:
        pytest.skip("AIGW_CORPUS is not set: the recorded requests are not part of the repository")
    bodies = [path.read_bytes() for path in sorted(Path(corpus).rglob("*.request.json"))]
    assert len(bodies) > 100
    injected = 0
    for body in bodies:
        root = json.loads(body)
        options = root.get("stream_options") or {}
        needed = root.get("stream") is True and options.get("include_usage") is not True
        expected = {**root, "stream_options": {**options, "include_usage": True}} if needed else root
        pieces = split_at(body, list(range(0, len(body), 777)))
        relayed = replace(INJECT, collect_max=0)
        for sent in (Sent(INJECT, body), Sent(relayed, pieces), Sent(relayed, pieces, chunked=True)):
            assert (sent.fault, sent.body.injected, sent.root) == (None, needed, expected)
            injected += sent.body.injected
        free = Sent(FREE, pieces)
        assert (free.out, free.body.requested_model) == (body, root.get("model"))
    assert injected > 100


@pytest.mark.parametrize("size", [1, 3, 40, 70, 1_000])
def test_of_two_faults_the_same_one_is_told_in_any_split(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The option outgrows its hold before the text turns out to be no JSON."""
    monkeypatch.setattr("aigw_core.usage.request.HOLD_MAX", 64)
    text = b'{"stream_options":{"a":{},"' + b"x" * 80 + b'","stream":true}'
    rules = replace(INJECT, collect_max=0)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    sent = Sent(rules, pieces)
    assert sent.fault is not None
    assert (sent.fault.message, sent.fault.param) == (
        "The request member `stream_options` is too long.",
        "stream_options",
    )


def test_a_long_member_is_scanned_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    feed = RootScanner.feed

    def counted(scanner: RootScanner, data: bytes) -> None:
        fed.append(len(data))
        feed(scanner, data)

    monkeypatch.setattr(RootScanner, "feed", counted)
    text = b'{"model":"' + b"x" * (5 * HOLD_MAX) + b'","stream":true}'
    Sent(replace(INJECT, collect_max=0), text)
    assert sum(fed) == len(text)
    assert len(fed) <= 7


@pytest.mark.parametrize("encoded", [False, True])
def test_a_refused_body_is_freed_at_once(encoded: bool) -> None:
    """No cycle keeps it, whose decoder may hold megabytes until the collector runs."""
    data = b'{"model":"m","input":"x","background":true}'
    body = RequestBody(
        BodyRules(None, refuse_background=True, refuse_stored_refs=False, on_model=None, max_bytes=MIB),
        declared_length=None,
        chunked=True,
        content_type=b"application/json",
        content_encoding=b"gzip" if encoded else b"",
    )
    gc.disable()
    try:
        with pytest.raises(RequestFault):
            body.feed(gzip.compress(data) if encoded else data)
        with pytest.raises(RequestFault, match="background"):
            body.end()
        number = id(body)
        del body
        assert not any(isinstance(kept, RequestBody) and id(kept) == number for kept in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["\\u00c5\\u00bftream", "\\u00e5\\u00bftream", "bac\\u00e2\\u0084\\u00aaground"])
def test_what_only_looks_like_another_spelling_is_an_ordinary_member(name: str) -> None:
    """Escapes that spell the bytes of a long s or a Kelvin sign, between members that are passed in bulk."""
    filler = ",".join(['"b":[[[1]]]'] * 60)
    data = f'{{"model":"m",{filler},"{name}":1,{filler}}}'.encode()
    rules = BodyRules(None, refuse_background=True, refuse_stored_refs=False, on_model=None, max_bytes=MIB)
    for pieces in (data, [data[i : i + 100] for i in range(0, len(data), 100)]):
        sent = Sent(rules, pieces, chunked=True)
        assert sent.fault is None
        assert sent.out == data
