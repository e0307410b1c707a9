"""Rule machines for what outlives a connection or a process: the deny feed with its snapshot, and the spool."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aigw_core.denyfeed import DenyFeed
from aigw_core.denyset import DenySet
from aigw_core.denystates import FeedState, FeedTiming
from aigw_core.denyview import DenyView, EntryKind
from aigw_core.snapshot import Snapshot, decode, encode
from aigw_core.spool import (
    HEADER_SIZE,
    RECORD_MAX,
    Kind,
    OpenSet,
    Record,
    SegmentHead,
    SegmentScan,
    capacity,
    pack_run,
    void_payload,
)
from tests.core.denysim import BOUND_SECS, FAULTS, KEYS, LOUD, VALUES, World
from tests.core.test_facts import OPENED

STEPS: Final = settings(max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
SOURCE: Final = "nats:bucket"
FEW: Final = (*KEYS[:3], *KEYS[-2:])
"""So that one key is written, removed and lost again and again."""


# The feed


class FeedMachine(RuleBasedStateMachine):
    """Every order of writes, faults, deliveries and restarts that Hypothesis can think of; the bucket is the model."""

    def __init__(self) -> None:
        super().__init__()
        self.timing = FeedTiming(reconcile=7.0)
        self.world = World(timing=self.timing)
        self.faults: list[str] = []
        self.saved: bytes | None = None

    @initialize(keys=st.sets(st.sampled_from(FEW)), only_loud=st.booleans())
    def begin(self, keys: set[str], only_loud: bool) -> None:
        self.faults = sorted(LOUD if only_loud else FAULTS)
        for key in sorted(keys):
            self.world.write(key, EntryKind.PUT, b"spend")
        self.world.calm(0.2)
        # All of it was read, so nothing that left no event is waited for.
        self.world.silent_at = -BOUND_SECS

    @rule(
        key=st.sampled_from(FEW), kind=st.sampled_from(EntryKind), value=st.sampled_from(VALUES), arrives=st.booleans()
    )
    def write(self, key: str, kind: EntryKind, value: bytes, arrives: bool) -> None:
        self.world.write(key, kind, value)
        if arrives:
            self.world.pump()

    @rule(data=st.data(), key=st.sampled_from(FEW), seed=st.integers(0, 99))
    def fault(self, data: st.DataObject, key: str, seed: int) -> None:
        held = self.world.held()
        FAULTS[data.draw(st.sampled_from(self.faults))](self.world, random.Random(seed), key)
        assert self.world.held() == held, "what is in force does not change before something is read"

    @precondition(lambda self: self.world.stream is None)
    @rule()
    def create(self) -> None:
        self.world.create()

    @precondition(lambda self: not self.world.is_connected)
    @rule()
    def connect(self) -> None:
        self.world.connect()

    @rule(step=st.sampled_from(("serve", "send", "pump")))
    def move(self, step: str) -> None:
        getattr(self.world, step)()

    @rule(which=st.sampled_from(("replies", "deliveries")))
    def receive(self, which: str) -> None:
        self.world.receive(getattr(self.world, which))

    @rule(secs=st.sampled_from((0.001, 0.1, 0.5, 1.0, 2.5, 8.0)))
    def wait(self, secs: float) -> None:
        self.world.wait(secs)

    @precondition(lambda self: self.world.feed.is_seeded)
    @rule()
    def save(self) -> None:
        world = self.world
        view = DenyView(world.deny, world.feed.others)
        self.saved = b"".join(encode(Snapshot(SOURCE, view, world.feed.cursor, world.now).captured()))

    @rule(reads=st.booleans())
    def restart(self, reads: bool) -> None:
        """The gateway's process ends; the next one begins with nothing, or with a snapshot of whatever age."""
        world = self.world
        world.disconnect()
        world.deny = DenySet()
        world.feed = DenyFeed(world.deny, timing=self.timing, seed=0.7)
        if self.saved is None or not reads:
            assert world.held() == {}
            return
        snapshot = decode(self.saved, SOURCE)
        world.run(world.feed.restore(snapshot.view, snapshot.cursor))
        assert world.feed.state is FeedState.RECONNECTING
        assert world.feed.is_seeded
        assert (
            b"".join(encode(Snapshot(SOURCE, snapshot.view, world.feed.cursor, snapshot.confirmed_wall))) == self.saved
        )

    @invariant()
    def live_is_true(self) -> None:
        self.world.check()

    @invariant()
    def live_is_seeded(self) -> None:
        assert self.world.feed.is_seeded or self.world.feed.state in (FeedState.COLD, FeedState.SEEDING)

    def teardown(self) -> None:
        world = self.world
        world.create()
        world.calm(BOUND_SECS)
        assert world.feed.state is FeedState.LIVE
        assert world.held() == world.truth()
        assert world.feed.stats.differences == 0 or len(self.faults) > len(LOUD)


