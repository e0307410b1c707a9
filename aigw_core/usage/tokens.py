"""Disjoint token classes out of a provider's usage object.

Classes: `input`, `cache_read`, `cache_write_5m`, `cache_write_1h`, `cache_write` (unsplit),
`input_audio` for the prompt; `output`, `reasoning`, `output_audio`, `output_image` for the answer. Each
token stands in one class; a class the provider did not state is absent. `input` and `output` are what
the other classes leave of the provider's whole.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeGuard

COUNT_MAX: Final = 2**53
"""Largest count that every JSON reader keeps exact (RFC 8259, 6); larger ones saturate here."""

TOOL_COUNTERS_MAX: Final = 32
"""Server tool counters kept of one answer: providers state at most seven."""

_TOOL_COUNTERS: Final = ("server_tool_use", "server_tool_use_details", "server_side_tool_usage_details")
"""Anthropic, OpenRouter (SDK components/chatusage.py), xAI: members that hold counts of server tool calls."""


class TokenClasses(NamedTuple):
    """`counts` by class. `saturated`: a count was negative or above COUNT_MAX. `inconsistent`: the classes
    do not sum to the stated totals, a part exceeds its whole, or a stated count is no usable integer."""

    counts: dict[str, int]
    saturated: bool
    inconsistent: bool
    plain: bool = False
    """The object holds integers and objects of integers alone."""


class _Counters:
    """Reads counters out of a usage object and remembers what was wrong with them."""

    __slots__ = ("malformed", "saturated")

    def __init__(self) -> None:
        self.saturated = False
        self.malformed = False

    def read(self, members: object, *names: str) -> int | None:
        """The first of `names` that is stated. Only true integers count (True and 1.0 are none)."""
        if not isinstance(members, dict):
            return None
        for name in names:
            value = members.get(name)
            if value is None:
                continue
            if type(value) is not int:
                self.malformed = True
            elif value < 0:
                self.saturated = self.malformed = True
                return 0
            elif value > COUNT_MAX:
                self.saturated = True
                return COUNT_MAX
            else:
                return value
        return None


def openai_tokens(usage: dict[str, object], *, reasoning_beside_completion: bool) -> TokenClasses:
    """Classes of a chat completions, completions, Responses or embeddings usage object.

    Both families of names count on every wire. Cached, cache-written and audio tokens stand inside the
    prompt, reasoning, audio and image tokens inside the completion (OpenAI SDK types/completion_usage.py,
    types/responses/response_usage.py). Where reasoning stands beside it (xAI), `total_tokens` says so;
    without a total `reasoning_beside_completion` decides.
    """
    plain = _plain_openai_tokens(usage)
    if plain is not None:
        return plain
    counters = _Counters()
    read = counters.read
    prompt_details = _details(usage, "prompt_tokens_details", "input_tokens_details", "prompt_token_details")
    answer_details = _details(usage, "completion_tokens_details", "output_tokens_details")
    prompt = read(usage, "prompt_tokens", "input_tokens")
    answer = read(usage, "completion_tokens", "output_tokens")
    total = read(usage, "total_tokens")
    cache_read = read(prompt_details, "cached_tokens")
    if cache_read is None:
        # Together, DeepSeek, older Mistral.
        cache_read = read(usage, "cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens")
    input_audio = read(prompt_details, "audio_tokens")
    reasoning = read(answer_details, "reasoning_tokens")
    stated = (prompt or 0) + (answer or 0)
    if reasoning and total is not None and answer is not None:
        if total == stated:
            reasoning_beside_completion = False
        elif total == stated + reasoning:
            reasoning_beside_completion = True
    # Mistral counts the audio of a prompt in total_tokens but not in prompt_tokens.
    audio_beside = bool(input_audio) and total is not None and total == stated + (input_audio or 0)
    if audio_beside:
        counters.malformed = True

    counts: dict[str, int] = {}
    fits = _partition(
        counts,
        "input",
        prompt,
        ("cache_read", cache_read),
        ("cache_write", read(prompt_details, "cache_write_tokens")),
        ("input_audio", None if audio_beside else input_audio),
    )
    fits &= _partition(
        counts,
        "output",
        answer,
        ("reasoning", None if reasoning_beside_completion else reasoning),
        ("output_audio", read(answer_details, "audio_tokens")),
        ("output_image", read(answer_details, "image_tokens")),
    )
    if audio_beside and input_audio is not None:
        counts["input_audio"] = input_audio
    if reasoning_beside_completion and reasoning is not None:
        counts["reasoning"] = reasoning
    if total is not None and sum(counts.values()) != total:
        fits = False
    return TokenClasses(counts, counters.saturated, counters.malformed or not fits)


_PLAIN_MEMBERS: Final = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
    }
)
_INTEGERS: Final[frozenset[type]] = frozenset({int})
_DETAIL_NAMES: Final = frozenset(
    {"cached_tokens", "audio_tokens", "reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"}
)


def _plain_openai_tokens(usage: dict[str, object]) -> TokenClasses | None:
    """The classes of the usage object that nearly every answer has; None for any other.

    Sound integers under the chat names alone, which add up with nothing beside anything: all that the general
    way looks at besides is then absent. 3 µs against 8 for each answer.
    """
    if not usage.keys() <= _PLAIN_MEMBERS:
        return None
    get = usage.get
    prompt, answer = get("prompt_tokens"), get("completion_tokens")
    if type(prompt) is not int or type(answer) is not int or prompt < 0 or answer < 0:
        return None
    total = prompt + answer
    if get("total_tokens") != total or total > COUNT_MAX:
        return None
    counts = {"input": prompt, "output": answer}
    details = get("prompt_tokens_details")
    if details is not None:
        if not _all_counts(details):
            return None
        part = details.get("cached_tokens")
        if part is not None:
            counts["cache_read"] = part
            prompt -= part
        part = details.get("audio_tokens")
        if part is not None:
            counts["input_audio"] = part
            prompt -= part
        counts["input"] = prompt
    details = get("completion_tokens_details")
    if details is not None:
        if not _all_counts(details):
            return None
        part = details.get("reasoning_tokens")
        if part is not None:
            counts["reasoning"] = part
            answer -= part
        part = details.get("audio_tokens")
        if part is not None:
            counts["output_audio"] = part
            answer -= part
        counts["output"] = answer
    return TokenClasses(counts, False, False, True) if prompt >= 0 and answer >= 0 else None


def _all_counts(details: object) -> TypeGuard[dict[str, int]]:
    """Whether this is an object of known names and counts alone. Members that are null go the general way."""
    if type(details) is not dict or not details.keys() <= _DETAIL_NAMES:
        return False
    values = details.values()
    return _INTEGERS.issuperset(map(type, values)) and min(values, default=0) >= 0


def anthropic_tokens(usage: dict[str, object]) -> TokenClasses:
    """Classes of a Messages usage object: `input_tokens` leaves cached tokens out, `output_tokens`
    includes thinking (Anthropic SDK types/usage.py).

    The split of cache writes by lifetime counts only while it sums to `cache_creation_input_tokens`:
    in streams a message_delta raises the sum and leaves the split of message_start behind.
    `iterations` (compaction, advisors) stand outside of these numbers, in the usage object only.
    """
    if "input_tokens" not in usage and "prompt_tokens" in usage:
        return openai_tokens(usage, reasoning_beside_completion=False)
    counters = _Counters()
    read = counters.read
    counts: dict[str, int] = {}
    _partition(counts, "input", read(usage, "input_tokens"))
    _partition(counts, "cache_read", read(usage, "cache_read_input_tokens"))
    written = read(usage, "cache_creation_input_tokens")
    split = _details(usage, "cache_creation")
    short = read(split, "ephemeral_5m_input_tokens")
    long = read(split, "ephemeral_1h_input_tokens")
    has_split = short is not None or long is not None
    if has_split and written in (None, (short or 0) + (long or 0)):
        _partition(counts, "cache_write_5m", short)
        _partition(counts, "cache_write_1h", long)
    else:
        _partition(counts, "cache_write", written)
    thinking = read(_details(usage, "output_tokens_details"), "thinking_tokens")
    fits = _partition(counts, "output", read(usage, "output_tokens"), ("reasoning", thinking))
    return TokenClasses(counts, counters.saturated, counters.malformed or not fits)


def server_tool_calls(usage: dict[str, object]) -> dict[str, int] | None:
    """Counts of tools that ran at the provider, by the provider's names; None where it stated none."""
    if usage.keys().isdisjoint(_TOOL_COUNTERS):
        return None
    counters = _Counters()
    calls: dict[str, int] = {}
    for member in _TOOL_COUNTERS:
        for name in _details(usage, member):
            count = counters.read(usage[member], name)
            if count is not None and len(calls) < TOOL_COUNTERS_MAX:
                calls[name] = count
    return calls or None


def _details(usage: dict[str, object], *names: str) -> dict[str, object]:
    for name in names:
        value = usage.get(name)
        if isinstance(value, dict):
            return value
    return {}


def _partition(counts: dict[str, int], rest_name: str, whole: int | None, *parts: tuple[str, int | None]) -> bool:
    """Write the stated parts and what they leave of the whole; False where they exceed it."""
    rest = 0 if whole is None else whole
    if whole is not None:
        counts[rest_name] = rest
    for name, count in parts:
        if count is not None:
            counts[name] = count
            rest -= count
    if whole is None:
        return True
    counts[rest_name] = max(rest, 0)
    return rest >= 0
