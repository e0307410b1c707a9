"""Paths: provider, forwarded target, wire, dialect, and the exact managed scope."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigw_core.errors import Dialect
from aigw_core.providers import PROVIDERS
from aigw_core.routing import (
    PATH_MAX,
    WARMING,
    WIRES,
    Scope,
    ScopeTable,
    bare_dialect,
    dialect_of,
    speaks_anthropic,
    split_target,
)
from aigw_core.wires import Wire
from tests.core.driver import make_policy

OPENAI, ANTHROPIC = Dialect.OPENAI, Dialect.ANTHROPIC
POST, READ = (b"POST",), (b"GET", b"HEAD")


def table_of(name: str) -> ScopeTable:
    return ScopeTable(PROVIDERS[name].bases, warming=PROVIDERS[name].warming)


@pytest.mark.parametrize(
    ("target", "split"),
    [
        (b"/openai/v1/chat/completions", ("openai", b"/v1/chat/completions", b"")),
        (b"/openai/v1/models?limit=2&a=%2F", ("openai", b"/v1/models", b"?limit=2&a=%2F")),
        (b"/openai", ("openai", b"/", b"")),
        (b"/openai/", ("openai", b"/", b"")),
        (b"/openai?x", ("openai", b"/", b"?x")),
        (b"/openai//v1/./../a%2F", ("openai", b"//v1/./../a%2F", b"")),
        (b"/openai/v1?", ("openai", b"/v1", b"?")),
        (b"/openai/a?b/c?d", ("openai", b"/a", b"?b/c?d")),
        (b"/v1", (None, b"/v1", b"")),
        (b"/v1?x", (None, b"/v1", b"?x")),
        (b"/v1/", (None, b"/v1/", b"")),
        (b"/v1/chat/completions", (None, b"/v1/chat/completions", b"")),
        (b"/v1beta", ("v1beta", b"/", b"")),
        (b"/v1beta/models", ("v1beta", b"/models", b"")),
        (b"/v1%2Fchat", ("v1%2Fchat", b"/", b"")),
        (b"/V1/chat", ("V1", b"/chat", b"")),
        (b"/", ("", b"/", b"")),
        (b"//openai/v1", ("", b"/openai/v1", b"")),
        (b"/?/v1/x", ("", b"/", b"?/v1/x")),
    ],
)
def test_the_first_segment_is_the_provider(target: bytes, split: tuple[str | None, bytes, bytes]) -> None:
    assert split_target(target) == split


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_the_rest_is_forwarded_verbatim(raw: bytes) -> None:
    segment, path, query = split_target(b"/openai/" + raw)
    assert (segment, path + query) == ("openai", b"/" + raw)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        (b"/v1/messages", ANTHROPIC),
        (b"/v1/messages/count_tokens", ANTHROPIC),
        (b"/v1/messages/batches", ANTHROPIC),
        (b"/v1/chat/completions", OPENAI),
        (b"/v1/models", OPENAI),
        (b"/v1", OPENAI),
        (b"/v1/messages2", OPENAI),
        (b"/v1/threads/t_1/messages", OPENAI),
        (b"/v1/threads/v1/messages", OPENAI),
    ],
)
def test_a_bare_path_has_the_default_of_the_dialect(path: bytes, dialect: Dialect) -> None:
    """OpenAI's threads have messages too: that path must not carry an OpenAI key to Anthropic."""
    assert bare_dialect(path, anthropic_headers=False) is dialect
    assert bare_dialect(path, anthropic_headers=True) is ANTHROPIC


@pytest.mark.parametrize(
    ("path", "default", "headers", "dialect"),
    [
        (b"/v1/messages", OPENAI, False, ANTHROPIC),
        (b"/api/v1/messages/count_tokens", OPENAI, False, ANTHROPIC),
        (b"/v1/chat/completions", ANTHROPIC, True, OPENAI),
        (b"/v1/completions", ANTHROPIC, True, OPENAI),
        (b"/v1/responses", ANTHROPIC, True, OPENAI),
        (b"/v1/embeddings", ANTHROPIC, True, OPENAI),
        (b"/v1/models", OPENAI, True, ANTHROPIC),
        (b"/v1/models", OPENAI, False, OPENAI),
        (b"/v1/models", ANTHROPIC, False, ANTHROPIC),
        (b"/v1/threads/t_1/messages", OPENAI, False, OPENAI),
    ],
)
def test_the_dialect_of_a_caller(path: bytes, default: Dialect, headers: bool, dialect: Dialect) -> None:
    assert dialect_of(path, default, headers) is dialect


def test_the_wires_and_their_methods() -> None:
    assert WIRES == {
        "/chat/completions": (Wire.CHAT_COMPLETIONS, POST),
        "/completions": (Wire.COMPLETIONS, POST),
        "/responses": (Wire.RESPONSES, POST),
        "/responses/compact": (Wire.RESPONSES_COMPACT, POST),
        "/responses/input_tokens": (Wire.RESPONSES_INPUT_TOKENS, POST),
        "/messages": (Wire.MESSAGES, POST),
        "/messages/count_tokens": (Wire.COUNT_TOKENS, POST),
        "/embeddings": (Wire.EMBEDDINGS, POST),
        "/models": (Wire.MODELS, READ),
    }
    assert [wire for wire in Wire if speaks_anthropic(wire)] == [Wire.MESSAGES, Wire.COUNT_TOKENS]


