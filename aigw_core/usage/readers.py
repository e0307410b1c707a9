"""One reader per wire family: what an answer's events or document state about usage."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from aigw_core.usage.document import JSONDocument, states_twice
from aigw_core.usage.jsontext import NestedTooDeepError, decode_json
from aigw_core.usage.profile import UsageProfile
from aigw_core.usage.sse import LongData
from aigw_core.usage.tokens import TokenClasses, anthropic_tokens, openai_tokens
from aigw_core.wires import Wire

_MESSAGES: Final = Wire.MESSAGES
NAME_MAX: Final = 512
"""Characters kept of a model or service tier: the longest recorded model name has 62."""

_DOCUMENT_CONTENT: Final = ("choices", "output", "content", "data")

DOCUMENT_MEMBERS: Final = frozenset({"usage", "model", "service_tier", "error", *_DOCUMENT_CONTENT})
"""Root members of a JSON answer that a reader looks at."""

_STATED: Final = frozenset({"usage", "model", "service_tier"})
"""Members read of the object that an event carries in its root."""

_TOOL_BLOCKS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")
_TOOL_ITEMS: Final = ("function_call", "custom_tool_call", "mcp_call")
"""Types under which Messages and Responses announce a call that the model wrote."""


class Reader:
    """Collects what one answer states; the base class reads JSON documents and ignores events.

    `usage` is the provider's own object, the last one; `settled` says that it is no interim one.
    `content` and `error`: the answer carried anything but errors, an error. `text_bytes` counts the
    generated text seen in events, tool arguments included, in UTF-8 bytes, `deltas` the events that
    carried it, `tool_calls` the calls that began. `undecodable` counts events that were no JSON.
    """

    __slots__ = (
        "_ended",
        "_profile",
        "conflict",
        "content",
        "deltas",
        "error",
        "model",
        "service_tier",
        "settled",
        "terminal",
        "text_bytes",
        "tool_calls",
        "undecodable",
        "usage",
    )

    _TERMINAL_EVENTS: ClassVar[frozenset[str]] = frozenset()
    _EVENT_MEMBERS: ClassVar[frozenset[str]] = DOCUMENT_MEMBERS
    """What is read of an event too long to be decoded at once."""
    _EVENT_NESTED: ClassVar[Mapping[str, frozenset[str]]] = MappingProxyType({})
    """The same inside of objects of its root."""

    def __init__(self, profile: UsageProfile) -> None:
        self._profile = profile
        self._ended = False
        self.conflict = False
        self.content = False
        self.deltas = 0
        self.error = False
        self.model: str | None = None
        self.service_tier: str | None = None
        self.settled = False
        self.terminal = False
        self.text_bytes = 0
        self.tool_calls = 0
        self.undecodable = 0
        self.usage: dict[str, object] | None = None

    def long_event(self) -> JSONDocument:
        """Takes the data of an event that is too long to be decoded at once; then it goes to event()."""
        return JSONDocument(self._EVENT_MEMBERS, self._EVENT_NESTED)

    def event(self, name: bytes, data: bytes | LongData | None) -> bool:
        """Read one server-sent event; None where its data was too large to keep.

        True where the event is the one that `include_usage` asks for: no choices, a usage object.
        """
        if self._ended:
            return False
        if not isinstance(data, bytes):
            return self._long(name, data) if isinstance(data, JSONDocument) else self._overlong(name)
        try:
            root = decode_json(data)
        except NestedTooDeepError:
            document = self.long_event()
            document.feed(data)
            return self._long(name, document)
        except ValueError:
            self._undecoded(data)
            return False
        if not isinstance(root, dict):
            return False
        before = self.usage
        is_usage_event = self._object(name, root)
        if self.usage is not before:
            self.conflict |= states_twice(data, "usage")
        return is_usage_event

    def _long(self, name: bytes, data: JSONDocument) -> bool:
        data.read()
        if not data.closed:
            self.undecodable += 1
            return False
        before = self.usage
        is_usage_event = self._object(name, data.root)
        if self.usage is not before:
            self.conflict |= data.states_twice("usage")
        return is_usage_event

    def document(self, root: dict[str, object]) -> None:
        """Read the root object of a JSON answer; members that were not captured may be missing."""
        usage = root.get("usage")
        if isinstance(usage, dict) and usage:
            self.usage = usage
            self.settled = True
        self._names(root)
        if root.get("error"):
            self.error = True
        for member in _DOCUMENT_CONTENT:
            if root.get(member):
                self.content = True
                break

    def _object(self, name: bytes, root: dict[str, object]) -> bool:
        """Read an event whose data is a JSON object; the return value is that of event()."""
        self._names(root)
        if root.get("error") or name == b"error":
            self.error = True
        else:
            self.content = True
        return False

    def _overlong(self, name: bytes) -> bool:
        self.content = True
        if name.decode("utf-8", "replace") in self._TERMINAL_EVENTS:
            self._ended = self.terminal = True
        return False

    def _undecoded(self, data: bytes) -> None:
        if data.strip() == b"[DONE]":
            self._ended = self.terminal = True
        elif data:
            self.undecodable += 1

    def _names(self, stating: dict[str, object]) -> None:
        """Take the model, first word, and the service tier, last word, of an object that states them."""
        if self.model is None:
            self.model = name_text(stating.get("model"))
        tier = stating.get("service_tier")
        if tier is not None:
            self.service_tier = name_text(tier) or self.service_tier

    def _saw_text(self, text: object) -> None:
        if isinstance(text, str):
            self.text_bytes += len(text) if text.isascii() else utf8_size(text)


class ChatReader(Reader):
    """Chat completions and completions: `/usage` of the last chunk that states one (OpenAI reference,
    "chat.completion.chunk"); Groq's `/x_groq/usage` where there is no other."""

    __slots__ = ("_usage_is_fallback",)

    _EVENT_MEMBERS = DOCUMENT_MEMBERS | {"choices", "x_groq"}

    def __init__(self, profile: UsageProfile) -> None:
        super().__init__(profile)
        self._usage_is_fallback = False

    def _object(self, name: bytes, root: dict[str, object]) -> bool:
        if self.model is None or "service_tier" in root:
            self._names(root)
        error = root.get("error")
        if error or name == b"error":
            self.error = True
        else:
            self.content = True
        choices = root.get("choices")
        if choices and isinstance(choices, list):
            before = self.text_bytes
            for choice in choices:
                if isinstance(choice, dict):
                    self._choice(choice)
            if self.text_bytes != before:
                self.deltas += 1
        usage = root.get("usage")
        if usage is None and "x_groq" not in root:
            return False
        self._take_usage(root, usage)
        return choices == [] and isinstance(usage, dict) and not error

    def _choice(self, choice: dict[str, object]) -> None:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            self._saw_text(choice.get("text"))
            return
        content = delta.get("content")
        if isinstance(content, str):
            # Nearly every chunk: one piece of text and nothing else.
            self.text_bytes += len(content) if content.isascii() else utf8_size(content)
            if len(delta) == 1:
                return
        elif isinstance(content, list):
            self._content_parts(content)
        for name in ("reasoning", "reasoning_content", "refusal"):
            if name in delta:
                self._saw_text(delta[name])
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                self.tool_calls += bool(function.get("name"))
                self._saw_text(function.get("arguments"))

    def _content_parts(self, parts: list[object]) -> None:
        """Mistral's parts: text, or a list of thoughts that are parts themselves."""
        for part in parts:
            if isinstance(part, dict):
                self._saw_text(part.get("text"))
                thoughts = part.get("thinking")
                for thought in thoughts if isinstance(thoughts, list) else ():
                    if isinstance(thought, dict):
                        self._saw_text(thought.get("text"))

    def _take_usage(self, root: dict[str, object], usage: object) -> None:
        stated = isinstance(usage, dict) and bool(usage)
        fallback: object = None
        if self._profile.usage_in_x_groq:
            groq = root.get("x_groq")
            fallback = groq.get("usage") if isinstance(groq, dict) else None
        if isinstance(usage, dict) and usage:
            self.usage = usage
            self._usage_is_fallback = False
            self.conflict |= isinstance(fallback, dict) and _disagree(usage, fallback)
        elif isinstance(fallback, dict) and fallback and (self.usage is None or self._usage_is_fallback):
            self.usage = fallback
            self._usage_is_fallback = True
            stated = True
        if stated:
            self.settled = True
            if not self._profile.ends_with_done and _finishes(root.get("choices")):
                self.terminal = True


