"""Turning what an exchange saw into its one fact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aigw_core.auth import Authorized
from aigw_core.facts import COMPLETE, OpenRecord, Outcome, UsageFact
from aigw_core.keymask import KeyMask
from aigw_core.messages import ResponseHead
from aigw_core.providers import UPSTREAM_ID_HEADERS
from aigw_core.usage.meter import Meter, MeterResult, UsageStatus

if TYPE_CHECKING:
    from aigw_core.gateway import Gateway
    from aigw_core.requestside import RequestSide
    from aigw_core.responseside import ResponseSide

_ID_MAX: Final = 256
"""Characters of an upstream request id that are kept."""

_REFUSED: Final = Outcome.REFUSED
_NO_USAGE: Final = UsageStatus.NONE
_ENDED_BY_OTHERS = frozenset({Outcome.CLIENT_ABORT, Outcome.UPSTREAM_ABORT, Outcome.TIMEOUT, Outcome.GATEWAY_CUT})


def upstream_request_id(head: ResponseHead, mask: KeyMask | None) -> str | None:
    """The id under which the provider can be asked about this request; never one that holds the pool key."""
    look = head.look
    if look is not None:
        shape, match = look
        if not shape.id_at:
            return None
        known = match[shape.id_at]
        if mask is None or len(known) < mask.shortest or mask.clears(known):
            return known[:_ID_MAX].decode("latin-1")
    first = head.headers.first
    for name in UPSTREAM_ID_HEADERS:
        value = first.get(name)
        if value and (mask is None or mask.whole(value) == value):
            return value[:_ID_MAX].decode("latin-1")
    return None


def open_record(fact_id: str, time: str, authorized: Authorized, gateway: Gateway, now: float) -> OpenRecord:
    """What is known at admission of a managed exchange; ``time`` as in the fact."""
    caller, route = authorized.caller, authorized.route
    assert caller is not None
    record = OpenRecord(
        fact_id,
        time,
        caller.tenant_id,
        caller.vpc_id,
        caller.key_id,
        caller.kid,
        route.provider,
        route.wire,
        route.endpoint,
        gateway.deny.revision,
        None if gateway.deny_confirmed_at is None else gateway.deny_stale_ms(now),
        authorized.identity,
    )
    if record.identity is None:
        record.identity = authorized.identity = record.encode_identity()
    return record


def final_outcome(outcome: Outcome, meter: Meter | None, upstream_status: int | None) -> Outcome:
    """The outcome after what the answer itself said.

    A terminal event that was relayed makes the answer complete, whatever happened to the connection after
    it; an error status read to its end, or a 200 that carried only an error event, is the provider's error.
    """
    if meter is not None and meter.terminal and outcome in _ENDED_BY_OTHERS:
        outcome = COMPLETE
    if outcome is COMPLETE:
        failed = upstream_status is not None and upstream_status >= 400
        if failed or (meter is not None and meter.error_only):
            return Outcome.UPSTREAM_ERROR
    return outcome


def settle(
    record: OpenRecord,
    authorized: Authorized,
    request: RequestSide,
    response: ResponseSide,
    outcome: Outcome,
    *,
    reached_provider: bool,
    started_at: float,
    now: float,
) -> UsageFact:
    """The fact of an exchange that is over; times in monotonic seconds."""
    body, usage = request.body, response.result
    if usage is None:
        meter, wire = response.meter, authorized.route.wire
        outcome = final_outcome(outcome, meter, response.upstream_status)
        if reached_provider and outcome is not _REFUSED:
            if meter is None and response.upstream_status is None and wire.billable:
                # Nothing was answered, yet the provider may bill what it has read.
                meter = Meter(wire, authorized.provider.usage)
                meter.request_bytes_hint = body.text_bytes_hint if body is not None else 0
            usage = None if meter is None else meter.result()
        if usage is None:
            usage = MeterResult(_NO_USAGE)
    ttft_at, left_at = response.ttft_at, response.left_at
    # In the order of the class: twenty names cost 0.8 µs.
    return UsageFact(
        record,
        outcome,
        usage.usage_status,
        int((now - started_at) * 1000),
        None if ttft_at is None else int((ttft_at - started_at) * 1000),
        None if body is None else body.streaming,
        None if body is None else body.requested_model,
        usage.model,
        response.status,
        response.upstream_status,
        response.upstream_id,
        usage.tokens,
        usage.usage,
        usage.estimate,
        usage.service_tier,
        usage.server_tool_calls,
        usage.flags,
        request.sent,
        response.relayed if left_at is None else left_at,
    )
