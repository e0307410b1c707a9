"""What one exchange must relay, refuse and record, told from what was fed to the gateway and what came out."""

from __future__ import annotations

import json
from bisect import bisect_right
from typing import Final

from aigw_core.denyset import DenyReason
from aigw_core.facts import OpenRecord, UsageFact
from aigw_core.usage.request import IncludeUsage
from tests.simulation.answers import Answer
from tests.simulation.faults import Fault, Violation, require
from tests.simulation.readers import Body, Fields, framing_of, read_head, values
from tests.simulation.requests import WIRE_NAMES, Plan
from tests.simulation.setup import Setup

_HOP_BY_HOP: Final = frozenset(
    {b"connection", b"x-hop", b"te", b"upgrade", b"keep-alive", b"transfer-encoding", b"http2-settings", b"expect"}
)
_MANAGED_ONLY: Final = frozenset(
    {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie", b"accept-encoding"}
)
_FRAMING: Final = frozenset({b"host", b"content-length"})
_OURS: Final = frozenset({b"transfer-encoding", b"connection", b"x-aigw-request-id"})
_BY_OTHERS: Final = frozenset({"client_abort", "upstream_abort", "timeout", "gateway_cut"})
_OUTCOMES: Final = {
    "up_data": "upstream_abort",
    "up_eof": "upstream_abort",
    "up_lost": "upstream_abort",
    "connect_failed": "upstream_error",
    "down_eof": "client_abort",
    "down_lost": "client_abort",
    "tick": "timeout",
    "cut": "gateway_cut",
    "abandon": "gateway_cut",
}
_RECHECKED: Final = ("fact_opened", "connected", "down_data", "resume")
"""What can come last before the first or the last byte of a request, when the deny-set is asked again."""
_STATUSES: Final = {
    "up_data": {502},
    "up_eof": {502},
    "up_lost": {502},
    "connect_failed": {502},
    "down_data": {400, 402, 403, 413},
    "tick": {504, 408, 503},
    "cut": {402, 403, 503},
    "fact_refused": {503},
    "fact_opened": {400, 402, 403, 413, 502, 504},
    "connected": {400, 402, 403, 413},
}
COLLECT_MAX: Final = 65_536
"""Longer bodies are relayed while they are judged (design: metering)."""
SPLICE_MAX: Final = 64
"""No option that is added to a body is longer."""
_MASK: Final = b"*"


class Exchange:
    """One request that was authorized, or refused at once, and all that is known of it."""

    def __init__(self, plan: Plan, setup: Setup, now: float, *, refused: int | None) -> None:
        self.plan = plan
        self.setup = setup
        self.judged_at = now
        self.refused = refused
        """The status that admission must answer with, 0 for any; None: authorized."""
        self.managed = plan.managed
        self.record: OpenRecord | None = None
        self.fact: UsageFact | None = None
        self.ended = refused is not None
        """Nothing more is owed to the ledger, and it no longer counts as active."""
        self.opened = False
        self.attempt = 0
        self.connects = 0
        self.sent_up = False
        self.answer: Answer | None = None
        self.fed = 0
        """Bytes of the answer's wire that the gateway was given."""
        self.fed_end = False
        self.head_sent = False
        """A final head of the provider went downstream."""
        self.own_status: int | None = None
        self.relayed = 0
        self.over = False
        """The answer downstream is complete."""
        self.left = False
        """The caller is gone."""
        self.draining = False
        self.pended: str | None = None
        self.sent_payload = 0
        self.request_whole = False
        self._expected: bytes | None = None
        self._up_body: Body | None = None
        self._up_parts: list[bytes] = []

    # What the provider gets

    @property
    def spliced(self) -> bool:
        plan, setup = self.plan, self.setup
        wanted = self.managed and plan.wire == "chat" and plan.stream and plan.asked is not True
        missing = plan.asked is False or plan.site.needs_option
        return wanted and missing and setup.include_usage is IncludeUsage.INJECT

    @property
    def rewritten(self) -> bool:
        """The body may grow: by the option, or by blanks behind the root where it was too long to wait for."""
        plan = self.plan
        judged = self.managed and plan.wire == "chat" and plan.site.needs_option
        long = not plan.chunked and len(plan.body) > COLLECT_MAX
        return self.spliced or (judged and long and self.setup.include_usage is IncludeUsage.INJECT)

    @property
    def body_is_faulty(self) -> bool:
        plan = self.plan
        too_long = plan.chunked and len(plan.body) > self.setup.body_max
        return plan.fault is Fault.CALLER_BROKEN_CHUNK or too_long or (self.managed and plan.background)

    def begin_upstream(self) -> None:
        self._up_body = None
        self._up_parts = []
        self.sent_payload = 0
        self.request_whole = False

    def upstream_head(self, head: bytes, authority: bytes) -> Body:
        plan, site = self.plan, self.plan.site
        line, fields = read_head(head)
        require(line == b"%b %b HTTP/1.1" % (plan.method, plan.target), "another request line than the caller's")
        dropped = _HOP_BY_HOP | _FRAMING | (_MANAGED_ONLY if self.managed else frozenset())
        kept = [(name.lower(), value) for name, value in plan.fields if name.lower() not in dropped]
        own: Fields = []
        if self.managed:
            credential = b"Bearer " + site.key if site.scheme == "bearer" else site.key
            own = [(b"authorization" if site.scheme == "bearer" else b"x-api-key", credential)]
            own.append((b"accept-encoding", b"identity"))
        got = [pair for pair in fields if pair[0] not in _FRAMING and pair[0] != b"transfer-encoding"]
        for pair in own:
            require(got.count(pair) == 1, "the pool key or the identity coding is missing")
            got.remove(pair)
        require(got == kept, "other request headers than the caller's")
        require(values(fields, b"host") == [authority], "not the provider's Host")
        framing = framing_of(fields, request=True)
        require((framing is None) == plan.chunked, "another framing than the caller's")
        self._up_body = Body(framing)
        return self._up_body

    def upstream_payload(self, payload: bytes) -> None:
        body = self._up_body
        assert body is not None
        if not self.rewritten:
            at = self.sent_payload
            require(self.plan.body[at : at + len(payload)] == payload, "another request body than the caller's")
        self._up_parts.append(payload)
        self.sent_payload += len(payload)
        if self.body_is_faulty:
            require(not body.over, "a refused body was sent whole")
        if body.over:
            self.request_whole = True
            whole = b"".join(self._up_parts)
            if self.rewritten:
                root = json.loads(self.plan.body)
                if self.spliced:
                    root["stream_options"] = {"include_usage": True}
                require(json.loads(whole) == root, "another request than the caller's and the option")
            else:
                require(whole == self.plan.body, "not the whole request body")

    # What the caller gets

    @property
    def fed_payload(self) -> int:
        return 0 if self.answer is None else self.answer.payload_at(self.fed)

    @property
    def head_fed(self) -> bool:
        answer = self.answer
        if answer is None or self.fed < answer.head_size:
            return False
        return answer.broken_at is None or answer.broken_at > answer.head_size

    @property
    def whole(self) -> bool:
        """The provider's answer came to the end of its framing."""
        answer = self.answer
        if answer is None or answer.broken_at is not None or self.fed < answer.head_size:
            return False
        if answer.framing == "close":
            return self.fed_end and (not self.managed or self._finished(answer))
        return answer.payload_at(self.fed) == len(answer.payload) and self.fed >= answer.framed_size

    def _finished(self, answer: Answer) -> bool:
        """A close-delimited answer counts as complete only where it says itself that it is."""
        fed = self.fed_payload
        if answer.status >= 400:
            return True
        ends = [at for at in (answer.terminal_at, answer.closed_at) if at is not None]
        return any(fed >= at for at in ends)

    @property
    def stripped(self) -> bool:
        return self.spliced and self.answer is not None and self.answer.status < 300

    def expected_payload(self) -> bytes:
        if self._expected is None:
            answer = self.answer
            assert answer is not None
            payload = answer.payload
            if self.stripped and answer.usage_event is not None:
                start, end = answer.usage_event
                payload = payload[:start] + payload[end:]
            if self.managed and answer.status >= 400:
                payload = self._masked(payload)
            self._expected = payload
        return self._expected

    def _masked(self, data: bytes) -> bytes:
        key = self.plan.site.key
        return data.replace(key, _MASK * len(key))

    def answered(self, status: int, reason: bytes, fields: Fields, *, draining: bool) -> None:
        """A final head went downstream."""
        require(values(fields, b"x-aigw-request-id") != [], "no id in the answer")
        if self.record is not None:
            require(values(fields, b"x-aigw-request-id") == [self.record.id.encode()], "another id than the fact's")
        if draining:
            require(b"close" in values(fields, b"connection"), "a draining gateway promises to go on")
        if not values(fields, b"x-sim-answer"):
            self.own_status = status
            return
        answer = self.answer
        if answer is None or not self.head_fed:
            raise Violation("an answer before the provider's")
        self.head_sent = True
        require((status, reason) == (answer.status, answer.reason), "another status than the provider's")
        dropped = _HOP_BY_HOP | ({b"content-length"} if self.stripped and answer.framing != "none" else frozenset())
        expected = [(name.lower(), value) for name, value in answer.fields if name.lower() not in dropped]
        if self.managed:
            expected = [(name, self._masked(value)) for name, value in expected]
        got = [pair for pair in fields if pair[0] not in _OURS]
        require(got == expected, "other answer headers than the provider's")

    def own_answer_fits(self, cause: str, denied: DenyReason | None) -> bool:
        status = self.own_status
        if status in (402, 403) and cause != "cut" and self.refused is None:
            return cause in _RECHECKED and denied is not None
        if status in (400, 413) and self.body_is_faulty and self.refused is None:
            # A pipelined body is read by whatever input ends the exchange before it.
            return True
        if self.refused is not None:
            return status == self.refused if self.refused else status is not None and status >= 400
        return status in _STATUSES.get(cause, ())

    def body_relayed(self, payload: bytes) -> None:
        if self.own_status is not None:
            return
        at = self.relayed
        require(self.expected_payload()[at : at + len(payload)] == payload, "another answer body than the provider's")
        self.relayed += len(payload)

    def answer_over(self) -> None:
        """What went downstream looks complete to the caller."""
        self.over = True
        if self.own_status is None:
            require(self.whole, "a truncated answer looks complete")
            require(self.relayed == len(self.expected_payload()), "an answer without its end")

    def check_flow(self) -> None:
        """Bytes are relayed at once, but for what may be held; whole answers end at once."""
        answer = self.answer
        if answer is None or self.left or self.own_status is not None or not self.head_fed or self.over:
            return
        fed = self.fed_payload
        if self.stripped and answer.event_ends:
            at = bisect_right(answer.event_ends, fed)
            fed = answer.event_ends[at - 1] if at else 0
            if answer.usage_event is not None and fed >= answer.usage_event[1]:
                fed -= answer.usage_event[1] - answer.usage_event[0]
        elif self.managed and answer.status >= 400:
            fed -= len(self.plan.site.key) - 1
        require(self.relayed >= fed, "bytes of the answer are held back")

    # What the ledger gets

    def may_drain(self) -> bool:
        """The caller left: whether the answer is read on for its usage."""
        answer = self.answer
        done = answer is not None and answer.terminal_at is not None and self.fed_payload >= answer.terminal_at
        wanted = self.managed and self.plan.site.name in self.setup.draining_for
        return wanted and self.sent_up and self.request_whole and not (done and self._is_stream)

    @property
    def _is_stream(self) -> bool:
        return self.answer is not None and self.answer.status < 300 and self.answer.terminal_at is not None

    @property
    def terminal(self) -> bool:
        answer = self.answer
        if answer is None or not self._is_stream or not self.head_fed or answer.terminal_at is None:
            return False
        # An event counts at the end of an answer even where its empty line is missing.
        return self.fed_payload >= answer.terminal_at - 2

    def outcomes(self, cause: str, denied: DenyReason | None) -> set[str]:
        """Every outcome that the fact may state."""
        if self.whole and cause in ("up_data", "up_eof"):
            answer = self.answer
            return {"upstream_error" if answer is not None and answer.status >= 400 else "complete"}
        if cause in ("fact_opened", "connected", "down_data", "resume"):
            allowed = {self.pended or ""} - {""} if cause == "fact_opened" else set()
            if denied is not None:
                allowed.add("gateway_cut")
            if self.body_is_faulty:
                allowed.add("refused")
            return allowed
        outcome = _OUTCOMES.get(cause, "")
        if self.draining:
            outcome = "client_abort"
        if self.terminal and outcome in _BY_OTHERS:
            outcome = "complete"
        return {outcome}

    def usage_statuses(self, outcome: str) -> set[str]:
        answer = self.answer
        if outcome == "refused" or not self.sent_up or self.plan.wire == "models":
            return {"none"}
        if not self.head_fed or answer is None:
            return {"absent"}
        if answer.status >= 300:
            return {"none"}
        fed = self.fed_payload
        if answer.usage_at is None or answer.framing == "none":
            return {"absent"} if self.terminal or self._is_stream else {"none", "absent"}
        if answer.closed_at is not None:
            return {"final"} if fed >= answer.closed_at else {"absent", "partial"}
        if self.terminal:
            return {"final"}
        return {"final", "partial"} if fed >= answer.usage_at - 2 else {"absent", "partial"}

    def check_fact(self, cause: str, now: float, denied: DenyReason | None) -> None:
        """The one fact, field by field."""
        fact, plan, record = self.fact, self.plan, self.record
        assert fact is not None
        assert record is not None
        outcomes = self.outcomes(cause, denied)
        require(fact.outcome in outcomes, f"outcome {fact.outcome} after {cause}, not {sorted(outcomes)}")
        statuses = self.usage_statuses(fact.outcome)
        require(fact.usage_status in statuses, f"usage {fact.usage_status}, not {sorted(statuses)}, after {cause}")
        status = self.own_status
        if self.head_sent and self.answer is not None:
            status = self.answer.status
        require(fact.status == status, f"status {fact.status} in the fact, {status} went downstream")
        upstream = self.answer.status if self.head_fed and self.answer is not None else None
        require(fact.upstream_status == upstream, f"upstream status {fact.upstream_status}, not {upstream}")
        # What came in one read with the fault of a refused body, or before the end that a denial keeps from the
        # provider, counts, but is not sent any more.
        grown = len(plan.body) + (SPLICE_MAX if self.rewritten else 0)
        most = grown if fact.outcome == "refused" or denied is not None else self.sent_payload
        sent = self.sent_payload <= fact.request_bytes <= most
        require(sent, f"{fact.request_bytes} of {self.sent_payload} request bytes")
        require(fact.response_bytes == self.relayed, f"{fact.response_bytes} of {self.relayed} answer bytes")
        require(fact.duration_ms == int((now - self.judged_at) * 1000), "a wrong duration")
        if fact.usage_status == "final" and self.answer is not None:
            require(fact.tokens == self.answer.tokens, f"tokens {fact.tokens}, not {self.answer.tokens}")
        named = {f"m-{plan.number}"} if self.request_whole and plan.body else {f"m-{plan.number}", None}
        require(fact.requested_model in named, "another model than the caller's")
        encoded = json.loads(fact.encode()) if plan.number % 16 == 0 else {"id": record.id}
        require(encoded["id"] == record.id, "the encoded fact is another")

    def check_record(self, record: OpenRecord, deny_revision: int | None) -> None:
        plan, key = self.plan, self.plan.key
        assert key is not None
        stated = (record.tenant_id, record.vpc_id, record.key_id, record.kid)
        require(stated == (key.tenant, key.vpc, key.key_id, key.kid), "the record names another caller")
        wire = WIRE_NAMES.get(plan.wire, plan.wire)
        where = (record.provider, record.wire, record.endpoint)
        require(where == (plan.site.name, wire, plan.path.decode()), "the record names another place")
        require(record.deny_revision == deny_revision, "the record names another deny revision")
