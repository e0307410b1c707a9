"""Server processes that tests share: one for each configuration and frontend, started when first asked for."""

from __future__ import annotations

import functools
import json
import signal
import socket
from typing import Final

from aigw_core.providers import PROVIDERS
from tests.e2e import keys
from tests.e2e.gateway import Gateway, wait_until
from tests.e2e.provider import Provider

REQUEST_MAX: Final = 1_000_000
"""``max_request_bytes`` of the limited gateway."""
HURRY_SECS: Final = 0.5
"""Every timer of the hurried gateway: long against a turn of the loop, short against a test."""

CONFIGURATIONS: Final[dict[str, dict[str, str]]] = {
    "plain": {"AI_RATE_LIMIT_RPS": "0", "AI_BYO_RATE_LIMIT_RPS": "0", "AI_UNVERIFIED_RATE_LIMIT_RPS": "0"},
    "limited": {"AI_RATE_LIMIT_RPS": "2", "AI_MAX_REQUEST_BYTES": str(REQUEST_MAX)},
    "hurried": {
        "AI_RATE_LIMIT_RPS": "0",
        **{
            f"AI_{name}_TIMEOUT_SECS": str(HURRY_SECS)
            for name in ("CONNECT", "READ", "STREAM_IDLE", "CLIENT_HEAD", "CLIENT_BODY", "KEEPALIVE")
        },
        **{f"AI_{name}_WRITE_TIMEOUT_SECS": "1" for name in ("UPSTREAM", "CLIENT")},
    },
    "draining": {"AI_RATE_LIMIT_RPS": "0", "AI_ON_CLIENT_ABORT": "drain"},
    "denied": {},
    "many": {
        "AI_WORKERS": "2",
        **{f"AI_{name}RATE_LIMIT_RPS": "0" for name in ("", "BYO_", "UNVERIFIED_")},
    },
}


class Refusing:
    """A port on which nobody listens, kept so that nobody else takes it."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()


class Silent:
    """A port whose accept queue is full: connecting to it never ends."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self._waiting: list[socket.socket] = []
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(self._listener.getsockname())
            self._waiting.append(waiting)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for sock in (*self._waiting, self._listener):
            sock.close()


def environment(provider: Provider, **changes: str) -> dict[str, str]:
    """Every provider at the mock's address, a signing key, pool keys, and what a test changes."""
    return {
        "AI_SIGNING_KEYS": keys.SIGNING_KEYS,
        **keys.POOL_KEYS,
        "AI_PROVIDER_AUTHORITIES": json.dumps(dict.fromkeys(PROVIDERS, provider.url)),
        "AI_LOG_LEVEL": "debug",
        **changes,
    }


def _is_idle(gateway: Gateway) -> bool:
    """Whether every exchange of every test has come to its end, and with it its connection and its promised fact."""
    names = ("aigw_exchanges", "aigw_connections", "aigw_facts_outstanding", "aigw_facts_buffered_bytes")
    return not any(gateway.metrics(names))


def is_at_rest(gateway: Gateway) -> bool:
    """Whether no exchange is running, and every fact has been read here."""
    names = ("aigw_exchanges", "aigw_facts_outstanding", "aigw_facts_buffered_bytes", "aigw_facts_written_total")
    exchanges, outstanding, buffered, written = gateway.metrics(names)
    return not (exchanges or outstanding or buffered) and written == len(gateway.facts())


class Fleet:
    """Keeps the servers until the end of the run."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.refusing = Refusing()
        self.silent = Silent()
        self.lonely = Provider()
        """For tests that need the idle connections to a provider to themselves."""
        self._running: dict[tuple[str, str], Gateway] = {}
        self._used: dict[tuple[str, str], Gateway] = {}

    def get(self, backend: str, configuration: str) -> Gateway:
        gateway = self._used[backend, configuration] = self._start(backend, configuration)
        return gateway

    def rest(self) -> None:
        """What a test has set off is over before the next one looks at the same servers."""
        for gateway in self._used.values():
            if gateway.running():
                wait_until(functools.partial(is_at_rest, gateway), "the exchanges of the test are over")
        self._used.clear()
        wait_until(lambda: self.provider.is_quiet, "the provider has read what it was sent")

    def _start(self, backend: str, configuration: str) -> Gateway:
        known = self._running.get((backend, configuration))
        if known is not None:
            assert known.running(), f"the {configuration} gateway is gone: {known.stderr[-10:]}"
            return known
        authorities = {
            **dict.fromkeys(PROVIDERS, self.provider.url),
            "refusing": self.refusing.url,
            "silent": self.silent.url,
            "lonely": self.lonely.url,
        }
        extra = {
            "AI_PROVIDER_AUTHORITIES": json.dumps(authorities),
            "AI_POOL_KEY_REFUSING": keys.pool_key("refusing"),
            "AI_POOL_KEY_SILENT": keys.pool_key("silent"),
        }
        module = "tests.e2e.denied_server" if configuration == "denied" else None
        environ = {**environment(self.provider, **extra), **CONFIGURATIONS[configuration]}
        self._running[backend, configuration] = Gateway(backend, environ, module=module)
        return self._running[backend, configuration]

    def running(self) -> list[Gateway]:
        return [gateway for gateway in self._running.values() if gateway.running()]

    def stop(self) -> None:
        """Nothing is left over, and every process ends cleanly: only facts on stdout, no fault on stderr."""
        for gateway in self.running():
            wait_until(functools.partial(_is_idle, gateway), "no trace of exchanges that ended")
            gateway.send_signal(signal.SIGTERM)
        codes = [(gateway.wait(), gateway.faults()) for gateway in self._running.values()]
        self.refusing.close()
        self.silent.close()
        self.lonely.close()
        for gateway in self._running.values():
            gateway.facts()
        assert codes == [(0, [])] * len(codes)
