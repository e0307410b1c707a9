"""Mock providers: realistic answers in the shapes of the OpenAI and Anthropic APIs, for demo and tests."""

from aigw_anyio.mock.anthropic import AnthropicMock
from aigw_anyio.mock.openai import OpenAIMock
from aigw_anyio.mock.server import LIMITS, Mock, serve_mock

__all__ = ["LIMITS", "AnthropicMock", "Mock", "OpenAIMock", "serve_mock"]