class ResponsesReader(Reader):
    """Responses: `/response/usage` of the event that ends the response."""

    __slots__ = ()

    _TERMINAL_EVENTS = frozenset({"response.completed", "response.incomplete", "response.failed"})
    _EVENT_MEMBERS = frozenset({"type", "error", "delta", "item"})
    _EVENT_NESTED = MappingProxyType({"response": _STATED})
    _NO_CONTENT = frozenset(
        {"response.created", "response.queued", "response.in_progress", "response.failed", "error", "keepalive"}
    )

    def _object(self, name: bytes, root: dict[str, object]) -> bool:
        kind = root.get("type")
        if not isinstance(kind, str):
            kind = name.decode("utf-8", "replace")
        if kind == "error" or kind == "response.failed":
            self.error = True
        if kind not in self._NO_CONTENT:
            self.content = True
        if kind.endswith(".delta") and kind != "response.audio.delta":
            before = self.text_bytes
            self._saw_text(root.get("delta"))
            if self.text_bytes != before:
                self.deltas += 1
        elif kind == "response.output_item.added":
            item = root.get("item")
            self.tool_calls += isinstance(item, dict) and item.get("type") in _TOOL_ITEMS
        response = root.get("response")
        ends = kind in self._TERMINAL_EVENTS
        if isinstance(response, dict):
            self._names(response)
            usage = response.get("usage")
            if isinstance(usage, dict) and usage:
                self.usage = usage
                self.settled = ends
        if ends:
            self._ended = self.terminal = True
        return False