TestFeed = FeedMachine.TestCase
TestFeed.settings = STEPS


# The spool


@dataclass
class _Segment:
    """A file as it stands: what was written at which offset, and room behind it."""

    head: SegmentHead
    data: bytearray
    end: int
    """Behind the last record that its writer counts."""
    starts: list[tuple[int, int, str]] = field(default_factory=list)
    """Offset, kind and id of each record."""


SEGMENT_SIZE: Final = 2 * RECORD_MAX


class SpoolRules(RuleBasedStateMachine):
    """Writers that follow one another over segments in memory; what a reader finds is held against a ledger.

    A write may fail after any part of it, a process may die with any part of a write done, and bits flip in what
    stands already. Then every record whose bytes are as written is read, once and in order; each open record whose
    end cannot be read becomes one lost fact, and nothing else does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.segments: list[_Segment] = []
        self.sequence = 1
        self.made = 0
        self.ledger: list[tuple[int, int, str]] = []
        """Sequence, kind and id of every record that was written and stands undamaged."""
        self.damaged = 0
        self._begin()

    # The writer

    def _begin(self) -> None:
        number = len(self.segments) + 1
        head = SegmentHead("w0-0-m", number, self.sequence, self._scan_from(number))
        data = bytearray(SEGMENT_SIZE)
        encoded = head.encode()
        data[: len(encoded)] = encoded
        self.segments.append(_Segment(head, data, len(encoded)))

    def _scan_from(self, number: int) -> int:
        """The oldest segment with an open record whose end is not written yet."""
        due = set(self._open())
        holding = [
            s.head.segment for s in self.segments for _, kind, id_ in s.starts if kind == Kind.OPEN and id_ in due
        ]
        return min(holding, default=number)

    def _open(self) -> list[str]:
        due: dict[str, None] = {}
        for _, kind, id_ in self.ledger:
            if kind == Kind.OPEN:
                due[id_] = None
            else:
                due.pop(id_, None)
        return list(due)

    def _write(self, items: list[tuple[int, bytes, str]]) -> None:
        while items:
            segment = self.segments[-1]
            data, count = pack_run(items, self.sequence, SEGMENT_SIZE - segment.end)
            if not count:
                self._begin()
                continue
            segment.data[segment.end : segment.end + len(data)] = data
            for kind, payload, id_ in items[:count]:
                segment.starts.append((segment.end, kind, id_))
                self.ledger.append((self.sequence, kind, id_))
                segment.end += HEADER_SIZE + len(payload)
                self.sequence += 1
            items = items[count:]

    @rule(count=st.integers(1, 4))
    def admits(self, count: int) -> None:
        ids = [f"{self.made + n:x}" for n in range(count)]
        self.made += count
        self._write([(int(Kind.OPEN), _opened(id_), id_) for id_ in ids])

    @precondition(lambda self: self._open())
    @rule(
        data=st.data(),
        kind=st.sampled_from([Kind.FACT, Kind.FACT, Kind.VOID]),
        size=st.sampled_from([0, 9_000, 30_000]),
    )
    def ends(self, data: st.DataObject, kind: Kind, size: int) -> None:
        id_ = data.draw(st.sampled_from(self._open()))
        payload = void_payload(id_) if kind is Kind.VOID else f'{{"v":1,"id":"{id_}","x":"{"a" * size}"}}'.encode()
        self._write([(int(kind), payload, id_)])

    @rule()
    def rotates(self) -> None:
        if self.segments[-1].starts:
            self._begin()

    @rule(part=st.floats(0, 1), dies=st.booleans())
    def write_fails(self, part: float, dies: bool) -> None:
        """A part of it is on the disk, even all of it; the segment is given up, or the process is gone."""
        segment = self.segments[-1]
        data, _ = pack_run([(int(Kind.OPEN), _opened("f" * 32), "")] * 2, self.sequence, SEGMENT_SIZE - segment.end)
        # A dead process cannot say whether a whole record counts, so it does; here it left none.
        longest = len(data) // 2 - 1 if dies else len(data)
        data = data[: int(part * longest)]
        segment.data[segment.end : segment.end + len(data)] = data
        if dies:
            self._recover()
        else:
            self._begin()

    @precondition(lambda self: self.damaged < 3 and any(segment.starts for segment in self.segments))
    @rule(data=st.data(), bit=st.integers(0, 7))
    def bit_flips(self, data: st.DataObject, bit: int) -> None:
        """In an end: it cannot be read any more."""
        ends = [(s, place) for s in self.segments for place in s.starts if place[1] != Kind.OPEN]
        if not ends:
            return
        segment, (at, kind, id_) = data.draw(st.sampled_from(ends))
        sequence = next(sequence for sequence, *rest in self.ledger if rest == [kind, id_])
        segment.data[at + data.draw(st.integers(0, HEADER_SIZE - 1))] ^= 1 << bit
        segment.starts.remove((at, kind, id_))
        self.ledger.remove((sequence, kind, id_))
        self.damaged += 1

    # The reader

    def _read(self) -> list[Record]:
        found: list[Record] = []
        for segment, later in zip(self.segments, [*self.segments[1:], None], strict=True):
            scan = SegmentScan(bytes(segment.data), before=later.head.first if later is not None else None)
            found += scan
            assert scan.head == segment.head
            assert not scan.unused
        return found

    @rule()
    def process_dies(self) -> None:
        self._recover()

    def _recover(self) -> None:
        """What is open becomes lost in a segment of its own, and nothing is open then."""
        open_set = OpenSet()
        for record in self._read():
            open_set.see(record)
        due = self._open()
        assert list(open_set) == due
        lost = open_set.lost_facts()
        assert [json.loads(fact)["id"] for fact in lost] == due
        assert {json.loads(fact)["outcome"] for fact in lost} <= {"gateway_lost"}
        self._begin()
        self._write([(int(Kind.FACT), fact, id_) for fact, id_ in zip(lost, due, strict=True)])
        assert self._open() == []

    @invariant()
    def everything_is_read_once_and_an_early_start_misses_nothing(self) -> None:
        """Reading from ``scan_from`` on finds the same open exchanges as reading all, while nothing is damaged."""
        found = self._read()
        assert [(record.sequence, record.kind, record.id) for record in found] == self.ledger
        if self.damaged:
            return
        open_set = OpenSet()
        first = self.segments[self.segments[-1].head.scan_from - 1].head.first
        for record in found:
            if record.sequence >= first:
                open_set.see(record)
        assert list(open_set) == self._open()

    @invariant()
    def promised_room_is_there(self) -> None:
        remaining = SEGMENT_SIZE - self.segments[-1].end
        promised = capacity(remaining, 0, SEGMENT_SIZE, len(self.segments[-1].head.encode()))
        assert promised + RECORD_MAX <= max(remaining, RECORD_MAX)


def _opened(id_: str) -> bytes:
    row = json.loads(OPENED.encode())
    return json.dumps(row | {"id": id_}, separators=(",", ":")).encode()


TestSpool = SpoolRules.TestCase
TestSpool.settings = STEPS
