from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigw_core.headers import Headers
from aigw_core.trace import trace_id_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def of(*values: bytes) -> str | None:
    return trace_id_of(Headers.of([(b"Traceparent", value) for value in values]))


@pytest.mark.parametrize(
    "value",
    [
        f"00-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-00",
        f"cc-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like",
        f"01-{TRACE}-{PARENT}-ff-",
    ],
)
def test_valid(value: str) -> None:
    assert of(value.encode()) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        TRACE,
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"0-{TRACE}-{PARENT}-01",
    ],
)
def test_invalid(value: str) -> None:
    assert of(value.encode()) is None


def test_absent_or_repeated() -> None:
    good = f"00-{TRACE}-{PARENT}-01".encode()
    assert of() is None
    assert of(good, good) is None
    assert trace_id_of(Headers.of([(b"tracestate", good)])) is None


@given(st.binary())
def test_only_hex_ever_comes_out(data: bytes) -> None:
    for value in (data, f"00-{TRACE}-".encode() + data, b"00-" + data + f"-{PARENT}-01".encode()):
        found = of(value)
        assert found is None or (len(found) == 32 and set(found) <= set("0123456789abcdef"))