class MessagesReader(Reader):
    """Messages: the usage of message_start, overridden field by field by the non-null members of each
    message_delta, whose numbers are totals so far (Anthropic SDK types/message_delta_usage.py)."""

    __slots__ = ()

    _TERMINAL_EVENTS = frozenset({"message_stop"})
    _EVENT_MEMBERS = frozenset({"type", "error", "usage", "delta", "content_block"})
    _EVENT_NESTED = MappingProxyType({"message": _STATED})

    def _object(self, name: bytes, root: dict[str, object]) -> bool:
        kind = root.get("type")
        if not isinstance(kind, str):
            kind = name.decode("utf-8", "replace")
        if kind == "content_block_delta":
            self.content = True
            delta = root.get("delta")
            if isinstance(delta, dict):
                before = self.text_bytes
                self._saw_text(delta.get("text"))
                self._saw_text(delta.get("thinking"))
                self._saw_text(delta.get("partial_json"))
                if self.text_bytes != before:
                    self.deltas += 1
        elif kind == "content_block_start":
            self.content = True
            block = root.get("content_block")
            self.tool_calls += isinstance(block, dict) and block.get("type") in _TOOL_BLOCKS
        elif kind == "message_start":
            message = root.get("message")
            if isinstance(message, dict):
                self._names(message)
                self._start(message.get("usage"))
        elif kind == "message_delta":
            self._override(root.get("usage"))
        elif kind == "message_stop":
            self.settled = self.usage is not None
            self.terminal = True
        elif kind == "error" or root.get("error"):
            self.error = True
        elif kind != "ping":
            self.content = True
        return False

    def _start(self, usage: object) -> None:
        if isinstance(usage, dict) and usage:
            # A second message in one stream: its numbers count, those of the first are lost to the fact.
            self.conflict |= self.usage is not None
            self.usage = usage
            self.settled = False

    def _override(self, usage: object) -> None:
        if isinstance(usage, dict) and usage:
            stated = {name: value for name, value in usage.items() if value is not None}
            self.usage = usage if self.usage is None else self.usage | stated
            self.settled = True


_READERS: Final[dict[Wire, type[Reader]]] = {
    Wire.CHAT_COMPLETIONS: ChatReader,
    Wire.COMPLETIONS: ChatReader,
    Wire.RESPONSES: ResponsesReader,
    Wire.RESPONSES_COMPACT: ResponsesReader,
    Wire.MESSAGES: MessagesReader,
}


_CHAT_WIRES: Final = (Wire.CHAT_COMPLETIONS, Wire.COMPLETIONS)


def tokens_of(wire: Wire, profile: UsageProfile, usage: dict[str, object]) -> TokenClasses:
    """The disjoint classes of a usage object on this wire."""
    if wire is _MESSAGES:
        return anthropic_tokens(usage)
    beside = profile.reasoning_beside_completion and wire in _CHAT_WIRES
    return openai_tokens(usage, reasoning_beside_completion=beside)


def reader_for(wire: Wire, profile: UsageProfile) -> Reader:
    """The reader of a wire's answers. Wires that are not billable get one that finds no usage."""
    return _READERS.get(wire, Reader)(profile)


def _disagree(usage: dict[str, object], other: dict[str, object]) -> bool:
    return any(
        usage[name] != other[name]
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        if name in usage and name in other
    )


def _finishes(choices: object) -> bool:
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") for choice in choices
    )


def utf8_size(text: str) -> int:
    """Bytes of the text in UTF-8; lone surrogates, which JSON escapes can make, count three."""
    return len(text.encode("utf-8", "surrogatepass"))


def name_text(value: object) -> str | None:
    """A model or tier name: text that is not empty, bounded."""
    return value[:NAME_MAX] if isinstance(value, str) and value else None
