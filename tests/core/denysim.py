"""A key-value bucket, its server and the network to it, as a model: everything that can go wrong, step by step.

Independent of the machine under test: what callers must be refused is read from the stream alone.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aigw_core.denyfeed import DenyFeed
from aigw_core.denyset import DenyReason, DenySet, parse_entry_key, parse_reason
from aigw_core.denystates import (
    AskConsumer,
    AskStream,
    Changed,
    CloseConsumer,
    FeedEffect,
    FeedState,
    FeedTiming,
    OpenConsumer,
    Reconnect,
    StateChanged,
)
from aigw_core.denyview import Entry, EntryKind, StreamState

KEYS: Final = (
    *(f"blackhole.{n}" for n in range(6)),
    *(f"blackhole.key.{n}" for n in range(3)),
    "blackhole.x",
    "other",
)
"""Few, so that keys meet again; two are none of ours."""
VALUES: Final = (b"spend", b"fraud", b'{"reason": "spend"}', b"", b"\xff")
BOUND_SECS: Final = 10.0
"""Within which what leaves no event must be noticed and read again."""


@dataclass(slots=True)
class Message:
    key: str
    kind: EntryKind
    value: bytes
    time_ns: int


@dataclass(slots=True)
class Consumer:
    epoch: int
    queue: list[int] | None
    """Sequences of the last messages when it was made, oldest first; None: it reads the stream from ``next``."""
    next: int
    counted: int
    """The newest sequence when it was made."""
    delivered: int = 0


@dataclass
class Stream:
    created: str
    last_seq: int = 0
    announced: int = 0
    """The newest sequence that consumers were told of: a moment behind, while what it overwrites is gone already."""
    messages: dict[int, Message] = field(default_factory=dict)
    gone: dict[int, Message] = field(default_factory=dict)
    """Overwritten or purged, and maybe still on the server's disk."""
    consumers: dict[int, Consumer] = field(default_factory=dict)

    def latest(self, key: str) -> int | None:
        return max((seq for seq, m in self.messages.items() if m.key == key), default=None)

    def known(self, consumer: Consumer) -> int:
        """Up to which sequence the consumer delivers, and counts what is pending."""
        return max(self.announced, consumer.counted)

    def pending(self, consumer: Consumer) -> int:
        queued = [s for s in consumer.queue or () if s in self.messages]
        return len(queued) + sum(1 for seq in self.messages if consumer.next <= seq <= self.known(consumer))

    def deliver(self, consumer: Consumer) -> Entry | None:
        """The next entry; sequences that are gone are skipped."""
        seq = None
        while consumer.queue:
            candidate = consumer.queue.pop(0)
            if candidate in self.messages:
                seq = candidate
                break
        if seq is None:
            seq = min((s for s in self.messages if consumer.next <= s <= self.known(consumer)), default=None)
            if seq is None:
                return None
            consumer.next = seq + 1
        consumer.delivered += 1
        m = self.messages[seq]
        return Entry(m.key, m.kind, m.value, seq, consumer.delivered, self.pending(consumer), m.time_ns)


