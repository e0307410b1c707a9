"""The demo: the gateway against mock providers, with keys made on the spot. Needs no file and no network."""

from __future__ import annotations

import os
from functools import partial
from typing import Final

import anyio

from aigw_anyio import httpd, logs
from aigw_anyio.dataplane import DataPlaneFactory
from aigw_anyio.lifecycle import Options, Reload, run_gateway
from aigw_anyio.mock import AnthropicMock, OpenAIMock, serve_mock
from aigw_anyio.settings import ListenAddr, Settings
from aigw_core.keys import SEED_SIZE, mint_virtual_key, public_key_of
from aigw_core.secrets import Secret

LOOPBACK: Final = "127.0.0.1"
ADDRESSES: Final = {
    "listen_addr": ListenAddr(LOOPBACK, 8080),
    "metrics_listen": ListenAddr(LOOPBACK, 9090),
}
"""Where the demo listens unless the settings say otherwise; a port that is taken gives way to a free one."""
KID: Final = 1

_OPENAI_MODEL: Final = "gpt-5.4-mini"
_ANTHROPIC_MODEL: Final = "claude-sonnet-5-5"


async def run_demo(settings: Settings, factory: DataPlaneFactory, backend: str, load: Reload) -> int:
    """Serves until a signal asks to stop; returns the exit code."""
    seed = Secret(os.urandom(SEED_SIZE))
    virtual_key = mint_virtual_key(seed, kid=KID, tenant_id=1, vpc_id=1, key_id=1)
    mock_key = Secret("mock-" + os.urandom(16).hex())
    openai = await httpd.listen(LOOPBACK, 0)
    anthropic = await httpd.listen(LOOPBACK, 0)
    changes = {
        "workers": 1,
        "signing_keys": {KID: public_key_of(seed)},
        "pool_keys": {"openai": mock_key, "anthropic": mock_key},
        "provider_authorities": {
            "openai": f"http://{LOOPBACK}:{httpd.bound_address(openai)[1]}",
            "anthropic": f"http://{LOOPBACK}:{httpd.bound_address(anthropic)[1]}",
        },
    }
    movable = frozenset(ADDRESSES) - settings.model_fields_set

    def reload() -> tuple[Settings, list[str]]:
        again, warnings = load()
        return _demo_settings(again, changes), warnings

    options = Options(
        backend,
        reload=reload,
        movable=movable,
        owns_process=True,
        announce=partial(_print_guide, virtual_key, "http" if settings.tls_files is None else "https"),
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(serve_mock, openai, OpenAIMock(mock_key))
        await tasks.start(serve_mock, anthropic, AnthropicMock(mock_key))
        code = await run_gateway(_demo_settings(settings, changes), factory, options)
        tasks.cancel_scope.cancel()
    return code


def _demo_settings(settings: Settings, changes: dict[str, object]) -> Settings:
    addresses = {n: address for n, address in ADDRESSES.items() if n not in settings.model_fields_set}
    return settings.model_copy(update={**addresses, **changes})


def _print_guide(virtual_key: str, scheme: str, address: ListenAddr) -> None:
    host = LOOPBACK if address.host in ("0.0.0.0", "::") else address.host  # noqa: S104  # compared, not bound
    logs.say(guide(virtual_key, f"{scheme}://{ListenAddr(host, address.port)}"))


def guide(virtual_key: str, base: str) -> str:
    """Lines to paste, for the gateway at ``base``."""
    chat = f'{{"model": "{_OPENAI_MODEL}", "messages": [{{"role": "user", "content": "Hello"}}]'
    message = (
        f'{{"model": "{_ANTHROPIC_MODEL}", "max_tokens": 256, "messages": [{{"role": "user", "content": "Hello"}}]'
    )
    openai = f"{base}/openai/v1/chat/completions -H 'Authorization: Bearer {virtual_key}'"
    anthropic = f"{base}/anthropic/v1/messages -H 'x-api-key: {virtual_key}' -H 'anthropic-version: 2023-06-01'"
    json_type = "-H 'Content-Type: application/json'"
    return f"""
The demo is running. Mock providers answer; nothing leaves this machine. Usage facts appear on stdout.
Ctrl-C stops it. The virtual key below was made just now and is worthless afterwards.

# curl, OpenAI
curl -s {openai} {json_type} -d '{chat}}}'
curl -sN {openai} {json_type} -d '{chat}, "stream": true}}'

# curl, Anthropic
curl -s {anthropic} {json_type} -d '{message}}}'
curl -sN {anthropic} {json_type} -d '{message}, "stream": true}}'

# Python, openai SDK
from openai import OpenAI
client = OpenAI(base_url="{base}/openai/v1", api_key="{virtual_key}")
messages = [{{"role": "user", "content": "Hello"}}]
print(client.chat.completions.create(model="{_OPENAI_MODEL}", messages=messages).choices[0].message.content)
for chunk in client.chat.completions.create(model="{_OPENAI_MODEL}", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)

# Python, anthropic SDK
from anthropic import Anthropic
client = Anthropic(base_url="{base}/anthropic", api_key="{virtual_key}")
messages = [{{"role": "user", "content": "Hello"}}]
print(client.messages.create(model="{_ANTHROPIC_MODEL}", max_tokens=256, messages=messages).content[0].text)
with client.messages.stream(model="{_ANTHROPIC_MODEL}", max_tokens=256, messages=messages) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
"""
