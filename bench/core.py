"""Times the core alone, in memory: ``python -m bench.core``.

Every figure is CPU time of this process for one operation. A fixed piece of plain Python runs before and
after each sample; the figure divided by its time is what compares between machines and between noisy hours.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from aigw_anyio.memory import settle_heap
from aigw_core.auth import Authorized, authorize
from aigw_core.connection import Connection
from aigw_core.effects import Connect, Effect, EmitFact, OpenFact, SendDownstream, SendUpstream
from aigw_core.facts import OpenRecord, Outcome, UsageFact
from aigw_core.gateway import Gateway
from aigw_core.http1.heads import parse_request_head, parse_response_head
from aigw_core.keys import KeyRing, fingerprint, mint_virtual_key, parse_virtual_key, public_key_of
from aigw_core.limiter import Limiter
from aigw_core.policy import Policy, ProviderPolicy
from aigw_core.providers import PROVIDERS
from aigw_core.secrets import Secret
from aigw_core.usage.meter import Meter
from aigw_core.usage.profile import usage_profile
from aigw_core.wires import Wire
from bench import report, work

READ_SIZE: Final = 65_536
"""Bytes of one read from an upstream socket, as the drivers do it."""
RATE_LIMIT: Final = 2**31
"""Requests a second: the limiter counts and never refuses."""
EVENTS_PER_STREAM: Final = 200
VARIETY: Final = 8
"""Different exchanges in turn, so that nothing looks fast only because the same bytes come again."""
_SEED: Final = Secret(bytes(range(32)))
VIRTUAL_KEY: Final = mint_virtual_key(_SEED, kid=1, tenant_id=7, vpc_id=1, key_id=3)
_FORGED_KEY: Final = mint_virtual_key(Secret(bytes(32)), kid=1, tenant_id=7, vpc_id=1, key_id=3)
"""Signed, but not by the key that the gateway trusts."""
_POOL_KEY: Final = (
    b"sk-proj-PtYgjmUhBel31iEl2hpChYgCfrL1spNxnyVmihA-2O76UMFxFkM-R5Kjp1vRt_1fjORS-6"
    b"ilI8ihN5KXSc7Tvo-hBKqFYY-kv5ZJr3J1TWDtkwtDDb_xHKas1VOqg6YYZYn9ZhyiA4uoRgnatmUd"
)
"""As long and as random as those of the provider, as far as masking it depends on that."""
_BYO_KEY: Final = "sk-proj-0123456789abcdefghijklmnopqrstuvwxyz"


def make_gateway(rate_limit: int = RATE_LIMIT) -> Gateway:
    """Ten providers, a pool key for openai, one signing key, the limiter counting, usage injected."""
    providers = {name: ProviderPolicy.of(provider) for name, provider in PROVIDERS.items()}
    base = ProviderPolicy.of(PROVIDERS["openai"])
    providers["openai"] = ProviderPolicy(
        name=base.name, origin=base.origin, scope=base.scope, pool_key=Secret(_POOL_KEY), usage=base.usage
    )
    policy = Policy(
        providers=providers,
        keyring=KeyRing({1: public_key_of(_SEED)}),
        rate_limit_rps=rate_limit,
        byo_rate_limit_rps=rate_limit,
        unverified_rate_limit_rps=rate_limit,
    )
    limiter = Limiter(bytearray(Limiter.buffer_size()))
    return Gateway(policy, entropy=bytes(range(32)), limiter=limiter, now=0.0, wall=1_763_900_000.0)


class Caller:
    """One keep-alive connection and the least driver that carries out its effects."""

    def __init__(self, gateway: Gateway) -> None:
        self.machine = Connection(gateway, 0.0)
        self.relayed = 0
        self.sent_upstream = 0
        self.facts = 0
        self.final_facts = 0
        self._attempt = 0
        self._now = 0.0
        self._pending: deque[Callable[[], list[Effect]]] = deque()

    def begin(self, *reads: bytes) -> None:
        """The request arrives, in one read or several, and goes upstream."""
        self._now += 0.0001
        for data in reads:
            self._run(self.machine.receive_downstream(data, self._now))

    def answer(self, data: bytes) -> None:
        """Bytes from the provider."""
        self._run(self.machine.receive_upstream(self._attempt, data, self._now))

    def _run(self, effects: list[Effect]) -> None:
        machine, pending, now = self.machine, self._pending, self._now
        opened = ""
        while True:
            for effect in effects:
                if type(effect) is SendDownstream:
                    self.relayed += len(effect.data)
                elif type(effect) is SendUpstream:
                    self.sent_upstream += len(effect.data)
                elif type(effect) is EmitFact:
                    effect.fact.encode()
                    self.facts += 1
                    self.final_facts += effect.fact.usage_status == "final"
                elif type(effect) is OpenFact:
                    opened = effect.record.id
                elif type(effect) is Connect:
                    self._attempt = effect.attempt
                    if opened:
                        pending.append(partial(machine.opened_and_connected, opened, effect.attempt, now))
                    else:
                        pending.append(partial(machine.upstream_connected, effect.attempt, True, now))
            if not pending:
                return
            effects = pending.popleft()()


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to time. ``run(n)`` does it at least ``n`` times and returns how often."""

    name: str
    run: Callable[[int], int]
    size: int = 0
    """Bytes worked on by one operation, where throughput says something."""