class World:
    """Server, network and the feed under test, with one clock."""

    def __init__(self, seed: float = 0.3, timing: FeedTiming | None = None) -> None:
        self.now = 100.0
        self.streams_made = 0
        self.stream: Stream | None = None
        self.deny = DenySet()
        self.timing = timing or FeedTiming()
        self.feed = DenyFeed(self.deny, timing=self.timing, seed=seed)
        self.is_connected = False
        self.requests: deque[FeedEffect] = deque()
        self.replies: deque[Callable[[], list[FeedEffect]]] = deque()
        self.deliveries: deque[Callable[[], list[FeedEffect]]] = deque()
        self.silent_at = -1e9
        """When something last happened that leaves no event."""
        self.states: list[StateChanged] = []
        self.beat_at = 0.0
        self.keys = KEYS
        """That random steps write."""
        self.pinned: str | None = None
        """A key that is never removed: refused from when it was first held on."""
        self.is_pin_held = False
        self.create()

    # What must hold

    def truth(self) -> dict[str, DenyReason]:
        """Whom the bucket cuts off."""
        found = {}
        stream = self.stream
        for key in KEYS if stream is not None else ():
            assert stream is not None
            seq = stream.latest(key)
            if seq is None or parse_entry_key(key) is None:
                continue
            message = stream.messages[seq]
            if message.kind is EntryKind.PUT:
                found[key] = parse_reason(message.value)
            elif message.kind is EntryKind.UNKNOWN:
                found[key] = DenyReason.UNKNOWN
        return found

    def held(self) -> dict[str, DenyReason]:
        found = {}
        for key in KEYS:
            subject = parse_entry_key(key)
            if subject is not None:
                held = self.deny._reasons(subject.scope).get(subject.id)
                if held is not None:
                    found[key] = held
        return found

    @property
    def is_quiet(self) -> bool:
        """Everything that was sent has arrived."""
        stream = self.stream
        if not self.is_connected or stream is None or self.requests or self.replies or self.deliveries:
            return False
        is_announced = stream.announced >= max(stream.messages, default=0)
        return is_announced and all(stream.pending(c) == 0 for c in stream.consumers.values())

    def check(self) -> None:
        """The promises at any moment."""
        is_held = self.pinned in self.held()
        assert is_held or not self.is_pin_held, self.pinned
        self.is_pin_held = is_held
        if self.feed.state is FeedState.LIVE and self.is_quiet and self.now - self.silent_at > BOUND_SECS:
            assert self.held() == self.truth()

    # What writers and operators do

    def create(self) -> None:
        if self.stream is None:
            self.streams_made += 1
            self.stream = Stream(f"created {self.streams_made}")
            self.silent_at = self.now

    def destroy(self) -> None:
        self.stream = None
        self.silent_at = self.now

    def write(self, key: str, kind: EntryKind, value: bytes = b"", *, is_announced: bool = True) -> None:
        stream = self.stream
        if stream is None:
            return
        latest = stream.latest(key)
        if latest is not None:
            stream.gone[latest] = stream.messages.pop(latest)
        stream.last_seq += 1
        # The time tells writes of one moment apart, as a server's nanoseconds do.
        stamp = int(self.now * 1e9) + self.streams_made * 1000 + self._stamp()
        stream.messages[stream.last_seq] = Message(key, kind, value, stamp)
        if is_announced:
            self.announce()

    def announce(self) -> None:
        if self.stream is not None:
            self.stream.announced = self.stream.last_seq

    def _stamp(self) -> int:
        self._stamps = getattr(self, "_stamps", 0) + 1
        return self._stamps

    def vanish(self, key: str) -> None:
        """Purged, expired without a marker, or deleted by hand."""
        stream = self.stream
        latest = stream.latest(key) if stream is not None else None
        if stream is not None and latest is not None:
            stream.gone[latest] = stream.messages.pop(latest)
            self.silent_at = self.now

    def purge(self) -> None:
        stream = self.stream
        if stream is not None:
            stream.gone |= stream.messages
            stream.messages.clear()
            self.silent_at = self.now

    def lose_tail(self, number: int, key: str, writes: int) -> None:
        """A power failure takes the newest messages; their sequences are given to others."""
        stream = self.stream
        if stream is None:
            return
        self.restart()
        for seq in [s for s in stream.messages if s > stream.last_seq - number]:
            del stream.messages[seq]
        # What had their sequences is overwritten now.
        stream.gone = {seq: m for seq, m in stream.gone.items() if seq <= stream.last_seq - number}
        stream.last_seq = max(0, stream.last_seq - number)
        for _ in range(writes):
            self.write(key, EntryKind.PUT, b"fraud")
        self.silent_at = self.now

    def revive(self, key: str) -> None:
        """A crash brings back what was removed before (nats-server issue 8505), here in the place of what is there."""
        stream = self.stream
        if stream is None:
            return
        self.restart()
        old = max((seq for seq, m in stream.gone.items() if m.key == key), default=None)
        if old is not None:
            latest = stream.latest(key)
            if latest is not None and latest > old:
                del stream.messages[latest]
            stream.messages[old] = stream.gone.pop(old)
        self.silent_at = self.now

    def restart(self) -> None:
        if self.stream is not None:
            self.stream.consumers.clear()
        self.disconnect()

    def lose_consumers(self) -> None:
        if self.stream is not None:
            self.stream.consumers.clear()
            self.silent_at = self.now

    # What the network does

    def connect(self) -> None:
        if not self.is_connected:
            self.is_connected = True
            self.run(self.feed.connected(self.now))

    def disconnect(self) -> None:
        if self.is_connected:
            self.is_connected = False
            self._forget()
            self.run(self.feed.disconnected("cut", self.now))

    def _forget(self) -> None:
        self.requests.clear()
        self.replies.clear()
        self.deliveries.clear()
        if self.stream is not None:
            self.stream.consumers.clear()

    def lose_delivery(self) -> None:
        """Dropped by a client that reads too slowly: later ones show the gap, or the next heartbeat."""
        if self.deliveries:
            self.deliveries.popleft()
            self.silent_at = self.now

    def serve(self) -> None:
        """The server answers one request."""
        if not self.requests:
            return
        request = self.requests.popleft()
        stream, feed = self.stream, self.feed
        if isinstance(request, AskStream):
            state = None
            if stream is not None:
                subjects = len({m.key for m in stream.messages.values()})
                state = StreamState(stream.created, stream.last_seq, subjects, len(stream.messages))
            self.replies.append(lambda: feed.stream_state(request.ticket, state, self.now))
        elif isinstance(request, OpenConsumer):
            pending = None
            if stream is not None:
                if request.start is None:
                    queue = sorted(s for k in {m.key for m in stream.messages.values()} if (s := stream.latest(k)))
                    consumer = Consumer(request.epoch, queue, stream.last_seq + 1, stream.last_seq)
                else:
                    consumer = Consumer(request.epoch, None, request.start, stream.last_seq)
                stream.consumers[request.epoch] = consumer
                pending = stream.pending(consumer)
            self.replies.append(lambda: feed.consumer_opened(request.epoch, pending, self.now))
        elif isinstance(request, AskConsumer):
            found = stream.consumers.get(request.epoch) if stream is not None else None
            seq, left = (found.delivered, stream.pending(found)) if stream is not None and found else (None, 0)
            self.replies.append(lambda: feed.consumer_state(request.epoch, seq, left, self.now))

    def send(self) -> None:
        """Every consumer delivers one entry."""
        for consumer in list(self.stream.consumers.values()) if self.stream is not None else ():
            assert self.stream is not None
            entry = self.stream.deliver(consumer)
            if entry is not None:
                self.deliveries.append(self._delivery(consumer.epoch, entry))

    def beat(self) -> None:
        """Heartbeats of idle consumers, in order with what they delivered."""
        self.beat_at = self.now
        for consumer in self.stream.consumers.values() if self.stream is not None else ():
            assert self.stream is not None
            if self.stream.pending(consumer) == 0:
                self.deliveries.append(self._heartbeat(consumer.epoch, consumer.delivered))

    def _delivery(self, epoch: int, entry: Entry) -> Callable[[], list[FeedEffect]]:
        return lambda: self.feed.entry(epoch, entry, self.now)

    def _heartbeat(self, epoch: int, seq: int) -> Callable[[], list[FeedEffect]]:
        return lambda: self.feed.heartbeat(epoch, seq, self.now)

    def receive(self, source: deque[Callable[[], list[FeedEffect]]]) -> None:
        if source:
            self.run(source.popleft()())

    def run(self, effects: list[FeedEffect]) -> None:
        for effect in effects:
            if isinstance(effect, AskStream | OpenConsumer | AskConsumer):
                self.requests.append(effect)
            elif isinstance(effect, CloseConsumer):
                if self.stream is not None:
                    self.stream.consumers.pop(effect.epoch, None)
            elif isinstance(effect, Reconnect):
                self.is_connected = False
                self._forget()
            elif isinstance(effect, StateChanged):
                self.states.append(effect)
            else:
                assert isinstance(effect, Changed)
                for change in effect.changes or ():
                    held = self.deny._reasons(change.subject.scope).get(change.subject.id)
                    assert held is change.reason

    def wait(self, secs: float) -> None:
        """Time passes; timers run on time, and heartbeats every second."""
        end = self.now + secs
        for _ in range(100_000):
            deadline = self.feed.deadline
            stop = min(end, self.beat_at + 1.0, end if deadline is None else max(deadline, self.now))
            self.now = stop
            if stop >= self.beat_at + 1.0:
                self.beat()
            if deadline is not None and deadline <= self.now:
                self.run(self.feed.tick(self.now))
            if stop >= end:
                return
        raise AssertionError("a timer does not let time pass")

    def pump(self) -> None:
        """Everything that is on its way arrives."""
        self.announce()
        for _ in range(10_000):
            self.serve()
            self.send()
            self.receive(self.replies)
            self.receive(self.deliveries)
            stream = self.stream
            waiting = stream is not None and any(stream.pending(c) for c in stream.consumers.values())
            if not (self.requests or self.replies or self.deliveries or waiting):
                return
        raise AssertionError("the world does not come to rest")

    def calm(self, secs: float) -> None:
        """Nothing goes wrong any more, for so long."""
        end = self.now + secs
        while self.now < end:
            self.connect()
            self.pump()
            self.wait(0.05)
        self.pump()


