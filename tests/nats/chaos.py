"""A writer, a gateway, a server and a network, and everything that can go wrong with them, by a seed.

Truth is what the server itself says of each key; what the gateway holds is asked by requests. A tenant without a
pool key is answered 503 once it has passed the deny-set, so nothing is needed behind the gateway.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from aigw_anyio.deny.snapshotfile import read_snapshot
from aigw_anyio.nats.jetstream import CONSUMER_NOT_FOUND
from tests.e2e import keys
from tests.e2e.gateway import Gateway
from tests.nats.bucket import Bucket
from tests.nats.proxy import Proxy
from tests.nats.server import NatsServer

TENANTS: Final = range(1, 11)
KEY_IDS: Final = range(1, 5)
ENTRIES: Final = (*(f"blackhole.{n}" for n in TENANTS), *(f"blackhole.key.{n}" for n in KEY_IDS))
FOREIGN: Final = ("blackhole.x", "other.key", "blackhole.01")
PINNED: Final = 900
"""Cut off before the faults of a round, and restored by nobody: refused at every moment."""
FREE: Final = 901
"""Never cut off: served at every moment."""
SEQUENCE_NOT_FOUND: Final = 10_043
CALM_SECS: Final = 30.0
"""For a loaded machine to come back; the gateway's own clocks need about two seconds."""
REFUSED: Final = {402, 403}
STATUS_OF: Final = {b"spend": 402, b"fraud": 403}


class Requests:
    """Asks the gateway about callers."""

    def __init__(self) -> None:
        self.address = ("", 0)
        self._connection: http.client.HTTPConnection | None = None
        self._keys = {f"blackhole.{n}": keys.virtual_key(n, 10_000 + n) for n in (*TENANTS, PINNED, FREE)}
        self._keys |= {f"blackhole.key.{n}": keys.virtual_key(500 + n, n) for n in KEY_IDS}

    def use(self, gateway: Gateway) -> None:
        self.close()
        self.address = gateway.address

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def status(self, entry: str) -> int:
        """402 or 403 where refused, 503 where let through."""
        for _ in range(2):
            if self._connection is None:
                self._connection = http.client.HTTPConnection(*self.address, timeout=CALM_SECS)
            try:
                headers = {"authorization": f"Bearer {self._keys[entry]}"}
                self._connection.request("GET", "/openai/v1/models", headers=headers)
                answer = self._connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                self.close()
                continue
            return answer.status
        raise AssertionError("the gateway does not answer")


