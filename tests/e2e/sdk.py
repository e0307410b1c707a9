"""Stock SDK clients, told nothing but the base URL and the key."""

from __future__ import annotations

import ssl
from typing import Final, TypedDict

import anthropic
import openai

from tests.e2e.gateway import Gateway
from tests.e2e.provider import Case

_UNUSED_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Plain HTTP needs none, and reading the system's certificates takes longer than a test."""


class _Options(TypedDict):
    base_url: str
    api_key: str
    max_retries: int
    default_headers: dict[str, str] | None


def _options(gateway: Gateway, key: str, case: Case | None, base: str, retries: int) -> _Options:
    return {
        "base_url": f"{gateway.url}/{base}",
        "api_key": key,
        "max_retries": retries,
        "default_headers": case.headers if case is not None else None,
    }


def openai_client(
    gateway: Gateway,
    key: str,
    case: Case | None = None,
    *,
    base: str = "openai/v1",
    retries: int = 2,
    tls: ssl.SSLContext = _UNUSED_TLS,
) -> openai.OpenAI:
    client = openai.DefaultHttpxClient(verify=tls)
    return openai.OpenAI(**_options(gateway, key, case, base, retries), http_client=client)


def async_openai_client(
    gateway: Gateway, key: str, case: Case | None = None, *, base: str = "openai/v1", retries: int = 2
) -> openai.AsyncOpenAI:
    client = openai.DefaultAsyncHttpxClient(verify=_UNUSED_TLS)
    return openai.AsyncOpenAI(**_options(gateway, key, case, base, retries), http_client=client)


def anthropic_client(
    gateway: Gateway,
    key: str,
    case: Case | None = None,
    *,
    base: str = "anthropic",
    retries: int = 2,
    tls: ssl.SSLContext = _UNUSED_TLS,
) -> anthropic.Anthropic:
    client = anthropic.DefaultHttpxClient(verify=tls)
    return anthropic.Anthropic(**_options(gateway, key, case, base, retries), http_client=client)


def async_anthropic_client(
    gateway: Gateway, key: str, case: Case | None = None, *, base: str = "anthropic", retries: int = 2
) -> anthropic.AsyncAnthropic:
    client = anthropic.DefaultAsyncHttpxClient(verify=_UNUSED_TLS)
    return anthropic.AsyncAnthropic(**_options(gateway, key, case, base, retries), http_client=client)
