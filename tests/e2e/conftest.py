"""Shared processes: one mock provider, and one gateway for each configuration."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Final, Protocol

import pytest

from tests.e2e.fleet import Fleet, environment
from tests.e2e.gateway import Gateway
from tests.e2e.provider import Provider

BACKENDS: Final = ("asyncio", "trio")
"""Frontends that the whole suite runs against."""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture(scope="session")
def fleet(provider: Provider) -> Iterator[Fleet]:
    fleet = Fleet(provider)
    yield fleet
    fleet.stop()


@pytest.fixture(autouse=True)
def _no_faults(fleet: Fleet) -> Iterator[None]:
    """The test during which a gateway logged a fault is the one that fails, and none leaves work to the next one."""
    yield
    fleet.rest()
    faults = [fault for gateway in fleet.running() for fault in gateway.faults()]
    if faults:
        pytest.fail("the gateway logged a fault:\n" + "\n".join(faults).replace("\\n", "\n"), pytrace=False)


class Starter(Protocol):
    def __call__(self, environ: dict[str, str] | None = None, *arguments: str, listens: bool = True) -> Gateway: ...


@pytest.fixture
def start(request: pytest.FixtureRequest, backend: str, provider: Provider) -> Iterator[Starter]:
    """Starts gateways, where the module is marked in fresh interpreters; none outlives the test."""
    started: list[Gateway] = []
    fresh = request.node.get_closest_marker("fresh") is not None

    def starter(environ: dict[str, str] | None = None, *arguments: str, listens: bool = True) -> Gateway:
        environ = {**environment(provider), **(environ or {})}
        gateway = Gateway(backend, environ, arguments=arguments, fresh=fresh, listens=listens)
        started.append(gateway)
        return gateway

    yield starter
    for gateway in started:
        if gateway.running():
            gateway.send_signal(signal.SIGKILL)
        gateway.wait()
        assert gateway.faults() == []


@pytest.fixture
def gateway(backend: str, fleet: Fleet) -> Gateway:
    """Every timer at its default, no rate limit."""
    return fleet.get(backend, "plain")


@pytest.fixture
def limited(backend: str, fleet: Fleet) -> Gateway:
    """Two requests a second for each key, request bodies up to REQUEST_MAX."""
    return fleet.get(backend, "limited")


@pytest.fixture
def hurried(backend: str, fleet: Fleet) -> Gateway:
    """Every timer short."""
    return fleet.get(backend, "hurried")


@pytest.fixture
def draining(backend: str, fleet: Fleet) -> Gateway:
    """Reads on for the usage after the caller has left."""
    return fleet.get(backend, "draining")


@pytest.fixture
def denied(backend: str, fleet: Fleet) -> Gateway:
    """Some tenants are cut off."""
    return fleet.get(backend, "denied")


@pytest.fixture
def many(backend: str, fleet: Fleet) -> Gateway:
    """Two workers, no rate limit."""
    return fleet.get(backend, "many")