class Chaos:
    """One server, one gateway, many rounds."""

    def __init__(self, folder: Path, seed: int, *, bound_secs: float, is_history_safe: bool = False) -> None:
        """``bound_secs``: from a write to its effect while nothing is wrong.

        ``is_history_safe``: only faults that change nothing in the bucket without an event. The reading aside after a
        resume, and the reconcile, have nothing to find then, and must not: they would hide what the watch has lost.
        """
        self.is_history_safe = is_history_safe
        self.seed = seed
        self.chance = random.Random(seed)
        self.folder = folder
        self.bound_secs = bound_secs
        self.tally: Counter[str] = Counter()
        self.slowest = 0.0
        self.server = NatsServer(folder / "nats").start()
        self.proxy = Proxy(self.server.port)
        self.bucket = Bucket(self.server.url)
        self.bucket.connect()
        self.bucket.create()
        self.requests = Requests()
        self.gateway: Gateway | None = None
        self.reconcile: float | None = None
        self._is_pinned = False
        self._doings: list[str] = []
        """Of this round, with the time of day, for the report of a failure."""

    def note(self, doing: str) -> None:
        self._doings.append(f"{time.strftime('%H:%M:%S', time.gmtime())}.{time.time() % 1 * 1000:03.0f} {doing}")

    def start_gateway(self) -> None:
        environ = {
            "AI_SIGNING_KEYS": keys.SIGNING_KEYS,
            "AI_NATS_URL": self.proxy.url,
            "AI_SNAPSHOT_PATH": str(self.folder / "deny.snapshot"),
            "AI_RATE_LIMIT_RPS": "0",
            "AI_UNVERIFIED_RATE_LIMIT_RPS": "0",
            "AI_LOG_LEVEL": "info",
            "AI_LOG_FORMAT": "json",
            "TEST_RECONCILE_SECS": "" if self.reconcile is None else str(self.reconcile),
        }
        self.gateway = Gateway("asyncio", environ, module="tests.nats.fast_gateway")
        self.requests.use(self.gateway)

    def stop_gateway(self, number: signal.Signals) -> None:
        gateway = self.gateway
        assert gateway is not None
        assert gateway.running(), gateway.stderr[-20:]
        self.requests.close()
        gateway.send_signal(number)
        gateway.wait()
        if gateway.faults():
            first = gateway.stderr.index(gateway.faults()[0])
            raise AssertionError("\n".join(gateway.stderr[max(0, first - 3) : first + 40]))
        self.gateway = None

    def close(self) -> None:
        if self.gateway is not None:
            self.requests.close()
            self.gateway.send_signal(signal.SIGKILL)
            self.gateway.wait()
        self.bucket.close()
        self.proxy.close()
        self.server.stop()

    # What must hold

    def truth(self) -> dict[str, int]:
        """Entry to status, of those that are refused, as the server tells."""
        found = {}
        for entry in ENTRIES:
            message = self.bucket.last(entry)
            if message is None:
                continue
            headers = base64.b64decode(message.get("hdrs", ""))
            if b"KV-Operation" in headers or b"Nats-Marker-Reason" in headers:
                continue
            found[entry] = STATUS_OF.get(base64.b64decode(message.get("data", "")), 403)
        return found

    def held(self) -> dict[str, int]:
        return {entry: status for entry in ENTRIES if (status := self.requests.status(entry)) in REFUSED}

    def check_promises(self) -> None:
        """At any moment, whatever goes on."""
        self.tally["checks"] += 1
        assert self.requests.status(f"blackhole.{FREE}") == 503, "a caller who was never cut off is refused"
        if self._is_pinned:
            assert self.requests.status(f"blackhole.{PINNED}") == 402, "a caller who is cut off is served"

    def wait_equal(self) -> None:
        """The gateway refuses whom the bucket names, and nobody else."""
        end = time.monotonic() + CALM_SECS
        while True:
            held, truth = self.held(), self.truth()
            if held == truth and self.truth() == truth:
                return
            assert self.gateway is not None
            assert time.monotonic() < end, self._difference(held, truth)
            self.check_promises()
            time.sleep(0.02)

    def _difference(self, held: dict[str, int], truth: dict[str, int]) -> str:
        assert self.gateway is not None
        wrong = self._wrong(held, truth)
        found = {entry: (held.get(entry), truth.get(entry), self.bucket.last(entry)) for entry in wrong}
        feed = [line for line in self.gateway.stderr if '"aigw.exchange"' not in line][-20:]
        state = self.bucket.info()["state"]
        return "\n".join([f"{found}", f"{state}", *self._doings, *feed])

    def _wrong(self, held: dict[str, int], truth: dict[str, int]) -> set[str]:
        return {entry for entry in held.keys() | truth.keys() if held.get(entry) != truth.get(entry)}

    def check_bound(self) -> None:
        """Nothing is wrong: a write has its effect in time, in both directions."""
        entry = self.chance.choice(ENTRIES)
        was = self.requests.status(entry)
        if was in REFUSED:
            began = time.monotonic()
            self.note(f"remove {entry}")
            self.chance.choice((self.bucket.delete, self.bucket.purge_key))(entry)
            wanted = 503
        else:
            began = time.monotonic()
            wanted = self.chance.choice((402, 403))
            self.note(f"put {entry} {wanted}")
            self.bucket.put(entry, "spend" if wanted == 402 else "fraud")
        while self.requests.status(entry) != wanted:
            assert time.monotonic() - began < self.bound_secs, f"{entry} is not {wanted} in time"
            time.sleep(0.001)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.tally["bounds"] += 1

    # A round

    def round(self) -> None:
        self._doings.clear()
        self.pin()
        for _ in range(2):
            self.check_bound()
        for _ in range(self.chance.randrange(4, 14)):
            if self.chance.random() < 0.3:
                name = self.chance.choice(sorted(HISTORY_SAFE if self.is_history_safe else FAULTS))
                self.tally[name] += 1
                self.note(name)
                FAULTS[name](self)
            else:
                self.write()
            if self.chance.random() < 0.5:
                time.sleep(self.chance.choice((0.0, 0.01, 0.05, 0.3)))
            self.check_promises()
        self.proxy.delay(0.0)
        self.ensure_bucket()
        self.wait_equal()
        self.check_nothing_was_hidden()
        self.tally["rounds"] += 1

    def check_nothing_was_hidden(self) -> None:
        if self.is_history_safe:
            assert self.count("aigw_deny_differences_total") == 0, self._doings

    def count(self, name: str) -> int:
        """A counter of the gateway."""
        assert self.gateway is not None
        lines = self.gateway.admin("/metrics")[1].splitlines()
        return int(float(next(line.split()[1] for line in lines if line.startswith(f"{name} "))))

    def pin(self) -> None:
        entry = f"blackhole.{PINNED}"
        self.bucket.put(entry, "spend")
        end = time.monotonic() + CALM_SECS
        while self.requests.status(entry) != 402:
            assert time.monotonic() < end
            time.sleep(0.005)
        self._is_pinned = True

    def write(self) -> None:
        if self._is_pinned and self.chance.random() < 0.2:
            # Written over with the same, it must not be missed for a moment.
            with contextlib.suppress(AssertionError, KeyError):
                self.bucket.put(f"blackhole.{PINNED}", "spend")
        entry = self.chance.choice((*ENTRIES, *ENTRIES, *FOREIGN))
        value = self.chance.choice(
            (b"spend", b"fraud", b"spend", b"fraud", b"", b"\xff", b'{"reason": 1}', b"x" * 9000)
        )
        kind = self.chance.choice(("put", "put", "put", "delete", "purge", "ttl"))
        self.note(f"{kind} {entry} {value[:8]!r}")
        try:
            if kind == "put":
                self.bucket.put(entry, value)
            elif kind == "delete":
                self.bucket.delete(entry)
            elif kind == "purge":
                self.bucket.purge_key(entry)
            else:
                self.bucket.put(entry, value, ttl_secs=1)
        except (AssertionError, KeyError):
            self.tally["writes refused"] += 1
        else:
            self.tally[f"write {kind}"] += 1

    def ensure_bucket(self) -> None:
        try:
            self.bucket.info()
        except AssertionError:
            self.bucket.create()


