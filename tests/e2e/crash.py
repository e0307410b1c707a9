"""Load from many clients while processes die, and what the ledger must then say about every single request."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.e2e import answers, keys
from tests.e2e.calls import CHAT, JSON_TYPE
from tests.e2e.client import Client, Closed, bearer, request
from tests.e2e.fleet import environment
from tests.e2e.gateway import FACT_FIELDS, ROOT, Fact, Gateway
from tests.e2e.provider import PeerClosed, Provider, Received

NONCE_HEADER: Final = b"x-nonce"
CLIENTS: Final = 8
"""Threads, each with a connection of its own; a load that two cores carry beside a gateway that starts."""
SETTLED_SECS: Final = 0.1
"""An answer that a client had read this long before the kill is in the ledger with its numbers."""
STREAM_EVENT_SECS: Final = 0.004
"""Between the events of a stream, so that kills find streams in their middle."""
KILLS: Final = int(os.environ.get("TEST_KILLS", "10"))
"""How often a process is killed. The whole proof takes 200 and some minutes; the suite takes a few."""


def usage_of(nonce: int) -> dict[str, int]:
    """Numbers that no other request has."""
    return {"prompt_tokens": nonce, "completion_tokens": 7, "total_tokens": nonce + 7}


def tokens_of(nonce: int) -> dict[str, int]:
    return {"input": nonce, "output": 7}


class CountingProvider:
    """Answers chat completions with numbers made of the nonce, and notes every nonce that it sees."""

    def __init__(self, provider: Provider) -> None:
        self.seen: Counter[int] = Counter()
        self.case = provider.case(self._answer)

    def _answer(self, received: Received) -> None:
        nonce = int(received.values(NONCE_HEADER)[0])
        self.seen[nonce] += 1
        body = received.json()
        usage = usage_of(nonce)
        try:
            if not body.get("stream"):
                received.connection.send(answers.json_answer({**answers.chat_completion(body), "usage": usage}))
                return
            received.connection.send(answers.STREAM_HEAD)
            for data in answers.chat_events({}):
                if data == b"data: [DONE]\n\n":
                    data = answers.event(answers.chat_chunk([], usage=usage)) + data
                received.connection.send(answers.chunk(data))
                time.sleep(STREAM_EVENT_SECS)
            received.connection.send(answers.LAST_CHUNK)
        except PeerClosed:
            # The gateway died, or its caller left: what this is all about.
            received.connection.close()


@dataclass(slots=True)
class Sent:
    """What became of one request, as its client knows it."""

    pid: int
    """Of the process that was asked; ports come again within minutes, these do not."""
    status: int | None = None
    whole_at: float | None = None
    """When the whole answer was read; monotonic seconds."""
    left: bool = False
    """The client went away on purpose."""


@dataclass
class Load:
    """Clients that go on until they are stopped, whatever happens to the gateway."""

    counting: CountingProvider
    seed: int
    sent: dict[int, Sent] = field(default_factory=dict)
    target: Gateway | None = None
    killed_at: dict[int, float] = field(default_factory=dict)
    """Process → when it was killed."""

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._nonces = itertools.count(1_000_000)
        self.failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._client, args=(n,), daemon=True) for n in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert self.failures == []

    def _client(self, number: int) -> None:
        dice = random.Random(f"{self.seed}-{number}")
        try:
            while not self._over.is_set():
                gateway = self.target
                if gateway is None:
                    time.sleep(0.005)
                    continue
                try:
                    with Client(gateway) as client:
                        while gateway is self.target and not self._over.is_set():
                            if not self._ask(client, gateway, dice):
                                break
                except (Closed, OSError):
                    # Dead, or about to listen.
                    time.sleep(0.002)
        except BaseException as error:
            self.failures.append(error)
            raise

    def _ask(self, client: Client, gateway: Gateway, dice: random.Random) -> bool:
        """Whether the connection is good for another request."""
        nonce = next(self._nonces)
        sent = self.sent[nonce] = Sent(gateway.pid)
        streamed = dice.random() < 0.5
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": streamed}).encode()
        nonce_field = (NONCE_HEADER, b"%d" % nonce)
        client.send(
            request(
                CHAT, body, bearer(keys.virtual_key(key_id=nonce)), JSON_TYPE, self.counting.case.header, nonce_field
            )
        )
        if dice.random() < 0.05:
            sent.left = True
            return False
        answer = client.read_answer()
        sent.status = answer.status
        if answer.complete:
            sent.whole_at = time.monotonic()
        return answer.complete and not answer.values(b"connection")

    # Killing

    def kill(self, gateway: Gateway) -> None:
        self.target = None
        self.killed_at[gateway.pid] = time.monotonic()
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()


def spool_environment(provider: Provider, directory: Path, **changes: str) -> dict[str, str]:
    return environment(
        provider,
        **{
            "AI_FACT_SINK": "spool",
            "AI_SPOOL_DIR": str(directory),
            "AI_RATE_LIMIT_RPS": "0",
            "AI_UNVERIFIED_RATE_LIMIT_RPS": "0",
            "AI_LOG_LEVEL": "warning",
            **changes,
        },
    )


def aigw(*arguments: str, code: int = 0) -> str:
    """Standard output of the command."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "aigw_anyio", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def facts_in(directory: Path) -> list[Fact]:
    """Every fact of a spool directory, as the command prints them."""
    return [json.loads(line) for line in aigw("facts", "cat", str(directory)).splitlines()]


