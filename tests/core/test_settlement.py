"""From what an exchange saw to its one fact."""

from __future__ import annotations

import base64

import pytest

from aigw_core.auth import Authorized, authorize
from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.headers import Headers
from aigw_core.keymask import KeyMask
from aigw_core.messages import CHUNKED, Length, RequestHead, ResponseHead
from aigw_core.requestside import RequestSide
from aigw_core.responseside import ResponseSide
from aigw_core.settlement import final_outcome, settle, upstream_request_id
from aigw_core.usage.meter import Meter
from aigw_core.usage.profile import usage_profile
from aigw_core.wires import Wire
from tests.core.driver import CHAT, COMPLETION, POOL_KEY, VIRTUAL_KEY, make_gateway, make_policy

RECORD = OpenRecord("id-1", "t", 1, 2, None, 1, "openai", "chat_completions", "/v1/chat/completions", None, None)
POLICY = make_policy()
JSON = b"application/json"
STREAM = b"text/event-stream"
USAGE_EVENT = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'{"error":{"message":"no","type":"server_error","param":null,"code":null}}'


@pytest.mark.parametrize(
    ("pairs", "found"),
    [
        ([(b"X-Request-Id", b"req_1"), (b"request-id", b"other")], "req_1"),
        ([(b"request-id", b"req_2")], "req_2"),
        ([(b"X-Generation-Id", b"gen-1")], "gen-1"),
        ([(b"mistral-correlation-id", b"m")], "m"),
        ([(b"x-ds-trace-id", b"d")], "d"),
        ([(b"inference-id", b"c")], "c"),
        ([(b"x-request-id", b""), (b"inference-id", b"c")], "c"),
        ([(b"cf-ray", b"x")], None),
        ([], None),
        ([(b"x-request-id", b"\xff")], "ÿ"),
        ([(b"x-request-id", b"r" * 256)], "r" * 256),
        ([(b"x-request-id", b"r" * 257)], "r" * 256),
        ([(b"x-request-id", b"a" + POOL_KEY), (b"request-id", b"b")], "b"),
        ([(b"x-request-id", b"r" * 250 + POOL_KEY)], None),
        ([(b"x-request-id", base64.b64encode(b"Bearer " + POOL_KEY)), (b"request-id", b"b")], "b"),
        ([(b"x-request-id", b"%73" + POOL_KEY[1:])], None),
    ],
)
def test_the_providers_request_id(pairs: list[tuple[bytes, bytes]], found: str | None) -> None:
    assert upstream_request_id(ResponseHead(200, b"", Headers.of(pairs), CHUNKED), KeyMask(POOL_KEY)) == found


def test_without_a_pool_key_every_id_counts() -> None:
    assert upstream_request_id(ResponseHead(200, b"", Headers.of([(b"request-id", b"r")]), CHUNKED), None) == "r"


def meter_of(body: bytes, *, status: int = 200, kind: bytes = STREAM) -> Meter:
    meter = Meter(Wire.CHAT_COMPLETIONS, usage_profile("openai"))
    meter.response_head(status, kind, b"")
    meter.feed(body)
    return meter


ENDED_BY_OTHERS = [Outcome.CLIENT_ABORT, Outcome.UPSTREAM_ABORT, Outcome.TIMEOUT, Outcome.GATEWAY_CUT]


@pytest.mark.parametrize("outcome", ENDED_BY_OTHERS)
def test_a_relayed_terminal_event_makes_an_answer_complete(outcome: Outcome) -> None:
    """A client that closes right at [DONE] once made finished answers look cancelled."""
    assert final_outcome(outcome, meter_of(USAGE_EVENT + DONE), 200) is Outcome.COMPLETE
    assert final_outcome(outcome, meter_of(USAGE_EVENT), 200) is outcome
    assert final_outcome(outcome, None, 200) is outcome
    assert final_outcome(outcome, None, None) is outcome


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.UPSTREAM_ERROR])
def test_other_outcomes_stand(outcome: Outcome) -> None:
    assert final_outcome(outcome, meter_of(USAGE_EVENT + DONE), 200) is outcome


@pytest.mark.parametrize(
    ("status", "body", "kind", "outcome"),
    [
        (200, COMPLETION, JSON, Outcome.COMPLETE),
        (399, b"", JSON, Outcome.COMPLETE),
        (400, ERROR, JSON, Outcome.UPSTREAM_ERROR),
        (503, b"", JSON, Outcome.UPSTREAM_ERROR),
        (200, b"data: " + ERROR + b"\n\n", STREAM, Outcome.UPSTREAM_ERROR),
        (200, b"data: " + ERROR + b"\n\n" + USAGE_EVENT + DONE, STREAM, Outcome.COMPLETE),
    ],
)
def test_what_was_read_to_its_end(status: int, body: bytes, kind: bytes, outcome: Outcome) -> None:
    meter = meter_of(body, status=status, kind=kind)
    meter.finish(True)
    assert final_outcome(Outcome.COMPLETE, meter, status) is outcome


