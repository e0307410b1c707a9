"""What a frontend implements: the sockets of the data path, behind a few calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from anyio.abc import TaskGroup

from aigw_anyio.settings import Settings
from aigw_anyio.sinks import FactSink
from aigw_anyio.tls import TlsContexts
from aigw_core.denyset import DenyChange
from aigw_core.gateway import Gateway


class DataPlane(Protocol):
    """The data listener and its connections. Every method runs in the event loop's thread.

    After a ``start`` that failed, or was never called, the others do nothing.
    """

    async def start(self, tasks: TaskGroup) -> tuple[str, int]:
        """Binds and accepts, with ``tasks`` for background work; the bound host and port. Raises OSError."""
        ...

    def stop_accepting(self) -> None:
        """Closes the listener; connections go on."""
        ...

    def drain(self) -> None:
        """Asks every connection to finish what runs and close."""
        ...

    def cut(self) -> None:
        """Ends every exchange now; their facts are emitted before this returns."""
        ...

    def reload(self, tls: TlsContexts, idle: list[object]) -> None:
        """Connections from now on have this TLS; closes the pooled ones that the new policy gave up.

        A listener that was made without TLS stays without, one with TLS keeps to it.
        """
        ...

    def apply_deny(self, changes: list[DenyChange] | None) -> None:
        """Cuts the running exchanges that the deny-set now forbids; None after a whole new set."""
        ...

    @property
    def connections(self) -> int:
        """Open downstream connections; 0 when drained."""
        ...

    @property
    def streams(self) -> int:
        """Exchanges whose answer is on its way to the caller."""
        ...

    async def aclose(self) -> None:
        """Closes whatever is still open."""
        ...


DataPlaneFactory = Callable[[Gateway, FactSink, Settings], DataPlane]
