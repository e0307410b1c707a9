"""One server for tests that only use it, and servers of their own for tests that stop them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nats.server import NatsServer


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Never stopped or reconfigured; each test uses a bucket of its own."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Starts servers for this test alone; arguments as of NatsServer."""
    servers: list[NatsServer] = []

    def start(config: str = "", port: int | None = None) -> NatsServer:
        server = NatsServer(tmp_path / f"nats{len(servers)}", config=config, port=port)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()
