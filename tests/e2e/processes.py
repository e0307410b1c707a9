"""The processes of a gateway that has workers, as the kernel sees them: who listens where, and who has a connection."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e import DEADLINE
from tests.e2e.client import Client
from tests.e2e.gateway import Gateway, wait_until

CONNECTED: Final = "01"
LISTENS: Final = "0A"
"""States, as ``/proc/net/tcp`` names them."""
TRIES: Final = 200
"""Connections of which one reaches a certain worker of two, for certain."""


@dataclass(frozen=True)
class Worker:
    pid: int
    admin_port: int
    """Where it tells of itself alone."""

    def page(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=DEADLINE)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """One sample as exposed, 0 where it is not there."""
        lines = (line.rpartition(" ") for line in self.page("/metrics").splitlines())
        return next((float(value) for own, _, value in lines if own == name), 0.0)


def children(pid: int) -> list[int]:
    """None where it has gone itself."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def workers(gateway: Gateway) -> list[Worker]:
    """Those that listen on the data port now."""
    found = []
    for pid, ports in _listening(gateway).items():
        if gateway.address[1] in ports:
            own = ports - {gateway.address[1]}
            assert len(own) == 1, f"a worker listens on its two ports alone: {ports}"
            found.append(Worker(pid, own.pop()))
    return found


def admin_pid(gateway: Gateway) -> int | None:
    """The process of the admin pages."""
    pids = [pid for pid, ports in _listening(gateway).items() if ports == {gateway.admin_address[1]}]
    return pids[0] if pids else None


def wait_for_workers(gateway: Gateway, count: int, without: int = 0) -> list[Worker]:
    """As many as that, and the process ``without`` none of them."""

    def all_there() -> bool:
        found = workers(gateway)
        return len(found) == count and without not in {worker.pid for worker in found}

    wait_until(all_there, f"{count} workers listen")
    return workers(gateway)


def owner(gateway: Gateway, client: Client) -> int:
    """The process that has accepted this connection."""
    return owners(gateway, [client])[0]


def owners(gateway: Gateway, clients: list[Client]) -> list[int]:
    """The same of several."""
    found: dict[int, int] = {}
    ports = [client.sock.getsockname()[1] for client in clients]

    def are_accepted() -> bool:
        accepted = {inode: remote for local, remote, inode in _sockets() if local == gateway.address[1]}
        for pid in children(gateway.pid):
            found.update({accepted[inode]: pid for inode in _inodes(pid) if inode in accepted})
        return set(ports) <= set(found)

    wait_until(are_accepted, "workers have accepted the connections")
    return [found[port] for port in ports]


@contextlib.contextmanager
def client_of(gateway: Gateway, worker: int) -> Iterator[Client]:
    """A connection that this process has accepted."""
    for _ in range(TRIES):
        with Client(gateway) as client:
            if owner(gateway, client) == worker:
                yield client
                return
    raise AssertionError("no connection reaches this worker")


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def proportional_memory(pid: int) -> int:
    """Bytes resident, each shared page divided by those who have it."""
    found = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _sockets(state: str = CONNECTED) -> Iterator[tuple[int, int, str]]:
    """Local port, remote port and inode of each TCP socket in this state."""
    for line in Path("/proc/net/tcp").read_text().splitlines():
        if f" {state} " in line:
            fields = line.split()
            local, remote = (int(fields[at].rpartition(":")[2], 16) for at in (1, 2))
            yield local, remote, fields[9]


def _listening(gateway: Gateway) -> dict[int, set[int]]:
    """The ports of each child."""
    ports = {inode: local for local, _, inode in _sockets(LISTENS)}
    return {pid: {ports[i] for i in _inodes(pid) if i in ports} for pid in children(gateway.pid)}


def _inodes(pid: int) -> set[str]:
    """Of its sockets."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{fd}"))
                if match is not None:
                    found.add(match[1])
    return found
