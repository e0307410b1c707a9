"""Which wires consume tokens."""

from __future__ import annotations

from aigw_core.wires import Wire


def test_billable_wires() -> None:
    assert {wire.value for wire in Wire if wire.billable} == {
        "chat_completions",
        "completions",
        "responses",
        "responses_compact",
        "messages",
        "embeddings",
    }
    assert {wire.value for wire in Wire if not wire.billable} == {
        "responses_input_tokens",
        "count_tokens",
        "models",
        "warming",
        "opaque",
    }


def test_a_wire_is_its_name() -> None:
    assert f"{Wire.MESSAGES}" == "messages"
    assert Wire("embeddings") is Wire.EMBEDDINGS