Step = Callable[[], None]


def _ordinary(world: World, chance: random.Random, key: str) -> list[tuple[int, Step]]:
    removal = EntryKind.PUT if key == world.pinned else EntryKind.REMOVE
    return [
        (6, lambda: world.write(key, EntryKind.PUT, chance.choice(VALUES))),
        (6, lambda: world.write(key, EntryKind.PUT, chance.choice(VALUES), is_announced=False)),
        (6, lambda: world.write(key, removal, is_announced=chance.random() < 0.5)),
        (6, world.announce),
        (1, lambda: world.write(key, EntryKind.UNKNOWN)),
        (20, world.serve),
        (20, world.send),
        (20, lambda: world.receive(world.replies)),
        (20, lambda: world.receive(world.deliveries)),
        (8, lambda: world.wait(chance.choice((0.001, 0.05, 0.3, 1.2)))),
        (3, world.connect),
        (4, world.pump),
    ]


FAULTS: Final[dict[str, Callable[[World, random.Random, str], None]]] = {
    "disconnect": lambda world, chance, key: world.disconnect(),
    "restart": lambda world, chance, key: world.restart(),
    "vanish": lambda world, chance, key: world.vanish(key),
    "lose consumers": lambda world, chance, key: world.lose_consumers(),
    "lose delivery": lambda world, chance, key: world.lose_delivery(),
    "purge": lambda world, chance, key: world.purge(),
    "destroy": lambda world, chance, key: world.destroy(),
    "revive": lambda world, chance, key: world.revive(key),
    "lose tail": lambda world, chance, key: world.lose_tail(chance.randrange(1, 4), key, chance.randrange(0, 5)),
}
LOUD: Final = ("disconnect", "restart")
"""Faults that the machine is told of."""
HARMLESS: Final = (*LOUD, "lose consumers", "lose delivery")
"""Faults that change nothing in the bucket."""


