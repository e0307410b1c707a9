"""The port of an exchange: one effect for each call, in their order."""

from __future__ import annotations

from aigw_core.effects import (
    Connect,
    CutResponse,
    ReleaseUpstream,
    SendInformational,
    SendRequestBody,
    SendRequestEnd,
    SendRequestHead,
    SendResponseBody,
    SendResponseEnd,
    SendResponseHead,
    VoidFact,
)
from aigw_core.headers import Headers
from aigw_core.messages import NO_BODY, RequestHead, ResponseHead
from aigw_core.origin import Origin
from aigw_core.port import EffectPort

REQUEST = RequestHead(b"GET", b"/", Headers([]), NO_BODY)
RESPONSE = ResponseHead(200, b"OK", Headers([]), NO_BODY)


def test_calls_become_effects_in_their_order() -> None:
    port = EffectPort()
    connect = Connect(Origin("https", "a", 443), 1)
    port.connect(connect)
    port.request_head(1, REQUEST)
    port.request_body(1, b"a")
    port.request_end(1)
    port.informational(RESPONSE)
    port.response_head(RESPONSE, True)
    port.response_body(b"b")
    port.response_end()
    port.cut_response()
    port.release_upstream(ReleaseUpstream(1, True))
    assert port.take() == [
        connect,
        SendRequestHead(1, REQUEST),
        SendRequestBody(1, b"a"),
        SendRequestEnd(1),
        SendInformational(RESPONSE),
        SendResponseHead(RESPONSE, True),
        SendResponseBody(b"b"),
        SendResponseEnd(),
        CutResponse(),
        ReleaseUpstream(1, True),
    ]
    assert port.take() == []


def test_what_is_whole_becomes_its_parts() -> None:
    port = EffectPort()
    port.whole_request(1, REQUEST, b"a")
    port.whole_request(2, REQUEST, b"")
    port.whole_response(RESPONSE, b"b", True)
    port.whole_response(RESPONSE, b"", False)
    assert port.take() == [
        SendRequestHead(1, REQUEST),
        SendRequestBody(1, b"a"),
        SendRequestEnd(1),
        SendRequestHead(2, REQUEST),
        SendRequestEnd(2),
        SendResponseHead(RESPONSE, True),
        SendResponseBody(b"b"),
        SendResponseEnd(),
        SendResponseHead(RESPONSE, False),
        SendResponseEnd(),
    ]


def test_the_end_of_a_record_goes_in_front() -> None:
    port = EffectPort()
    port.response_body(b"b")
    port.end_fact(VoidFact("id"))
    assert port.take() == [VoidFact("id"), SendResponseBody(b"b")]
