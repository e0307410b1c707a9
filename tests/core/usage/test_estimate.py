"""The estimate says its method and only what it can know."""

from __future__ import annotations

import pytest

from aigw_core.usage.estimate import BODY_METHOD, REQUEST_METHOD, STREAM_METHOD, estimate_body, estimate_stream


@pytest.mark.parametrize(
    ("text_bytes", "tool_calls", "deltas", "output"),
    [(0, 0, 0, 0), (1, 0, 1, 1), (4, 0, 1, 1), (5, 0, 1, 2), (400, 0, 30, 100), (400, 0, 150, 150), (400, 2, 30, 140)],
)
def test_stream(text_bytes: int, tool_calls: int, deltas: int, output: int) -> None:
    assert estimate_stream(0, text_bytes, tool_calls, deltas) == {"output": output, "method": STREAM_METHOD}
    assert estimate_stream(10, text_bytes, tool_calls, deltas) == {
        "input": 3,
        "output": output,
        "method": STREAM_METHOD,
    }


def test_body() -> None:
    assert estimate_body(0, 9) == {"output": 3, "method": BODY_METHOD}
    assert estimate_body(9, 0) == {"input": 3, "output": 0, "method": BODY_METHOD}
    assert estimate_body(9, None) == {"input": 3, "method": REQUEST_METHOD}
    assert estimate_body(0, None) is None
