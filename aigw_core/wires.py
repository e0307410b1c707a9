"""The wires: what a forwarded path speaks, and so how its answer's usage is read."""

from __future__ import annotations

from enum import StrEnum


class Wire(StrEnum):
    """One request/response format. Chosen from the forwarded path, never from the provider alone."""

    CHAT_COMPLETIONS = "chat_completions"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    RESPONSES_COMPACT = "responses_compact"
    RESPONSES_INPUT_TOKENS = "responses_input_tokens"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    EMBEDDINGS = "embeddings"
    MODELS = "models"
    WARMING = "warming"
    OPAQUE = "opaque"

    @property
    def billable(self) -> bool:
        """Whether a successful answer consumes tokens, so that missing numbers are worth a word."""
        return self in _BILLABLE


_BILLABLE = frozenset(
    {
        Wire.CHAT_COMPLETIONS,
        Wire.COMPLETIONS,
        Wire.RESPONSES,
        Wire.RESPONSES_COMPACT,
        Wire.MESSAGES,
        Wire.EMBEDDINGS,
    }
)