def _purge(chaos: Chaos) -> None:
    chaos._is_pinned = False
    chaos.bucket.purge()


def _vanish(chaos: Chaos) -> None:
    chaos.bucket.purge(chaos.chance.choice(ENTRIES))


@contextlib.contextmanager
def _gone_meanwhile() -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        if error.args[0]["err_code"] not in (CONSUMER_NOT_FOUND, SEQUENCE_NOT_FOUND):
            raise


def _remove_message(chaos: Chaos) -> None:
    message = chaos.bucket.last(chaos.chance.choice(ENTRIES))
    if message is not None:
        with _gone_meanwhile():  # it may expire
            chaos.bucket.remove_message(int(message["seq"]))


def _recreate(chaos: Chaos) -> None:
    chaos._is_pinned = False
    chaos.bucket.destroy()
    time.sleep(chaos.chance.choice((0.0, 0.05, 0.5)))
    chaos.bucket.create()
    for _ in range(chaos.chance.randrange(0, 30)):
        chaos.write()


def _lose_consumers(chaos: Chaos) -> None:
    for name in chaos.bucket.consumers():
        with _gone_meanwhile():  # by the gateway itself
            chaos.bucket.delete_consumer(name)


def _server(chaos: Chaos, *, clean: bool) -> None:
    (chaos.server.stop if clean else chaos.server.kill)()
    time.sleep(chaos.chance.choice((0.0, 0.1, 0.6)))
    chaos.check_promises()
    chaos.server.start()


