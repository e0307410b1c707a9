"""What a fact sink promises: room first, then exactly one end for every record that it accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from anyio.abc import TaskStatus

from aigw_core.facts import OpenRecord, UsageFact


class SinkError(Exception):
    """A sink cannot start; the text is one line for the operator."""


@dataclass(slots=True)
class SinkStats:
    """Counters since the process started, and what is held now."""

    written: int = 0
    """Facts handed to the system whole."""
    refused: int = 0
    """Open records refused for want of room."""
    refused_by_share: int = 0
    """Open records refused since their tenant holds its share of the room already."""
    lost: int = 0
    """Facts that can no longer be written anywhere: the reader of the pipe is gone."""
    outstanding: int = 0
    """Open records without their end."""
    buffered_bytes: int = 0
    recovered: int = 0
    """Exchanges of dead processes that became ``gateway_lost`` facts."""
    spool_bytes: int = 0
    """Bytes of disk that the process's own spool takes, reserved room included."""
    published: int = 0
    """Facts that a NATS stream has acknowledged."""
    ids_taken: int = 0
    """Message ids of facts under which somebody else had published to the stream."""
    unpublished: int = 0
    """Records of the process's own spool behind what a stream has acknowledged."""
    unpublished_since: float | None = None
    """Monotonic seconds at which the oldest of them was there at the latest; None where there are none."""
    connected: bool | None = None
    """Whether the connection to NATS is there; None for sinks without one."""


class FactSink(Protocol):
    """Where usage facts go. All methods run in the event loop's thread; none but ``run`` and ``flush`` waits.

    Per record: ``open``; when it is accepted, one of ``emit`` or ``void`` ends it. ``void`` may also come
    while the answer is still due; the sink then calls ``on_answer`` no more for that record.

    An embedder's own sink needs ``open``, ``emit`` and whatever it wants to do in ``push``; the rest it
    inherits from :class:`BaseSink`.
    """

    on_answer: Callable[[str, bool], None] | None
    """Set by the data plane; called with the record's id and whether it is accepted."""
    stats: SinkStats

    @property
    def degraded(self) -> bool:
        """Whether new records are being refused."""
        ...

    def open(self, record: OpenRecord) -> bool | None:
        """True: accepted, room for the fact is reserved. False: refused. None: ``on_answer`` will tell."""
        ...

    def emit(self, fact: UsageFact) -> None:
        """Takes the fact into the room that was reserved."""
        ...

    def push(self) -> None:
        """Hands over what was emitted, and answers for what was opened.

        The data plane calls it once per turn of its event loop in which ``emit`` or ``void`` was called, or
        ``open`` answered None.
        """
        ...

    def void(self, fact_id: str) -> None:
        """The exchange ended without a fact; its room is free again."""
        ...

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Background work until cancelled. Raises SinkError, before it has started, where it cannot work."""
        ...

    async def flush(self) -> None:
        """Returns when every fact is written, or cannot be; the caller bounds the time."""
        ...


@runtime_checkable
class TakesOver(Protocol):
    """A sink that can write what a dead process owed."""

    def take_over(self) -> None:
        """Another process of this gateway has died; returns at once."""
        ...


class BaseSink:
    """What most sinks have in common: everything is accepted, nothing waits, nothing runs in the background."""

    def __init__(self) -> None:
        self.on_answer: Callable[[str, bool], None] | None = None
        self.stats = SinkStats()

    @property
    def degraded(self) -> bool:
        return False

    def open(self, record: OpenRecord) -> bool | None:  # noqa: ARG002  # for those who override it
        return True

    def push(self) -> None:
        return

    def void(self, fact_id: str) -> None:  # noqa: ARG002  # for those who override it
        return

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()

    async def flush(self) -> None:
        self.push()
