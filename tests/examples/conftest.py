"""A mock provider in a thread, and a gateway's parts that lead to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

import pytest
from anyio.from_thread import start_blocking_portal

from aigw_anyio import httpd
from aigw_anyio.mock import OpenAIMock, serve_mock
from aigw_core import (
    PROVIDERS,
    Gateway,
    KeyRing,
    Limiter,
    Policy,
    ProviderPolicy,
    Secret,
    mint_virtual_key,
    parse_origin,
    public_key_of,
)

SEED: Final = Secret(bytes([11]) * 32)
POOL_KEY: Final = Secret(b"pool-key-of-the-examples")


@pytest.fixture(scope="session")
def provider_port() -> Iterator[int]:
    """The port of a mock of OpenAI."""
    with start_blocking_portal() as portal:
        listener = portal.call(httpd.listen, "127.0.0.1", 0)
        running, _ = portal.start_task(partial(serve_mock, listener, OpenAIMock(POOL_KEY)))
        yield httpd.bound_address(listener)[1]
        running.cancel()


@pytest.fixture
def policy(provider_port: int) -> Policy:
    openai = replace(
        ProviderPolicy.of(PROVIDERS["openai"]),
        pool_key=POOL_KEY,
        origin=parse_origin(f"http://127.0.0.1:{provider_port}"),
    )
    return Policy(providers={"openai": openai}, keyring=KeyRing({1: public_key_of(SEED)}))


def make_gateway(policy: Policy) -> Gateway:
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    return Gateway(policy, entropy=bytes(range(32)), limiter=limiter, now=time.monotonic(), wall=time.time())


def virtual_key(tenant_id: int) -> str:
    return mint_virtual_key(SEED, kid=1, tenant_id=tenant_id, vpc_id=0, key_id=tenant_id)
