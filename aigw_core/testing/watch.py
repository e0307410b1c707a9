"""A Connection that watches how it is driven."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, SupportsIndex, overload

from aigw_core.connection import Connection
from aigw_core.effects import CloseDownstream, Connect, Effect
from aigw_core.gateway import Gateway

READ_AHEAD_MAX: Final = 524_288
"""Bytes that a driver may feed after the machine has ceased to want them: two full reads of asyncio's 256 KiB."""

INPUTS: Final = (
    "receive_downstream",
    "downstream_lost",
    "downstream_blocked",
    "downstream_writable",
    "upstream_connected",
    "upstream_failed",
    "receive_upstream",
    "upstream_lost",
    "upstream_blocked",
    "upstream_writable",
    "fact_opened",
    "fact_refused",
    "opened_and_connected",
    "tick",
    "resume",
    "cut",
    "drain",
    "abandon",
)
"""Every input of a Connection; ``now`` is the last argument of each."""


class Effects(list[Effect]):
    """The effects of one input, which know whether the driver has gone through them all."""

    carried_out = False

    def __iter__(self) -> Iterator[Effect]:
        yield from super().__iter__()
        self.carried_out = True

    @overload
    def __getitem__(self, index: SupportsIndex) -> Effect: ...
    @overload
    def __getitem__(self, index: slice) -> list[Effect]: ...
    def __getitem__(self, index: Any) -> Any:
        # Whoever takes effects by number has come to the end with the last one.
        self.carried_out = self.carried_out or index in (-1, len(self) - 1)
        return super().__getitem__(index)


class Watch:
    """Makes watched machines for a driver under test, and keeps what it did wrong."""

    def __init__(self) -> None:
        self.machines: list[WatchedConnection] = []
        self.faults: list[str] = []
        watch = self

        class Bound(WatchedConnection):
            __slots__ = ()

            def __init__(self, gateway: Gateway, now: float, *, peer: str | bytes | None = None) -> None:
                super().__init__(gateway, now, watch, peer=peer)

        self.connection_class: type[Connection] = Bound
        """Stands in for :class:`aigw_core.Connection`; what it makes is watched."""

    def fault(self, text: str) -> None:
        if text not in self.faults:
            self.faults.append(text)

    @property
    def connects(self) -> int:
        """Connect effects so far."""
        return sum(machine.connects for machine in self.machines)

    def check(self) -> None:
        """To be called when the driver is gone. Raises AssertionError that lists what was not kept."""
        for machine in self.machines:
            if not machine.done and not machine.abandoned:
                self.fault("abandon() was not called in the end")
            if not machine.last.carried_out and list(machine.last):
                self.fault("the last effects were not carried out")
        assert not self.faults, "the driver breaks the rules of driving:\n" + "\n".join(self.faults)


class WatchedConnection(Connection):
    """Behaves as a Connection. Each rule of its docstring that can be seen from here is checked."""

    __slots__ = ("abandoned", "ahead_downstream", "ahead_upstream", "closed", "connects", "last", "latest", "watch")

    def __init__(self, gateway: Gateway, now: float, watch: Watch, *, peer: str | bytes | None = None) -> None:
        super().__init__(gateway, now, peer=peer)
        self.watch = watch
        self.last = Effects()
        self.latest = now
        self.abandoned = False
        self.closed = False
        self.connects = 0
        self.ahead_downstream = 0
        self.ahead_upstream = 0
        watch.machines.append(self)

    def before(self, name: str, arguments: tuple[Any, ...], now: float) -> None:
        fault = self.watch.fault
        if now < self.latest:
            fault(f"{name}: time went back")
        self.latest = max(self.latest, now)
        if self.last and not self.last.carried_out and name != "abandon":
            fault(f"{name}: fed before the effects of the last input were carried out")
        if name == "receive_downstream":
            ahead = 0 if self.wants_downstream else self.ahead_downstream + len(arguments[0])
            self.ahead_downstream = ahead
            if ahead > READ_AHEAD_MAX:
                fault(f"{name}: goes on reading what the machine does not want")
        elif name == "receive_upstream":
            self.ahead_upstream = 0 if self.wants_upstream else self.ahead_upstream + len(arguments[1])
            if self.ahead_upstream > READ_AHEAD_MAX:
                fault(f"{name}: goes on reading what the machine does not want")

    def after(self, name: str, effects: list[Effect]) -> Effects:
        self.last = watched = Effects(effects)
        self.connects += sum(isinstance(effect, Connect) for effect in effects)
        if name == "abandon":
            self.abandoned = True
            if any(isinstance(e, Connect | CloseDownstream) for e in effects):
                self.watch.fault("abandon: the machine is broken")
        return watched


def _watched(name: str) -> Any:
    original = getattr(Connection, name)

    def method(self: WatchedConnection, *arguments: Any) -> list[Effect]:
        self.before(name, arguments, arguments[-1])
        return self.after(name, original(self, *arguments))

    return method


for _name in INPUTS:
    setattr(WatchedConnection, _name, _watched(_name))
