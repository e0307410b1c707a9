"""Header fields: look-up, repeated names, and what never crosses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.headers import HOP_BY_HOP, Field, Headers, hop_by_hop_of, make_field, never_crosses, says_close

PAIRS = [(b"X-A", b"1"), (b"x-B", b""), (b"X-a", b"2, 3"), (b"X-C", b"4")]


def test_order_case_duplicates_and_values_are_kept() -> None:
    headers = Headers.of(PAIRS)
    assert list(headers) == PAIRS
    assert [field[:3] for field in headers.fields] == [
        (b"x-a", b"X-A", b"1"),
        (b"x-b", b"x-B", b""),
        (b"x-a", b"X-a", b"2, 3"),
        (b"x-c", b"X-C", b"4"),
    ]
    assert len(headers) == 4


def test_look_up_is_by_lower_case_name_and_gives_the_first() -> None:
    headers = Headers.of(PAIRS)
    assert headers.get(b"x-a") == b"1"
    assert headers.get(b"x-b") == b""
    assert headers.get(b"x-d") is None
    assert headers.get(b"X-A") is None
    assert b"x-a" in headers
    assert b"x-d" not in headers
    assert headers.get_all(b"x-a") == [b"1", b"2, 3"]
    assert headers.get_all(b"x-b") == [b""]
    assert headers.get_all(b"x-c") == [b"4"]
    assert headers.get_all(b"x-d") == []


def test_without_fields() -> None:
    headers = Headers([])
    assert (headers.get(b"a"), headers.get_all(b"a"), headers.tokens(b"a"), b"a" in headers) == (None, [], [], False)
    assert headers == Headers.of([])


@pytest.mark.parametrize(
    ("values", "tokens"),
    [
        ([b"close"], [b"close"]),
        ([b"Close, Keep-Alive"], [b"close", b"keep-alive"]),
        ([b" a ,\tb\t,,c,"], [b"a", b"b", b"c"]),
        ([b"a", b"B"], [b"a", b"b"]),
        ([b"", b","], []),
        ([b"\xa0a"], [b"\xa0a"]),
    ],
)
def test_lists(values: list[bytes], tokens: list[bytes]) -> None:
    """RFC 9110 §5.6.1: over all lines, empty members skipped, only SP and HTAB stripped."""
    headers = Headers.of([(b"Connection", value) for value in values])
    assert headers.tokens(b"connection") == tokens


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"A", b"a", b"B", b"C"]), st.sampled_from([b"", b"1", b"2,3"])), max_size=6))
def test_look_ups_agree_with_a_plain_list(pairs: list[tuple[bytes, bytes]]) -> None:
    headers = Headers.of(pairs)
    for lower in (b"a", b"b", b"d"):
        values = [value for name, value in pairs if name.lower() == lower]
        assert headers.get_all(lower) == values
        assert headers.get(lower) == (values[0] if values else None)
        assert (lower in headers) == bool(values)
        assert headers.tokens(lower) == [part for value in values for part in value.split(b",") if part]


def test_values_do_not_show() -> None:
    headers = Headers.of([(b"Authorization", b"Bearer MARKER")])
    assert repr(headers) == "Headers(['authorization'])"


def test_equality_is_by_fields_and_there_is_no_hash() -> None:
    assert Headers.of(PAIRS) == Headers.of(PAIRS)
    assert Headers.of(PAIRS) != Headers.of(PAIRS[::-1])
    assert Headers.of([(b"A", b"1")]) != Headers.of([(b"a", b"1")])
    assert Headers.of([]) != []
    with pytest.raises(TypeError):
        hash(Headers.of(PAIRS))


def test_the_standard_set() -> None:
    """RFC 9110 §7.6.1, and HTTP2-Settings (RFC 7540 §3.2.1)."""
    assert set(HOP_BY_HOP) == {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
    assert hop_by_hop_of(Headers.of(PAIRS)) == HOP_BY_HOP


def test_connection_nominates() -> None:
    headers = Headers.of([(b"Connection", b"close, X-A"), (b"connection", b"x-b")])
    assert hop_by_hop_of(headers) == HOP_BY_HOP | {b"close", b"x-a", b"x-b"}
    usual_first = Headers.of([(b"Connection", b"keep-alive"), (b"X-A", b"1"), (b"connection", b"x-a")])
    assert hop_by_hop_of(usual_first) == HOP_BY_HOP | {b"x-a"}
    other_repeated = Headers.of([(b"Connection", b"keep-alive"), (b"Set-Cookie", b"1"), (b"Set-Cookie", b"2")])
    assert hop_by_hop_of(other_repeated) is HOP_BY_HOP


@pytest.mark.parametrize(
    "name",
    [
        b"Content-Length",
        b"Host",
        b"Authorization",
        b"X-Api-Key",
        b"Api-Key",
        b"X-Goog-Api-Key",
        b"Content-Encoding",
        b"X-Aigw-Request-Id",
        b"x-aigw-anything",
    ],
)
def test_a_nomination_strips_nothing_that_the_other_side_relies_on(name: bytes) -> None:
    """CVE-2025-48865: a peer that nominates framing, Host or credentials would remove them for the next hop."""
    assert name.lower() not in hop_by_hop_of(Headers.of([(b"Connection", name)]))


def test_fields_are_written_as_lines_in_their_order() -> None:
    assert Headers.of(PAIRS).lines() == b"X-A: 1\r\nx-B: \r\nX-a: 2, 3\r\nX-C: 4\r\n"


@pytest.mark.parametrize("name", [*sorted(HOP_BY_HOP), b"x-aigw-request-id", b"proxy-anything"])
def test_what_never_crosses_is_written_and_not_relayed(name: bytes) -> None:
    assert never_crosses(name)
    headers = Headers.of([(b"A", b"1"), (name.title(), b"2"), (b"B", b"3")])
    assert headers.lines() == b"A: 1\r\n" + name.title() + b": 2\r\nB: 3\r\n"
    assert headers.relayed_lines() == b"A: 1\r\nB: 3\r\n"


def test_lazy_fields_are_made_once_when_somebody_looks() -> None:
    made: list[int] = []

    def make() -> list[Field]:
        made.append(1)
        return [make_field(b"A", b"1"), make_field(b"a", b"2")]

    headers = Headers.lazy(make)
    assert made == []
    assert (headers.first, headers.repeated, headers.lines()) == ({b"a": b"1"}, True, b"A: 1\r\na: 2\r\n")
    assert headers == Headers.of([(b"A", b"1"), (b"a", b"2")])
    assert made == [1]


@pytest.mark.parametrize(
    ("pairs", "closes"),
    [
        ([], False),
        ([(b"Connection", b"keep-alive")], False),
        ([(b"Connection", b"Keep-Alive")], False),
        ([(b"Connection", b"close")], True),
        ([(b"Connection", b"upgrade, CLOSE")], True),
        ([(b"Connection", b"keep-alive"), (b"connection", b"close")], True),
        ([(b"Connection", b"keep-alive"), (b"A", b"close"), (b"a", b"close")], False),
    ],
)
def test_close_is_said_on_any_line(pairs: list[tuple[bytes, bytes]], closes: bool) -> None:
    assert says_close(Headers.of(pairs)) is closes