def check_ledger(load: Load, facts: list[Fact], verified: str) -> None:
    """Every promise about exactly one fact for each request; prints what there was."""
    by_nonce: dict[int, Fact] = {}
    for fact in facts:
        assert tuple(fact) == FACT_FIELDS
        nonce = int(fact["key_id"])
        assert nonce not in by_nonce, f"two facts of one request: {by_nonce[nonce]} {fact}"
        by_nonce[nonce] = fact
    assert len({fact["id"] for fact in facts}) == len(facts)
    seen = load.counting.seen
    assert [nonce for nonce in seen if nonce not in by_nonce] == [], "the provider saw what the ledger does not know"
    assert [nonce for nonce in by_nonce if nonce not in load.sent] == [], "nobody sent this"
    for nonce, fact in by_nonce.items():
        if nonce not in seen:
            assert fact["outcome"] in ("gateway_lost", "client_abort", "upstream_error"), fact
            assert fact["upstream_status"] is None
        _check_settled(load, nonce, fact)
    good = [fact for fact in facts if (fact["outcome"], fact["usage_status"]) == ("complete", "final")]
    outcomes = Counter(fact["outcome"] for fact in facts)
    _print(f"{len(load.sent)} sent, {len(seen)} seen by the provider, {len(facts)} facts: {dict(outcomes)}; {verified}")
    assert 2 * len(good) >= len(facts), "to lose exchanges is no way out"


def _check_settled(load: Load, nonce: int, fact: Fact) -> None:
    """Who had the whole answer well before the kill has it in the ledger, with the provider's numbers."""
    sent = load.sent[nonce]
    if sent.status != 200 or sent.whole_at is None:
        return
    killed_at = load.killed_at.get(sent.pid)
    if killed_at is not None and sent.whole_at > killed_at - SETTLED_SECS:
        return
    assert (fact["outcome"], fact["usage_status"]) == ("complete", "final"), fact
    assert fact["tokens"] == tokens_of(nonce)
    assert fact["usage"] == usage_of(nonce)


def check_verified(directory: Path) -> str:
    """The last line of ``aigw facts verify``, which must be good."""
    return aigw("facts", "verify", str(directory)).splitlines()[-1]


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def start(backend: str, environ: Mapping[str, str]) -> Gateway:
    return Gateway(backend, environ)