def test_without_a_meter_the_status_decides() -> None:
    assert final_outcome(Outcome.COMPLETE, None, 204) is Outcome.COMPLETE
    assert final_outcome(Outcome.COMPLETE, None, 404) is Outcome.UPSTREAM_ERROR


# The fact


def authorized(target: bytes = b"/openai/v1/chat/completions", method: bytes = b"POST") -> Authorized:
    headers = Headers.of([(b"Host", b"g"), (b"x-api-key", VIRTUAL_KEY)])
    head = RequestHead(method, target, headers, Length(len(CHAT) if method == b"POST" else 0))
    decision = authorize(head, POLICY, make_gateway(POLICY), 0.0)
    assert isinstance(decision, Authorized)
    return decision


def request_of(decision: Authorized) -> RequestSide:
    request = RequestSide(RequestHead(b"POST", b"/", Headers([]), Length(len(CHAT))))
    request.judge_by(decision, POLICY)
    request.sent = len(request.feed(CHAT)) + len(request.finish())
    return request


def respond(decision: Authorized, request: RequestSide, body: bytes, *, status: int = 200) -> ResponseSide:
    fields = [(b"content-type", JSON), (b"x-request-id", b"req_1")]
    response = ResponseSide()
    response.begin(ResponseHead(status, b"", Headers.of(fields), CHUNKED), decision, request.body, "id-1")
    response.status = status
    response.feed(body, 2.5)
    return response


def settled(
    decision: Authorized,
    request: RequestSide,
    response: ResponseSide,
    outcome: Outcome = Outcome.COMPLETE,
    *,
    reached: bool = True,
) -> UsageFact:
    return settle(RECORD, decision, request, response, outcome, reached_provider=reached, started_at=1.0, now=4.0)


def test_a_complete_answer() -> None:
    decision = authorized()
    request = request_of(decision)
    response = respond(decision, request, COMPLETION)
    response.finish()
    assert settled(decision, request, response) == UsageFact(
        RECORD,
        Outcome.COMPLETE,
        "final",
        duration_ms=3000,
        ttft_ms=1500,
        streaming=False,
        requested_model="gpt-4o-mini",
        model="gpt-4o-mini-2024-07-18",
        status=200,
        upstream_status=200,
        upstream_request_id="req_1",
        tokens={"input": 9, "output": 3},
        usage={"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
        flags=set(),
        request_bytes=len(CHAT),
        response_bytes=len(COMPLETION),
    )


@pytest.mark.parametrize(
    ("outcome", "reached"), [(Outcome.CLIENT_ABORT, False), (Outcome.UPSTREAM_ERROR, False), (Outcome.REFUSED, True)]
)
def test_where_nothing_is_billable_nothing_is_stated(outcome: Outcome, reached: bool) -> None:
    decision = authorized()
    fact = settled(decision, request_of(decision), ResponseSide(), outcome, reached=reached)
    assert (fact.outcome, fact.usage_status, fact.tokens, fact.usage, fact.estimate) == (
        outcome,
        "none",
        {},
        None,
        None,
    )
    assert (fact.status, fact.upstream_status, fact.ttft_ms) == (None, None, None)


@pytest.mark.parametrize("outcome", ENDED_BY_OTHERS)
def test_a_provider_that_has_read_the_request_may_bill_it(outcome: Outcome) -> None:
    """No answer arrived: the prompt is estimated, apart from the exact fields."""
    decision = authorized()
    fact = settled(decision, request_of(decision), ResponseSide(), outcome)
    assert (fact.outcome, fact.usage_status, fact.tokens, fact.usage) == (outcome, "absent", {}, None)
    assert fact.estimate is not None
    assert isinstance(fact.estimate["input"], int)
    assert fact.estimate["input"] > 0


def test_what_consumes_no_tokens_has_no_estimate() -> None:
    decision = authorized(b"/openai/v1/models", b"GET")
    request = RequestSide(RequestHead(b"GET", b"/", Headers([]), Length(0)))
    fact = settled(decision, request, ResponseSide(), Outcome.TIMEOUT)
    assert (fact.usage_status, fact.estimate, fact.requested_model) == ("none", None, None)


def test_an_error_status_is_the_providers() -> None:
    decision = authorized()
    request = request_of(decision)
    response = respond(decision, request, ERROR, status=429)
    response.finish()
    fact = settled(decision, request, response)
    assert (fact.outcome, fact.usage_status, fact.status, fact.upstream_status) == (
        Outcome.UPSTREAM_ERROR,
        "none",
        429,
        429,
    )


def test_a_cut_answer() -> None:
    decision = authorized()
    request = request_of(decision)
    response = respond(decision, request, COMPLETION[:40])
    fact = settled(decision, request, response, Outcome.UPSTREAM_ABORT)
    assert (fact.outcome, fact.usage_status, fact.response_bytes) == (Outcome.UPSTREAM_ABORT, "absent", 40)
    assert fact.estimate is not None
