"""The usage fact: its fields, its order, its hard size limit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core import facts
from aigw_core.facts import ENDPOINT_MAX, FACT_MAX_BYTES, OpenRecord, Outcome, UsageFact

OPENED = OpenRecord(
    id="018f00000000aabbccddee0000000001",
    time="2026-11-23T20:20:10.042Z",
    tenant_id=2**64 - 1,
    vpc_id=2**53 + 1,
    key_id=0,
    kid=7,
    provider="openai",
    wire="chat_completions",
    endpoint="/v1/chat/completions",
    deny_revision=12,
    deny_stale_ms=0,
)
FULL = UsageFact(
    OPENED,
    Outcome.COMPLETE,
    "final",
    duration_ms=1234,
    ttft_ms=56,
    streaming=True,
    requested_model="gpt",
    model="gpt-2026-01-01",
    status=200,
    upstream_status=200,
    upstream_request_id="req_1",
    tokens={"input": 9, "output": 3},
    usage={"prompt_tokens": 9, "cost": 0.5},
    estimate={"input": 1, "output": 2, "method": "bytes/4"},
    service_tier="default",
    server_tool_calls={"web_search_requests": 1},
    flags={"usage_conflict", "event_skipped"},
    request_bytes=100,
    response_bytes=200,
)
# The reference table, in its order.
FIELDS = [
    "v",
    "id",
    *["time", "duration_ms", "ttft_ms"],
    *["tenant_id", "vpc_id", "key_id", "kid"],
    *["provider", "wire", "endpoint", "streaming"],
    *["requested_model", "model"],
    "status",
    *["upstream_status", "upstream_request_id"],
    "outcome",
    "usage_status",
    "tokens",
    "usage",
    "estimate",
    *["service_tier", "server_tool_calls"],
    "flags",
    *["deny_revision", "deny_stale_ms"],
    *["request_bytes", "response_bytes"],
]


def test_every_field_in_order() -> None:
    row = json.loads(FULL.encode())
    assert list(row) == FIELDS == list(FULL.as_dict())
    assert row == {
        "v": 1,
        "id": "018f00000000aabbccddee0000000001",
        "time": "2026-11-23T20:20:10.042Z",
        "duration_ms": 1234,
        "ttft_ms": 56,
        "tenant_id": "18446744073709551615",
        "vpc_id": "9007199254740993",
        "key_id": "0",
        "kid": 7,
        "provider": "openai",
        "wire": "chat_completions",
        "endpoint": "/v1/chat/completions",
        "streaming": True,
        "requested_model": "gpt",
        "model": "gpt-2026-01-01",
        "status": 200,
        "upstream_status": 200,
        "upstream_request_id": "req_1",
        "outcome": "complete",
        "usage_status": "final",
        "tokens": {"input": 9, "output": 3},
        "usage": {"prompt_tokens": 9, "cost": 0.5},
        "estimate": {"input": 1, "output": 2, "method": "bytes/4"},
        "service_tier": "default",
        "server_tool_calls": {"web_search_requests": 1},
        "flags": ["event_skipped", "usage_conflict"],
        "deny_revision": 12,
        "deny_stale_ms": 0,
        "request_bytes": 100,
        "response_bytes": 200,
    }


def test_what_is_unknown_is_null_and_always_there() -> None:
    opened = replace(OPENED, key_id=None, deny_revision=None, deny_stale_ms=None)
    row = json.loads(UsageFact(opened, Outcome.CLIENT_ABORT, "none").encode())
    assert list(row) == FIELDS
    known = {
        *["v", "id", "time", "tenant_id", "vpc_id", "kid", "provider", "wire", "endpoint", "outcome", "usage_status"],
        *["tokens", "flags", "request_bytes", "response_bytes"],
    }
    assert {name for name, value in row.items() if value is None} == set(FIELDS) - known
    assert (row["tokens"], row["flags"], row["request_bytes"], row["response_bytes"]) == ({}, [], 0, 0)


def test_the_open_record() -> None:
    row = json.loads(OPENED.encode())
    assert list(row) == [
        *["v", "id", "time", "tenant_id", "vpc_id", "key_id", "kid", "provider", "wire", "endpoint"],
        *["deny_revision", "deny_stale_ms"],
    ]
    fact = FULL.as_dict()
    assert row == {name: fact[name] for name in row}
    assert json.loads(replace(OPENED, key_id=None).encode())["key_id"] is None
    assert FULL.id == OPENED.id


def test_what_is_encoded_already_is_no_part_of_what_is_told() -> None:
    twin = replace(OPENED, identity=OPENED.encode_identity())
    assert twin == OPENED
    assert repr(twin) == repr(OPENED)
    assert twin.encode() == OPENED.encode()


@pytest.mark.parametrize("streaming", [None, False, True])
def test_whether_it_streamed(streaming: bool | None) -> None:
    assert json.loads(replace(FULL, streaming=streaming).encode())["streaming"] is streaming


def test_a_usage_object_is_written_as_it_came() -> None:
    """Its members in their order, and no number makes a fact impossible."""
    usage: dict[str, object] = {
        "b": 1,
        "a": {"d": [1.5, None, True, "é"], "c": {}},
        "n": float("nan"),
        "i": float("inf"),
    }
    encoded = replace(FULL, usage=usage).encode()
    assert b'"usage":' + json.dumps(usage, separators=(",", ":")).encode() in encoded


def test_the_outcomes_are_these() -> None:
    """Consumers read them for years."""
    assert [outcome.value for outcome in Outcome] == [
        *["complete", "upstream_error", "refused", "client_abort", "upstream_abort", "timeout"],
        *["gateway_cut", "gateway_lost"],
    ]


@pytest.mark.parametrize("outcome", Outcome)
def test_outcomes_are_their_names(outcome: Outcome) -> None:
    assert json.loads(UsageFact(OPENED, outcome, "none").encode())["outcome"] == outcome.value == outcome.name.lower()


def test_a_path_is_kept_up_to_a_bound() -> None:
    """Model ids stand in paths, and an open record has to fit as well."""
    assert ENDPOINT_MAX == 1_024
    for size in (ENDPOINT_MAX, ENDPOINT_MAX + 1, 60_000):
        opened = replace(OPENED, endpoint="/" + "m" * (size - 1))
        kept = "/" + "m" * (ENDPOINT_MAX - 1)
        assert json.loads(opened.encode())["endpoint"] == kept
        assert json.loads(UsageFact(opened, Outcome.COMPLETE, "none").encode())["endpoint"] == kept
        assert len(opened.encode()) < FACT_MAX_BYTES


# The limit


def fact_of(size: int) -> UsageFact:
    """A fact whose whole encoding has this size."""
    fact = replace(FULL, usage={"prompt_tokens": 9, "note": ""})
    missing = size - len(fact.encode())
    return replace(fact, usage={"prompt_tokens": 9, "note": "n" * missing})


def test_a_fact_of_the_largest_size_is_whole() -> None:
    fact = fact_of(FACT_MAX_BYTES)
    assert FACT_MAX_BYTES == 32 * 1024
    assert len(fact.encode()) == FACT_MAX_BYTES
    assert json.loads(fact.encode()) == json.loads(json.dumps(fact.as_dict()))


def test_one_byte_more_is_cut() -> None:
    row = json.loads(fact_of(FACT_MAX_BYTES + 1).encode())
    assert (row["usage"], "usage_truncated" in row["flags"]) == ({"prompt_tokens": 9}, True)


def test_beyond_it_the_usage_keeps_its_recognised_numbers() -> None:
    fact = fact_of(FACT_MAX_BYTES + 1)
    assert isinstance(fact.usage, dict)
    fact.usage |= {"completion_tokens": 3, "ok": True, "cost": 0.5, "huge": 2**70, "details": {"a": 1}, "n" * 65: 1}
    row = json.loads(fact.encode())
    assert row["usage"] == {"prompt_tokens": 9, "completion_tokens": 3}
    assert row["flags"] == ["event_skipped", "usage_conflict", "usage_truncated"]
    assert {name: row[name] for name in FIELDS if name not in ("usage", "flags")} == {
        name: value for name, value in json.loads(FULL.encode()).items() if name not in ("usage", "flags")
    }


def test_without_usage_the_texts_are_cut() -> None:
    row = json.loads(replace(FULL, usage=None, model="m" * FACT_MAX_BYTES).encode())
    assert (row["model"], row["usage"]) == ("m" * 256, None)
    assert list(row) == FIELDS


def test_too_many_counters_are_cut_to_the_first_64() -> None:
    usage: dict[str, object] = {f"{n:03}" + "n" * 61: n for n in range(600)}
    row = json.loads(replace(FULL, usage=usage).encode())
    assert list(row["usage"].values()) == list(range(64))
    usage = {"n" * 64: 2**64 - 1, "m": -(2**64) + 1, "k": 2**64, "l": -(2**64), "o": "x" * FACT_MAX_BYTES}
    assert json.loads(replace(FULL, usage=usage).encode())["usage"] == {"n" * 64: 2**64 - 1, "m": -(2**64) + 1}


@pytest.mark.parametrize(("more", "is_cut"), [(0, False), (1, True)])
def test_texts_are_cut_only_where_the_counters_alone_are_too_much(more: int, is_cut: bool) -> None:
    """The limit holds for what is left of a fact as for a whole one, and then the counters go as well."""
    fact = replace(FULL, model="", usage={"prompt_tokens": 9, "note": "n" * FACT_MAX_BYTES})
    calls = {"web_search_requests": 1}
    fact = replace(fact, model="m" * (FACT_MAX_BYTES - len(fact.encode()) + more))
    row = json.loads(fact.encode())
    assert len(fact.encode()) == FACT_MAX_BYTES or is_cut
    assert row["model"] == ("m" * 256 if is_cut else fact.model)
    assert row["usage"] == (None if is_cut else {"prompt_tokens": 9})
    assert row["server_tool_calls"] == (None if is_cut else calls)


TEXT = st.one_of(
    st.none(),
    st.sampled_from(["x", "\U0001f600", "\ud800", "\x00", '"', "\\", "é"]).flatmap(
        lambda one: st.sampled_from([0, 1, 300, 3_000, 40_000]).map(lambda count: one * count)
    ),
)
SMALL = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
OBJECT = st.dictionaries(
    st.text(max_size=5), st.recursive(SMALL, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
LARGE_OBJECT = st.integers(0, 3_000).map(lambda count: {f"counter_{n}": 2**63 for n in range(count)})


@settings(deadline=None, max_examples=150)
@given(
    model=TEXT,
    requested=TEXT,
    tier=TEXT,
    upstream_id=TEXT,
    usage=st.one_of(st.none(), OBJECT, LARGE_OBJECT),
    calls=st.one_of(st.none(), st.dictionaries(st.text(), st.integers(0, 2**53), max_size=20)),
    flags=st.sets(st.sampled_from(["usage_truncated", "tokens_saturated", "strip_overflow"])),
)
def test_no_fact_is_larger_or_lost(
    model: str | None,
    requested: str | None,
    tier: str | None,
    upstream_id: str | None,
    usage: dict[str, object] | None,
    calls: dict[str, int] | None,
    flags: set[str],
) -> None:
    fact = replace(
        FULL,
        model=model,
        requested_model=requested,
        service_tier=tier,
        upstream_request_id=upstream_id,
        usage=usage,
        server_tool_calls=calls,
        flags=flags,
    )
    encoded = fact.encode()
    assert len(encoded) <= FACT_MAX_BYTES
    assert b"\n" not in encoded
    assert encoded.isascii()
    row = json.loads(encoded)
    assert list(row) == FIELDS
    whole = json.loads(json.dumps(fact.as_dict()))
    assert (row == whole) is (len(json.dumps(whole, separators=(",", ":"))) <= FACT_MAX_BYTES)
    for name in ("id", "tenant_id", "tokens", "estimate", "outcome", "usage_status", "request_bytes"):
        assert row[name] == whole[name]


@pytest.mark.parametrize("value", [{}, {"a": [1, 1.5, None, True, '\ud800é\n"']}, {"b": {"c": {"d": -1}}}])
def test_objects_are_encoded_alike_with_and_without_the_encoder_in_c(
    monkeypatch: pytest.MonkeyPatch, value: dict[str, object]
) -> None:
    quick = facts._object(value)
    monkeypatch.setattr(facts, "_chunks", None)
    assert facts._object(value) == quick == json.dumps(value, separators=(",", ":"))


def test_there_may_be_no_encoder_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    assert facts._quick_encoder() is None


def test_of_the_forms_of_tokens_a_bounded_number_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_TOKEN_FORMS_MAX", 2)
    monkeypatch.setattr(facts, "_token_forms", {})
    for names in ("input", "input output", "output input", "output", "input"):
        counts = {name: number for number, name in enumerate(names.split(), 7)}
        assert facts._tokens(counts) == json.dumps(counts, separators=(",", ":"))[1:-1]
    assert list(facts._token_forms) == [("input",), ("input", "output")]


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        ({}, {"flags": {"usage_truncated"}}),
        ({}, {"estimate": {"input": 1}}),
        ({}, {"server_tool_calls": {"web_search": 2}}),
        ({}, {"service_tier": None}),
        ({"flags": {"usage_truncated"}}, {"flags": None}),
        ({}, {"streaming": None}),
        ({}, {"requested_model": None, "model": None}),
        ({}, {"status": None}),
        ({}, {"upstream_status": 529}),
    ],
)
def test_parts_that_are_known_are_those_of_the_same_fact(usual: dict[str, object], other: dict[str, object]) -> None:
    """Of what was written before only what says the same is written again."""
    base = replace(FULL, estimate=None, server_tool_calls=None, flags=None, service_tier="default")
    for changes in (usual, other, usual, other):
        fact = replace(base, **changes)  # type: ignore[arg-type]  # fields of a fact
        assert json.loads(fact.encode()) == json.loads(json.dumps(fact.as_dict()))


def test_of_the_parts_of_facts_a_bounded_number_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kept in (facts._usual_asked, facts._usual_extras):
        kept.clear()
    monkeypatch.setattr(facts, "_USUAL_MAX", 3)
    for number in range(20):
        fact = replace(FULL, requested_model=f"m-{number}", service_tier=f"t-{number}", flags=None)
        fact = replace(fact, estimate=None, server_tool_calls=None)
        for _ in range(2):
            assert json.loads(fact.encode())["requested_model"] == f"m-{number}"
        assert 1 <= len(facts._usual_asked) <= 3
        assert 1 <= len(facts._usual_extras) <= 3
    facts._usual_asked.clear()
    long = replace(FULL, requested_model="m" * 300)
    assert json.loads(long.encode())["requested_model"] == "m" * 300
    assert not facts._usual_asked