def _restore_backup(chaos: Chaos) -> None:
    """The server comes back with an older state: sequences are given a second time."""
    store, copy = chaos.server.folder / "store", chaos.folder / "backup"
    chaos.server.stop()
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(store, copy)
    chaos.server.start()
    for _ in range(chaos.chance.randrange(1, 6)):
        chaos.write()
    chaos.check_promises()
    chaos.server.stop()
    shutil.rmtree(store)
    shutil.copytree(copy, store)
    chaos.server.start()
    for _ in range(chaos.chance.randrange(0, 12)):
        chaos.write()


def _pause(chaos: Chaos, set_to: Callable[[bool], None]) -> None:
    set_to(True)
    for _ in range(chaos.chance.randrange(1, 4)):
        chaos.write()
        time.sleep(chaos.chance.choice((0.05, 0.4)))
        chaos.check_promises()
    set_to(False)


def _kill_gateway(chaos: Chaos, number: signal.Signals) -> None:
    """With the pinned entry in the snapshot, which is written within a second."""
    assert chaos.gateway is not None
    if chaos._is_pinned:
        end = time.monotonic() + CALM_SECS
        path = chaos.folder / "deny.snapshot"
        while (found := read_snapshot(path, "nats:ai-gateway")) is None or found.view.deny.check(PINNED, None) is None:
            assert time.monotonic() < end
            time.sleep(0.05)
    chaos.check_nothing_was_hidden()
    away = chaos.chance.random() < 0.5
    if away:
        chaos.proxy.refuse(True)
    chaos.stop_gateway(number)
    chaos.write()
    chaos.start_gateway()
    chaos.check_promises()
    chaos.proxy.refuse(False)


def _freeze_gateway(chaos: Chaos) -> None:
    assert chaos.gateway is not None
    chaos.gateway.send_signal(signal.SIGSTOP)
    for _ in range(3):
        chaos.write()
    time.sleep(chaos.chance.choice((0.1, 1.0)))
    chaos.gateway.send_signal(signal.SIGCONT)


FAULTS: Final[dict[str, Callable[[Chaos], None]]] = {
    "cut": lambda chaos: chaos.proxy.cut(),
    "half close": lambda chaos: chaos.proxy.half_close(),
    "delay": lambda chaos: chaos.proxy.delay(chaos.chance.choice((0.0, 0.01, 0.1))),
    "refuse": lambda chaos: _pause(chaos, chaos.proxy.refuse),
    "stall": lambda chaos: _pause(chaos, chaos.proxy.stall),
    "server killed": lambda chaos: _server(chaos, clean=False),
    "server stopped": lambda chaos: _server(chaos, clean=True),
    "backup restored": _restore_backup,
    "stream purged": _purge,
    "key purged": _vanish,
    "message removed": _remove_message,
    "bucket made anew": _recreate,
    "consumers deleted": _lose_consumers,
    "gateway killed": lambda chaos: _kill_gateway(chaos, signal.SIGKILL),
    "gateway frozen": _freeze_gateway,
}


HISTORY_SAFE: Final = (
    "cut",
    "half close",
    "delay",
    "refuse",
    "stall",
    "server stopped",
    "consumers deleted",
    "gateway killed",
    "gateway frozen",
)


def report(chaos: Chaos) -> str:
    return json.dumps(
        {"seed": chaos.seed, "slowest_secs": round(chaos.slowest, 4), **dict(sorted(chaos.tally.items()))}
    )
