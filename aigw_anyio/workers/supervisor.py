"""The parent of all workers: starts them, starts them again, passes signals on, and ends with the last of them.

It has neither an event loop nor a thread, so that it can fork at any time.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

from aigw_anyio import logs
from aigw_anyio.lifecycle import EXIT_FAILED, EXIT_OK, STOP_SLACK_SECS, Reload
from aigw_anyio.notify import WATCHDOG_SHARE, Notifier
from aigw_anyio.settings import Settings, SettingsError, restartable, waits_for_restart
from aigw_anyio.workers.link import READY, TAKE_OVER
from aigw_anyio.workers.slot import Slot, SlotTiming

LOOK_SECS: Final = 1.0
"""The longest between two looks at who has fallen silent."""
FOLLOWED_SECS: Final = 1.0
"""A process that takes the place of a dead one settles what that one owed. Where it starts later than this, a sibling
does it."""
ASLEEP_SECS: Final = 5.0
"""Between two looks, from which on it was this process that did not run: nobody else is to blame for it."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_SIGNALS: Final = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGCHLD)

_log = logging.getLogger("aigw.workers")

Body = Callable[[Settings, socket.socket], int]
"""What a child does: with the settings in force, and the link to its supervisor. Returns its exit code."""


@dataclass(slots=True)
class Child:
    """One place and who fills it."""

    name: str
    body: Body
    slot: Slot
    link: socket.socket | None = None
    is_outdated: bool = False
    """The settings have changed since the fork, and it cannot take a signal yet."""
    follows: bool = False
    """Takes the place of one that has died."""


