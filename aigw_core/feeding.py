"""What drivers do alike: one input at a time, effects in order, facts to their sink. For those who want it done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from aigw_core.effects import (
    CloseDownstream,
    Connect,
    ConnectFailure,
    Effect,
    EmitFact,
    OpenFact,
    SendDownstream,
    SendUpstream,
    VoidFact,
)
from aigw_core.facts import OpenRecord, UsageFact

if TYPE_CHECKING:
    from typing import Self

    from aigw_core.connection import Connection

E = TypeVar("E")


class FactSink(Protocol):
    """Where usage facts go. None of the methods waits."""

    def open(self, record: OpenRecord) -> bool | None:
        """True: accepted, and there is room for its fact. False: refused. None: the driver feeds the answer later."""
        ...

    def emit(self, fact: UsageFact) -> None:
        """Takes the one fact of a record that was accepted."""
        ...

    def void(self, fact_id: str) -> None:
        """The record ends without a fact; it may be one that was not answered yet."""
        ...


class _Machine(Protocol):
    """What a Connection and an Exchange have in common here."""

    def fact_opened(self, fact_id: str, now: float) -> list[Any]: ...
    def fact_refused(self, fact_id: str, now: float) -> list[Any]: ...
    def abandon(self, now: float) -> list[Any]: ...
    def resume(self, now: float) -> list[Any]: ...

    @property
    def wants_resume(self) -> bool: ...


class Feeder(Generic[E]):
    """Feeds one machine, and keeps the rules of driving where they are the same for every driver.

    The effects of an input are carried out in order, all of them, before the next one; what is fed meanwhile waits
    its turn. ``OpenFact``, ``EmitFact`` and ``VoidFact`` go to the sink, whose answer is fed. All other effects go
    to ``carry_out``, which may feed, but must not wait for what it has fed. A machine that wants to be resumed is
    resumed at once.

    As a context manager it ends with ``abandon``, so that the ledger is paid however the driver ends.
    """

    __slots__ = ("_carry_out", "_carrying", "_clock", "_lock", "_machine", "_sink", "_waiting")

    def __init__(
        self,
        machine: _Machine,
        sink: FactSink,
        carry_out: Callable[[E], None],
        *,
        clock: Callable[[], float],
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """``clock`` gives monotonic seconds, such as ``time.monotonic``.

        ``lock`` is for drivers in several threads, one lock for a Gateway: it is held while the machine or the
        sink is called, never while an effect is carried out.
        """
        self._machine = machine
        self._sink = sink
        self._carry_out = carry_out
        self._clock = clock
        self._lock = lock if lock is not None else nullcontext()
        # Bounded by what one batch of effects leads to, and by what others leave here; both are few.
        self._waiting: deque[tuple[Callable[..., Sequence[E] | None], tuple[object, ...], dict[str, object]]] = deque()
        self._carrying = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.clear()
        self.feed(self._machine.abandon)

    def feed(self, machine_input: Callable[..., Sequence[E] | None], *arguments: object, **named: object) -> None:
        """Feeds now, or after the effects that are being carried out.

        ``machine_input`` is a method of the machine, the arguments are its own less ``now``. To be called from the
        driver's own thread; whatever ``carry_out`` raises comes out here.
        """
        self.later(machine_input, *arguments, **named)
        if self._carrying:
            return
        self._carrying = True
        try:
            while self._waiting:
                call, values, names = self._waiting.popleft()
                with self._lock:
                    effects = call(*values, self._clock(), **names)
                for effect in effects or ():
                    self._take(effect)
                if not self._waiting and self._machine.wants_resume:
                    self.later(self._machine.resume)
        finally:
            self._carrying = False

    def later(self, machine_input: Callable[..., Sequence[E] | None], *arguments: object, **named: object) -> None:
        """Feeds with the next ``feed``, before it. May be called from any thread: so others cut, drain or abandon."""
        self._waiting.append((machine_input, arguments, named))

    def _take(self, effect: E) -> None:
        match effect:
            case OpenFact(record):
                with self._lock:
                    accepted = self._sink.open(record)
                if accepted is not None:
                    self.later(self._machine.fact_opened if accepted else self._machine.fact_refused, record.id)
            case EmitFact(fact):
                with self._lock:
                    self._sink.emit(fact)
            case VoidFact(fact_id):
                with self._lock:
                    self._sink.void(fact_id)
            case _:
                self._do(effect)

    def _do(self, effect: E) -> None:
        self._carry_out(effect)


class ConnectionFeeder(Feeder[Effect]):
    """A Feeder of a Connection: it also knows what the machine is to be told of a socket that is gone.

    ``carry_out`` may raise OSError, as sockets do. Out of ``Connect`` it means that the provider cannot be reached
    (TimeoutError: the machine's own timer will tell), out of a send or a close that this connection is gone.
    """

    __slots__ = ("_connection",)

    def __init__(
        self,
        connection: Connection,
        sink: FactSink,
        carry_out: Callable[[Effect], None],
        *,
        clock: Callable[[], float],
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        """``clock`` and ``lock`` as of a :class:`Feeder`."""
        super().__init__(connection, sink, carry_out, clock=clock, lock=lock)
        self._connection = connection

    def received(self, attempt: int | None, data: bytes | None) -> None:
        """Feeds what a read gave: bytes, ``b""`` at the end, or None where the connection is gone.

        ``attempt`` is that of the provider's connection which was read, None for the caller's.
        """
        machine = self._connection
        if attempt is None:
            if data is None:
                self.feed(machine.downstream_lost)
            else:
                self.feed(machine.receive_downstream, data)
        elif data is None:
            self.feed(machine.upstream_lost, attempt, True)
        else:
            self.feed(machine.receive_upstream, attempt, data)

    def _do(self, effect: Effect) -> None:
        try:
            super()._do(effect)
        except OSError as error:
            self._not_done(effect, error)

    def _not_done(self, effect: Effect, error: OSError) -> None:
        machine = self._connection
        match effect:
            case Connect(attempt=attempt):
                if not isinstance(error, TimeoutError):
                    self.later(machine.upstream_failed, attempt, ConnectFailure.CONNECT)
            case SendUpstream(attempt):
                self.later(machine.upstream_lost, attempt, True)
            case SendDownstream() | CloseDownstream():
                self.later(machine.downstream_lost)
            case _:
                pass  # What was to be released is gone already.
