"""What a scenario is, and the gateway that it wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from aigw_core.gateway import Gateway
from aigw_core.keys import KeyRing, mint_virtual_key, public_key_of
from aigw_core.limiter import Limiter
from aigw_core.origin import parse_origin
from aigw_core.policy import Policy, ProviderPolicy, Timeouts
from aigw_core.providers import PROVIDERS
from aigw_core.secrets import Secret
from aigw_core.testing.commands import Script
from aigw_core.testing.ledger import Answering, Ledger

POOL_KEY: Final = b"pool-key-of-the-kit"
_SEED: Final = Secret(bytes([9]) * 32)
KEY: Final = mint_virtual_key(_SEED, kid=1, tenant_id=5, vpc_id=6).encode()
OTHER_KEY: Final = mint_virtual_key(Secret(bytes([10]) * 32), kid=1, tenant_id=5, vpc_id=6).encode()
"""Well-formed, signed by somebody else."""
CHAT: Final = b'{"model":"gpt-5.4-mini","messages":[{"role":"user","content":"hi"}]}'
COMPLETION: Final = (
    b'{"id":"c1","object":"chat.completion","model":"gpt-5.4-mini","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}'
)


class Feature(Enum):
    """What a driver may lack without being wrong. Scenarios that need it are then not for that driver."""

    BYTES = "it reads HTTP/1.1 with our codec: malformed requests, pipelining and closing behave as ours"
    TIMERS = "every timer of the policy is its own, those of the caller's connection included"
    CONTROL = "drain() and cut() reach the machine"
    STOP = "it can be cancelled while exchanges run"
    HOLD = "its sink may answer later"
    POOL = "it keeps idle provider connections and sees them end"
    FLOW = "it stops reading from one side while the other does not take"
    EDGES = "it tells the machine at once when a peer does not take, so that its write timers run"
    LEAVING = "it learns at once that a caller has left"
    RESET = "what was cut ends in RST, or at least not in order"


Provider = Literal["listening", "refusing", "silent"]
"""``silent``: connecting to it never ends."""


@dataclass(frozen=True)
class Scenario:
    """One story between a caller, a driver and a provider."""

    name: str
    script: Callable[[Ledger], Script]
    needs: frozenset[Feature] = frozenset()
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Fields of Timeouts, in seconds; all others are too long to matter."""
    policy: Mapping[str, object] = field(default_factory=dict)
    """Further fields of Policy."""
    answering: Answering = "accept"
    provider: Provider = "listening"

    def gateway(self, origin: str, now: float, wall: float = 1_763_900_000.0) -> Gateway:
        """A gateway whose providers all are at this origin, such as ``http://127.0.0.1:8000``."""
        providers = {}
        for name, known in PROVIDERS.items():
            base = ProviderPolicy.of(known)
            providers[name] = ProviderPolicy(
                name=name,
                origin=parse_origin(origin),
                scope=base.scope,
                pool_key=Secret(POOL_KEY),
                auth_scheme=base.auth_scheme,
                messages_auth_scheme=base.messages_auth_scheme,
                dialect=base.dialect,
                key_prefixes=base.key_prefixes,
                base_url=base.base_url,
                usage=base.usage,
            )
        fields: dict[str, object] = {
            "providers": providers,
            "keyring": KeyRing({1: public_key_of(_SEED)}),
            "timeouts": Timeouts(**{**_LONG, **self.timeouts}),
            "rate_limit_rps": 0,
            "byo_rate_limit_rps": 0,
            "unverified_rate_limit_rps": 0,
            **self.policy,
        }
        policy = Policy(**fields)  # type: ignore[arg-type]  # scenarios name their own fields
        limiter = Limiter(bytearray(Limiter.buffer_size()))
        return Gateway(policy, entropy=bytes(range(32)), limiter=limiter, now=now, wall=wall)


_LONG: Final = {"connect": 300.0, "client_head": 300.0, "client_write": 300.0, "keepalive": 300.0, "linger": 10.0}


def request(
    body: bytes = CHAT,
    *fields: bytes,
    target: bytes = b"/openai/v1/chat/completions",
    key: bytes = KEY,
    method: bytes = b"POST",
    length: int | None = None,
    chunked: bool = False,
) -> bytes:
    """A request; ``length`` declares more than is sent here, ``fields`` are whole lines without CRLF."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: gateway", b"Authorization: Bearer " + key, *fields]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    elif body or length is not None:
        lines.append(b"Content-Type: application/json")
        lines.append(b"Content-Length: %d" % (len(body) if length is None else length))
    return b"\r\n".join([*lines, b"", body])


def response(body: bytes = COMPLETION, *fields: bytes, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    """A JSON response with its length; ``length`` declares another one."""
    declared = len(body) if length is None else length
    lines = [b"HTTP/1.1 " + status, b"Content-Type: application/json", b"Content-Length: %d" % declared, *fields]
    return b"\r\n".join([*lines, b"", body])


STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAMED: Final = CHAT[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
"""The caller asks for usage itself, so that nothing is spliced in or taken out."""


def event(number: int) -> bytes:
    """One event of a streamed chat completion."""
    return b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"word %d "}}]}\n\n' % number


LAST_EVENTS: Final = (
    b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}\n\n'
    b"data: [DONE]\n\n"
)


def chunk(data: bytes) -> bytes:
    """One chunk; empty for the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)