def random_step(world: World, chance: random.Random, faults: tuple[str, ...], rate: float) -> None:
    """One thing happens: with probability ``rate`` one of the faults."""
    key = chance.choice(world.keys)
    if faults and chance.random() < rate:
        FAULTS[chance.choice(faults)](world, chance, key)
    elif world.stream is None and chance.random() < 0.2:
        world.create()
    else:
        steps = _ordinary(world, chance, key)
        chance.choices([step for _, step in steps], [weight for weight, _ in steps])[0]()


def simulate(seed: int, steps: int) -> World:
    """A run of its own: some faults, then calm, at the end of which all must be well."""
    chance = random.Random(seed)
    world = World(chance.random(), FeedTiming(reconcile=chance.choice((None, 5.0))))
    faults = tuple(chance.sample(sorted(FAULTS), chance.choice((0, 1, 1, 1, 2, 3, len(FAULTS)))))
    rate = chance.choice((0.02, 0.05, 0.2))
    if chance.random() < 0.7:
        for key in chance.sample(KEYS, 5):
            world.write(key, EntryKind.PUT, chance.choice(VALUES))
        world.calm(1.0)
    for _ in range(steps):
        random_step(world, chance, faults, rate)
        world.check()
    world.create()
    world.calm(BOUND_SECS)
    assert world.feed.state is FeedState.LIVE, (seed, world.feed.phase)
    assert world.held() == world.truth(), seed
    if set(faults) <= set(LOUD):
        assert world.feed.stats.differences == 0, seed
    return world


def rewrite(seed: int, steps: int) -> World:
    """The same of few keys that are written again and again, while all is read again and again.

    One is never removed. Nothing changes without an event, so what is read aside should never differ.
    """
    chance = random.Random(seed)
    world = World(chance.random(), FeedTiming(reconcile=0.3, verify=0.1, retry_first=0.01, retry_longest=0.02))
    world.keys = KEYS[:3]
    world.pinned = KEYS[0]
    for key in world.keys:
        world.write(key, EntryKind.PUT, b"spend")
    world.calm(1.0)
    for _ in range(steps):
        random_step(world, chance, HARMLESS, 0.05)
        world.check()
    world.calm(BOUND_SECS)
    assert world.is_pin_held, seed
    assert world.held() == world.truth(), seed
    return world