@pytest.mark.parametrize("name", PROVIDERS)
def test_each_base_has_each_wire_and_nothing_else(name: str) -> None:
    table = table_of(name)
    for base in PROVIDERS[name].bases:
        for suffix, (wire, methods) in WIRES.items():
            path = (base + suffix).encode()
            assert table.find(path) == Scope(wire, methods)
            for near in (path + b"/", path + b"x", b"/x" + path, path.upper(), path[:-1], b"/" + path):
                assert table.find(near) is None, near
        assert table.find(f"{base}/models/gpt-4o".encode()) == Scope(Wire.MODELS, READ)
    for other in ("/v1/chat/completions", "/inference/v1/chat/completions", "/openai/v1/chat/completions"):
        known = any(other == base + "/chat/completions" for base in PROVIDERS[name].bases)
        assert (table.find(other.encode()) is not None) == known


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize(
    "path",
    [
        *["/v1", "/", "", "/v1/", "/v1/files", "/v1/files/f_1/content", "/v1/batches", "/v1/responses/resp_1"],
        *["/v1/threads/t_1/messages", "/v1/messages/batches", "/v1/chat/completions/c_1", "/v1/conversations"],
        *["/v1/fine_tuning/jobs", "/v1/organization/usage", "/api/v1/generation", "/api/v1/key", "/v1/images"],
        *["/v1//chat/completions", "/v1/./chat/completions", "/v1/x/../chat/completions", "/v1/chat%2Fcompletions"],
        *["/v1/chat\\completions", "/v1/%63hat/completions", "/v1/models/a/permissions", "/v1/v1/chat/completions"],
    ],
)
def test_what_a_pool_key_could_read_of_others_is_outside(name: str, path: str) -> None:
    assert table_of(name).find(path.encode()) is None


def test_warming() -> None:
    """The Cerebras SDK opens every client with it."""
    assert table_of("cerebras").find(WARMING.encode()) == Scope(Wire.WARMING, (b"GET",))
    assert table_of("openai").find(WARMING.encode()) is None


@pytest.mark.parametrize(
    "model",
    [
        *[
            "gpt-4o",
            "ft:gpt-4o:org::id",
            "openai%2Fgpt-oss-20b",
            "openai%2fgpt-oss-20b",
            "a%2Fb%2Fc",
            "a.b",
            "...",
            "a..b",
        ],
        *["accounts%2Ffireworks%2Fmodels%2Fx", "x@latest", "%41", "%E4%BD%A0", "~a", "a;b", "a%3Bb"],
    ],
)
def test_model_ids(model: str) -> None:
    assert table_of("openai").find(b"/v1/models/" + model.encode()) == Scope(Wire.MODELS, READ)


@pytest.mark.parametrize(
    "model",
    [
        *["", ".", "..", "a/b", "a/", "/a", "a//b", "a\\b", "%5c", "a%5Cb", "%2e", "%2E%2E", "a%2e", "%2e%2e%2ffiles"],
        *[
            "%2F",
            "a%2F",
            "%2Fa",
            "a%2F%2Fb",
            "..%2Ffiles",
            "a%2F..%2Fb",
            "a%2F.",
            ".%2Fa",
            "%252e%252e",
            "a%252Fb",
            "%25",
        ],
        *["..;%2Ffiles", "..;x", ";a", "..%3Ba"],
    ],
)
def test_what_may_climb_is_no_model_id(model: str) -> None:
    assert table_of("openai").find(b"/v1/models/" + model.encode()) is None


@settings(deadline=None)
@given(st.text("a.%2eEfF/5cC\\;", max_size=8))
def test_no_model_id_leaves_the_models(model: str) -> None:
    """However often a provider decodes and whatever it normalises, the path stays below the base."""
    if table_of("openai").find(b"/v1/models/" + model.encode()) is None:
        return
    assert "\\" not in model
    parts = model.lower().replace("%2f", "/").replace("%2e", ".").replace("%5c", "\\").split("/")
    assert all(part.split(";")[0] not in ("", ".", "..") and "\\" not in part for part in parts)
    assert "/" not in model


def test_an_operator_may_widen_the_table() -> None:
    table = ScopeTable(("/v1",), extra=("GET /v1/files", "/v1/rerank", "POST /v1/audio/*", "/v2/*"))
    assert table.find(b"/v1/files") == Scope(Wire.OPAQUE, (b"GET",))
    assert table.find(b"/v1/rerank") == Scope(Wire.OPAQUE, None)
    assert table.find(b"/v1/audio/speech") == Scope(Wire.OPAQUE, (b"POST",))
    assert table.find(b"/v2/a/b.c") == Scope(Wire.OPAQUE, None)
    assert table.find(b"/v1/chat/completions") == Scope(Wire.CHAT_COMPLETIONS, POST)
    for path in [b"/v1/files/x", b"/v1/rerank/", b"/v1/audio", b"/v2", b"/v3/x"]:
        assert table.find(path) is None


@pytest.mark.parametrize(
    "rest", [b"..", b"a/../b", b"./a", b"a//b", b"", b"a/", b"%2e%2e", b"a%2Fb", b"a%5cb", b"a\\b", b"..;/a", b"a/..;x"]
)
def test_a_widened_prefix_cannot_be_left(rest: bytes) -> None:
    assert ScopeTable((), extra=("/v2/*",)).find(b"/v2/" + rest) is None


def test_a_path_that_no_id_has_is_refused_unread() -> None:
    scope = make_policy().providers["openai"].scope
    assert scope.find(b"/v1/models/" + b"m" * 200) is not None
    assert scope.find(b"/v1/models/" + b"m" * PATH_MAX) is None
