"""Servers that are forked from an interpreter which has imported everything, since most of a start is imports.

What runs in them is what ``python -W error -m MODULE`` runs, in an environment and with standard streams of its own.
Starts from nothing are proved by the tests that ask for a fresh interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

IMPORTED: Final = ("aigw_asyncio", "aigw_trio")
REQUEST_MAX: Final = 1 << 17
"""Of one message to the nursery, which is not divided: names and values of an environment, mostly."""


class Forked:
    """One server, with as much of ``subprocess.Popen`` as tests use of it."""

    def __init__(self, module: str, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        (out, stdout), (err, stderr), (told, telling) = os.pipe(), os.pipe(), os.pipe()
        self.stdout: IO[bytes] = os.fdopen(out, "rb")
        self.stderr: IO[bytes] = os.fdopen(err, "rb")
        self._told: IO[bytes] = os.fdopen(told, "rb", buffering=0)
        self._code: int | None = None
        request = json.dumps([module, list(arguments), dict(environ)]).encode()
        assert len(request) < REQUEST_MAX
        socket.send_fds(_nursery(), [request], [stdout, stderr, telling])
        for fd in (stdout, stderr, telling):
            os.close(fd)
        self.pid = int(self._line())

    def _line(self) -> bytes:
        line = self._told.readline()
        assert line, "the nursery has died"
        return line

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises TimeoutExpired."""
        if self._code is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self._code = int(self._line())
            self._told.close()
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# The end in the tests' process


_running: list[tuple[subprocess.Popen[bytes], socket.socket]] = []


def _nursery() -> socket.socket:
    """Started when it is first needed."""
    if not _running:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-W", "error", "-m", __name__, str(theirs.fileno())]
            process = subprocess.Popen(
                command,
                cwd=Path(__file__).parent.parent.parent,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        _running.append((process, ours))
    return _running[0][1]


def close() -> None:
    """Ends the nursery, if there is one; what it has forked is left to who asked for it."""
    while _running:
        process, ours = _running.pop()
        ours.close()
        assert process.wait() == 0


# The nursery


def main() -> None:
    for name in IMPORTED:
        __import__(name)
    asked = socket.socket(fileno=int(sys.argv[1]))
    while True:
        request, fds, _, _ = socket.recv_fds(asked, REQUEST_MAX, 3)
        if not request:
            asked.close()
            return
        keeper = os.fork()
        if not keeper:
            asked.close()
            _keep(request, *fds)
            return
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _keep(request: bytes, stdout: int, stderr: int, telling: int) -> None:
    """Tells the number of the server's process, and its exit code in the end: only a parent can know it."""
    pid = os.fork()
    if not pid:
        os.close(telling)
        for fd, number in ((stdout, 1), (stderr, 2)):
            os.dup2(fd, number)
            os.close(fd)
        _serve(*json.loads(request))
        return
    for fd in (stdout, stderr, 1, 2):
        os.close(fd)
    os.write(telling, b"%d\n" % pid)
    status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(BrokenPipeError):
        os.write(telling, b"%d\n" % os.waitstatus_to_exitcode(status))
    # Nothing of the interpreter is this process's own.
    os._exit(0)


def _serve(module: str, arguments: list[str], environ: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