def _request(key: str, body: bytes, accept: str = "application/json") -> bytes:
    headers = (("Authorization", f"Bearer {key}"),)
    return work.sdk_request(
        body, path="/openai/v1/chat/completions", host="gateway:8080", headers=headers, accept=accept
    )


def _json_case(name: str, key: str, *, body_apart: bool = False) -> Case:
    gateway = make_gateway()
    exchanges = json_exchanges(key, body_apart=body_apart)
    facts_each = 1 if key == VIRTUAL_KEY else 0

    def run(n: int) -> int:
        caller = Caller(gateway)
        begin, reply = caller.begin, caller.answer
        rounds = -(-n // VARIETY)
        counted = sum(gateway.stats.requests.values())
        for _ in range(rounds):
            for request, response in exchanges:
                begin(*request)
                reply(response)
        done = rounds * VARIETY
        if caller.relayed < done * work.ANSWER_SIZE or caller.machine.busy:
            raise RuntimeError("the exchanges did not complete")
        if not caller.facts == caller.final_facts == facts_each * done:
            raise RuntimeError("the usage was not read")
        # Looking makes the gateway count what waits for it, so that each run begins as the one before.
        if sum(gateway.stats.requests.values()) != counted + done:
            raise RuntimeError("the exchanges were not counted")
        return done

    return Case(name, run)


def json_exchanges(key: str = VIRTUAL_KEY, *, body_apart: bool = False) -> list[tuple[tuple[bytes, ...], bytes]]:
    """VARIETY requests, each as its reads, and their responses."""
    return [_json_exchange(key, n, body_apart=body_apart) for n in range(VARIETY)]


def _json_exchange(key: str, number: int, *, body_apart: bool) -> tuple[tuple[bytes, ...], bytes]:
    """The reads of a request, and its response; what differs in life between two of a caller differs here."""
    body = work.chat_request(max_tokens=10 ** (number % 4) + number)
    request = _request(key, body)
    head_size = len(request) - len(body)
    answer = work.chat_answer()
    response = work.provider_head("application/json", len(answer), number) + answer
    return (request[:head_size], body) if body_apart else (request,), response


def _refused_case(name: str) -> Case:
    """Requests that are refused, one after the other on a connection, as somebody who guesses sends them."""
    gateway = make_gateway()
    requests = [b"".join(request) for request, _ in json_exchanges(_FORGED_KEY)]

    def run(n: int) -> int:
        caller = Caller(gateway)
        begin = caller.begin
        rounds = -(-n // VARIETY)
        for _ in range(rounds):
            for request in requests:
                begin(request)
                # What a driver would write to the log.
                gateway.stats.failures.clear()
        if not caller.relayed or caller.sent_upstream or caller.machine.busy:
            raise RuntimeError("the requests were not refused")
        return rounds * VARIETY

    return Case(name, run)


def _sse_case(name: str, key: str, *, asked: bool = False) -> Case:
    """Events of running streams; their heads and ends are shared by EVENTS_PER_STREAM of them."""
    gateway = make_gateway()
    body = work.chat_request(stream=True)
    if asked:
        body = body[:-1] + b',"stream_options":{"include_usage":true}}'
    request = _request(key, body, "text/event-stream")
    head = work.provider_head("text/event-stream", None)
    events = [work.chunked(work.event(n, 1_763_900_000_000_000_000)) for n in range(EVENTS_PER_STREAM)]
    end = work.chunked(work.STREAM_END) + work.LAST_CHUNK

    def run(n: int) -> int:
        streams = -(-n // EVENTS_PER_STREAM)
        caller = Caller(gateway)
        reply = caller.answer
        for _ in range(streams):
            caller.begin(request)
            reply(head)
            for data in events:
                reply(data)
            reply(end)
        expected = streams if key == VIRTUAL_KEY else 0
        if not caller.facts == caller.final_facts == expected or caller.machine.busy:
            raise RuntimeError("the streams did not complete")
        return streams * EVENTS_PER_STREAM

    return Case(name, run)


def _meter_case(name: str, body: bytes) -> Case:
    """A JSON answer in reads of READ_SIZE, head and result included."""
    pieces = [body[at : at + READ_SIZE] for at in range(0, len(body), READ_SIZE)]
    profile = usage_profile("openai")

    def run(n: int) -> int:
        for _ in range(n):
            meter = Meter(Wire.CHAT_COMPLETIONS, profile)
            meter.response_head(200, b"application/json", b"")
            for piece in pieces:
                meter.feed(piece)
            meter.finish(True)
            if meter.result().usage_status != "final":
                raise RuntimeError("the usage was not read")
        return n

    return Case(name, run, len(body))


def _repeat(name: str, operation: Callable[[], object]) -> Case:
    def run(n: int) -> int:
        for _ in range(n):
            operation()
        return n

    return Case(name, run)


def _part_cases() -> list[Case]:
    gateway = make_gateway()
    policy = gateway.policy
    unlimited = make_gateway(rate_limit=0)
    body = work.chat_request()
    managed = _request(VIRTUAL_KEY, body)[: -len(body) - 4]
    response = work.provider_head("application/json", work.ANSWER_SIZE)[:-4]
    head = parse_request_head(managed)
    head_byo = parse_request_head(_request(_BYO_KEY, body)[: -len(body) - 4])
    decisions = (authorize(head, policy, gateway, 0.0), authorize(head_byo, policy, gateway, 0.0))
    if not all(isinstance(decision, Authorized) for decision in decisions):
        raise RuntimeError("the requests were not admitted")
    mark = fingerprint(VIRTUAL_KEY.encode(), bytes(range(16)))
    parsed = parse_virtual_key(VIRTUAL_KEY.encode())
    cold = KeyRing({1: public_key_of(_SEED)}, cache_max=1)
    record = OpenRecord("0", "", 7, 1, 3, 1, "openai", Wire.CHAT_COMPLETIONS, "/v1/chat/completions", None, None)
    tokens = {"input": 21, "cache_read": 3, "output": 9}
    fact = UsageFact(record, Outcome.COMPLETE, "final", duration_ms=730, ttft_ms=210, status=200, tokens=tokens)
    return [
        _repeat("parse a request head", lambda: parse_request_head(managed)),
        _repeat("parse a response head", lambda: parse_response_head(response, b"POST")),
        _repeat("limiter alone", lambda: gateway.limiter.allow(mark, RATE_LIMIT, 0)),
        _repeat("admission alone, managed", lambda: authorize(head, unlimited.policy, unlimited, 0.0)),
        _repeat("admission with limiter, managed", lambda: authorize(head, policy, gateway, 0.0)),
        _repeat("admission with limiter, BYO", lambda: authorize(head_byo, policy, gateway, 0.0)),
        _repeat("verify a virtual key (not cached)", lambda: cold.verify(parsed, mark)),
        _repeat("count an exchange for the metrics", lambda: gateway.stats.count_fact(fact)),
        _meter_case("Meter, JSON of 593 B", work.chat_answer()),
        _meter_case("Meter, JSON of 2 MB base64", work.chat_answer(2_000_000)),
        _meter_case("Meter, dense logprobs of 200 KB", _logprobs_answer(200_000)),
        _meter_case("Meter, dense logprobs of 1 MB", _logprobs_answer(1_000_000)),
    ]


def _logprobs_answer(size: int) -> bytes:
    return work.chat_answer(logprobs=work.dense_logprobs(size // len(work.dense_logprobs(1))))


def make_cases() -> list[Case]:
    """Everything that is timed, in the order of the table."""
    return [
        _json_case("JSON exchange, managed", VIRTUAL_KEY),
        _json_case("JSON exchange, managed, body in a second read", VIRTUAL_KEY, body_apart=True),
        _json_case("JSON exchange, BYO (no Meter, no fact)", _BYO_KEY),
        _refused_case("JSON request, refused for its key"),
        _sse_case("SSE event, managed, usage event injected and removed", VIRTUAL_KEY),
        _sse_case("SSE event, managed, usage asked by the client", VIRTUAL_KEY, asked=True),
        _sse_case("SSE event, BYO (no Meter)", _BYO_KEY),
        *_part_cases(),
    ]


class _Calibrator:
    """Plain Python of the kinds that the core is made of: attributes, dicts, slices, small objects, calls."""

    __slots__ = ("count", "fields")

    def __init__(self) -> None:
        self.count = 0
        self.fields: dict[bytes, bytes] = {}

    def step(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        lower = name.lower()
        if lower in self.fields:
            self.count += len(value)
        self.fields[lower] = value.strip()


_CALIBRATION_LINES: Final = [b"X-Calibration-%02d: value %d" % (n, n) for n in range(20)]
CALIBRATION_TURNS: Final = 1_000
"""Some four milliseconds: long against the clock's resolution, short beside a sample."""


def calibrate() -> float:
    """Seconds of CPU that the fixed work takes now; its size never changes."""
    begin = time.process_time_ns()
    for _ in range(CALIBRATION_TURNS):
        calibrator = _Calibrator()
        step = calibrator.step
        for line in _CALIBRATION_LINES:
            step(line)
    return (time.process_time_ns() - begin) / 1e9


def _sample(case: Case, n: int) -> float:
    """Seconds of CPU for one operation."""
    begin = time.process_time_ns()
    done = case.run(n)
    return (time.process_time_ns() - begin) / 1e9 / done


def measure(cases: list[Case], rounds: int, sample_ms: float) -> dict[str, list[report.Row]]:
    """Interleaved: every round samples each case once, between two calibrations."""
    sizes = {case.name: _sample_size(case, sample_ms / 1e3) for case in cases}
    results: dict[str, list[report.Row]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        before = calibrate()
        for case in cases:
            seconds = _sample(case, sizes[case.name])
            after = calibrate()
            row: report.Row = {"us": seconds * 1e6, "ratio": seconds / ((before + after) / 2)}
            if case.size >= READ_SIZE:
                row["mb_per_s"] = case.size / 1e6 / seconds
            row["calibration_ms"] = after * 1e3
            results[case.name].append(row)
            before = after
    return results


def _sample_size(case: Case, seconds: float) -> int:
    """How many operations fill a sample, after warming caches and the interpreter's specialisation."""
    n = 1
    while True:
        taken = _sample(case, n) * n
        if taken >= seconds / 4 or n >= 1_000_000:
            return max(1, int(n * seconds / max(taken, 1e-9)))
        n *= 4


COLUMNS: Final = [
    report.Column("µs", "us", digits=2),
    report.Column("/ calibration", "ratio", digits=5),
    report.Column("MB/s", "mb_per_s", digits=0),
]


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sample-ms", type=float, default=60.0, help="CPU time of one sample")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write every round and a summary")
    arguments = parser.parse_args(argv)
    cases = [case for case in make_cases() if arguments.only.lower() in case.name.lower()]
    if not cases:
        parser.error("no case has such a name")
    settle_heap()
    results = measure(cases, arguments.rounds, arguments.sample_ms)
    summary = report.summarise(results, COLUMNS, baseline=None)
    calibrations = [row["calibration_ms"] or 0.0 for rows in results.values() for row in rows]
    print(f"Core alone, Python {platform.python_version()}, {arguments.rounds} rounds: min / **median** / max")
    now = report.spread(calibrations)
    print(f"calibration {now['min']:.2f} / **{now['median']:.2f}** / {now['max']:.2f} ms\n")
    print(report.table(summary, COLUMNS, baseline=None, first="operation"))
    if arguments.json is not None:
        document = {"mode": "core", "python": platform.python_version(), "summary": summary, "rounds": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