class Supervisor:
    """Runs workers, and one process for the admin pages, until a signal asks to stop."""

    def __init__(
        self,
        settings: Settings,
        workers: list[Body],
        admin: Body,
        load: Reload,
        *,
        notifier: Notifier,
        announcement: str,
        status: str,
        all_listen: Callable[[], None],
        restarted: Callable[[], None],
        release_ports: Callable[[], None],
        progress_of: Callable[[int], float],
        timing: SlotTiming | None = None,
    ) -> None:
        """``announcement``: said once everybody is ready for the first time, and then ``all_listen`` is called.
        ``restarted``: called whenever a worker takes the place of one that has died. ``release_ports``: called
        when the end begins. ``progress_of``: as :meth:`Slot.saw_progress` takes it, by the worker's number.
        ``status``: what the service manager shows while all serve."""
        now = time.monotonic()
        self._settings = self._started_with = settings
        self._load = load
        self._notifier = notifier
        self._announcement, self._status = announcement, status
        self._all_listen, self._restarted, self._release_ports = all_listen, restarted, release_ports
        self._progress_of = progress_of
        self._workers = [Child(f"worker {n}", body, Slot(timing)) for n, body in enumerate(workers)]
        self._children = [*self._workers, Child("admin", admin, Slot(timing))]
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._signalled: deque[int] = deque()
        self._is_begun = False
        """The first worker has been ready, so the settings are good for all of them."""
        self._is_announced = False
        self._is_stopping = False
        self._code = EXIT_OK
        self._looked_at = self._watched_at = now

    def run(self) -> int:
        """Returns the exit code: 0 if every worker has ended cleanly after a signal to stop."""
        with self._signals():
            # What exists now is shared with every child for as long as nobody touches it.
            gc.collect()
            gc.freeze()
            self._workers[0].slot.start_at = time.monotonic()
            while not self._is_stopping or any(child.slot.pid is not None for child in self._workers):
                self._look(time.monotonic())
                self._wait(time.monotonic())
            self._end_admin()
        return self._code

    # Signals and messages

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        for end in (self._wakeup, self._wakeup_end):
            end.setblocking(False)
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        fd = signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        try:
            yield
        finally:
            signal.set_wakeup_fd(fd)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            self._wakeup.close()
            self._wakeup_end.close()

    def _wait(self, now: float) -> None:
        due = [child.slot.start_at for child in self._children if child.slot.start_at is not None]
        for key, _ in self._selector.select(max(0.0, min([now + self._look_secs, *due]) - now)):
            # What came before may have ended this one, and its link.
            if key.fileobj is self._wakeup:
                self._wakeup.recv(4096)
            elif key.fileobj is key.data.link:
                self._read(key.data)
        while self._signalled:
            self._received(signal.Signals(self._signalled.popleft()))

    def _note(self, number: int, _: FrameType | None, /) -> None:
        """The wakeup descriptor only wakes: what it has no room for is lost."""
        if number not in self._signalled or number in _STOP_SIGNALS:
            self._signalled.append(number)

    @property
    def _look_secs(self) -> float:
        period = self._notifier.watchdog_secs
        return LOOK_SECS if period is None else min(LOOK_SECS, period * WATCHDOG_SHARE)

    def _received(self, number: signal.Signals) -> None:
        if number in _STOP_SIGNALS:
            self._stop(number)
        elif number == signal.SIGHUP and not self._is_stopping:
            self._reload()
        elif number == signal.SIGCHLD:
            self._reap()

    def _read(self, child: Child) -> None:
        assert child.link is not None
        try:
            messages = child.link.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            messages = b""
        if not messages:
            self._unlink(child)
            return
        child.slot.heard(time.monotonic())
        if READY in messages and not child.slot.is_ready:
            self._is_ready(child)

    def _is_ready(self, child: Child) -> None:
        child.slot.is_ready = True
        if self._is_stopping:
            return
        if child.is_outdated and child.slot.pid is not None:
            os.kill(child.slot.pid, signal.SIGHUP)
        child.is_outdated = False
        if not self._is_begun:
            self._is_begun = True
            for other in self._children[1:]:
                other.slot.start_at = time.monotonic()
        elif not self._is_announced and all(each.slot.is_ready for each in self._children):
            self._is_announced = True
            self._all_listen()
            logs.say(self._announcement)
            self._notifier.ready(self._status)

    # Looking after everybody

    def _look(self, now: float) -> None:
        if now - self._looked_at >= ASLEEP_SECS:
            for child in self._children:
                child.slot.heard(now)
        self._looked_at = now
        for number, worker in enumerate(self._workers):
            worker.slot.saw_progress(self._progress_of(number), now)
        for child in self._children:
            pid, start_at = child.slot.pid, child.slot.start_at
            if pid is not None and child.slot.is_silent(now):
                fields = {"process": child.name}
                _log.error("a process hangs: it gives no sign of life and is killed", extra={"fields": fields})
                child.slot.is_ready = False
                os.kill(pid, signal.SIGKILL)
            elif start_at is not None and now >= start_at:
                self._start(child)
        if self._notifier.watchdog_secs is not None and now - self._watched_at >= self._look_secs / 2:
            self._watched_at = now
            self._notifier.alive()

    def _start(self, child: Child) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._died(child, error.strerror or "no link")
            return
        # No signal may come between the fork and the child's own handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become(child, theirs, mask)
        except OSError as error:
            ours.close()
            self._died(child, error.strerror or "fork failed")
            return
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        ours.setblocking(False)
        child.link, child.is_outdated = ours, False
        child.slot.started(pid, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, child)
        if child.follows and child in self._workers:
            self._restarted()

    def _become(self, child: Child, link: socket.socket, mask: set[signal.Signals | int]) -> NoReturn:
        """In the new process."""
        code = EXIT_FAILED
        try:
            # A key that interrupts the terminal's whole group is for the supervisor, who passes it on.
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            # The end of the supervisor is seen by the end of its sockets: of all of them.
            self._selector.close()
            for inherited in (self._wakeup, self._wakeup_end, *(other.link for other in self._children)):
                if inherited is not None:
                    inherited.close()
            code = child.body(self._settings, link)
        except BaseException:  # noqa: BLE001  # nothing may go on as if this were the supervisor
            _log.critical("a process has failed", extra={"fields": {"process": child.name}}, exc_info=True)
        finally:
            os._exit(code)

    def _reap(self) -> None:
        for child in self._children:
            if child.slot.pid is None:
                continue
            pid, status = os.waitpid(child.slot.pid, os.WNOHANG)
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: Child, code: int) -> None:
        was_ready = child.slot.is_ready
        self._unlink(child)
        if self._is_stopping:
            child.slot.ended()
            # Who was told to stop before it could listen to signals has nothing to lose.
            is_clean = code == EXIT_OK or (-code in _STOP_SIGNALS and not was_ready)
            if child in self._workers and not is_clean:
                self._code = EXIT_FAILED
        elif not self._is_begun:
            # It has said why, if it could.
            if code < 0:
                logs.say(f"aigw: {child.name} was ended by {signal.Signals(-code).name} before it was ready")
            child.slot.ended()
            self._code, self._is_stopping = (code if code > 0 else EXIT_FAILED), True
        else:
            child.follows = True
            self._died(child, f"exit code {code}" if code >= 0 else signal.Signals(-code).name)

    def _died(self, child: Child, how: str) -> None:
        wait = child.slot.died(time.monotonic())
        if wait > FOLLOWED_SECS:
            self._hand_over(child)
        fields = {"process": child.name, "how": how, "again_in_secs": wait}
        _log.error("a process has died and is started again", extra={"fields": fields})

    def _hand_over(self, dead: Child) -> None:
        """Asks the other workers to settle what this one owed; whichever is first does it."""
        for worker in self._workers:
            if worker is not dead and dead in self._workers and worker.slot.is_ready and worker.link is not None:
                with contextlib.suppress(OSError):
                    worker.link.send(TAKE_OVER)

    def _unlink(self, child: Child) -> None:
        if child.link is not None:
            self._selector.unregister(child.link)
            child.link.close()
            child.link = None

    # Reload and stop

    def _reload(self) -> None:
        # A reload must not make a service ready that starts yet.
        if self._is_announced:
            self._notifier.reloading()
        try:
            settings, warnings = self._load()
        except SettingsError as error:
            _log.error("configuration not reloaded: %s", " | ".join(error.problems))
        else:
            # For those who are started later: what takes a restart stays as it is with the others.
            self._settings = restartable(self._started_with, settings)
            logs.configure(settings.log_format, settings.log_level)
            for warning in warnings:
                _log.warning("%s", warning)
            waiting = waits_for_restart(self._started_with, settings)
            if waiting:
                _log.warning("settings that take a restart have changed: %s", ", ".join(waiting))
            for child in self._workers:
                if child.slot.is_ready and child.slot.pid is not None:
                    os.kill(child.slot.pid, signal.SIGHUP)
                else:
                    child.is_outdated = True
        if self._is_announced:
            self._notifier.ready(self._status)

    def _stop(self, number: signal.Signals) -> None:
        is_first = not self._is_stopping
        if is_first:
            self._is_stopping = True
            _log.info("draining", extra={"fields": {"signal": number.name}})
            settings = self._settings
            longest = settings.shutdown_delay_secs + settings.shutdown_grace_secs + STOP_SLACK_SECS
            self._notifier.stopping("draining", longest)
            # Whoever takes over may listen as soon as the workers do not.
            self._release_ports()
        for child in self._workers:
            child.slot.start_at = None
            pid, link = child.slot.pid, child.link
            if pid is None:
                continue
            if is_first and child.slot.is_ready and link is not None:
                # A signal would cut what a worker finishes that was told to drain by somebody else.
                with contextlib.suppress(OSError):
                    link.shutdown(socket.SHUT_WR)
            else:
                # Two signals, which never become one: whatever the worker has heard so far, it ends at once.
                for each in _STOP_SIGNALS[: 1 if is_first else 2]:
                    os.kill(pid, each)

    def _end_admin(self) -> None:
        """Last, since it is asked how the drain goes on."""
        admin = self._children[-1]
        if admin.slot.pid is not None:
            os.kill(admin.slot.pid, signal.SIGKILL)
            os.waitpid(admin.slot.pid, 0)
            self._unlink(admin)
